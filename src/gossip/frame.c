/* frame.c - frames and items, read and written; see frame.h for the bytes. */
#include "peerd/frame.h"

#include <assert.h>

enum { UNSEALED = 0x80 };

/* ---- writing ---- */

static void put_addr(pd_writer *w, const pd_addr *a) {
    if (a->family == 0)
        pd_put_u8(w, 0);
    else
        pd_put_addr(w, a);
}

static void put_hello(pd_writer *w, const pd_hello *h) {
    pd_put_bytes(w, h->net, 32);
    pd_put_u64(w, h->nonce);
    pd_put_varint(w, h->inc);
    pd_put_u16(w, h->proto);
    pd_put_u16(w, h->caps);
    put_addr(w, &h->addr);
    pd_put_varint(w, h->members);
    pd_put_u64(w, h->memb_hash);
    pd_put_u64(w, h->vv_hash);
    pd_put_varint(w, h->total);
    pd_put_u32(w, h->max_rate);
    pd_put_u8(w, h->links);
}

static void put_heads(pd_writer *w, const pd_item *it) {
    if (it->kind == PD_ITEM_VV)
        pd_put_u8(w, it->u.heads.flags);
    pd_put_varint(w, it->u.heads.count);
    uint32_t next = 0;
    for (uint32_t i = 0; i < it->u.heads.count; i++) {
        const pd_head *h = &it->u.heads.heads[i];
        assert(h->log >= next && h->log < PD_LOGS_MAX);
        pd_put_varint(w, h->log - next);
        pd_put_varint(w, h->n);
        next = h->log + 1;
    }
}

static void put_seg(pd_writer *w, const pd_item *it) {
    assert(it->u.seg.count >= 1 && it->u.seg.count <= PD_PIECE_MAX);
    pd_put_varint(w, it->u.seg.alias);
    pd_put_varint(w, it->u.seg.start);
    pd_put_varint(w, it->u.seg.count);
    pd_put_bytes(w, it->u.seg.bytes, it->u.seg.count);
    if (it->u.seg.seal)
        pd_put_bytes(w, it->u.seg.seal, 64);
}

static void put_part(pd_writer *w, const pd_item *it) {
    if (it->kind != PD_ITEM_WELCOME)
        pd_put_bytes(w, it->u.part.digest, 16);
    pd_put_varint(w, it->u.part.offset);
    if (it->kind == PD_ITEM_FILEQ) {
        pd_put_varint(w, it->u.part.limit);
        return;
    }
    pd_put_varint(w, it->u.part.total);
    pd_put_varint(w, it->u.part.count);
    pd_put_bytes(w, it->u.part.bytes, it->u.part.count);
}

static void put_prefix(pd_writer *w, const pd_item *it) {
    pd_put_varint(w, it->u.part.log);
    pd_put_varint(w, it->u.part.offset);
    pd_put_varint(w, it->u.part.count);
    pd_put_bytes(w, it->u.part.bytes, it->u.part.count);
}

static void put_fork(pd_writer *w, const pd_item *it) {
    bool branch = it->kind == PD_ITEM_BRANCHQ || it->kind == PD_ITEM_BRANCHA;
    pd_put_varint(w, it->u.fork.log);
    if (branch)
        pd_put_varint(w, it->u.fork.j);
    if (it->kind != PD_ITEM_BRANCHQ)
        pd_put_varint(w, it->u.fork.n);
    if (it->kind == PD_ITEM_FORKA)
        pd_put_bytes(w, it->u.fork.head, 32);
    if (branch)
        pd_put_varint(w, it->u.fork.offset);
    if (it->kind != PD_ITEM_BRANCHA)
        return;
    pd_put_varint(w, it->u.fork.total);
    pd_put_varint(w, it->u.fork.count);
    pd_put_bytes(w, it->u.fork.bytes, it->u.fork.count);
}

