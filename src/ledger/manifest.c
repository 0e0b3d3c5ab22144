/* manifest.c - one table of fields, read in both directions; see manifest.h. */
#include "peerd/manifest.h"
#include "peerd/byte.h"
#include "peerd/bytes.h"
#include "peerd/identity.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

__extension__ typedef unsigned __int128 wide;

typedef enum field_kind {
    F_U32,
    F_U64,
    F_HEX,
    F_TEXT,
    F_WORD,
    F_TARGETS,
    F_CONSTANT,
    F_FORMAT
} field_kind;

typedef struct field {
    const char *key;
    field_kind kind;
    size_t at, size;          /* in pd_manifest; size of HEX and TEXT */
    const char *const *words; /* WORD: the enumeration's names; CONSTANT: the one value;
                                 FORMAT: as index_of_format */
    int when;                 /* written only for this space, or as below */
} field;
enum { ALWAYS = -1, WITH_PARENT = -2, WITH_FIRST_LAYER = -3 };
enum { LAYERS_MAX = 1024 }; /* of a model (weights.c) */

static const char *const spaces[] = {"aligned", "lora", "full", NULL};
static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const targets[] = {"q", "k", "v", "o", "gate", "up", "down", NULL};
static const char *const formats[] = {"1", "2", "3", NULL};
static const char *const rules[] = {"sum", NULL};

#define AT(member) offsetof(pd_manifest, member), sizeof((pd_manifest *)0)->member
static const field fields[] = {
    {"base.arch", F_TEXT, AT(model_arch), NULL, ALWAYS},
    {"base.digest", F_HEX, AT(model_digest), NULL, ALWAYS},
    {"base.name", F_TEXT, AT(model_name), NULL, ALWAYS},
    {"base.tokenizer", F_HEX, AT(tokenizer_digest), NULL, ALWAYS},
    {"format", F_FORMAT, 0, 0, formats, ALWAYS},
    {"founder", F_HEX, AT(founder), NULL, ALWAYS},
    {"nonce", F_HEX, AT(nonce), NULL, ALWAYS},
    {"parent.digest", F_HEX, AT(parent_digest), NULL, WITH_PARENT},
    {"parent.records", F_U64, AT(parent_records), NULL, WITH_PARENT},
    {"parent.run", F_HEX, AT(parent_run), NULL, WITH_PARENT},
    {"policy.invites", F_U32, AT(invites_max), NULL, ALWAYS},
    {"policy.rate", F_U32, AT(rate_max), NULL, ALWAYS},
    {"policy.seal_bytes_per_s", F_U32, AT(seal_bytes_per_s), NULL, ALWAYS},
    {"probe.eps_u40", F_U64, AT(eps), NULL, ALWAYS},
    {"probe.scale_u40", F_U64, AT(scale), NULL, ALWAYS},
    {"rule", F_CONSTANT, 0, 0, rules, ALWAYS},
    {"schedule.kind", F_WORD, AT(schedule), schedules, ALWAYS},
    {"schedule.lr_min_u40", F_U64, AT(lr_min), NULL, ALWAYS},
    {"schedule.lr_u40", F_U64, AT(lr), NULL, ALWAYS},
    {"schedule.records", F_U64, AT(decay_records), NULL, ALWAYS},
    {"space.alpha", F_U32, AT(alpha), NULL, PD_SPACE_LORA},
    {"space.basis", F_HEX, AT(basis_digest), NULL, PD_SPACE_ALIGNED},
    {"space.basis_bytes", F_U64, AT(basis_bytes), NULL, PD_SPACE_ALIGNED},
    {"space.coords", F_U64, AT(n_coords), NULL, ALWAYS},
    {"space.first_layer", F_U32, AT(first_layer), NULL, WITH_FIRST_LAYER},
    {"space.kind", F_WORD, AT(space), spaces, ALWAYS},
    {"space.rank", F_U32, AT(rank), NULL, ALWAYS},
    {"space.seed", F_HEX, AT(seed), NULL, PD_SPACE_LORA},
    {"space.targets", F_TARGETS, AT(targets), targets, ALWAYS},
    {"space.unit_bits", F_U32, AT(unit_bits), NULL, ALWAYS},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };
_Static_assert(sizeof(pd_space_kind) == 4 && sizeof(pd_schedule_kind) == 4,
               "WORD is read as 32 bits");

