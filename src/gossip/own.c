/* own.c - this node's own logs: pending bytes, seals, persist before send, listen before speaking.
 *
 *   gradient ─> pending ─(T_seal)─> sealed, STORE ─(EV_STORED)─> durable, sent
 *
 * Promises: a step of an incarnation is sealed once; what is sealed leaves only when it is durable;
 * after a start nothing is sealed until peers had the chance to show a longer log of ours (a disk
 * that lied, a restored backup).  What it cannot promise: a copy restored while nobody who saw the
 * newer bytes can be reached.  That fork is found at the first contact and the node goes on under
 * its next incarnation.
 */
#include "state.h"

#include <assert.h>

static pd_author_state *own_author(pd_core *c) {
    return &c->author[c->own.author];
}

static void fatal(pd_core *c, uint64_t status, const char *why) {
    c->own.voice = PD_VOICE_SILENCED;
    pd_action *a = pd_emit(c, PD_ACT_FATAL);
    a->at = status;
    a->text = why;
}

/* ---- sealing ---- */

uint64_t pd_own_seal_ms(const pd_core *c) {
    if (c->conf.seal_ms)
        return c->conf.seal_ms;
    uint64_t ms = (uint64_t)c->view.counted * 69 * 1000 / c->conf.seal_bytes_per_s;
    return ms < 2000 ? 2000 : ms > 900000 ? 900000 : ms;
}

static void hand_over(pd_core *c, uint8_t stream) {
    pd_pending *p = &c->own.pending[stream];
    pd_action *a = pd_emit(c, PD_ACT_STORE);
    a->author = own_author(c)->id;
    a->stream = stream;
    a->at = own_author(c)->log[stream].chain.n;
    a->p = p->bytes;
    a->n = p->storing;
    a->own = true;
    memcpy(a->seal, p->seal, 64);
    p->retry_ms = 0;
    if (PD_BUG(PD_BUG_SEND_UNSTORED)) {
        a->own = false;
        pd_own_stored(c, &(pd_event){.author = a->author, .stream = stream, .at = a->at + a->n});
    }
}

/* The seal is made once and stored with its bytes: after a crash the same seal goes out, never
 * another for the same n.
 */
static void seal(pd_core *c, uint8_t stream) {
    pd_pending *p = &c->own.pending[stream];
    assert(p->n > 0 && p->storing == 0);
    pd_chain chain;
    if (!pd_chain_of(c, c->own.author * PD_STREAMS + stream, &chain))
        return; /* its last bytes came back from a peer in this step */
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain_add(&chain, p->bytes, p->n);
    pd_seal_message(&chain, c->conf.run, &own_author(c)->id, stream, msg);
    c->crypto.sign(c->crypto.ctx, msg, sizeof msg, p->seal);
    p->storing = p->n;
    c->own.sealed[stream] = true;
    hand_over(c, stream);
}

static void seal_what_is_due(pd_core *c) {
    bool stopping = c->own.voice == PD_VOICE_STOPPING;
    if (c->own.voice != PD_VOICE_SPEAKING && !stopping)
        return;
    for (uint8_t s = 0; s < PD_STREAMS; s++) {
        pd_pending *p = &c->own.pending[s];
        if (p->storing) {
            if (p->retry_ms && c->now >= p->retry_ms)
                hand_over(c, s);
            else if (p->retry_ms)
                pd_wake_at(c, p->retry_ms);
            continue;
        }
        uint64_t due = s == PD_STREAM_CONTROL ? p->since_ms : p->since_ms + pd_own_seal_ms(c);
        bool full = p->n >= c->conf.seal_records;
        if (p->n && (c->own.flush || stopping || full || c->now >= due))
            seal(c, s);
        else if (p->n)
            pd_wake_at(c, due);
    }
    c->own.flush = false;
}

