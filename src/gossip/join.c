/* join.c - the newcomer's side of an invite: dial, prove the key, take the welcome, check all of
 * it.
 *
 * Nothing the inviter says is believed: the manifest must hash to the ticket's run, every control
 * log must carry its author's seal, and the members must follow from the founder, this node among
 * them.
 */
#include "peerd/digest.h"
#include "peerd/frame.h"
#include "peerd/identity.h"
#include "peerd/log.h"
#include "peerd/manifest.h"

#include <assert.h>
#include <stdio.h>

enum {
    JOIN_MS = 60000,
    RETRY_MS = 1000,
    NOT_NOW_MS = 2000,
    DIAL_LOST_MS = 30000,
    WELCOME_MAX = (1 << 17) + PD_MEMBERS_TOP * 320, /* table.c has the same of its own members */
    SLOTS = 2 * PD_MEMBERS_TOP,
    INSTALL_STEP = PD_ACTIONS_MAX / 2, /* logs handed to the driver in one step */
    ACK_BYTES = 2048,
};

typedef struct welcome_log {
    pd_author author;
    const uint8_t *bytes, *seal;
    size_t n;
    bool read;
} welcome_log;

struct pd_join {
    pd_join_conf conf;
    pd_addr addrs[PD_ADDRS_MAX];
    pd_core_crypto crypto;
    uint64_t now, end_ms, next_ms; /* next: dial again; or give the dial up */
    uint32_t turn;
    bool dialing, done;
    uint64_t session, rx, acked_out;
    pd_action *out;
    size_t n_out, max_out;
    char text[PD_TEXT_MAX], last[PD_TEXT_MAX]; /* last: why the last attempt failed */
    uint8_t frame[512];
    size_t got, total;
    uint8_t run[32];
    uint32_t n_members, n_logs, n_installed;
    bool installing;
    const uint8_t *manifest; /* in the welcome */
    size_t manifest_bytes;
    uint64_t seed;
    uint16_t slot[SLOTS]; /* member + 1 by key, open addressing */
    /* what follows is written before it is read */
    uint8_t members[PD_MEMBERS_TOP][32];
    welcome_log logs[PD_ALIASES_MAX];
    uint8_t welcome[WELCOME_MAX];
};

size_t pd_join_bytes(void) {
    return sizeof(pd_join);
}

pd_err pd_join_open(const pd_join_conf *conf, const pd_core_crypto *crypto, uint64_t now_ms,
                    void *arena, size_t arena_bytes, pd_join **out) {
    if (conf->n_addrs == 0 || conf->n_addrs > PD_ADDRS_MAX)
        return pd_fail(PD_EUSAGE, "the ticket names no address of its inviter");
    if (arena_bytes < sizeof(pd_join))
        return pd_fail(PD_ENOMEM, "joining needs %zu bytes in one piece", sizeof(pd_join));
    pd_join *j = arena;
    memset(j, 0, offsetof(pd_join, members));
    j->seed = crypto->random(crypto->ctx);
    j->conf = *conf;
    j->conf.name[PD_NAME_MAX] = 0;
    memcpy(j->addrs, conf->addrs, conf->n_addrs * sizeof *j->addrs);
    j->conf.addrs = j->addrs;
    j->crypto = *crypto;
    j->now = j->next_ms = now_ms;
    j->end_ms = now_ms + (conf->timeout_ms ? conf->timeout_ms : JOIN_MS);
    snprintf(j->last, sizeof j->last, "no answer at the ticket's addresses");
    *out = j;
    return PD_OK;
}

static pd_action *emit(pd_join *j, pd_action_kind kind) {
    assert(j->n_out < j->max_out);
    pd_action *a = &j->out[j->n_out++];
    memset(a, 0, sizeof *a);
    a->kind = kind;
    return a;
}