static uint32_t get32(const pd_manifest *m, const field *f) {
    uint32_t v;
    memcpy(&v, (const uint8_t *)m + f->at, sizeof v);
    return v;
}

static uint64_t get64(const pd_manifest *m, const field *f) {
    uint64_t v;
    memcpy(&v, (const uint8_t *)m + f->at, sizeof v);
    return v;
}

bool pd_manifest_has_parent(const pd_manifest *m) {
    static const uint8_t none[sizeof m->parent_run];
    return memcmp(m->parent_run, none, sizeof none) != 0;
}

/* ---- writing ---- */

/* The oldest that can say it, so that older peerds read what they can. */
static uint32_t index_of_format(const pd_manifest *m) {
    return m->first_layer ? 2 : pd_manifest_has_parent(m);
}

static void write_text(const char *text, size_t room, char *out) {
    size_t i = 0;
    for (; i + 1 < room && text[i]; i++)
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    out[i] = 0;
}

static void write_targets(uint32_t set, char *out, size_t room) {
    size_t n = 0;
    out[0] = 0;
    for (unsigned t = 0; targets[t]; t++)
        if (set >> t & 1)
            n += (size_t)snprintf(out + n, room - n, "%s%s", n ? "," : "", targets[t]);
}

static void write_value(const pd_manifest *m, const field *f, char out[72]) {
    switch (f->kind) {
    case F_U32:
        snprintf(out, 72, "%" PRIu32, get32(m, f));
        break;
    case F_U64:
        snprintf(out, 72, "%" PRIu64, get64(m, f));
        break;
    case F_HEX:
        pd_hex((const uint8_t *)m + f->at, f->size, out);
        break;
    case F_TEXT:
        write_text((const char *)m + f->at, f->size, out);
        break;
    case F_WORD:
        snprintf(out, 72, "%s", f->words[get32(m, f)]);
        break;
    case F_TARGETS:
        write_targets(get32(m, f), out, 72);
        break;
    case F_CONSTANT:
        snprintf(out, 72, "%s", f->words[0]);
        break;
    case F_FORMAT:
        snprintf(out, 72, "%s", f->words[index_of_format(m)]);
        break;
    }
}

static bool is_written(const pd_manifest *m, const field *f) {
    if (f->when == WITH_PARENT)
        return pd_manifest_has_parent(m);
    if (f->when == WITH_FIRST_LAYER)
        return m->first_layer != 0;
    return f->when == ALWAYS || f->when == (int)m->space;
}

void pd_manifest_write(const pd_manifest *m, char out[PD_MANIFEST_MAX], size_t *n) {
    assert(m->space <= PD_SPACE_FULL && m->schedule <= PD_SCHEDULE_COSINE);
    size_t used = 0;
    for (const field *f = fields; f < fields + N_FIELDS; f++) {
        char value[72];
        if (!is_written(m, f))
            continue;
        write_value(m, f, value);
        used += (size_t)snprintf(out + used, PD_MANIFEST_MAX - used, "%s = %s\n", f->key, value);
    }
    assert(used < PD_MANIFEST_MAX);
    *n = used;
}

void pd_manifest_run_id(const pd_manifest *m, uint8_t run[32]) {
    char text[PD_MANIFEST_MAX];
    size_t n;
    pd_manifest_write(m, text, &n);
    pd_hash256(text, n, run);
}

/* ---- reading ---- */