static void put_item(pd_writer *w, const pd_item *it) {
    bool piece = (it->kind == PD_ITEM_SEG || it->kind == PD_ITEM_CTL) && !it->u.seg.seal;
    pd_put_u8(w, (uint8_t)(it->kind | (piece ? UNSEALED : 0)));
    switch (it->kind) {
    case PD_ITEM_HELLO:
        put_hello(w, &it->u.hello);
        break;
    case PD_ITEM_ALIAS:
        pd_put_varint(w, it->u.alias.alias);
        pd_put_bytes(w, it->u.alias.author.key, 32);
        pd_put_varint(w, it->u.alias.author.inc);
        break;
    case PD_ITEM_SEG:
    case PD_ITEM_CTL:
        put_seg(w, it);
        break;
    case PD_ITEM_HEADS:
    case PD_ITEM_VV:
        put_heads(w, it);
        break;
    case PD_ITEM_PRUNE:
        pd_put_varint(w, it->u.prune);
        break;
    case PD_ITEM_PULL:
    case PD_ITEM_GRAFT:
    case PD_ITEM_PREFIXQ:
        pd_put_varint(w, it->u.pull.log);
        pd_put_varint(w, it->u.pull.from);
        pd_put_varint(w, it->u.pull.limit);
        break;
    case PD_ITEM_BASE:
        pd_put_varint(w, it->u.pull.log);
        pd_put_varint(w, it->u.pull.from);
        break;
    case PD_ITEM_PREFIXA:
        put_prefix(w, it);
        break;
    case PD_ITEM_SUMMARY:
        pd_put_u64(w, it->u.summary.memb_hash);
        pd_put_u64(w, it->u.summary.vv_hash);
        pd_put_varint(w, it->u.summary.total);
        pd_put_varint(w, it->u.summary.n);
        break;
    case PD_ITEM_PING:
    case PD_ITEM_PONG:
        pd_put_u32(w, it->u.ping.nonce);
        pd_put_u8(w, it->u.ping.load);
        break;
    case PD_ITEM_BYE:
        pd_put_u8(w, (uint8_t)it->u.bye.why);
        pd_put_varint(w, it->u.bye.count);
        for (uint32_t i = 0; i < it->u.bye.count; i++)
            pd_put_varint(w, it->u.bye.alias[i]);
        break;
    case PD_ITEM_JOIN:
        pd_put_bytes(w, it->u.join.key, 32);
        pd_put_bytes(w, it->u.join.sig, 64);
        put_addr(w, &it->u.join.addr);
        pd_put_varint(w, it->u.join.name_size);
        pd_put_bytes(w, it->u.join.name, it->u.join.name_size);
        break;
    case PD_ITEM_WELCOME:
    case PD_ITEM_FILEQ:
    case PD_ITEM_FILEA:
        put_part(w, it);
        break;
    case PD_ITEM_FORKQ:
    case PD_ITEM_FORKA:
    case PD_ITEM_BRANCHQ:
    case PD_ITEM_BRANCHA:
        put_fork(w, it);
        break;
    }
}

void pd_frame_begin(pd_writer *w, uint64_t ack) {
    pd_put_u8(w, PD_FRAME_VERSION);
    pd_put_u8(w, 0);
    pd_put_varint(w, ack);
}

bool pd_frame_put(pd_writer *w, const pd_item *it) {
    pd_writer was = *w;
    put_item(w, it);
    if (!w->ok && was.ok)
        *w = was;
    else
        return w->ok;
    return false;
}

size_t pd_item_size(const pd_item *it) {
    switch (it->kind) {
    case PD_ITEM_SEG:
    case PD_ITEM_CTL:
        return 1 + pd_varint_size(it->u.seg.alias) + pd_varint_size(it->u.seg.start) +
               pd_varint_size(it->u.seg.count) + it->u.seg.count + (it->u.seg.seal ? 64 : 0);
    default: {
        uint8_t room[PD_FRAME_MAX];
        pd_writer w = pd_writer_of(room, sizeof room);
        put_item(&w, it);
        assert(w.ok);
        return sizeof room - (size_t)(w.end - w.p);
    }
    }
}

/* ---- reading ---- */

static void get_copy(pd_reader *r, uint8_t *out, size_t n) {
    const uint8_t *p = pd_get_bytes(r, n);
    if (p)
        memcpy(out, p, n);
}

static pd_addr get_addr(pd_reader *r) {
    pd_addr none = {0};
    if (r->ok && pd_reader_left(r) && *r->p == 0) {
        pd_get_u8(r);
        return none;
    }
    return pd_get_addr(r);
}

static uint32_t get_small(pd_reader *r, uint32_t max) {
    return (uint32_t)pd_get_varint_max(r, max);
}

static void get_hello(pd_reader *r, pd_hello *h) {
    get_copy(r, h->net, 32);
    h->nonce = pd_get_u64(r);
    h->inc = get_small(r, PD_INCARNATIONS - 1);
    h->proto = pd_get_u16(r);
    h->caps = pd_get_u16(r);
    h->addr = get_addr(r);
    h->members = pd_get_varint(r);
    h->memb_hash = pd_get_u64(r);
    h->vv_hash = pd_get_u64(r);
    h->total = pd_get_varint(r);
    h->max_rate = pd_get_u32(r);
    h->links = pd_get_u8(r);
}