static void hang_up(pd_join *j, const char *why) {
    if (j->session) {
        pd_action *a = emit(j, PD_ACT_CLOSE);
        a->session = j->session;
        a->text = why;
    }
    j->session = 0;
}

static void refuse(pd_join *j, pd_err code, const char *why) {
    hang_up(j, "joining failed");
    snprintf(j->text, sizeof j->text, "%s", why);
    pd_action *a = emit(j, PD_ACT_REFUSED);
    a->at = (uint64_t)code;
    a->text = j->text;
    j->done = true;
}

static void retry(pd_join *j, uint64_t ms, const char *why) {
    hang_up(j, "trying again");
    snprintf(j->last, sizeof j->last, "%s", why);
    j->dialing = false;
    j->next_ms = j->now + ms;
}

/* ---- the welcome ---- */

static uint16_t *slot_of(pd_join *j, const uint8_t key[32]) {
    for (uint64_t at = pd_xxh64(key, 32, j->seed);; at++) {
        uint16_t *slot = &j->slot[at % SLOTS];
        if (*slot == 0 || !memcmp(j->members[*slot - 1], key, 32))
            return slot;
    }
}

static bool is_member(pd_join *j, const uint8_t key[32]) {
    return *slot_of(j, key) != 0;
}

static void add_member(pd_join *j, const uint8_t key[32]) {
    uint16_t *slot = slot_of(j, key);
    if (*slot || j->n_members == PD_MEMBERS_TOP)
        return;
    memcpy(j->members[j->n_members++], key, 32);
    *slot = (uint16_t)j->n_members;
}

static bool sealed(pd_join *j, const welcome_log *l) {
    pd_chain chain;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&chain, j->run, &l->author, PD_STREAM_CONTROL);
    pd_chain_add(&chain, l->bytes, l->n);
    pd_seal_message(&chain, j->run, &l->author, PD_STREAM_CONTROL, msg);
    return j->crypto.verify(j->crypto.ctx, l->author.key, msg, sizeof msg, l->seal);
}

static void read_members(pd_join *j, const welcome_log *l) {
    pd_control rec;
    ptrdiff_t took;
    for (size_t at = 0; at < l->n && (took = pd_control_get(l->bytes + at, l->n - at, &rec)) > 0;
         at += (size_t)took)
        if (rec.kind == PD_RECORD_MEMBER)
            add_member(j, rec.subject);
}

/* Cut the welcome into manifest and logs; false if it is not one. */
static bool split(pd_join *j, const uint8_t **manifest, size_t *manifest_bytes) {
    pd_reader r = pd_reader_of(j->welcome, j->total);
    *manifest_bytes = (size_t)pd_get_varint_max(&r, PD_MANIFEST_MAX);
    *manifest = pd_get_bytes(&r, *manifest_bytes);
    j->n_logs = (uint32_t)pd_get_varint_max(&r, PD_ALIASES_MAX);
    for (uint32_t i = 0; r.ok && i < j->n_logs; i++) {
        welcome_log *l = &j->logs[i];
        memset(l, 0, sizeof *l);
        const uint8_t *key = pd_get_bytes(&r, 32);
        l->author.inc = (uint32_t)pd_get_varint_max(&r, PD_INCARNATIONS - 1);
        l->n = (size_t)pd_get_varint_max(&r, WELCOME_MAX);
        l->bytes = pd_get_bytes(&r, l->n);
        l->seal = pd_get_bytes(&r, 64);
        if (r.ok)
            memcpy(l->author.key, key, 32);
    }
    return r.ok && pd_reader_left(&r) == 0;
}

