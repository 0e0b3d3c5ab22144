/* malice.c - a member of the run that means harm: admitted by a ticket, its sessions authenticated,
 * and what it says in them is whatever could hurt.
 *
 *   malice SEED SECONDS CORPUS TICKET KEY@ADDRESS...     CORPUS: tests/fuzz/corpus/frame
 *
 * In each session it draws one of four parts: frames of the fuzzer's corpus before its HELLO, or
 * after it; well-formed items that are lies (claims, seals that cover nothing, storms of
 * questions); the same with bytes changed or cut off.  A session that ends is dialled again.  At
 * the end it prints one line of JSON: what it said, and how often it was shown the door.
 *
 * The product's own door, identity, ticket and frame code is used, so that nothing of this is
 * refused for being clumsy.
 */
#include "peerd/file.h"
#include "peerd/frame.h"
#include "peerd/net.h"
#include "peerd/ticket.h"

#include "../../src/node/join.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PEERS_MAX = 64, FILES_MAX = 256, TURN_MS = 20, FRAMES_A_TURN = 3, AGAIN_MS = 300 };

typedef enum part { BEFORE_HELLO, CORPUS, LIES, MUTATIONS, PARTS } part;

typedef struct victim {
    uint8_t key[32];
    pd_addr addr;
    uint64_t session, dial_ms; /* 0: none; when to dial again */
    bool up, clogged;
    part part;
    uint32_t frames;
} victim;

typedef struct malice {
    pd_net *net;
    pd_joined joined;
    pd_identity id;
    uint64_t random;
    victim peer[PEERS_MAX];
    uint32_t n_peers;
    uint8_t *file[FILES_MAX];
    size_t file_size[FILES_MAX];
    uint32_t n_files;
    uint64_t sessions, frames, bytes, closed;
} malice;

/* splitmix64: what is said repeats with the seed. */
static uint64_t draw(malice *m, uint64_t below) {
    uint64_t z = m->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % below;
}

static void draw_bytes(malice *m, uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)draw(m, 256);
}

static void die(const char *what) {
    fprintf(stderr, "malice: %s: %s\n", what, pd_fail_text());
    exit(1);
}

/* ---- what it needs ---- */

static void read_corpus(malice *m, const char *path) {
    DIR *d = opendir(path);
    struct dirent *f;
    char name[1024];
    while (d && (f = readdir(d)) && m->n_files < FILES_MAX) {
        snprintf(name, sizeof name, "%s/%s", path, f->d_name);
        if (f->d_name[0] == '.')
            continue;
        FILE *in = fopen(name, "rb");
        uint8_t *p = malloc(PD_NET_FRAME_MAX);
        size_t n = in && p ? fread(p, 1, PD_NET_FRAME_MAX, in) : 0;
        if (in)
            fclose(in);
        m->file[m->n_files] = p;
        m->file_size[m->n_files++] = n;
    }
    if (d)
        closedir(d);
    if (!m->n_files) {
        fprintf(stderr, "malice: no corpus in %s\n", path);
        exit(2);
    }
}

static void read_peer(malice *m, const char *text) {
    victim *v = &m->peer[m->n_peers++];
    const char *at = strchr(text, '@');
    char hex[65] = "";
    if (at && at - text == 64)
        memcpy(hex, text, 64);
    if (m->n_peers == PEERS_MAX || !pd_unhex(hex, v->key, 32) ||
        pd_addr_parse(at + 1, false, &v->addr) != PD_OK) {
        fprintf(stderr, "malice: not KEY@ADDRESS: %s\n", text);
        exit(2);
    }
}

static pd_err any_model(void *ctx, const pd_manifest *manifest) {
    (void)ctx, (void)manifest;
    return PD_OK;
}

static void join(malice *m, const char *text) {
    pd_ticket ticket;
    pd_config config = pd_config_defaults;
    snprintf(config.name, sizeof config.name, "malice");
    pd_identity_new(&m->id);
    if (pd_ticket_read(text, &ticket) != PD_OK ||
        pd_join_run(&ticket, &m->id, &config, PD_CATCH_UP_REPLAY, any_model, NULL, &m->joined) !=
            PD_OK)
        die("cannot join");
}

/* ---- what it says ---- */

static void put_hello(malice *m, pd_writer *w) {
    pd_item it = {.kind = PD_ITEM_HELLO, .u.hello = {.proto = PD_PROTO}};
    memcpy(it.u.hello.net, m->joined.run, 32);
    it.u.hello.nonce = draw(m, UINT64_MAX);
    it.u.hello.vv_hash = draw(m, UINT64_MAX);
    it.u.hello.total = draw(m, 1000);
    pd_frame_put(w, &it);
    for (uint32_t i = 0; i < m->n_peers; i++) {
        pd_item alias = {.kind = PD_ITEM_ALIAS, .u.alias = {.alias = i}};
        memcpy(alias.u.alias.author.key, m->peer[i].key, 32);
        pd_frame_put(w, &alias);
    }
    pd_item vv = {.kind = PD_ITEM_VV};
    pd_frame_put(w, &vv);
}

