/* recv.c - a frame comes in: each item to the part that knows it.  Whatever does not parse closes
 * the session. */
#include "state.h"

/* The one byte that is reserved never enters a log. */
static bool bytes_are_records(const pd_item *it) {
    return it->kind != PD_ITEM_SEG || !memchr(it->u.seg.bytes, 0x80, it->u.seg.count);
}

static bool take_segment(pd_core *c, pd_link *l, const pd_item *it) {
    uint32_t stream = it->kind == PD_ITEM_CTL ? PD_STREAM_CONTROL : PD_STREAM_GRADIENTS;
    if (!bytes_are_records(it))
        return false;
    if (it->u.seg.alias >= c->authors_max)
        return true; /* the peer's tables are larger than ours */
    uint32_t theirs = it->u.seg.alias * PD_STREAMS + stream, *end = &l->rx_end[theirs];
    uint64_t start = it->u.seg.start ? it->u.seg.start - 1 : *end;
    if (start + it->u.seg.count > PD_LOG_BYTES_MAX)
        return false;
    *end = (uint32_t)(start + it->u.seg.count);
    uint32_t log = pd_alias_log(c, l, theirs);
    if (log == PD_NONE)
        pd_alias_note(l, theirs, *end);
    else
        pd_sync_segment(c, l, log, start, it);
    return true;
}

static void take_fork(pd_core *c, pd_link *l, const pd_item *it) {
    uint32_t log = pd_alias_log(c, l, it->u.fork.log);
    if (log == PD_NONE)
        return;
    if (it->kind == PD_ITEM_FORKA)
        pd_fork_head_in(c, l, log, it);
    else if (it->kind == PD_ITEM_BRANCHA)
        pd_fork_branch_in(c, l, log, it);
    else
        pd_fork_asked(c, l, log, it);
}

/* Items of a member's session.  False: malformed. */
static bool take_item(pd_core *c, pd_link *l, const pd_item *it, uint64_t ack) {
    switch (it->kind) {
    case PD_ITEM_ALIAS:
        pd_alias_take(c, l, it->u.alias.alias, &it->u.alias.author);
        return true;
    case PD_ITEM_SEG:
    case PD_ITEM_CTL:
        return take_segment(c, l, it);
    case PD_ITEM_HEADS:
    case PD_ITEM_VV:
        pd_heads_take(c, l, it);
        return true;
    case PD_ITEM_PRUNE:
        pd_tree_prune(c, l, it->u.prune);
        return true;
    case PD_ITEM_PULL:
    case PD_ITEM_GRAFT:
        pd_tree_pull(c, l, it, ack);
        return true;
    case PD_ITEM_SUMMARY:
        pd_heads_summary(c, l, it->u.summary.vv_hash, it->u.summary.total, false);
        return true;
    case PD_ITEM_PING:
        l->pong_nonce = it->u.ping.nonce;
        l->pong_due = l->want = true;
        return true;
    case PD_ITEM_PONG:
        pd_link_pong(c, l, it->u.ping.nonce);
        return true;
    case PD_ITEM_FORKQ:
    case PD_ITEM_FORKA:
    case PD_ITEM_BRANCHQ:
    case PD_ITEM_BRANCHA:
        take_fork(c, l, it);
        return true;
    case PD_ITEM_PREFIXQ:
        pd_prefix_asked(c, l, it);
        return true;
    case PD_ITEM_PREFIXA:
        pd_prefix_piece(c, l, it);
        return true;
    case PD_ITEM_BASE:
        pd_prefix_based(c, l, it);
        return true;
    case PD_ITEM_FILEQ:
        pd_fetch_asked(c, l, it);
        return true;
    case PD_ITEM_FILEA:
        pd_fetch_piece(c, l, it);
        return true;
    default: /* a second HELLO, a member's JOIN, a WELCOME */
        return false;
    }
}

static const char *bye_text(pd_bye why) {
    switch (why) {
    case PD_BYE_LEAVING:
        return "it stops";
    case PD_BYE_OTHER_RUN:
        return "it belongs to another run";
    case PD_BYE_VERSION:
        return "it speaks another protocol version";
    case PD_BYE_MALFORMED:
        return "it could not read us";
    case PD_BYE_FULL:
        return "it has no place for another link";
    case PD_BYE_DONE:
        return "it needs this session no more";
    default:
        return "it closed the session";
    }
}

static void malformed(pd_core *c, pd_link *l) {
    char key[9];
    c->bad_frames++;
    pd_note(c, PD_LOG_WARN, "a frame from %s does not parse; the session is closed",
            pd_short(l->key, key));
    pd_score(c, l, PD_MALFORMED, "its frames do not parse");
    if (l->session)
        pd_link_close(c, l, "malformed frame");
}

/* Its first words: it is not hostile, only older or newer.  Nothing is held against it, since it
 * may be put right at any moment. */
static void other_version(pd_core *c, pd_link *l, unsigned version) {
    pd_note(
        c, PD_LOG_WARN,
        "%s speaks another frame version, %u, and this node %u: no link until one of the two is "
        "brought up to date",
        pd_short(l->key, (char[9]){0}), version, PD_FRAME_VERSION);
    pd_link_close(c, l, "it speaks another frame version");
}

/* Is this the item that may stand here: HELLO first of a member; of a guest JOIN, then PONGs, by
 * which it acknowledges a welcome longer than the credit it begins with? */
static bool in_order(const pd_link *l, const pd_item *it) {
    if (it->kind == PD_ITEM_BYE)
        return true;
    if (l->guest)
        return it->kind == (l->joined ? PD_ITEM_PONG : PD_ITEM_JOIN);
    return l->hello_in ? it->kind != PD_ITEM_HELLO : it->kind == PD_ITEM_HELLO;
}

/* The whole frame is read before anything of it counts. */
static bool well_formed(const uint8_t *p, size_t n, pd_reader *r, uint64_t *ack) {
    pd_item it;
    if (!pd_frame_open(p, n, r, ack))
        return false;
    pd_reader walk = *r;
    while (pd_frame_next(&walk, &it))
        ;
    return walk.ok;
}

void pd_recv(pd_core *c, const pd_event *e) {
    pd_link *l = pd_link_find(c, e->session);
    if (!l || l->bye_ms)
        return;
    pd_reader r;
    uint64_t ack;
    pd_item it;
    if (!l->guest && !l->hello_in && e->n && e->p[0] != PD_FRAME_VERSION) {
        other_version(c, l, e->p[0]);
        return;
    }
    if (!well_formed(e->p, e->n, &r, &ack) || ack > l->tx || ack < l->acked) {
        malformed(c, l);
        return;
    }
    pd_link_heard(c, l, e->n, ack);
    while (pd_frame_next(&r, &it)) {
        if (!in_order(l, &it)) {
            malformed(c, l);
            return;
        }
        if (it.kind == PD_ITEM_BYE) {
            pd_view_refused(c, l, &it);
            l->bye_ms = c->now; /* it did not go without a word */
            pd_link_close(c, l, bye_text(it.u.bye.why));
            return;
        }
        if (it.kind == PD_ITEM_HELLO)
            pd_link_hello(c, l, &it.u.hello);
        else if (it.kind == PD_ITEM_JOIN)
            pd_guest_join(c, l, &it);
        else if (!take_item(c, l, &it, ack)) {
            malformed(c, l);
            return;
        }
        if (l->session != e->session || l->bye_ms) /* the item ended it */
            return;
    }
}