/* The manifest first, then the logs, as many in a step as its actions hold. */
static void install(pd_join *j) {
    if (!j->installing) {
        pd_action *a = emit(j, PD_ACT_MANIFEST);
        a->p = j->manifest;
        a->n = j->manifest_bytes;
        hang_up(j, "welcomed");
        j->installing = true;
    }
    for (unsigned n = 0; n < INSTALL_STEP && j->n_installed < j->n_logs; n++) {
        const welcome_log *l = &j->logs[j->n_installed++];
        if (!l->read || l->n == 0)
            continue;
        pd_action *a = emit(j, PD_ACT_STORE);
        a->author = l->author;
        a->stream = PD_STREAM_CONTROL;
        a->p = l->bytes;
        a->n = l->n;
        memcpy(a->seal, l->seal, 64);
    }
    if (j->n_installed < j->n_logs)
        return;
    emit(j, PD_ACT_JOINED);
    j->done = true;
}

static void judge_welcome(pd_join *j) {
    pd_manifest m;
    if (!split(j, &j->manifest, &j->manifest_bytes)) {
        refuse(j, PD_EFORMAT, "the inviter's welcome does not parse");
        return;
    }
    pd_hash256(j->manifest, j->manifest_bytes, j->run);
    if (memcmp(j->run, j->conf.net, 16)) {
        refuse(j, PD_EAUTH, "the inviter's manifest is not that of the ticket's run");
        return;
    }
    pd_err e = pd_manifest_read((const char *)j->manifest, j->manifest_bytes, &m);
    if (e) {
        refuse(j, e, pd_fail_text());
        return;
    }
    j->n_members = 0;
    memset(j->slot, 0, sizeof j->slot);
    add_member(j, m.founder);
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < j->n_logs; i++) {
            welcome_log *l = &j->logs[i];
            if (l->read || !is_member(j, l->author.key))
                continue;
            if (!sealed(j, l)) {
                refuse(j, PD_EAUTH,
                       "a control log in the inviter's welcome is not what its seal covers");
                return;
            }
            read_members(j, l);
            l->read = more = true;
        }
    }
    if (is_member(j, j->conf.key))
        install(j);
    else
        refuse(j, PD_EAUTH, "the inviter's welcome holds no record of our admission");
}

/* ---- the session ---- */

static void send_item(pd_join *j, const pd_item *it) {
    pd_writer w = pd_writer_of(j->frame, sizeof j->frame);
    pd_frame_begin(&w, j->rx);
    if (it)
        pd_frame_put(&w, it);
    assert(w.ok);
    pd_action *a = emit(j, PD_ACT_SEND);
    a->session = j->session;
    a->p = j->frame;
    a->n = (size_t)(w.p - j->frame);
    j->acked_out = j->rx;
}

static void say_join(pd_join *j, uint64_t session) {
    j->session = session;
    j->dialing = false;
    j->rx = j->acked_out = 0;
    j->got = j->total = 0;
    uint8_t msg[PD_JOIN_MESSAGE_BYTES];
    pd_item it = {.kind = PD_ITEM_JOIN};
    pd_join_message(j->conf.net, j->conf.guest, msg);
    memcpy(it.u.join.key, j->conf.key, 32);
    j->crypto.sign(j->crypto.ctx, msg, sizeof msg, it.u.join.sig);
    it.u.join.addr = j->conf.listen;
    it.u.join.name = j->conf.name;
    it.u.join.name_size = (uint32_t)strlen(j->conf.name);
    send_item(j, &it);
    j->next_ms = j->now + DIAL_LOST_MS;
}

static void said_bye(pd_join *j, pd_bye why) {
    switch (why) {
    case PD_BYE_FULL:
        refuse(j, PD_EFULL, "the run has as many members as it admits");
        break;
    case PD_BYE_REFUSED:
        refuse(j, PD_EAUTH,
               "the inviter refused the ticket: it was used by another node; ask for a new one");
        break;
    case PD_BYE_NOT_NOW:
        retry(j, NOT_NOW_MS,
              "the inviter is still listening to its peers and cannot admit anyone yet");
        break;
    default:
        retry(j, RETRY_MS, "the inviter closed the session");
        break;
    }
}

