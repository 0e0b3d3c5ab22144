/* fork.c - two logs of one author are suspected: find where they part and make the evidence.
 *
 *   bad seal, or equal lengths under unequal sums
 *      │ FORKQ n: the peer's head of its first n bytes, by halves of whole chunks     log2(n/1024)
 * times
 *      v
 *   chunk j holds the first difference
 *      │ BRANCHQ j: chunk j, the hashes of those after it, tail and seal               2 KB and
 * more
 *      v
 *   own branch + the peer's = EVIDENCE, if the author has signed both;  else the peer made it up
 *
 * What is asked of a peer is bounded by PD_FORKS_MAX searches, what it may ask by its budget.
 */
#include "state.h"

#include <assert.h>

static const uint8_t none[32];

/* ---- heads and branches of what we hold ---- */

static bool chain_to(pd_core *c, uint32_t index, uint64_t n, pd_chain *chain) {
    const pd_author *id = &c->author[index / PD_STREAMS].id;
    uint8_t stream = (uint8_t)(index % PD_STREAMS);
    if (n > pd_log_at_index(c, index)->held || n < pd_log_at_index(c, index)->base)
        return false;
    pd_prefix_chain(c, index, chain);
    while (chain->n < n) {
        size_t want = n - chain->n < PD_PIECE_MAX ? (size_t)(n - chain->n) : PD_PIECE_MAX;
        size_t got = c->store.read(c->store.ctx, id, stream, chain->n, c->piece, want);
        if (got == 0)
            return false;
        pd_chain_add(chain, c->piece, got);
    }
    return true;
}

bool pd_fork_head(pd_core *c, uint32_t index, uint64_t n, uint8_t head[32]) {
    pd_chain chain;
    if (!chain_to(c, index, n, &chain))
        return false;
    pd_chain_head(&chain, head);
    return true;
}

/* Our branch of a log from chunk j on; *n: of how many bytes.  0: there is none, or it is too long.
 */
static size_t own_branch(pd_core *c, uint32_t index, uint64_t j, uint64_t *n,
                         uint8_t out[PD_BRANCH_MAX]) {
    const pd_author *id = &c->author[index / PD_STREAMS].id;
    uint8_t stream = (uint8_t)(index % PD_STREAMS), seal[64];
    pd_writer w = pd_writer_of(out, PD_BRANCH_MAX);
    if (!c->store.seal(c->store.ctx, id, stream, n, seal) ||
        !pd_branch_put(&w, id, stream, j, *n, seal, c->store.read, c->store.ctx))
        return 0;
    return (size_t)(w.p - out);
}

/* ---- asking ---- */

static pd_fork *fork_of(pd_core *c, uint32_t index) {
    for (unsigned i = 0; i < PD_FORKS_MAX; i++)
        if (c->fork[i].log == index)
            return &c->fork[i];
    return NULL;
}

static void ask(pd_core *c, pd_fork *f) {
    pd_link *l = pd_link_find(c, f->session);
    f->due_ms = c->now + PD_FORK_MS;
    pd_wake_at(c, f->due_ms);
    if (!l)
        return;
    pd_item it = {.kind = f->ask == PD_VOID_NEVER ? PD_ITEM_BRANCHQ : PD_ITEM_FORKQ};
    it.u.fork.log = f->log;
    it.u.fork.n = f->ask;
    it.u.fork.j = f->lo / PD_CHUNK_BYTES;
    it.u.fork.offset = f->got;
    (void)pd_send_fork(c, l, &it); /* lost: time asks again */
}

static pd_fork *begin(pd_core *c, const pd_link *l, uint32_t index) {
    pd_fork *f = fork_of(c, index) ? NULL : fork_of(c, PD_NONE);
    if (!f)
        return NULL;
    memset(f, 0, offsetof(pd_fork, branch));
    f->log = (uint16_t)index;
    f->session = l->session;
    return f;
}

