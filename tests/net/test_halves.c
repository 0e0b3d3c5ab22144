/* test_halves.c - a run of thirty falls apart and the lines come back: how soon does everyone hold
 * the same?
 *
 *   test_halves          2 seeds of each cut, in virtual time: equal within a minute
 *   test_halves A B      seeds A..B
 *
 * After five minutes in halves nobody has a link across and nobody misses one, since each half has
 * members enough: only a call to somebody who is not linked can find the other half, and then its
 * records have to go where all trees have lost their roots.
 */
#include "mesh.h"

#include <stdio.h>
#include <stdlib.h>

enum { NODES = 30, GROW_MS = 60000, JOINED_MS = 600000, BOUND_MS = 60000, GIVE_UP_MS = 600000 };

typedef struct cut {
    const char *name;
    uint32_t side; /* nodes of the one side ... */
    uint64_t lasts_ms;
    bool one_way; /* ... whom the others do not hear */
} cut;
static const cut cuts[] = {{"halves", NODES / 2, 300000, false}, {"two unheard", 2, 120000, true}};

static bool all_joined(const mesh *m) {
    for (uint32_t i = 0; i < NODES; i++)
        if (!m->nodes[i].member || !m->nodes[i].core)
            return false;
    return true;
}

/* All are members and their trees have grown. */
static mesh *make(uint64_t seed) {
    mesh *m = mesh_open(seed);
    m->n_nodes = NODES;
    for (uint32_t i = 0; i < NODES; i++)
        node_init(m, i);
    for (uint32_t i = 0; i < NODES; i++) {
        m->nodes[i].rate_ms = 2000;
        for (uint32_t k = 0; k < NODES; k++)
            m->delay[i][k] = rng_between(&m->r, 1, 60);
    }
    mesh_make_run(m);
    for (uint32_t i = 1; i < NODES; i++)
        mesh_fault_at(m, m->now + 100 + rng_below(&m->r, 5000), F_JOIN, i, 0, 0);
    node_start(m, &m->nodes[0]);
    while (!*m->failure && !all_joined(m)) {
        if (m->now > JOINED_MS)
            mesh_fail(m, "not all could join");
        mesh_run(m, m->now + 1000);
    }
    mesh_run(m, m->now + GROW_MS);
    return m;
}

/* Milliseconds from the healing until all are equal; a failure is in m. */
static uint64_t part_and_heal(mesh *m, const cut *c) {
    char why[200] = "";
    mesh_fault_at(m, m->now, F_BLOCK, 0, (UINT64_C(1) << c->side) - 1, c->one_way);
    mesh_run(m, m->now + c->lasts_ms);
    uint64_t healed = m->now;
    if (!*m->failure)
        mesh_heal(m);
    while (!*m->failure && !mesh_converged(m, why, sizeof why)) {
        if (m->now > healed + GIVE_UP_MS)
            mesh_fail(m, "not equal %d s after the cut: %s", GIVE_UP_MS / 1000, why);
        mesh_run(m, m->now + 500);
    }
    return m->now - healed;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int all_seeds(const cut *c, uint64_t from, uint64_t to) {
    size_t n = 0, late = 0;
    uint64_t *took = calloc(to - from + 1, sizeof *took);
    if (!took)
        return 1;
    for (uint64_t seed = from; seed <= to; seed++) {
        mesh *m = make(seed);
        took[n] = part_and_heal(m, c);
        if (!*m->failure && took[n] > BOUND_MS)
            mesh_fail(m, "equal after %.1f s, not %d", (double)took[n] / 1000, BOUND_MS / 1000);
        if (*m->failure)
            printf("%s, seed %llu: %s\n", c->name, (unsigned long long)seed, m->failure);
        late += *m->failure != 0;
        n++;
        mesh_close(m);
    }
    qsort(took, n, sizeof *took, by_size);
    printf("%s: %zu seeds, %zu failed; equal after %.1f s, half of them within %.1f, all within "
           "%.1f\n",
           c->name, n, late, (double)took[0] / 1000, (double)took[n / 2] / 1000,
           (double)took[n - 1] / 1000);
    fflush(stdout);
    free(took);
    return late ? 1 : 0;
}

int main(int argc, char **argv) {
    if (pd_crypto_init())
        return 1;
    uint64_t from = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t to = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? from : 2;
    int failed = 0;
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts && to >= from; i++)
        failed |= all_seeds(&cuts[i], from, to);
    return failed;
}