/* False: the piece does not fit what came before. */
static bool take_piece(pd_join *j, const pd_item *it) {
    if (it->u.part.offset != j->got || it->u.part.total == 0 || it->u.part.total > WELCOME_MAX ||
        (j->total && it->u.part.total != j->total))
        return false;
    j->total = (size_t)it->u.part.total;
    memcpy(j->welcome + j->got, it->u.part.bytes, it->u.part.count);
    j->got += it->u.part.count;
    j->next_ms = j->now + DIAL_LOST_MS;
    return true;
}

static void take_frame(pd_join *j, const pd_event *e) {
    pd_reader r;
    pd_item it, ping = {.kind = PD_ITEM_PONG};
    uint64_t ack;
    bool ok = pd_frame_open(e->p, e->n, &r, &ack), pinged = false;
    j->rx += e->n;
    while (ok && pd_frame_next(&r, &it)) {
        if (it.kind == PD_ITEM_BYE) {
            said_bye(j, it.u.bye.why);
            return;
        }
        if (it.kind == PD_ITEM_PING) {
            ping.u.ping.nonce = it.u.ping.nonce;
            pinged = true;
        } else
            ok = it.kind == PD_ITEM_WELCOME && take_piece(j, &it);
    }
    if (!ok || !r.ok)
        retry(j, RETRY_MS, "the inviter's frames do not parse");
    else if (j->total && j->got == j->total)
        judge_welcome(j);
    else if (pinged)
        send_item(j, &ping);
    else if (j->rx - j->acked_out >= ACK_BYTES)
        send_item(j, NULL);
}

/* Only the inviter's own key can have answered the dial: what its gate refuses now it will not
 * admit later. */
static void dial_failed(pd_join *j, bool refused) {
    if (refused)
        refuse(
            j, PD_EAUTH,
            "the inviter does not admit this ticket: it is used up or has expired; ask for a new "
            "one: peerctl invite");
    else
        retry(j, RETRY_MS, "no answer at the ticket's addresses");
}

static void look_at_time(pd_join *j) {
    if (j->done || j->installing)
        return;
    if (j->now >= j->end_ms) {
        refuse(j, PD_EGONE, j->last);
        return;
    }
    if (j->now < j->next_ms)
        return;
    if (j->session || j->dialing) {
        retry(j, 0,
              j->session ? "the inviter does not answer" : "no answer at the ticket's addresses");
    }
    pd_action *a = emit(j, PD_ACT_DIAL);
    memcpy(a->key, j->conf.inviter, 32);
    a->addr = j->addrs[j->turn++ % j->conf.n_addrs];
    j->dialing = true;
    j->next_ms = j->now + DIAL_LOST_MS;
}

size_t pd_join_step(pd_join *j, uint64_t now_ms, const pd_event *e, pd_action *out, size_t max) {
    assert(max >= PD_ACTIONS_MAX);
    j->out = out;
    j->n_out = 0;
    j->max_out = max;
    j->now = now_ms > j->now ? now_ms : j->now;
    if (j->done)
        return 0;
    if (j->installing) {
        install(j);
        return j->n_out;
    }
    bool ours = j->session && e->session == j->session;
    if (e->kind == PD_EV_SESSION_UP && !j->session)
        say_join(j, e->session);
    else if (e->kind == PD_EV_FRAME && ours)
        take_frame(j, e);
    else if (e->kind == PD_EV_SESSION_DOWN && ours) {
        j->session = 0;
        retry(j, RETRY_MS, "the session with the inviter broke");
    } else if (e->kind == PD_EV_DIAL_FAILED && j->dialing)
        dial_failed(j, e->refused);
    look_at_time(j);
    return j->n_out;
}

uint64_t pd_join_wake(const pd_join *j) {
    if (j->done)
        return UINT64_MAX;
    if (j->installing)
        return j->now;
    return j->next_ms < j->end_ms ? j->next_ms : j->end_ms;
}
