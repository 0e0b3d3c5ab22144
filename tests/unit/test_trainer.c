/* test_trainer.c - the training thread with a real model and ledger: it makes exactly the records
 * it may, never where the core does not stand, and ends where the ledger says.
 *
 * The test plays the core: it takes records through the hook, seals them into the ledger, refuses.
 */
#include "../../src/node/trainer.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "train.h"

#include <math.h>
#include <pthread.h>

enum { TOKENS = 256, BATCH = 4, MADE_MAX = 4096, PATIENCE_MS = 60000 };

static const uint8_t seal[64];
static const pd_author me = {{1}, 0}, other = {{2}, 0};

/* What the hooks saw; under the lock, as they come on the trainer's thread. */
typedef struct said {
    pthread_mutex_t lock;
    pd_author author[MADE_MAX];
    uint64_t step[MADE_MAX];
    uint8_t byte[MADE_MAX];
    uint32_t n;
    uint32_t checkpoints;
    uint64_t checkpoint_records;
    uint8_t checkpoint_digest[PD_DIGEST_BYTES];
    pd_audit_state audited;
} said;

typedef struct subject {
    house h;
    pd_data *data, *held;
    pd_manifest m;
    pd_basis *basis;
    pd_space *space;
    pd_ledger *ledger;
    pd_replica replica;
    said said;
    pd_trainer_conf conf;
    pd_trainer *trainer;
} subject;

static void on_gradient(void *ctx, const pd_author *author, uint64_t step, uint8_t byte) {
    said *s = ctx;
    pthread_mutex_lock(&s->lock);
    if (s->n < MADE_MAX) {
        s->author[s->n] = *author;
        s->step[s->n] = step;
        s->byte[s->n++] = byte;
    }
    pthread_mutex_unlock(&s->lock);
}

static void on_checkpoint(void *ctx, const pd_replica *r, const int32_t *a,
                          const uint8_t digest[PD_DIGEST_BYTES]) {
    said *s = ctx;
    uint8_t own[PD_DIGEST_BYTES];
    pd_replay_digest(a, r->d, own);
    pthread_mutex_lock(&s->lock);
    s->checkpoints++;
    s->checkpoint_records = r->records;
    memcpy(s->checkpoint_digest, digest, PD_DIGEST_BYTES);
    if (memcmp(own, digest, PD_DIGEST_BYTES) != 0)
        s->checkpoint_records = UINT64_MAX;
    pthread_mutex_unlock(&s->lock);
}

static void on_audited(void *ctx, pd_audit_state state) {
    said *s = ctx;
    pthread_mutex_lock(&s->lock);
    s->audited = state;
    pthread_mutex_unlock(&s->lock);
}

static void open_subject_by(subject *s, bool project) {
    memset(s, 0, sizeof *s);
    pd_log_set(PD_LOG_ERROR);
    pthread_mutex_init(&s->said.lock, NULL);
    s->h = house_open(project);
    const pd_model_info *info = pd_model_info_of(s->h.model);
    s->data = choice_data(&s->h, 1, 20);
    s->held = choice_data(&s->h, 2, 4);
    s->m = manifest_of(PD_SPACE_ALIGNED, 1, ALL_TARGETS, info);
    s->basis = random_basis(info, ALL_TARGETS, 0, 1, 3);
    ck_ok(pd_space_open(&s->m, info, s->basis, &s->space));
    ck_ok(pd_ledger_open(&s->ledger));
    ck_ok(pd_replica_open(&s->m, &s->replica));
    s->conf = (pd_trainer_conf){.manifest = &s->m,
                                .ledger = s->ledger,
                                .model = s->h.model,
                                .space = s->space,
                                .replica = &s->replica,
                                .train = pd_subset_all(s->data),
                                .held = pd_subset_all(s->held),
                                .batch_records = BATCH,
                                .batch_tokens = TOKENS,
                                .project = project,
                                .local_steps = project ? 2 : 1,
                                .probes = project ? 5 : 1,
                                .records = UINT64_MAX,
                                .seed = 5,
                                .hooks = {&s->said, on_gradient, on_checkpoint, on_audited}};
}

static void open_subject(subject *s) {
    open_subject_by(s, false);
}

static void start(subject *s) {
    ck_ok(pd_trainer_start(&s->conf, &s->trainer));
}

static void stop(subject *s) {
    pd_trainer_stop(s->trainer);
    s->trainer = NULL;
}