static void draw_segment(malice *m, pd_item *it, const uint8_t *bytes, const uint8_t *seal) {
    it->u.seg.alias = (uint32_t)draw(m, m->n_peers + 2);
    it->u.seg.start = draw(m, 3) ? draw(m, 2000) : draw(m, UINT32_MAX);
    it->u.seg.bytes = bytes;
    it->u.seg.count = 1 + (uint32_t)draw(m, 300);
    it->u.seg.seal = draw(m, 4) ? seal : NULL;
}

static void draw_fork(malice *m, pd_item *it, const uint8_t *bytes) {
    it->u.fork.log = (uint32_t)draw(m, 2 * m->n_peers + 4);
    it->u.fork.n = draw(m, 5000);
    it->u.fork.j = draw(m, 4);
    it->u.fork.offset = draw(m, 2) * draw(m, 40000);
    it->u.fork.total = 1 + draw(m, 40000);
    it->u.fork.bytes = bytes;
    it->u.fork.count = (uint32_t)draw(m, 400);
    draw_bytes(m, it->u.fork.head, 32);
}

static void draw_part(malice *m, pd_item *it, const uint8_t *bytes) {
    memcpy(it->u.part.digest, m->joined.manifest.basis_digest, 16);
    it->u.part.offset = draw(m, 3) * draw(m, 100000);
    it->u.part.total = m->joined.manifest.basis_bytes;
    it->u.part.limit = draw(m, 1 << 20);
    it->u.part.bytes = bytes;
    it->u.part.count = (uint32_t)draw(m, 400);
}

/* One item that parses, of a kind that members may send, and nothing of it is so. */
static void put_lie(malice *m, pd_writer *w) {
    static const pd_item_kind kinds[] = {
        PD_ITEM_ALIAS, PD_ITEM_SEG,     PD_ITEM_SEG,    PD_ITEM_HEADS, PD_ITEM_PRUNE,
        PD_ITEM_PULL,  PD_ITEM_GRAFT,   PD_ITEM_CTL,    PD_ITEM_CTL,   PD_ITEM_SUMMARY,
        PD_ITEM_VV,    PD_ITEM_PING,    PD_ITEM_FORKQ,  PD_ITEM_FORKA, PD_ITEM_FILEQ,
        PD_ITEM_FILEA, PD_ITEM_BRANCHQ, PD_ITEM_BRANCHA};
    uint8_t bytes[512], seal[64];
    pd_head heads[8];
    pd_item it = {.kind = kinds[draw(m, sizeof kinds / sizeof *kinds)]};
    draw_bytes(m, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes && draw(m, 20); i++)
        bytes[i] = bytes[i] == 0x80 ? 0 : bytes[i];
    draw_bytes(m, seal, sizeof seal);
    switch (it.kind) {
    case PD_ITEM_ALIAS:
        it.u.alias.alias = (uint32_t)draw(m, 2 * m->n_peers);
        it.u.alias.author.inc = (uint32_t)draw(m, 3);
        memcpy(it.u.alias.author.key, m->peer[draw(m, m->n_peers)].key, 32);
        break;
    case PD_ITEM_SEG:
    case PD_ITEM_CTL:
        draw_segment(m, &it, bytes, seal);
        break;
    case PD_ITEM_HEADS:
    case PD_ITEM_VV:
        it.u.heads.count = (uint32_t)draw(m, 8);
        it.u.heads.flags = it.kind == PD_ITEM_VV ? (uint8_t)draw(m, PD_VV_FLAGS + 1) : 0;
        it.u.heads.heads = heads;
        for (uint32_t i = 0; i < it.u.heads.count; i++)
            heads[i] = (pd_head){i * (1 + (uint32_t)draw(m, 2)), 1 + draw(m, PD_LOG_BYTES_MAX)};
        for (uint32_t i = 1; i < it.u.heads.count; i++)
            if (heads[i].log <= heads[i - 1].log)
                heads[i].log = heads[i - 1].log + 1;
        break;
    case PD_ITEM_PULL:
    case PD_ITEM_GRAFT:
        it.u.pull.log = (uint32_t)draw(m, 2 * m->n_peers + 4);
        it.u.pull.from = draw(m, 2) * draw(m, 5000);
        it.u.pull.limit = PD_LOG_BYTES_MAX;
        break;
    case PD_ITEM_PRUNE:
        it.u.prune = (uint32_t)draw(m, 2 * m->n_peers + 4);
        break;
    case PD_ITEM_FORKQ:
    case PD_ITEM_FORKA:
    case PD_ITEM_BRANCHQ:
    case PD_ITEM_BRANCHA:
        draw_fork(m, &it, bytes);
        break;
    case PD_ITEM_FILEQ:
    case PD_ITEM_FILEA:
        draw_part(m, &it, bytes);
        break;
    case PD_ITEM_SUMMARY:
        it.u.summary.vv_hash = draw(m, UINT64_MAX);
        it.u.summary.total = draw(m, 100000);
        break;
    default:
        it.u.ping.nonce = (uint32_t)draw(m, UINT32_MAX);
        break;
    }
    pd_frame_put(w, &it);
}