void pd_own_stored(pd_core *c, const pd_event *e) {
    if (e->stream >= PD_STREAMS || pd_author_find(c, &e->author) != c->own.author)
        return;
    pd_pending *p = &c->own.pending[e->stream];
    pd_log *log = &own_author(c)->log[e->stream];
    if (p->storing == 0 || e->at != log->chain.n + p->storing)
        return; /* said twice */
    pd_chain chain;
    bool there = pd_chain_of(c, c->own.author * PD_STREAMS + e->stream, &chain);
    assert(there); /* nothing else grows a log that the store is at work on */
    (void)there;
    pd_chain_add(&chain, p->bytes, p->storing);
    memcpy(log->chain.c, chain.c, sizeof chain.c);
    log->chain.n = chain.n;
    memmove(p->bytes, p->bytes + p->storing, p->n - p->storing);
    p->n -= p->storing;
    p->storing = 0;
    p->retry_ms = 0;
    p->backoff_ms = 0;
    p->since_ms = c->now;
    log->held = log->chain.n;
    c->own.said_ms = c->now;
    pd_log_grown(c, c->own.author * PD_STREAMS + e->stream, &chain);
    if (e->stream == PD_STREAM_CONTROL)
        c->fresh[c->n_fresh++] = c->own.author * PD_STREAMS + PD_STREAM_CONTROL;
    pd_emit(c, PD_ACT_SPEAK);
}

void pd_own_store_failed(pd_core *c, const pd_event *e) {
    if (e->stream >= PD_STREAMS || pd_author_find(c, &e->author) != c->own.author)
        return;
    pd_pending *p = &c->own.pending[e->stream];
    if (p->storing == 0)
        return;
    if (PD_BUG(PD_BUG_FAILED_STORED)) {
        pd_own_stored(c, e);
        return;
    }
    p->backoff_ms = p->backoff_ms ? p->backoff_ms * 2 : 1000;
    if (p->backoff_ms > 60000)
        p->backoff_ms = 60000;
    p->retry_ms = c->now + p->backoff_ms;
    pd_note(c, PD_LOG_WARN,
            "%u own bytes could not be stored and stay unsent; trying again in %u s", p->storing,
            p->backoff_ms / 1000);
}

/* ---- what comes in ---- */

bool pd_core_may_speak(const pd_core *c, pd_author *author, uint64_t *step) {
    const pd_author_state *a = &c->author[c->own.author];
    const pd_pending *p = &c->own.pending[PD_STREAM_GRADIENTS];
    *author = a->id;
    *step = a->log[PD_STREAM_GRADIENTS].chain.n + p->n;
    return c->own.voice == PD_VOICE_SPEAKING && !c->own.conflict && !c->conf.observer &&
           p->n < PD_PENDING_MAX && *step < PD_LOG_BYTES_MAX;
}

void pd_own_gradient(pd_core *c, const pd_event *e) {
    pd_author author;
    uint64_t step;
    bool may = pd_core_may_speak(c, &author, &step);
    bool ours = e->author.inc == author.inc && !memcmp(e->author.key, author.key, 32);
    if (!may || !ours || e->at != step || e->byte == 0x80) {
        pd_note(c, PD_LOG_DEBUG, "record %llu is not the next one here (%llu)",
                (unsigned long long)e->at, (unsigned long long)step);
        pd_emit(c, PD_ACT_SPEAK);
        return;
    }
    pd_pending *p = &c->own.pending[PD_STREAM_GRADIENTS];
    if (p->n == p->storing)
        p->since_ms = c->now;
    p->bytes[p->n++] = e->byte;
    if (p->n == PD_PENDING_MAX)
        pd_emit(c, PD_ACT_SPEAK);
}

bool pd_own_write(pd_core *c, const pd_control *rec) {
    pd_pending *p = &c->own.pending[PD_STREAM_CONTROL];
    if (c->own.conflict || (c->own.voice != PD_VOICE_SPEAKING && c->own.voice != PD_VOICE_STOPPING))
        return false;
    pd_writer w = pd_writer_of(p->bytes + p->n, p->room - p->n);
    if (!pd_control_put(&w, rec))
        return false;
    if (p->n == p->storing)
        p->since_ms = c->now;
    p->n = (uint32_t)(w.p - p->bytes);
    return true;
}