static void get_seg(pd_reader *r, pd_item *it, bool sealed) {
    it->u.seg.alias = get_small(r, PD_ALIASES_MAX - 1);
    it->u.seg.start = pd_get_varint(r);
    it->u.seg.count = get_small(r, PD_PIECE_MAX);
    it->u.seg.bytes = pd_get_bytes(r, it->u.seg.count);
    it->u.seg.seal = sealed ? pd_get_bytes(r, 64) : NULL;
    if (it->u.seg.count == 0 || it->u.seg.start > PD_LOG_BYTES_MAX - PD_PIECE_MAX)
        r->ok = false;
}

static void get_heads(pd_reader *r, pd_item *it) {
    it->u.heads.flags = it->kind == PD_ITEM_VV ? pd_get_u8(r) : 0;
    it->u.heads.count = get_small(r, PD_LOGS_MAX);
    it->u.heads.heads = NULL;
    it->u.heads.p = r->p;
    uint64_t next = 0;
    for (uint32_t i = 0; r->ok && i < it->u.heads.count; i++) {
        uint64_t log = next + get_small(r, PD_LOGS_MAX - 1);
        if (pd_get_varint(r) > PD_LOG_BYTES_MAX || log >= PD_LOGS_MAX)
            r->ok = false;
        next = log + 1;
    }
    it->u.heads.n = (size_t)(r->p - it->u.heads.p);
    if (it->u.heads.flags > PD_VV_FLAGS)
        r->ok = false;
}

static void get_join(pd_reader *r, pd_item *it) {
    get_copy(r, it->u.join.key, 32);
    get_copy(r, it->u.join.sig, 64);
    it->u.join.addr = get_addr(r);
    it->u.join.name_size = get_small(r, PD_NAME_MAX);
    it->u.join.name = (const char *)pd_get_bytes(r, it->u.join.name_size);
}

static void get_part(pd_reader *r, pd_item *it) {
    if (it->kind != PD_ITEM_WELCOME)
        get_copy(r, it->u.part.digest, 16);
    it->u.part.offset = pd_get_varint(r);
    if (it->kind == PD_ITEM_FILEQ) {
        it->u.part.limit = pd_get_varint(r);
        return;
    }
    it->u.part.total = pd_get_varint(r);
    it->u.part.count = get_small(r, PD_PIECE_MAX);
    it->u.part.bytes = pd_get_bytes(r, it->u.part.count);
    if (it->u.part.offset > it->u.part.total ||
        it->u.part.count > it->u.part.total - it->u.part.offset)
        r->ok = false;
}

static void get_prefix(pd_reader *r, pd_item *it) {
    it->u.part.log = get_small(r, PD_LOGS_MAX - 1);
    it->u.part.offset = pd_get_varint_max(r, PD_LOG_BYTES_MAX);
    it->u.part.count = get_small(r, PD_PIECE_MAX);
    it->u.part.bytes = pd_get_bytes(r, it->u.part.count);
}

static void get_fork(pd_reader *r, pd_item *it) {
    bool branch = it->kind == PD_ITEM_BRANCHQ || it->kind == PD_ITEM_BRANCHA;
    it->u.fork.log = get_small(r, PD_LOGS_MAX - 1);
    if (branch)
        it->u.fork.j = pd_get_varint_max(r, UINT64_MAX / 4 / PD_CHUNK_BYTES);
    if (it->kind != PD_ITEM_BRANCHQ)
        it->u.fork.n = pd_get_varint_max(r, UINT64_MAX / 4);
    if (it->kind == PD_ITEM_FORKA)
        get_copy(r, it->u.fork.head, 32);
    if (branch)
        it->u.fork.offset = pd_get_varint_max(r, PD_BRANCH_MAX);
    if (it->kind != PD_ITEM_BRANCHA)
        return;
    it->u.fork.total = pd_get_varint_max(r, PD_BRANCH_MAX);
    it->u.fork.count = get_small(r, PD_PIECE_MAX);
    it->u.fork.bytes = pd_get_bytes(r, it->u.fork.count);
    if (it->u.fork.offset + it->u.fork.count > it->u.fork.total)
        r->ok = false;
}

