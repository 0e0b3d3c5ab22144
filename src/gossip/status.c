/* status.c - what people and tests see of a core; nothing here changes it. */
#include "state.h"

#include "peerd/digest.h"

#include <stdio.h>

bool pd_core_is_member(const pd_core *c, const uint8_t key[32]) {
    uint16_t m = pd_member_find(c, key);
    return m != PD_NONE && !pd_member_is_out(&c->member[m]);
}

uint32_t pd_core_authors(const pd_core *c, pd_author *out, uint32_t room) {
    for (uint32_t i = 0; i < c->n_authors && i < room; i++)
        out[i] = c->author[c->order[i]].id;
    return c->n_authors;
}

static const char *why_silent(const pd_core *c) {
    if (c->own.voice == PD_VOICE_STOPPING)
        return "stopping";
    if (c->own.voice == PD_VOICE_SILENCED)
        return pd_why_out(c) ? pd_why_out(c) : "silenced: see the log";
    if (c->own.conflict)
        return "opening the next incarnation";
    if (c->own.voice == PD_VOICE_LISTENING && c->conf.restored)
        return "its store was copied or restored: listening to every member, 5 minutes at most";
    if (c->own.voice == PD_VOICE_LISTENING)
        return c->own.first_ms ? "listening to its peers before it speaks"
                               : "no member reached yet: it listens before it speaks";
    if (c->conf.observer)
        return "an observer makes no records; it follows, judges and hands on those of others";
    return c->own.pending[0].n >= PD_PENDING_MAX ? "its store takes nothing" : "";
}

void pd_core_status_get(const pd_core *c, uint64_t now_ms, pd_core_status *out) {
    memset(out, 0, sizeof *out);
    const pd_author_state *a = &c->author[c->own.author];
    const pd_pending *p = &c->own.pending[PD_STREAM_GRADIENTS];
    out->own = a->id;
    out->sealed = a->log[PD_STREAM_GRADIENTS].chain.n;
    out->unsealed = p->n;
    out->step = out->sealed + p->n;
    out->unsealed_ms = p->n && now_ms > p->since_ms ? now_ms - p->since_ms : 0;
    out->seal_ms = pd_own_seal_ms(c);
    out->voice = c->own.voice;
    out->heard = pd_own_heard(c);
    out->wanted = pd_own_wanted(c);
    out->why = why_silent(c);
    out->members = c->n_members - 1;
    out->links = pd_view_links(c);
    out->wanted_links = pd_view_wanted(c);
    out->repairs = c->repairs;
    out->observer = c->conf.observer;
    for (uint32_t i = 0; i < c->n_members; i++)
        out->banned += c->member[i].v.banned;
    for (uint32_t i = 0; i < c->n_authors; i++) {
        const pd_log *log = c->author[i].log;
        uint64_t n = log[PD_STREAM_GRADIENTS].chain.n, voids = pd_verdict_voids(c, i);
        out->records += n - voids;
        out->voids += voids;
        out->forks += log[0].v.void_at != PD_VOID_NEVER || log[1].v.void_at != PD_VOID_NEVER;
        for (unsigned s = 0; s < PD_STREAMS; s++)
            out->missing += log[s].goal - log[s].chain.n;
    }
    out->bytes_in = c->bytes_in;
    out->bytes_out = c->bytes_out;
    out->frames_in = c->frames_in;
    out->frames_out = c->frames_out;
    out->bad_seals = c->bad_seals;
    out->bad_frames = c->bad_frames;
    out->duplicates = c->duplicates;
    out->duplicate_bytes = c->duplicate_bytes;
    out->vv_hash = c->vv_hash;
    out->fetched = c->fetch.next;
    out->fetch_total = c->fetch.on ? c->fetch.total : 0;
}

static const pd_link *link_of(const pd_core *c, uint16_t member) {
    const pd_link *best = NULL;
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        const pd_link *l = &c->link[i];
        if (l->session && !l->guest && l->member == member && (!best || l->hello_in))
            best = l;
    }
    return best;
}

bool pd_core_peer_get(const pd_core *c, uint64_t now_ms, uint32_t i, pd_peer_status *out) {
    uint32_t m = i + (i >= c->self);
    if (m >= c->n_members)
        return false;
    memset(out, 0, sizeof *out);
    const pd_member *p = &c->member[m];
    const pd_link *l = link_of(c, (uint16_t)m);
    memcpy(out->key, p->key, 32);
    memcpy(out->name, p->name, sizeof out->name);
    out->addr = p->last_addr.family ? p->last_addr : p->n_addrs ? p->addrs[0] : p->hints[0];
    out->member = pd_member_state_of(c, p, now_ms);
    out->link = !l             ? p->dialing ? PD_LINK_DIALING : PD_LINK_NONE
                : !l->hello_in ? PD_LINK_DIALING
                : l->suspect   ? PD_LINK_SUSPECT
                               : PD_LINK_UP;
    out->score = p->v.score;
    out->bytes_in = p->bytes_in;
    out->bytes_out = p->bytes_out;
    out->quiet_ms = now_ms > p->heard_ms ? now_ms - p->heard_ms : 0;
    for (uint32_t k = 0; k < c->n_authors * PD_STREAMS; k++) {
        const pd_log *log = &c->author[k / PD_STREAMS].log[k % PD_STREAMS];
        const pd_author_state *a = &c->author[k / PD_STREAMS];
        if (a->member == m) {
            out->missing += log->goal - log->chain.n;
            if (k % PD_STREAMS == PD_STREAM_GRADIENTS) {
                uint64_t voids = pd_verdict_voids(c, k / PD_STREAMS);
                out->records += log->chain.n - voids;
                out->voids += voids;
            }
            if (log->chain.n && a->id.inc > out->incarnation)
                out->incarnation = a->id.inc;
        } else if (l && l->vv_in) {
            uint64_t has = l->log[k].peer > l->log[k].sent ? l->log[k].peer : l->log[k].sent;
            out->behind += log->held > has ? log->held - has : 0;
        }
    }
    if (l) {
        out->session = l->session;
        out->link_quiet_ms = now_ms > l->heard_ms ? now_ms - l->heard_ms : 0;
        out->outbound = l->outbound;
        out->observer = l->observer;
        out->rtt_ms = l->rtt_ms;
    }
    return true;
}