/* ---- another log under our name ---- */

static void forget_pending(pd_core *c, uint8_t stream) {
    pd_pending *p = &c->own.pending[stream];
    if (p->n)
        pd_note(c, PD_LOG_WARN, "%u own records that nobody saw are dropped", p->n);
    p->n = p->storing = 0;
    p->retry_ms = 0;
    p->backoff_ms = 0;
    c->own.addr_written = false;
}

bool pd_own_adopt(pd_core *c, uint16_t author, uint8_t stream) {
    bool later = c->author[author].id.inc > own_author(c)->id.inc;
    if (author != c->own.author && !later)
        return true;
    if (later ? c->own.sealed[0] || c->own.sealed[1] : c->own.sealed[stream]) {
        fatal(c, 75, "another live process writes this node's log: stop one of the two");
        return false;
    }
    pd_note(c, PD_LOG_WARN,
            "peers hold more of this node's own log than its store: it is taken from them");
    forget_pending(c, stream);
    if (later && c->own.voice == PD_VOICE_SPEAKING)
        c->own.voice = PD_VOICE_LISTENING; /* and then go on in that incarnation */
    pd_emit(c, PD_ACT_SPEAK);
    return true;
}

void pd_own_conflict(pd_core *c, uint16_t author) {
    if (author != c->own.author || c->own.conflict)
        return;
    c->own.conflict = true;
    if (c->own.opened) {
        uint64_t wait = c->crypto.random(c->crypto.ctx) % PD_RETREAT_MS;
        c->own.retreat_ms = c->now + wait;
        pd_note(c, PD_LOG_ERROR,
                "another live process writes this node's log: this one goes on as incarnation %u "
                "in %u s, unless the other does before",
                own_author(c)->id.inc + 1, (unsigned)(wait / 1000));
        return;
    }
    pd_note(
        c, PD_LOG_ERROR,
        "peers hold another log signed by this node (a restored copy?): going on as incarnation %u",
        own_author(c)->id.inc + 1);
}

static uint16_t newest(const pd_core *c) {
    uint16_t best = c->own.author;
    for (uint16_t i = c->member[c->self].author; i != PD_NONE; i = c->author[i].next) {
        const pd_author_state *a = &c->author[i];
        if (a->id.inc > c->author[best].id.inc && (a->log[0].chain.n || a->log[1].chain.n))
            best = i;
    }
    return best;
}

static void continue_as(pd_core *c, uint16_t author) {
    c->own.author = author;
    c->own.addr_written = false;
    memset(c->own.sealed, 0, sizeof c->own.sealed);
    pd_emit(c, PD_ACT_META)->at = own_author(c)->id.inc;
    pd_emit(c, PD_ACT_SPEAK);
}

static void next_incarnation(pd_core *c) {
    for (uint8_t s = 0; s < PD_STREAMS; s++)
        if (c->own.pending[s].storing && !c->own.pending[s].retry_ms)
            return; /* the store is at work on it */
    if (c->now < c->own.retreat_ms) {
        pd_wake_at(c, c->own.retreat_ms);
        return;
    }
    if (c->own.opened && newest(c) != c->own.author) {
        fatal(c, 75, "another live process writes this node's log: stop one of the two");
        return;
    }
    pd_author id = c->author[newest(c)].id;
    if (++id.inc >= PD_INCARNATIONS) {
        fatal(c, 1, "this key's 16 incarnations are used up: join with a new key");
        return;
    }
    uint16_t next = pd_author_get(c, &id);
    if (next == PD_NONE) {
        fatal(c, 1, "the tables hold no more authors: raise the number of members");
        return;
    }
    for (uint8_t s = 0; s < PD_STREAMS; s++)
        forget_pending(c, s);
    c->own.conflict = false;
    c->own.opened = true;
    continue_as(c, next);
}