static void close_subject(subject *s) {
    stop(s);
    pd_replica_close(&s->replica);
    pd_ledger_close(s->ledger);
    pd_space_close(s->space);
    pd_basis_free(s->basis);
    pd_data_close(s->data);
    pd_data_close(s->held);
    house_close(&s->h);
    pthread_mutex_destroy(&s->said.lock);
}

static uint32_t count(subject *s) {
    pthread_mutex_lock(&s->said.lock);
    uint32_t n = s->said.n;
    pthread_mutex_unlock(&s->said.lock);
    return n;
}

static pd_trainer_status status(subject *s) {
    pd_trainer_status t;
    pd_trainer_status_get(s->trainer, &t);
    return t;
}

/* Wait for what must come, as long as a slow machine may take. */
#define WAIT(condition)                                                                            \
    do {                                                                                           \
        uint64_t until = pd_clock_ms() + PATIENCE_MS;                                              \
        while (!(condition) && pd_clock_ms() < until)                                              \
            pd_sleep_ms(2);                                                                        \
        ck_assert_msg(condition, "waited too long for: " #condition);                              \
    } while (0)

/* The bytes [from, to) of an author's log reach the ledger. */
static void append(subject *s, const pd_author *a, uint64_t from, const uint8_t *bytes, size_t n) {
    uint32_t index;
    ck_ok(pd_ledger_author(s->ledger, a, &index));
    ck_ok(pd_ledger_append(s->ledger, index, PD_STREAM_GRADIENTS, from, bytes, n, seal));
    if (s->trainer)
        pd_trainer_wake(s->trainer);
}

/* What the definition makes of the ledger. */
static void expect_digest(subject *s, const uint8_t got[PD_DIGEST_BYTES]) {
    pd_replica r;
    uint8_t digest[PD_DIGEST_BYTES];
    uint64_t folded;
    ck_ok(pd_replica_open(&s->m, &r));
    do
        ck_ok(pd_replica_follow(&r, s->ledger, UINT64_MAX, &folded));
    while (folded);
    int32_t *a = malloc(r.d * sizeof *a);
    pd_replica_sealed(&r, a, digest);
    ck_assert_mem_eq(digest, got, PD_DIGEST_BYTES);
    free(a);
    pd_replica_close(&r);
}

/* Silent until it may speak; then exactly the records asked for, step by step; sealed, they are the
 * model; the last checkpoint holds all of it.
 */
START_TEST(makes_its_records) {
    subject s;
    open_subject_by(&s, _i);
    s.conf.records = 12;
    start(&s);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    pd_trainer_status t = status(&s);
    ck_assert(t.held_first.units == 4 && t.held_at == 0 && isnan(t.loss) && t.made == 0);
    ck_assert_uint_eq(count(&s), 0);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(status(&s).state == PD_TRAINER_DONE);
    t = status(&s);
    ck_assert_uint_eq(count(&s), 12);
    ck_assert(t.made == 12 && t.next_step == 12 && t.records == 0 && t.not_finite == 0);
    ck_assert(isfinite(t.loss) && t.probe_s > 0 && t.tokens > 0);
    for (uint32_t i = 0; i < 12; i++) {
        ck_assert_uint_eq(s.said.step[i], i);
        ck_assert_mem_eq(&s.said.author[i].key, me.key, 32);
        ck_assert(pd_byte_valid(s.said.byte[i]));
    }
    append(&s, &me, 0, s.said.byte, 5);
    WAIT(status(&s).records == 5);
    t = status(&s);
    expect_digest(&s, t.digest);
    append(&s, &me, 5, s.said.byte + 5, 7);
    WAIT(status(&s).records == 12);
    WAIT(status(&s).held_at == 12); /* judged once more when all is still */
    stop(&s);
    ck_assert_uint_eq(s.said.checkpoint_records, 12);
    expect_digest(&s, s.said.checkpoint_digest);
    close_subject(&s);
}
END_TEST

static pd_audit_state audited(subject *s) {
    pthread_mutex_lock(&s->said.lock);
    pd_audit_state state = s->said.audited;
    pthread_mutex_unlock(&s->said.lock);
    return state;
}

/* Begin as a newcomer with a checkpoint: 1500 records of `other`, those before byte 1024 not held,
 * and coordinates that are right or not.  The prefix comes when it is told to. */
static const uint8_t others[1500] = {5, 9, 200, 7};

static void begin_with_checkpoint(subject *s, int32_t wrong_by) {
    uint32_t index;
    uint8_t mark[32] = {0}; /* who proves it is the core */
    ck_ok(pd_ledger_author(s->ledger, &other, &index));
    ck_ok(pd_ledger_begin_at(s->ledger, index, 1024, mark, others + 1024, 1500 - 1024, seal));
    int32_t *a = calloc(s->replica.d, sizeof *a);
    pd_replay_fold(&s->replica.replay, a, s->replica.d, &other, 0, others, 1500);
    a[1] += wrong_by;
    ck_ok(pd_replica_restore(&s->replica, s->ledger, a, &other, &(uint64_t){1500}, 1));
    free(a);
    s->conf.audit = true;
    s->conf.records = 0;
}

static void give_prefix(subject *s) {
    uint32_t index;
    ck_ok(pd_ledger_author(s->ledger, &other, &index));
    ck_ok(pd_ledger_prefix_add(s->ledger, index, 0, others, 1024));
    ck_ok(pd_ledger_prefix_end(s->ledger, index, true));
    pd_trainer_wake(s->trainer);
}

/* A newcomer's trust ends here: a right checkpoint is told from a wrong one, and after a wrong one
 * the model is what the records give. */
START_TEST(the_checkpoint_begun_with_is_replayed) {
    for (int32_t wrong = 0; wrong < 2; wrong++) {
        subject s;
        open_subject(&s);
        begin_with_checkpoint(&s, wrong);
        start(&s);
        append(&s, &other, 1500, (const uint8_t[]){1, 2, 3}, 3);
        WAIT(status(&s).records == 1503);
        ck_assert_int_eq(audited(&s), PD_AUDIT_NONE);
        give_prefix(&s);
        WAIT(audited(&s) != PD_AUDIT_NONE);
        ck_assert_int_eq(audited(&s), wrong ? PD_AUDIT_DIFFERS : PD_AUDIT_EQUAL);
        stop(&s);
        ck_assert_uint_eq(s.replica.records, 1503);
        int32_t *a = malloc(s.replica.d * sizeof *a);
        uint8_t digest[PD_DIGEST_BYTES];
        pd_replica_sealed(&s.replica, a, digest);
        free(a);
        expect_digest(&s, digest);
        close_subject(&s);
    }
}
END_TEST

/* Records from before the base stop counting: they cannot be taken back, so nothing is made or kept
 * that rests on them, until all is here and replay begins anew. */
START_TEST(replay_waits_for_what_it_does_not_hold) {
    subject s;
    uint32_t index;
    open_subject(&s);
    begin_with_checkpoint(&s, 0);
    s.conf.records = UINT64_MAX;
    start(&s);
    ck_ok(pd_ledger_author(s.ledger, &other, &index));
    pd_ledger_void(s.ledger, index, 100);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(status(&s).waits);
    uint32_t made = count(&s); /* before it heard of the ban */
    pd_sleep_ms(50);
    ck_assert_uint_eq(count(&s), made);
    pd_trainer_speak(s.trainer, false, NULL);
    give_prefix(&s);
    WAIT(!status(&s).waits && status(&s).records == 100);
    WAIT(audited(&s) == PD_AUDIT_EQUAL);
    stop(&s);
    close_subject(&s);
}
END_TEST

/* Several directions a batch are several records; the number asked for is kept all the same. */
START_TEST(several_probes_a_batch) {
    subject s;
    open_subject(&s);
    s.conf.probes = 5;
    s.conf.records = 12;
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(status(&s).state == PD_TRAINER_DONE);
    ck_assert_uint_eq(count(&s), 12);
    close_subject(&s);
}
END_TEST

/* Others' records come in while it trains and while it waits; all are folded. */
START_TEST(follows) {
    subject s;
    uint8_t bytes[500];
    open_subject(&s);
    pd_rng rng = {4};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(1 + pd_rng_below(&rng, 60));
    append(&s, &other, 0, bytes, 100);
    start(&s);
    WAIT(status(&s).records == 100);
    pd_trainer_speak(s.trainer, true, &me);
    for (size_t at = 100; at < sizeof bytes; at += 50) {
        append(&s, &other, at, bytes + at, 50);
        WAIT(count(&s) > at / 50);
    }
    WAIT(status(&s).records == sizeof bytes);
    pd_trainer_status t = status(&s);
    expect_digest(&s, t.digest);
    close_subject(&s);
}
END_TEST

/* Paused: not one record more, but it follows; resumed: from the next step on. */
START_TEST(pauses) {
    subject s;
    uint8_t byte = 3;
    open_subject(&s);
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(count(&s) >= 3);
    pd_trainer_pause(s.trainer, true);
    WAIT(status(&s).state == PD_TRAINER_PAUSED);
    uint32_t n = count(&s);
    append(&s, &other, 0, &byte, 1);
    WAIT(status(&s).records == 1);
    ck_assert_uint_eq(count(&s), n);
    ck_assert_int_eq(status(&s).state, PD_TRAINER_PAUSED);
    pd_trainer_pause(s.trainer, false);
    WAIT(count(&s) > n);
    ck_assert_uint_eq(s.said.step[n], n);
    pd_trainer_speak(s.trainer, false, NULL);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    close_subject(&s);
}
END_TEST

/* The core stands where it stands: after a refusal the records from there on are made again. */
START_TEST(is_refused) {
    subject s;
    open_subject_by(&s, _i);
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(count(&s) >= 6);
    pd_trainer_speak(s.trainer, false, NULL);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    uint32_t n = count(&s);
    pd_trainer_refused(s.trainer, 4);
    pd_trainer_refused(s.trainer, 2); /* the least counts */
    pd_trainer_refused(s.trainer, 3);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(count(&s) >= n + 3);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_uint_eq(s.said.step[n + i], 2 + i);
    pd_trainer_speak(s.trainer, false, NULL);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    uint8_t log[MADE_MAX];
    uint64_t steps = status(&s).next_step;
    memcpy(log, s.said.byte, 2);
    memcpy(log + 2, s.said.byte + n, (size_t)steps - 2);
    append(&s, &me, 0, log, (size_t)steps);
    WAIT(status(&s).records == steps);
    pd_trainer_status t = status(&s);
    expect_digest(&s, t.digest);
    close_subject(&s);
}
END_TEST

/* The core took records that were taken back here: nothing is said until they come back sealed, and
 * then from there on.  Otherwise each record would be refused in its turn, or differ from the log.
 */
START_TEST(waits_for_what_the_core_holds) {
    subject s;
    uint8_t log[9] = {9, 9, 9, 9, 9, 9, 9, 9, 9};
    open_subject(&s);
    start(&s);
    pd_trainer_refused(s.trainer, 9);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    pd_sleep_ms(50);
    append(&s, &me, 0, log, 8);
    WAIT(status(&s).records == 8);
    ck_assert_uint_eq(count(&s), 0);
    append(&s, &me, 8, log, 1);
    WAIT(count(&s) > 2);
    ck_assert_uint_eq(s.said.step[0], 9);
    close_subject(&s);
}
END_TEST

/* The log was continued by what this node had said before a crash: that is what counts. */
START_TEST(log_says_otherwise) {
    subject s;
    uint8_t log[2];
    open_subject_by(&s, _i);
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(count(&s) >= 4);
    pd_trainer_speak(s.trainer, false, NULL);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    log[0] = s.said.byte[0];
    log[1] = (uint8_t)(s.said.byte[1] == 50 ? 51 : 50);
    append(&s, &me, 0, log, 2);
    WAIT(status(&s).records == 2);
    pd_trainer_status t = status(&s);
    expect_digest(&s, t.digest);
    uint32_t n = count(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(count(&s) > n);
    ck_assert_uint_eq(s.said.step[n], 2);
    close_subject(&s);
}
END_TEST

/* Another incarnation begins at its own step 0, without what the first one had not sealed. */
START_TEST(another_incarnation) {
    subject s;
    pd_author second = {.key = {1}, .inc = 1};
    open_subject(&s);
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(count(&s) >= 3);
    pd_trainer_speak(s.trainer, false, NULL);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    uint32_t n = count(&s);
    pd_trainer_speak(s.trainer, true, &second);
    WAIT(count(&s) > n);
    ck_assert_uint_eq(s.said.author[n].inc, 1);
    ck_assert_uint_eq(s.said.step[n], 0);
    close_subject(&s);
}
END_TEST

/* A loss that is not a number makes no byte; it is counted, and nothing else changes. */
START_TEST(not_finite) {
    subject s;
    open_subject(&s);
    s.m.eps = UINT64_MAX; /* 2^24: no model bears that */
    for (size_t k = 0; k < 28; k++)
        for (uint32_t i = 0; i < s.basis->at[k].out; i++)
            s.basis->at[k].u2[i] *= 1e30f;
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(status(&s).not_finite >= 3);
    ck_assert_uint_eq(count(&s), 0);
    ck_assert(status(&s).made == 0 && isnan(status(&s).loss));
    close_subject(&s);
}
END_TEST

/* As many bytes wait for a seal as there is room for; then it waits as well, and goes on when some
 * are sealed.
 */
START_TEST(room_for_pending) {
    subject s;
    static uint8_t bytes[PD_REPLICA_PENDING_MAX];
    open_subject(&s);
    ck_ok(pd_replica_own(&s.replica, s.ledger, &me));
    for (size_t i = 0; i < sizeof bytes - 3; i++) {
        bytes[i] = 1;
        ck_assert(pd_replica_add(&s.replica, 1));
    }
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(count(&s) == 3);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    ck_assert_uint_eq(count(&s), 3);
    ck_assert_uint_eq(status(&s).not_finite, 0);
    append(&s, &me, 0, bytes, 10);
    WAIT(count(&s) == 13);
    WAIT(status(&s).state == PD_TRAINER_WAITING);
    close_subject(&s);
}
END_TEST

typedef struct answer {
    pthread_mutex_t lock;
    uint64_t records;
    bool there;
} answer;

static void question(void *ctx, pd_replica *r, const pd_space *space) {
    answer *a = ctx;
    pthread_mutex_lock(&a->lock);
    a->records = r->records;
    a->there = pd_space_coords(space) == r->d;
    pthread_mutex_unlock(&a->lock);
}

static bool answered(answer *a) {
    pthread_mutex_lock(&a->lock);
    bool there = a->there;
    pthread_mutex_unlock(&a->lock);
    return there;
}

/* Questions are answered between probes, one at a time, and after one another. */
START_TEST(answers) {
    subject s;
    open_subject(&s);
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    for (int i = 0; i < 3; i++) {
        answer a = {.lock = PTHREAD_MUTEX_INITIALIZER, .records = 99};
        pd_err e;
        do /* the one before may just be going out */
            e = pd_trainer_ask(s.trainer, question, &a);
        while (e == PD_EAGAIN);
        ck_ok(e);
        WAIT(answered(&a));
        ck_assert_uint_eq(a.records, 0);
    }
    close_subject(&s);
}
END_TEST

/* Without held-out records there is no loss to be had, and nobody who waits for one waits forever.
 */
START_TEST(nothing_held_out) {
    subject s;
    uint8_t byte = 3;
    open_subject(&s);
    s.conf.held.n = 0;
    s.conf.records = 2;
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(status(&s).state == PD_TRAINER_DONE);
    append(&s, &other, 0, &byte, 1);
    append(&s, &me, 0, s.said.byte, 2);
    WAIT(status(&s).held_at == 3);
    ck_assert_uint_eq(status(&s).held_now.units, 0);
    close_subject(&s);
}
END_TEST

/* What makes no sense is refused before a thread is there; stopping at once is fine. */
START_TEST(ends) {
    subject s;
    open_subject(&s);
    pd_subset all = s.conf.train;
    s.conf.train.n = 0;
    ck_assert_int_eq(pd_trainer_start(&s.conf, &s.trainer), PD_EUSAGE);
    s.conf.train = all;
    start(&s);
    stop(&s);
    pd_trainer_stop(NULL);
    s.conf.batch_tokens = 4; /* no record fits: it says so and follows */
    s.conf.held.n = 0;
    start(&s);
    pd_trainer_speak(s.trainer, true, &me);
    WAIT(status(&s).state == PD_TRAINER_STOPPED);
    ck_assert_uint_eq(count(&s), 0);
    close_subject(&s);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_loop_test(tc, makes_its_records, 0, 2); /* by probes, by gradients */
    tcase_add_test(tc, the_checkpoint_begun_with_is_replayed);
    tcase_add_test(tc, replay_waits_for_what_it_does_not_hold);
    tcase_add_test(tc, several_probes_a_batch);
    tcase_add_test(tc, follows);
    tcase_add_test(tc, pauses);
    tcase_add_loop_test(tc, is_refused, 0, 2); /* by probes, by gradients */
    tcase_add_test(tc, waits_for_what_the_core_holds);
    tcase_add_loop_test(tc, log_says_otherwise, 0, 2); /* by probes, by gradients */
    tcase_add_test(tc, another_incarnation);
    tcase_add_test(tc, not_finite);
    tcase_add_test(tc, room_for_pending);
    tcase_add_test(tc, answers);
    tcase_add_test(tc, nothing_held_out);
    tcase_add_test(tc, ends);
}

PD_TEST_MAIN("trainer", 100)
