/* table.c - what a gradient costs on a thin, lossy path: the rows of the reference design's table
 * of dissemination.
 *
 * Every node makes one record a second and seals K of them at a time; three rounds to settle, then
 * everything sent is counted, framing of ZMTP, CURVE, TCP and IP included (acknowledgements of TCP
 * are not).  B/gr counts the frames with segments in them, as the reference does; all counts the
 * rest too: pings, summaries, heads.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

enum { SETTLE_ROUNDS = 3 };

/* ---- members from the start ---- */

static void put_log(sim *s, node *author, pd_writer *w, const uint8_t *bytes) {
    pd_author id = {.inc = 0};
    pd_chain chain;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES], seal[64];
    memcpy(id.key, author->id.pub, 32);
    size_t n = (size_t)(w->p - bytes);
    pd_chain_init(&chain, s->run, &id, PD_STREAM_CONTROL);
    pd_chain_add(&chain, bytes, n);
    pd_seal_message(&chain, s->run, &id, PD_STREAM_CONTROL, msg);
    node_sign(author, msg, sizeof msg, seal);
    uint32_t log = log_number(s, &id, PD_STREAM_CONTROL);
    disk_sealed(s, author, log, 0, bytes, n, seal);
    for (uint32_t i = 0; i < s->n_members; i++) {
        disk_append(s, &s->nodes[i], log, 0, bytes, n, seal);
        disk_commit(s, &s->nodes[i]);
    }
}

/* Each node's address, and from the founder everyone's admission. */
void table_members(sim *s) {
    size_t room = 128 + 128 * (size_t)s->n_members;
    uint8_t *bytes = malloc(room);
    if (!bytes)
        abort();
    for (uint32_t i = 0; i < s->n_members; i++) {
        node *n = &s->nodes[i];
        pd_writer w = pd_writer_of(bytes, room);
        for (uint32_t k = 1; i == 0 && k < s->n_members; k++) {
            pd_control member = {.kind = PD_RECORD_MEMBER, .invite = k};
            memcpy(member.subject, s->nodes[k].id.pub, 32);
            s->nodes[k].ticket.inviter = 0;
            pd_control_put(&w, &member);
        }
        pd_control addr = {.kind = PD_RECORD_ADDR, .n_addrs = 1};
        addr.addrs[0] = node_addr(n);
        snprintf(addr.name, sizeof addr.name, "n%u", i);
        pd_control_put(&w, &addr);
        put_log(s, n, &w, bytes);
        n->member = true;
        pd_rng r = rng_of(s->o.seed, "start", i);
        sim_push(s, s->now + draw(&r, 0, 3000), W_START, i);
    }
    free(bytes);
}

/* ---- what is counted ---- */

static void accepted(sim *s, const node *n, const truth *t, uint64_t from, uint64_t to) {
    if (n->index == t->owner)
        return;
    s->fresh_bytes += to - from;
    for (uint32_t i = t->n_seals; i && t->seals[i - 1].n > from; i--) {
        if (t->seals[i - 1].n > to)
            continue;
        if (s->n_latency == s->room_latency) {
            s->room_latency = s->room_latency ? 2 * s->room_latency : 4096;
            s->latency = realloc(s->latency, s->room_latency * sizeof *s->latency);
            if (!s->latency)
                abort();
        }
        s->latency[s->n_latency++] = s->now - t->born[i - 1];
    }
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double quantile(const sim *s, double q) {
    if (s->n_latency == 0)
        return 0;
    return (double)s->latency[(size_t)((double)(s->n_latency - 1) * q)] / 1000;
}

static int row(const options *o) {
    sim *s = sim_open(o);
    sim_run(s, 1000 + (uint64_t)SETTLE_ROUNDS * s->seal_ms);
    uint64_t began = s->now, segments = s->segment_bytes, sum = 0, data = 0, most = 0;
    uint64_t *before = calloc(s->n_members, sizeof *before);
    if (!before)
        abort();
    for (uint32_t i = 0; i < s->n_members; i++)
        before[i] = s->nodes[i].bytes_out, data -= s->nodes[i].data_out;
    s->on_accept = accepted;
    sim_run(s, s->until);
    for (uint32_t i = 0; i < s->n_members; i++) {
        uint64_t out = s->nodes[i].bytes_out - before[i];
        sum += out;
        data += s->nodes[i].data_out;
        most = out > most ? out : most;
    }
    if (s->n_latency)
        qsort(s->latency, s->n_latency, sizeof *s->latency, by_size);
    double seconds = (double)(s->now - began) / 1000, fresh = (double)s->fresh_bytes;
    printf("%6u %6u %8.3f %7.1f %6.1f %6.1f %6.2f %6.2f %8.0f %8.0f\n", s->n_members,
           o->records_a_seal, (double)(s->segment_bytes - segments) / fresh, quantile(s, 0.5),
           quantile(s, 0.99), quantile(s, 1), (double)data / fresh, (double)sum / fresh,
           (double)sum / s->n_members / seconds, (double)most / seconds);
    fflush(stdout);
    int code = s->code;
    if (code)
        printf("%s\n", s->failure);
    free(before);
    sim_close(s);
    return code;
}

int table_print(const options *o) {
    static const uint32_t rows[][2] = {{2, 60},  {4, 60},   {8, 60},  {10, 60},
                                       {16, 60}, {16, 300}, {16, 600}};
    options one = *o;
    one.table = true;
    printf("%6s %6s %8s %7s %6s %6s %6s %6s %8s %8s\n", "N", "K", "copies", "p50 s", "p99 s",
           "max s", "B/gr", "all", "B/s mean", "B/s max");
    int code = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !code; i++) {
        one.nodes = o->nodes ? o->nodes : rows[i][0];
        one.records_a_seal = o->records_a_seal ? o->records_a_seal : rows[i][1];
        code = row(&one);
        if (o->nodes)
            break;
    }
    return code;
}