/* ---- listen before speaking ---- */

/* Has this session shown us what it knows of our own logs, and have we got it?  A claim of more
 * than we hold is waited for while it makes progress; one that is not proven counts as no answer,
 * so that a liar cannot keep us silent.
 */
typedef enum answer { NO_ANSWER, NOT_YET, COMPARED } answer;

static answer compare(pd_core *c, pd_link *l) {
    if (!pd_link_live(l) || !l->vv_in)
        return NO_ANSWER;
    bool claims = false, bad = false;
    uint64_t progress = 0;
    for (uint16_t a = c->member[c->self].author; a != PD_NONE; a = c->author[a].next)
        for (uint32_t log = (uint32_t)a * PD_STREAMS; log / PD_STREAMS == a; log++) {
            const pd_stage *st = pd_stage_find(c, log);
            bool claimed = l->log[log].peer > pd_log_at_index(c, log)->chain.n;
            claims |= claimed;
            bad |= claimed && (l->log[log].flags & (PD_BAD | PD_BASED));
            progress += pd_log_at_index(c, log)->chain.n + (st ? st->have : 0);
        }
    if (!claims || bad)
        return bad ? NO_ANSWER : COMPARED;
    if (!l->claim_ms || l->claim_n != progress)
        l->claim_ms = c->now;
    l->claim_n = progress;
    if (c->now >= l->claim_ms + PD_LISTEN_MS)
        return NO_ANSWER;
    pd_wake_at(c, l->claim_ms + PD_LISTEN_MS);
    return NOT_YET;
}

/* Who has left may come back, and then speaks first; who is banned is refused and says nothing. */
static bool may_be_heard(const pd_member *m) {
    return !m->left && !pd_member_is_out(m);
}

static uint32_t others(const pd_core *c) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_members; i++)
        n += i != c->self && may_be_heard(&c->member[i]);
    return n;
}

/* Members it can hear: linked, or known by an address.  Two newcomers publish their addresses only
 * when they speak; if each waited for the other, neither would.
 */
static uint32_t within_reach(const pd_core *c) {
    uint32_t n = 0;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++) {
        const pd_link *l = &c->link[i];
        const pd_member *m = pd_link_live(l) ? &c->member[l->member] : NULL;
        n += m && may_be_heard(m) && !m->n_addrs && !m->n_hints;
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        const pd_member *m = &c->member[i];
        n += i != c->self && may_be_heard(m) && (m->n_addrs || m->n_hints);
    }
    return n;
}

/* A restored store hears everyone it knows, even who has left: any of them may hold what it forgot.
 */
uint32_t pd_own_wanted(const pd_core *c) {
    uint32_t n = within_reach(c);
    return c->conf.restored ? c->n_members - 1 : n < PD_LISTEN_PEERS ? n : PD_LISTEN_PEERS;
}

uint32_t pd_own_heard(const pd_core *c) {
    uint32_t n = 0;
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
        n += pd_link_live(&c->link[i]) && c->link[i].vv_in;
    return n;
}

/* Is every control log that peers told of here and read?  It may name members who know more of us.
 */
static bool knows_members(const pd_core *c) {
    uint32_t end = pd_logs(c);
    for (uint32_t i = pd_set_next(c->lack, 0, end); i < end; i = pd_set_next(c->lack, i + 1, end))
        if (i % PD_STREAMS == PD_STREAM_CONTROL)
            return false;
    return c->n_fresh == 0;
}