/* ---- for tests ---- */

static bool broken(char *why, size_t room, const char *text) {
    snprintf(why, room, "%s", text);
    return false;
}

static bool check_logs(const pd_core *c, char *why, size_t room) {
    uint64_t hash = 0, total = 0;
    uint32_t pulls = 0;
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        const pd_author_state *a = &c->author[i / PD_STREAMS];
        const pd_log *log = &a->log[i % PD_STREAMS];
        uint64_t n = 0;
        uint8_t seal[64];
        if (log->base > log->chain.n || log->base % PD_CHUNK_BYTES)
            return broken(why, room, "a log's base is not a place in it");
        if (log->held > log->chain.n || log->counted > log->chain.n || log->goal < log->chain.n)
            return broken(why, room, "a log's counts disagree");
        if (pd_set_has(c->lack, i) != (log->goal > log->chain.n))
            return broken(why, room, "the set of lacking logs is wrong");
        if (log->parent != PD_NONE && !c->link[log->parent].session)
            return broken(why, room, "a tree hangs on a session that is gone");
        if (log->held &&
            (!c->store.seal(c->store.ctx, &a->id, (uint8_t)(i % PD_STREAMS), &n, seal) ||
             n < log->held))
            return broken(why, room, "the ledger holds less than was announced");
        if (log->v.term != pd_verdict_term(c, i))
            return broken(why, room, "a log's term in vv_hash is not what it stands at");
        hash += log->v.term;
        total += log->v.term ? log->counted : 0;
        pulls += log->pull != PD_NONE;
        if (log->pull != PD_NONE && !c->link[log->pull].session)
            return broken(why, room, "a pull waits for a session that is gone");
    }
    if (hash != c->vv_hash || total != c->total)
        return broken(why, room, "vv_hash is not the sum of its terms");
    if (pulls != c->repairs || pulls > PD_REPAIRS_MAX)
        return broken(why, room, "open pulls are miscounted");
    return true;
}

static bool check_links(const pd_core *c, char *why, size_t room) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        const pd_link *l = &c->link[i];
        if (!l->session)
            continue;
        if (l->acked > l->tx || l->window < PD_WINDOW_MIN || l->window > PD_WINDOW_MAX)
            return broken(why, room, "a link's credit is out of range");
        if (!l->guest && l->member >= c->n_members)
            return broken(why, room, "a session is nobody's");
        if (l->guest != (l->log == NULL))
            return broken(why, room, "a session has rows that are not its own");
        for (uint32_t k = 0; l->log && k < pd_logs(c); k++)
            if (l->log[k].sent > c->author[k / PD_STREAMS].log[k % PD_STREAMS].held &&
                l->log[k].sent > l->log[k].peer)
                return broken(why, room, "more was sent than is held");
    }
    return true;
}

bool pd_core_check(const pd_core *c, char *why, size_t room) {
    const pd_own *o = &c->own;
    for (unsigned s = 0; s < PD_STREAMS; s++)
        if (o->pending[s].storing > o->pending[s].n || o->pending[s].n > o->pending[s].room)
            return broken(why, room, "own pending bytes are miscounted");
    if (c->author[o->author].member != c->self)
        return broken(why, room, "the own author is somebody else");
    return check_logs(c, why, room) && check_links(c, why, room);
}

static uint64_t mix(uint64_t h, uint64_t v) {
    return pd_xxh64(&v, sizeof v, h);
}

uint64_t pd_core_state_hash(const pd_core *c) {
    uint64_t h = mix(c->vv_hash, c->memb_hash);
    h = mix(h, c->total);
    h = mix(h, c->bytes_in ^ c->bytes_out << 20);
    h = mix(h, c->own.author | (uint64_t)c->own.voice << 16 | (uint64_t)c->own.pending[0].n << 32);
    h = mix(h, c->wake);
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        const pd_link *l = &c->link[i];
        if (l->session)
            h = mix(h,
                    l->session ^ l->tx << 16 ^ l->rx << 32 ^ l->window ^ (uint64_t)l->rtt_ms << 48);
    }
    return h;
}