void pd_fork_suspect(pd_core *c, pd_link *l, uint32_t index) {
    uint64_t ours = pd_log_at_index(c, index)->held, theirs = l->log[index].peer;
    uint64_t common = ours < theirs ? ours : theirs;
    if (common == 0) { /* nothing to compare: its bytes from the first on are not what was sealed */
        pd_score(c, l, PD_BAD_SEAL, "it sent bytes that their author did not seal");
        return;
    }
    pd_fork *f = begin(c, l, index);
    if (!f)
        return;
    f->accused = true;
    f->ask = common;
    ask(c, f);
}

/* Compare heads of logs of which both sides say that they hold the same number of bytes. */
void pd_fork_compare(pd_core *c, pd_link *l, bool still) {
    uint32_t logs = c->n_authors * PD_STREAMS, left = still ? PD_COMPARE_STILL : PD_COMPARE_BUSY;
    for (uint32_t k = 0; k < logs && left; k++) {
        uint32_t i = l->v.compare_at++ % logs;
        const pd_log *log = pd_log_at_index(c, i);
        uint64_t n = log->held < log->v.void_at ? log->held : log->v.void_at;
        bool same = l->log[i].peer == log->held || (l->log[i].peer >= n && n == log->v.void_at);
        if (n == 0 || n != log->counted || !same || pd_is_own(c, i))
            continue;
        pd_item it = {.kind = PD_ITEM_FORKQ, .u.fork = {.log = i, .n = n}};
        if (!pd_send_fork(c, l, &it))
            return;
        left--;
    }
}

/* ---- answers to us ---- */

static void give_up(pd_fork *f) {
    f->log = PD_NONE;
}

/* A branch that the author has signed, joined with ours; or a lie. */
static void conclude(pd_core *c, pd_link *l, pd_fork *f) {
    uint32_t index = f->log;
    const pd_author *id = &c->author[index / PD_STREAMS].id;
    uint8_t stream = (uint8_t)(index % PD_STREAMS), *ours = c->branch;
    uint64_t j = f->lo / PD_CHUNK_BYTES, n = 0;
    pd_chain chain;
    pd_branch b;
    pd_reader r = pd_reader_of(f->branch, f->total);
    pd_branch_get(&r, j, &b);
    give_up(f);
    if (!chain_to(c, index, j * PD_CHUNK_BYTES, &chain))
        return;
    if (!r.ok || pd_reader_left(&r) ||
        !pd_branch_sealed(&b, c->conf.run, id, stream, j, chain.c, c->crypto.verify,
                          c->crypto.ctx)) {
        pd_score(c, l, PD_LIED, "it claims a log that its author did not seal");
        return;
    }
    size_t size = own_branch(c, index, j, &n, ours);
    pd_writer w = pd_writer_of(c->record, PD_EVIDENCE_MAX);
    if (size && !pd_evidence_put(&w, id, stream, j, chain.c, ours, size, f->branch, f->total))
        return; /* the same bytes as ours: it has changed its mind */
    if (!size || !w.ok) {
        pd_note(c, PD_LOG_ERROR,
                "%s signed two logs that part near step %llu, too long ago to be proven: ban it",
                pd_short(id->key, (char[9]){0}), (unsigned long long)(j * PD_CHUNK_BYTES));
        return;
    }
    pd_note(c, PD_LOG_WARN, "%s signed two logs that part behind step %llu",
            pd_short(id->key, (char[9]){0}), (unsigned long long)(j * PD_CHUNK_BYTES));
    pd_enforce_report(c, c->record, (size_t)(w.p - c->record));
}

/* Where to look next between lo (equal) and hi (not equal). */
static void narrow(pd_core *c, pd_fork *f) {
    uint64_t j = f->lo / PD_CHUNK_BYTES, end = (f->hi + PD_CHUNK_BYTES - 1) / PD_CHUNK_BYTES;
    f->ask = end - j > 1 ? (j + end) / 2 * PD_CHUNK_BYTES : PD_VOID_NEVER;
    f->tries = 0;
    ask(c, f);
}