static void listen(pd_core *c) {
    uint32_t heard = 0, waiting = 0;
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        answer a = compare(c, &c->link[i]);
        heard += a == COMPARED;
        waiting += a == NOT_YET;
    }
    if ((heard || waiting) && !c->own.first_ms)
        c->own.first_ms = c->now;
    if (within_reach(c) == 0 && !c->own.first_ms)
        c->own.first_ms = c->now; /* nobody can be called; but somebody may call */
    uint64_t end = c->own.first_ms
                       ? c->own.first_ms + (c->conf.restored ? PD_LISTEN_RESTORED_MS : PD_LISTEN_MS)
                       : PD_NEVER;
    bool alone =
        others(c) == 0 && !c->conf.restored; /* a restored store may have forgotten them all */
    bool enough = (heard || alone) && heard >= pd_own_wanted(c) && knows_members(c);
    bool wait = waiting || (!enough && c->now < end && !c->conf.solo);
    if (wait && !PD_BUG(PD_BUG_NO_LISTENING)) {
        pd_wake_at(c, end > c->now ? end : PD_NEVER);
        return;
    }
    c->own.voice = PD_VOICE_SPEAKING;
    if (newest(c) != c->own.author)
        continue_as(c, newest(c));
    pd_emit(c, PD_ACT_SPEAK);
    if (others(c))
        pd_note(c, PD_LOG_INFO, "speaking, after comparing with %u of %u members", heard,
                others(c));
}

/* ---- own address, leaving ---- */

static void publish_address(pd_core *c) {
    const pd_member *m = &c->member[c->self];
    if (c->own.addr_written || c->own.voice != PD_VOICE_SPEAKING)
        return;
    bool same = m->n_addrs == c->conf.n_listen && !m->left &&
                (!*c->conf.name || !strcmp(m->name, c->conf.name));
    for (uint32_t i = 0; same && i < m->n_addrs; i++)
        same = pd_addr_equal(&m->addrs[i], &c->conf.listen[i]);
    pd_control rec = {.kind = PD_RECORD_ADDR, .n_addrs = c->conf.n_listen};
    memcpy(rec.addrs, c->conf.listen, sizeof rec.addrs);
    memcpy(rec.name, c->conf.name, sizeof rec.name);
    c->own.addr_written = same || pd_own_write(c, &rec);
}

void pd_own_stop(pd_core *c, bool leave) {
    if (c->own.voice == PD_VOICE_STOPPING)
        return;
    c->own.leave = leave && c->own.voice == PD_VOICE_SPEAKING;
    c->own.voice = c->own.voice == PD_VOICE_SPEAKING ? PD_VOICE_STOPPING : PD_VOICE_SILENCED;
    c->own.stop_ms = c->now;
    pd_emit(c, PD_ACT_SPEAK);
}

/* Own bytes have left on every link and were seen there. */
static bool all_told(const pd_core *c) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        const pd_link *l = &c->link[i];
        if (!pd_link_live(l) || !l->vv_in)
            continue;
        for (uint32_t s = 0; s < PD_STREAMS; s++) {
            uint32_t log = c->own.author * PD_STREAMS + s;
            if (l->log[log].flags & PD_WAITS)
                continue; /* it takes it from somebody else, or later */
            if (l->log[log].sent < c->author[c->own.author].log[s].held ||
                l->acked < l->log[log].mark)
                return false;
        }
    }
    return true;
}

static void stop(pd_core *c) {
    uint64_t since = c->now - c->own.stop_ms;
    if (c->own.leave && !c->own.leave_written) {
        const pd_pending *p = &c->own.pending[PD_STREAM_GRADIENTS];
        pd_control rec = {.kind = PD_RECORD_LEAVE, .step = own_author(c)->log[0].chain.n + p->n};
        c->own.leave_written = pd_own_write(c, &rec);
    }
    bool stored =
        c->own.voice == PD_VOICE_SILENCED || (!c->own.pending[0].n && !c->own.pending[1].n);
    bool passes = (c->own.rotates || c->member[c->self].v.rotated) && !c->own.passed;
    uint64_t most = stored && !passes ? 3000 : 10000;
    if (!c->own.said_bye && (!stored || passes || !all_told(c)) && since < most) {
        for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
            if (stored && pd_link_live(&c->link[i]) && !c->link[i].ping_ms)
                c->link[i].ping_due = c->link[i].want =
                    true; /* its PONG brings the acknowledgement */
        pd_wake_at(c, c->own.stop_ms + most);
        return;
    }
    bool open = false;
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        if (!c->link[i].session)
            continue;
        open = true;
        if (!c->link[i].bye_ms)
            pd_link_bye(c, &c->link[i], PD_BYE_LEAVING);
    }
    c->own.said_bye = true;
    if (!open) {
        pd_emit(c, PD_ACT_STOPPED);
        c->own.done = true;
    }
}

