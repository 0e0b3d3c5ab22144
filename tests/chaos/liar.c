/* liar.c - what a member says of checkpoints who does not tell the truth: linked into peerd_liar.
 *
 *   trainer ─> pd_ckpt_make ─> HERE: another coordinate ─> named, attested, served as peerd would
 *   core asks for a piece ─> pd_ports_log's file ─> HERE: another last byte ─> sent
 *
 *   PEERD_LIE=coordinates    a checkpoint that it makes is in form and its marks are sealed, and
 *                            the model in it is not what its records give
 *   PEERD_LIE=bytes          of a checkpoint's file it sends a byte that is not in it
 *
 * The linker puts these between the node and its own functions (--wrap), so that all else, and all
 * that the others see, is peerd.  Without PEERD_LIE it tells the truth.
 */
#include "peerd/ckpt.h"

#include "../../src/node/ports.h"

#include <stdlib.h>
#include <string.h>

pd_err __real_pd_ckpt_make(pd_replica *r, pd_ledger *l, uint8_t **file, size_t *size,
                           pd_ckpt_name *name);
pd_err __wrap_pd_ckpt_make(pd_replica *r, pd_ledger *l, uint8_t **file, size_t *size,
                           pd_ckpt_name *name);
pd_core_log __real_pd_ports_log(pd_ports *p);
pd_core_log __wrap_pd_ports_log(pd_ports *p);

static bool lies_about(const char *what) {
    const char *lie = getenv("PEERD_LIE");
    return lie && strcmp(lie, what) == 0;
}

/* Of the same records, and named by what the file holds now: only a replay can tell. */
pd_err __wrap_pd_ckpt_make(pd_replica *r, pd_ledger *l, uint8_t **file, size_t *size,
                           pd_ckpt_name *name) {
    pd_ckpt c;
    pd_err e = __real_pd_ckpt_make(r, l, file, size, name);
    if (e || !lies_about("coordinates"))
        return e;
    int32_t *a = malloc(r->d * sizeof *a);
    (*file)[*size - 4] ^= 1; /* the last coordinate's lowest bit */
    e = a ? pd_ckpt_open(*file, *size, r->replay.run, &c) : pd_fail(PD_ENOMEM, "no memory to lie");
    if (!e) {
        pd_ckpt_coords(&c, a);
        pd_ckpt_name_of(*file, *size, &c, a, name);
    }
    free(a);
    if (e)
        free(*file);
    return e;
}

static size_t (*read_file)(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                           size_t room, uint64_t *total);

static size_t read_falsely(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                           size_t room, uint64_t *total) {
    const pd_ports *p = ctx;
    size_t n = read_file(ctx, digest, offset, out, room, total);
    bool basis = memcmp(digest, p->files[0].digest, 16) == 0;
    if (n && !basis && offset + n == *total)
        out[n - 1] ^= 1;
    return n;
}

pd_core_log __wrap_pd_ports_log(pd_ports *p) {
    pd_core_log log = __real_pd_ports_log(p);
    if (lies_about("bytes")) {
        read_file = log.file;
        log.file = read_falsely;
    }
    return log;
}