static void compared(pd_core *c, pd_link *l, uint32_t index, uint64_t n, const uint8_t head[32]) {
    pd_fork *f = fork_of(c, index);
    uint8_t ours[32];
    bool asked = f && f->session == l->session && f->ask == n;
    if (!memcmp(head, none, 32) || (f && !asked) || n == 0 ||
        !pd_budget(c, l, 1 + (uint32_t)(n >> 20)) || !pd_fork_head(c, index, n, ours))
        return; /* an answer nobody waits for, or to which nothing can be said: time decides */
    bool equal = !memcmp(head, ours, 32);
    if (!f && (equal || !(f = begin(c, l, index))))
        return;
    *(equal ? &f->lo : &f->hi) = n;
    if (f->hi) {
        narrow(c, f);
        return;
    }
    bool accused = f->accused;
    give_up(f); /* as far as both reach it is one log: what came behind it was not sealed */
    if (accused)
        pd_score(c, l, PD_BAD_SEAL, "it sent bytes that their author did not seal");
}

void pd_fork_head_in(pd_core *c, pd_link *l, uint32_t index, const pd_item *it) {
    compared(c, l, index, it->u.fork.n, it->u.fork.head);
}

void pd_fork_branch_in(pd_core *c, pd_link *l, uint32_t index, const pd_item *it) {
    pd_fork *f = fork_of(c, index);
    if (!f || f->session != l->session || f->ask != PD_VOID_NEVER ||
        it->u.fork.j != f->lo / PD_CHUNK_BYTES)
        return;
    if (f->got && (it->u.fork.n != f->n || it->u.fork.total != f->total))
        f->got = 0; /* its log has grown meanwhile: from the start */
    else if (it->u.fork.offset == f->got) {
        f->n = it->u.fork.n;
        f->total = (uint32_t)it->u.fork.total;
        memcpy(f->branch + f->got, it->u.fork.bytes, it->u.fork.count);
        f->got += it->u.fork.count;
        f->tries = 0;
    }
    if (f->total && f->got == f->total)
        conclude(c, l, f);
    else if (f->total)
        ask(c, f);
    else
        give_up(f); /* it has none, or it is too long */
}

/* ---- answers from us ---- */

void pd_fork_asked(pd_core *c, pd_link *l, uint32_t index, const pd_item *q) {
    pd_item it = {.kind = q->kind == PD_ITEM_FORKQ ? PD_ITEM_FORKA : PD_ITEM_BRANCHA};
    uint64_t bytes = q->kind == PD_ITEM_FORKQ ? q->u.fork.n : pd_log_at_index(c, index)->held;
    if (!pd_budget(c, l, 1 + (uint32_t)(bytes >> 20))) {
        pd_score(c, l, PD_PULL_STORM, "it asks for more than any search needs");
        return;
    }
    it.u.fork.log = index;
    it.u.fork.n = q->u.fork.n;
    it.u.fork.j = q->u.fork.j;
    if (q->kind == PD_ITEM_FORKQ) {
        if (!pd_fork_head(c, index, q->u.fork.n, it.u.fork.head))
            memset(it.u.fork.head, 0, 32);
    } else {
        size_t size = own_branch(c, index, q->u.fork.j, &it.u.fork.n, c->branch);
        size_t from = q->u.fork.offset < size ? (size_t)q->u.fork.offset : size;
        it.u.fork.offset = from;
        it.u.fork.total = size;
        it.u.fork.bytes = c->branch + from;
        it.u.fork.count = (uint32_t)(size - from < PD_PIECE_MAX ? size - from : PD_PIECE_MAX);
    }
    (void)pd_send_fork(c, l, &it);
}

/* ---- time ---- */

void pd_fork_tick(pd_core *c) {
    for (unsigned i = 0; i < PD_FORKS_MAX; i++) {
        pd_fork *f = &c->fork[i];
        if (f->log == PD_NONE)
            continue;
        pd_link *l = pd_link_find(c, f->session);
        if (!l || l->bye_ms) {
            give_up(f);
        } else if (c->now < f->due_ms) {
            pd_wake_at(c, f->due_ms);
        } else if (++f->tries < PD_FORK_TRIES) {
            ask(c, f);
        } else {
            give_up(f); /* no fault: a clogged link loses answers, too */
        }
    }
}