static void get_bye(pd_reader *r, pd_item *it) {
    uint8_t reason = pd_get_u8(r);
    if (reason < PD_BYE_LEAVING || reason > PD_BYE_LAST)
        r->ok = false;
    it->u.bye.why = (pd_bye)reason;
    it->u.bye.count = get_small(r, PD_ALTERNATIVES_MAX);
    for (uint32_t i = 0; i < it->u.bye.count; i++)
        it->u.bye.alias[i] = get_small(r, PD_ALIASES_MAX - 1);
}

bool pd_frame_open(const uint8_t *p, size_t n, pd_reader *r, uint64_t *ack) {
    *r = pd_reader_of(p, n);
    uint8_t version = pd_get_u8(r), flags = pd_get_u8(r);
    *ack = pd_get_varint(r);
    return r->ok && n <= PD_FRAME_MAX && version == PD_FRAME_VERSION && flags == 0;
}

bool pd_frame_next(pd_reader *r, pd_item *it) {
    if (!r->ok || pd_reader_left(r) == 0)
        return false;
    memset(it, 0, sizeof *it);
    uint8_t kind = pd_get_u8(r);
    bool sealed = !(kind & UNSEALED);
    it->kind = (pd_item_kind)(kind & ~UNSEALED);
    if (!sealed && it->kind != PD_ITEM_SEG && it->kind != PD_ITEM_CTL) {
        r->ok = false;
        return false;
    }
    switch (it->kind) {
    case PD_ITEM_HELLO:
        get_hello(r, &it->u.hello);
        break;
    case PD_ITEM_ALIAS:
        it->u.alias.alias = get_small(r, PD_ALIASES_MAX - 1);
        get_copy(r, it->u.alias.author.key, 32);
        it->u.alias.author.inc = get_small(r, PD_INCARNATIONS - 1);
        break;
    case PD_ITEM_SEG:
    case PD_ITEM_CTL:
        get_seg(r, it, sealed);
        break;
    case PD_ITEM_HEADS:
    case PD_ITEM_VV:
        get_heads(r, it);
        break;
    case PD_ITEM_PRUNE:
        it->u.prune = get_small(r, PD_LOGS_MAX - 1);
        break;
    case PD_ITEM_PULL:
    case PD_ITEM_GRAFT:
    case PD_ITEM_PREFIXQ:
        it->u.pull.log = get_small(r, PD_LOGS_MAX - 1);
        it->u.pull.from = pd_get_varint_max(r, PD_LOG_BYTES_MAX);
        it->u.pull.limit = pd_get_varint(r);
        break;
    case PD_ITEM_BASE:
        it->u.pull.log = get_small(r, PD_LOGS_MAX - 1);
        it->u.pull.from = pd_get_varint_max(r, PD_LOG_BYTES_MAX);
        break;
    case PD_ITEM_PREFIXA:
        get_prefix(r, it);
        break;
    case PD_ITEM_SUMMARY:
        it->u.summary.memb_hash = pd_get_u64(r);
        it->u.summary.vv_hash = pd_get_u64(r);
        it->u.summary.total = pd_get_varint(r);
        it->u.summary.n = pd_get_varint(r);
        break;
    case PD_ITEM_PING:
    case PD_ITEM_PONG:
        it->u.ping.nonce = pd_get_u32(r);
        it->u.ping.load = pd_get_u8(r);
        break;
    case PD_ITEM_BYE:
        get_bye(r, it);
        break;
    case PD_ITEM_JOIN:
        get_join(r, it);
        break;
    case PD_ITEM_WELCOME:
    case PD_ITEM_FILEQ:
    case PD_ITEM_FILEA:
        get_part(r, it);
        break;
    case PD_ITEM_FORKQ:
    case PD_ITEM_FORKA:
    case PD_ITEM_BRANCHQ:
    case PD_ITEM_BRANCHA:
        get_fork(r, it);
        break;
    default:
        r->ok = false;
    }
    return r->ok;
}

void pd_heads_begin(const pd_item *it, pd_heads_walk *w) {
    *w = (pd_heads_walk){pd_reader_of(it->u.heads.p, it->u.heads.n), it->u.heads.count, 0};
}

bool pd_heads_next(pd_heads_walk *w, pd_head *out) {
    if (w->left == 0)
        return false;
    w->left--;
    out->log = w->next + (uint32_t)pd_get_varint(&w->r);
    out->n = pd_get_varint(&w->r);
    w->next = out->log + 1;
    return w->r.ok;
}