/* A frame of a corpus file: what stands behind its first three bytes, the fuzzer's own, at a place
 * where another frame may begin as well. */
static size_t from_corpus(malice *m, uint8_t *out, size_t room) {
    uint32_t i = (uint32_t)draw(m, m->n_files);
    size_t from = m->file_size[i] > 3 && draw(m, 4) ? 3 : 0, n = m->file_size[i] - from;
    if (n > room)
        n = room;
    memcpy(out, m->file[i] + from, n);
    return n;
}

static size_t mutate(malice *m, uint8_t *p, size_t n) {
    for (uint64_t k = 1 + draw(m, 4); k > 0; k--)
        p[draw(m, n)] ^= (uint8_t)(1 << draw(m, 8));
    return draw(m, 3) ? n : 1 + draw(m, n);
}

static size_t make_frame(malice *m, victim *v, uint8_t out[PD_FRAME_MAX]) {
    pd_writer w = pd_writer_of(out, PD_FRAME_MAX);
    if (v->part == BEFORE_HELLO || (v->part == CORPUS && v->frames > 0))
        return from_corpus(m, out, PD_FRAME_MAX);
    pd_frame_begin(&w, 0);
    if (v->frames == 0)
        put_hello(m, &w);
    for (uint64_t k = 1 + draw(m, 6); k > 0 && v->frames > 0; k--)
        put_lie(m, &w);
    size_t n = (size_t)(w.p - out);
    return v->part == MUTATIONS && v->frames > 1 && draw(m, 2) ? mutate(m, out, n) : n;
}

/* ---- sessions ---- */

static void speak(malice *m, victim *v) {
    uint8_t frame[PD_FRAME_MAX];
    for (int i = 0; i < FRAMES_A_TURN && v->up && !v->clogged; i++) {
        size_t n = make_frame(m, v, frame);
        if (n == 0)
            continue;
        pd_err e = pd_net_send(m->net, v->session, frame, n);
        v->clogged = e == PD_EAGAIN;
        v->frames++;
        m->frames++;
        m->bytes += n;
    }
}

static void call(malice *m, victim *v, uint64_t now) {
    if (v->session || now < v->dial_ms)
        return;
    v->dial_ms = now + AGAIN_MS;
    if (pd_net_dial(m->net, &v->addr, v->key, NULL, &v->session) != PD_OK)
        v->session = 0;
}

static void hear(malice *m, const pd_net_event *e) {
    for (uint32_t i = 0; i < m->n_peers; i++) {
        victim *v = &m->peer[i];
        if (v->session != e->session)
            continue;
        if (e->kind == PD_NET_UP) {
            v->up = true;
            v->clogged = false;
            v->frames = 0;
            v->part = (part)draw(m, PARTS);
            m->sessions++;
        } else if (e->kind == PD_NET_FLOWING) {
            v->clogged = false;
        } else if (e->kind == PD_NET_DOWN || e->kind == PD_NET_DIAL_FAILED) {
            m->closed += e->kind == PD_NET_DOWN;
            v->up = false;
            v->session = 0;
        }
    }
}

int main(int argc, char **argv) {
    static malice m;
    if (argc < 6) {
        fprintf(stderr, "usage: malice SEED SECONDS CORPUS TICKET KEY@ADDRESS...\n");
        return 2;
    }
    m.random = strtoull(argv[1], NULL, 10);
    uint64_t ms = (uint64_t)(1000 * strtod(argv[2], NULL));
    read_corpus(&m, argv[3]);
    for (int i = 5; i < argc; i++)
        read_peer(&m, argv[i]);
    if (pd_crypto_init() != PD_OK)
        die("no cryptography");
    join(&m, argv[4]);
    pd_net_conf conf = {.identity = &m.id};
    if (pd_net_open(&conf, &m.net) != PD_OK)
        die("no network");
    for (uint64_t now = pd_clock_ms(), end = now + ms; now < end; now = pd_clock_ms()) {
        pd_net_event e;
        for (uint32_t i = 0; i < m.n_peers; i++)
            call(&m, &m.peer[i], now);
        if (pd_net_wait(m.net, TURN_MS, NULL, 0) != PD_OK)
            die("cannot wait");
        while (pd_net_next(m.net, &e))
            hear(&m, &e);
        for (uint32_t i = 0; i < m.n_peers; i++)
            speak(&m, &m.peer[i]);
    }
    printf("{\"sessions\": %" PRIu64 ", \"frames\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"closed\": %" PRIu64 "}\n",
           m.sessions, m.frames, m.bytes, m.closed);
    pd_net_free(m.net);
    pd_joined_close(&m.joined);
    for (uint32_t i = 0; i < m.n_files; i++)
        free(m.file[i]);
    return 0;
}