/* ---- passing the place on ---- */

static bool has_our_words(const pd_core *c, const pd_link *l) {
    uint32_t log = c->own.author * PD_STREAMS + PD_STREAM_CONTROL;
    uint64_t held = c->author[c->own.author].log[PD_STREAM_CONTROL].held;
    if (!pd_link_live(l) || !l->vv_in)
        return false;
    const pd_link_log *ll = &l->log[log];
    return ll->peer >= held || (ll->sent >= held && l->acked >= ll->mark);
}

/* Has it ever said anything?  The next key itself has not. */
static bool has_spoken(const pd_core *c, const pd_member *m) {
    for (uint16_t a = m->author; a != PD_NONE; a = c->author[a].next)
        if (c->author[a].log[PD_STREAM_CONTROL].chain.n)
            return true;
    return false;
}

/* Whose word lets the next key in.  Who has never spoken may be known to nobody but us. */
static bool may_vouch(const pd_core *c, const pd_member *m) {
    pd_member_state state = pd_member_state_of(c, m, c->now);
    bool about = state == PD_MEMBER_HERE || state == PD_MEMBER_AWAY;
    return m != &c->member[c->self] && about && !m->v.rotated && has_spoken(c, m);
}

/* How many others have to keep the record: half of those who may vouch, at most PD_PASS_PEERS.  One
 * would not do: cut off from the rest, two members that vouch for each other's next key and both
 * pass their places on are let in by nobody. */
static uint32_t witnesses(const pd_core *c) {
    uint32_t others = 0;
    for (uint32_t i = 0; i < c->n_members; i++)
        others += may_vouch(c, &c->member[i]);
    uint32_t half = (others + 1) / 2;
    return half < PD_PASS_PEERS ? half : PD_PASS_PEERS;
}

/* Nobody lets a key in of which only its owner has heard: before the next key takes this one's
 * place, others have to keep the record that names it. */
static void pass_on(pd_core *c) {
    if (!c->member[c->self].v.rotated || c->own.passed)
        return;
    uint32_t wanted = witnesses(c), heard = 0;
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
        heard += has_our_words(c, &c->link[i]) && may_vouch(c, &c->member[c->link[i].member]);
    if (heard < wanted) {
        c->own.heard_ms = 0;
        return;
    }
    if (!c->own.heard_ms)
        c->own.heard_ms = c->now;
    if (wanted && c->now < c->own.heard_ms + PD_PASS_MS) {
        pd_wake_at(c, c->own.heard_ms + PD_PASS_MS);
        return;
    }
    c->own.passed = true;
    pd_emit(c, PD_ACT_PASSED);
}

void pd_own_show_life(pd_core *c) {
    const pd_control beacon = {.kind = PD_RECORD_BEACON};
    if (c->own.voice != PD_VOICE_SPEAKING || c->own.pending[PD_STREAM_GRADIENTS].n)
        return; /* the seal that is due says it too */
    if (c->now >= c->own.said_ms + PD_BEACON_MS && pd_own_write(c, &beacon))
        c->own.said_ms = c->now;
    pd_wake_at(c, c->own.said_ms + PD_BEACON_MS);
}

void pd_own_tick(pd_core *c) {
    if (c->own.voice == PD_VOICE_LISTENING)
        listen(c);
    if (c->own.conflict)
        next_incarnation(c);
    publish_address(c);
    pass_on(c);
    if (c->own.stop_ms)
        stop(c);
    seal_what_is_due(c);
}