/* Decimal digits only; false where there are none, others, or too many. */
static bool read_number(const char *s, uint64_t max, uint64_t *out) {
    uint64_t v = 0;
    if (!*s)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9')
            return false;
        uint64_t digit = (uint64_t)(*s - '0');
        if (v > (max - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

static bool read_word(const char *const *words, const char *s, size_t n, uint32_t *out) {
    for (uint32_t i = 0; words[i]; i++)
        if (strlen(words[i]) == n && memcmp(words[i], s, n) == 0) {
            *out = i;
            return true;
        }
    return false;
}

static bool read_targets(const char *s, uint32_t *out) {
    *out = 0;
    for (;;) {
        size_t n = strcspn(s, ",");
        uint32_t t;
        if (!read_word(targets, s, n, &t))
            return false;
        *out |= UINT32_C(1) << t;
        if (!s[n])
            return true;
        s += n + 1;
    }
}

static pd_err read_value(const field *f, const char *s, unsigned line, pd_manifest *m) {
    uint8_t *at = (uint8_t *)m + f->at;
    uint64_t v64;
    uint32_t v32;
    bool ok = false;
    switch (f->kind) {
    case F_U32:
        if ((ok = read_number(s, UINT32_MAX, &v64))) {
            v32 = (uint32_t)v64;
            memcpy(at, &v32, sizeof v32);
        }
        break;
    case F_U64:
        if ((ok = read_number(s, UINT64_MAX, &v64)))
            memcpy(at, &v64, sizeof v64);
        break;
    case F_HEX:
        ok = pd_unhex(s, at, f->size);
        break;
    case F_TEXT:
        if ((ok = strlen(s) < f->size))
            memcpy(at, s, strlen(s) + 1);
        break;
    case F_TARGETS:
        if ((ok = read_targets(s, &v32)))
            memcpy(at, &v32, sizeof v32);
        break;
    case F_WORD:
    case F_CONSTANT:
    case F_FORMAT: /* the one that writing chooses, or the text does not come back */
        if (!read_word(f->words, s, strlen(s), &v32))
            return pd_fail(
                PD_EUNSUPPORTED,
                "the manifest's %s is not one this peerd knows: %.40s (a newer peerd may)", f->key,
                s);
        if (f->kind == F_WORD)
            memcpy(at, &v32, sizeof v32);
        return PD_OK;
    }
    return ok ? PD_OK
              : pd_fail(PD_EFORMAT, "line %u of the manifest: %s has no valid value", line, f->key);
}

static pd_err read_line(char *s, unsigned line, pd_manifest *m) {
    char *equals = strstr(s, " = ");
    if (equals) {
        *equals = 0;
        for (const field *f = fields; f < fields + N_FIELDS; f++)
            if (strcmp(f->key, s) == 0)
                return read_value(f, equals + 3, line, m);
    }
    return pd_fail(PD_EFORMAT, "line %u of the manifest is not a field this peerd knows", line);
}

/* A newer format may have other fields, so it is asked for before any of them. */
static pd_err read_format(const char *text) {
    const char *line = strstr(text, "\nformat = ");
    if (!line)
        return pd_fail(PD_EFORMAT, "this is not a manifest: it has no format line");
    const char *value = line + strlen("\nformat = ");
    uint32_t index;
    size_t n = strcspn(value, "\n");
    if (read_word(formats, value, n, &index))
        return PD_OK;
    return pd_fail(PD_EUNSUPPORTED,
                   "the manifest has format %.*s and this peerd reads %d: a newer peerd is needed",
                   n > 10 ? 10 : (int)n, value, PD_MANIFEST_FORMAT);
}

/* Line of the first difference. */
static unsigned line_of_difference(const char *a, const char *b, size_t n) {
    unsigned line = 1;
    for (size_t i = 0; i < n && a[i] == b[i]; i++)
        line += a[i] == '\n';
    return line;
}

pd_err pd_manifest_read(const char *text, size_t n, pd_manifest *out) {
    char copy[PD_MANIFEST_MAX];
    pd_manifest m = {0};
    if (n == 0 || n >= sizeof copy || text[n - 1] != '\n')
        return pd_fail(PD_EFORMAT, "the manifest is not whole (%zu bytes)", n);
    for (size_t i = 0; i < n; i++)
        if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~'))
            return pd_fail(PD_EFORMAT, "byte %zu of the manifest is not printable", i);
    memcpy(copy, text, n);
    copy[n] = 0;
    pd_err e = read_format(copy);
    unsigned line = 1;
    for (char *s = copy; !e && *s; line++) {
        char *end = strchr(s, '\n');
        *end = 0;
        e = read_line(s, line, &m);
        s = end + 1;
    }
    if (e)
        return e;
    if (pd_manifest_check(&m))
        return pd_fail_in(PD_EFORMAT, "the manifest makes no sense");
    size_t again;
    pd_manifest_write(&m, copy, &again);
    if (again != n || memcmp(copy, text, n) != 0)
        return pd_fail(PD_EFORMAT,
                       "line %u of the manifest is missing, repeated, misplaced or misspelt",
                       line_of_difference(copy, text, again < n ? again : n));
    *out = m;
    return PD_OK;
}

/* ---- bounds ---- */

static pd_err outside(const char *what, const char *bounds) {
    return pd_fail(PD_EUSAGE, "%s must be %s", what, bounds);
}

static pd_err check_space(const pd_manifest *m) {
    bool full = m->space == PD_SPACE_FULL;
    if (m->space > PD_SPACE_FULL)
        return outside("the space", "aligned, lora or full");
    if (full ? m->rank != 0 : m->rank < 1 || m->rank > 64)
        return outside("the rank", full ? "0 in a full space, which has none" : "1 to 64");
    if (m->targets < 1 || m->targets >= 1U << (sizeof targets / sizeof *targets - 1))
        return outside("the targets", "at least one of q k v o gate up down");
    if (m->first_layer >= LAYERS_MAX)
        return outside("the first layer", "below 1024");
    if (m->unit_bits < 8 || m->unit_bits > 30)
        return outside("the unit bits", "8 to 30");
    if (m->n_coords < 1 || m->n_coords > PD_COORDS_MAX)
        return outside("the number of coordinates", "1 to 2^34");
    if (full)
        return m->n_coords > PD_FULL_MAX
                   ? outside("the number of coordinates of a full space",
                             "at most 134217728: train fewer --targets, or a lora or aligned space")
                   : PD_OK;
    if (m->space == PD_SPACE_LORA)
        return m->alpha < 1 || m->alpha > 4096 ? outside("alpha", "1 to 4096") : PD_OK;
    if (m->basis_bytes < 1 || m->basis_bytes > PD_BASIS_MAX)
        return outside("the size of the basis file", "1 byte to 1 GiB");
    return PD_OK;
}

static pd_err check_schedule(const pd_manifest *m) {
    if (m->schedule > PD_SCHEDULE_COSINE)
        return outside("the schedule", "constant, linear or cosine");
    if (m->lr < 1 || m->lr >= PD_STEP_MAX || m->scale < 1 || m->scale >= PD_STEP_MAX ||
        (wide)m->lr * m->scale >> 40 >= PD_STEP_MAX)
        return outside("the learning rate, the byte scale and their product",
                       "above 0 and below 2^20");
    if (m->lr_min > m->lr)
        return outside("the least learning rate", "at most the first");
    if (m->schedule == PD_SCHEDULE_CONSTANT)
        return m->decay_records || m->lr_min ? outside("a constant schedule's decay", "absent")
                                             : PD_OK;
    return m->decay_records < 1
               ? outside("the number of records of a decaying schedule", "at least 1")
               : PD_OK;
}

pd_err pd_manifest_check(const pd_manifest *m) {
    if (m->eps < 1 || m->eps >= PD_STEP_MAX)
        return outside("eps", "above 0 and below 2^20");
    if (m->seal_bytes_per_s < 1)
        return outside("the sealing budget", "at least 1 byte a second");
    if (m->rate_max < 1)
        return outside("the record rate", "at least 1 a second");
    pd_err e = check_space(m);
    return e ? e : check_schedule(m);
}

/* ---- fixed point ---- */

/* The fewest decimals whose nearest multiple of 2^-40 is v; 13 always do, as 10^-13 < 2^-41. */
void pd_fixed_text(uint64_t v, char out[32]) {
    uint64_t ten = 1; /* 10^k */
    for (int k = 0;; k++, ten *= 10) {
        wide decimal = ((wide)v * ten + ((wide)1 << 39)) >> 40;
        wide back = ((decimal << 40) + ten / 2) / ten;
        if (back != v && k < 13)
            continue;
        uint32_t whole = (uint32_t)(decimal / ten); /* at most 2^24 */
        if (k == 0)
            snprintf(out, 32, "%" PRIu32, whole);
        else
            snprintf(out, 32, "%" PRIu32 ".%0*" PRIu64, whole, k, (uint64_t)(decimal % ten));
        return;
    }
}

pd_err pd_fixed_of(double v, uint64_t *out) {
    if (!(v > 0) || v >= 0x1p20)
        return pd_fail(PD_EUSAGE, "%g is not a number above 0 and below 2^20", v);
    uint64_t fixed = (uint64_t)(v * 0x1p40 + 0.5);
    if (fixed == 0)
        return pd_fail(PD_EUSAGE, "%g is smaller than the smallest step, 9.1e-13", v);
    *out = fixed;
    return PD_OK;
}
