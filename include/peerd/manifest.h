/* manifest.h - the immutable description of a run: everything replay depends on.
 *
 *   data > tokens > loss pair > byte > LEDGER > GOSSIP > REPLAY > weights
 *
 * Canonical text: one `key = value` line a field, sorted by key, one spelling a value,
 * newline-terminated.  Its BLAKE2b-256 is the run id, which is mixed into every seal, direction and
 * handshake.  Decoding accepts exactly what encoding writes (re-encoding must give the same bytes),
 * so a run has one text.
 *
 *   base.arch base.digest base.name base.tokenizer   the model: architecture, digest, name,
 *                                                    tokenizer's digest
 *   format                                           1; 2 with a parent; 3 with a first layer
 *   founder nonce                                    key, salt
 *   parent.digest parent.records parent.run          only of a run that goes on from another one
 *                                                    (base: that one's base with its adapter)
 *   policy.invites policy.rate policy.seal_bytes_per_s
 *   probe.eps_u40 probe.scale_u40                    _u40: whole numbers in units of 2^-40
 *   rule                                             sum
 *   schedule.kind schedule.lr_min_u40 schedule.lr_u40 schedule.records
 *   space.kind space.coords space.rank space.targets space.unit_bits
 *   space.first_layer                                only where it is not 0: the layers below it
 *                                                    carry no coordinates
 *   space.basis space.basis_bytes                    aligned only
 *   space.alpha space.seed                           lora only
 *                                                    (full has neither, and rank 0)
 *
 * Digests and keys are lower-case hex, numbers decimal, targets names joined by commas in their
 * order.
 */
#ifndef PEERD_MANIFEST_H
#define PEERD_MANIFEST_H

#include "peerd/digest.h"
#include "peerd/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pd_space_kind { PD_SPACE_ALIGNED, PD_SPACE_LORA, PD_SPACE_FULL } pd_space_kind;
#define PD_FULL_MAX (UINT64_C(1) << 27) /* coordinates of a full space: a checkpoint of 512 MiB */
typedef enum pd_schedule_kind {
    PD_SCHEDULE_CONSTANT,
    PD_SCHEDULE_LINEAR,
    PD_SCHEDULE_COSINE
} pd_schedule_kind;

enum { PD_MANIFEST_MAX = 4096, PD_MANIFEST_FORMAT = 3 };
#define PD_COORDS_MAX (UINT64_C(1) << 34)
#define PD_BASIS_MAX  (UINT64_C(1) << 30)

/* Fixed-point fields count units of 2^-40. */
typedef struct pd_manifest {
    uint8_t model_digest[32], tokenizer_digest[32];
    char model_name[64], model_arch[16]; /* printable ASCII; other characters are written as '?' */
    pd_space_kind space;
    uint32_t rank;            /* 1..64; 0 for full */
    uint32_t alpha;           /* lora: dW = alpha / rank * B A; else 0 */
    uint32_t targets;         /* bit t: target t (pd_target) is trained */
    uint32_t first_layer;     /* layers [first_layer, L) are trained, those below are the base's */
    uint8_t basis_digest[32]; /* aligned: BLAKE2b-256 of the basis file */
    uint64_t basis_bytes;     /* aligned: its size; else 0 */
    uint8_t seed[32];         /* lora: seed of A_0; else zero */
    uint32_t unit_bits;       /* F: a counts units of 2^-F, 8..30 */
    uint64_t n_coords;        /* d */
    uint64_t eps;             /* probe distance */
    uint64_t scale;           /* byte scale: |g| = scale * 2^((c-1)/6-10) */
    uint64_t lr;              /* learning rate at step 0; lr * scale < 2^20 */
    uint64_t lr_min;          /* floor of a decaying schedule, 0..lr; 0 for constant */
    pd_schedule_kind schedule;
    uint64_t decay_records;    /* N of the schedule: records of one author until the floor; 0 for
                                  constant */
    uint32_t seal_bytes_per_s; /* B_sig of T_seal = clamp(N * 69 / B_sig, 2 s, 900 s) */
    uint32_t rate_max;         /* records a second and author, sustained */
    uint32_t invites_max;      /* outstanding invites a member */
    uint8_t founder[32];       /* Ed25519 public key */
    uint8_t nonce[16];         /* makes two runs of equal settings two runs */
    uint8_t parent_run[32];    /* zero: this run goes on from no other */
    uint8_t parent_digest[PD_DIGEST_BYTES]; /* of its coordinates, with the records that the base
                                               holds; zero without a parent */
    uint64_t parent_records;                /* how many those are; 0 without a parent */
} pd_manifest;

bool pd_manifest_has_parent(const pd_manifest *m);

/* Is every field within its bounds?  What a person's flags made should be asked before it is
 * written. Errors: PD_EUSAGE (the text names the field and its bounds).
 */
PD_CHECKED pd_err pd_manifest_check(const pd_manifest *m);

/* Canonical text into out (room PD_MANIFEST_MAX), *n bytes without terminator. */
void pd_manifest_write(const pd_manifest *m, char out[PD_MANIFEST_MAX], size_t *n);
/* Errors: PD_EFORMAT (names the line or the field), PD_EUNSUPPORTED (a newer format, an unknown
 * kind or rule). */
PD_CHECKED pd_err pd_manifest_read(const char *text, size_t n, pd_manifest *out);
void pd_manifest_run_id(const pd_manifest *m, uint8_t run[32]);

/* Fixed point of 2^-40, for people: a decimal with as many digits as needed to come back to the
 * same integer. */
void pd_fixed_text(uint64_t v, char out[32]);
/* From a positive double, to the nearest unit.  Errors: PD_EUSAGE (not finite, negative, 2^20 or
 * more, or so small that it would be zero).
 */
PD_CHECKED pd_err pd_fixed_of(double v, uint64_t *out);
static inline double pd_fixed_value(uint64_t v) {
    return (double)v / 1099511627776.0;
}

#endif
