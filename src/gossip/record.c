/* record.c - control records, and what a guest signs; see frame.h for the bytes. */
#include "peerd/frame.h"

/* A name is shown to people: printable ASCII, nothing that moves a cursor. */
static void get_name(pd_reader *r, char out[PD_NAME_MAX + 1]) {
    size_t n = (size_t)pd_get_varint_max(r, PD_NAME_MAX);
    const uint8_t *p = pd_get_bytes(r, n);
    if (!p)
        return;
    for (size_t i = 0; i < n; i++)
        out[i] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
    out[n] = 0;
}

static void put_name(pd_writer *w, const char *name) {
    size_t n = strlen(name);
    pd_put_varint(w, n);
    pd_put_bytes(w, name, n);
}

/* Its body is as large as a whole log's tail, so it is not copied once more. */
static bool put_evidence(pd_writer *w, const pd_control *rec) {
    pd_put_u8(w, rec->kind);
    pd_put_varint(w, rec->proof_size);
    pd_put_bytes(w, rec->proof, rec->proof_size);
    return w->ok;
}

bool pd_control_put(pd_writer *w, const pd_control *rec) {
    if (rec->kind == PD_RECORD_EVIDENCE)
        return put_evidence(w, rec);
    uint8_t body[PD_RECORD_MAX];
    pd_writer b = pd_writer_of(body, sizeof body);
    switch (rec->kind) {
    case PD_RECORD_MEMBER:
        pd_put_bytes(&b, rec->subject, 32);
        pd_put_u8(&b, rec->flags);
        pd_put_u64(&b, rec->invite);
        put_name(&b, rec->name);
        break;
    case PD_RECORD_ADDR:
        pd_put_u8(&b, (uint8_t)rec->n_addrs);
        for (uint32_t i = 0; i < rec->n_addrs; i++)
            pd_put_addr(&b, &rec->addrs[i]);
        put_name(&b, rec->name);
        break;
    case PD_RECORD_LEAVE:
        pd_put_u8(&b, rec->reason);
        pd_put_varint(&b, rec->step);
        break;
    case PD_RECORD_BAN:
        pd_put_bytes(&b, rec->subject, 32);
        pd_put_varint(&b, rec->inc);
        pd_put_varint(&b, rec->step);
        pd_put_varint(&b, rec->control);
        break;
    case PD_RECORD_ROTATE:
        pd_put_bytes(&b, rec->subject, 32);
        pd_put_bytes(&b, rec->sig, 64);
        pd_put_varint(&b, rec->step);
        break;
    case PD_RECORD_CKPT:
        pd_put_bytes(&b, rec->ckpt.file, 32);
        pd_put_bytes(&b, rec->ckpt.model, PD_DIGEST_BYTES);
        pd_put_varint(&b, rec->ckpt.size);
        pd_put_varint(&b, rec->ckpt.records);
        break;
    }
    size_t n = (size_t)(b.p - body);
    pd_put_u8(w, rec->kind);
    pd_put_varint(w, n);
    pd_put_bytes(w, body, n);
    return b.ok && w->ok;
}

static void get_copy(pd_reader *r, uint8_t *out, size_t n) {
    const uint8_t *p = pd_get_bytes(r, n);
    if (p)
        memcpy(out, p, n);
}

static bool get_body(pd_reader *r, pd_control *out) {
    switch (out->kind) {
    case PD_RECORD_MEMBER:
        get_copy(r, out->subject, 32);
        out->flags = pd_get_u8(r);
        out->invite = pd_get_u64(r);
        get_name(r, out->name);
        break;
    case PD_RECORD_ADDR:
        out->n_addrs = pd_get_u8(r);
        if (out->n_addrs > PD_ADDRS_MAX)
            return false;
        for (uint32_t i = 0; i < out->n_addrs; i++)
            out->addrs[i] = pd_get_addr(r);
        get_name(r, out->name);
        break;
    case PD_RECORD_LEAVE:
        out->reason = pd_get_u8(r);
        out->step = pd_get_varint(r);
        break;
    case PD_RECORD_EVIDENCE:
        out->proof_size = pd_reader_left(r);
        out->proof = pd_get_bytes(r, out->proof_size);
        break;
    case PD_RECORD_BAN:
        get_copy(r, out->subject, 32);
        out->inc = (uint32_t)pd_get_varint_max(r, PD_INCARNATIONS - 1);
        out->step = pd_get_varint(r);
        out->control = pd_get_varint(r);
        break;
    case PD_RECORD_ROTATE:
        get_copy(r, out->subject, 32);
        get_copy(r, out->sig, 64);
        out->step = pd_get_varint(r);
        break;
    case PD_RECORD_BEACON:
        break;
    case PD_RECORD_CKPT:
        get_copy(r, out->ckpt.file, 32);
        get_copy(r, out->ckpt.model, PD_DIGEST_BYTES);
        out->ckpt.size = pd_get_varint(r);
        out->ckpt.records = pd_get_varint(r);
        break;
    default:
        return true;
    }
    return r->ok && pd_reader_left(r) == 0;
}

ptrdiff_t pd_control_get(const uint8_t *p, size_t n, pd_control *out) {
    memset(out, 0, sizeof *out);
    /* A size of up to 512 takes at most two bytes, of evidence three: with one byte more at hand it
     * is wrong or right for good. */
    pd_reader r = pd_reader_of(p, n);
    out->kind = pd_get_u8(&r);
    bool evidence = out->kind == PD_RECORD_EVIDENCE;
    size_t size = (size_t)pd_get_varint_max(&r, evidence ? PD_EVIDENCE_MAX : PD_RECORD_MAX);
    if (!r.ok)
        return n >= (evidence ? 4 : 3) ? -1 : 0;
    const uint8_t *body = pd_get_bytes(&r, size);
    if (!body)
        return 0;
    pd_reader b = pd_reader_of(body, size);
    uint8_t kind = out->kind;
    if (!get_body(&b, out)) {
        memset(out, 0, sizeof *out);
        kind = 0;
    }
    out->kind = kind;
    return r.p - p;
}

void pd_rotate_message(const uint8_t run[32], const uint8_t old[32], const uint8_t next[32],
                       uint8_t out[PD_ROTATE_MESSAGE_BYTES]) {
    memcpy(out, "peerd.rotate.v1", 15);
    memcpy(out + 15, run, 32);
    memcpy(out + 47, old, 32);
    memcpy(out + 79, next, 32);
}

bool pd_control_rotates(const uint8_t *log, size_t n, const uint8_t next[32]) {
    pd_control rec;
    ptrdiff_t took;
    for (size_t at = 0; at < n && (took = pd_control_get(log + at, n - at, &rec)) > 0;
         at += (size_t)took)
        if (rec.kind == PD_RECORD_ROTATE && !memcmp(rec.subject, next, 32))
            return true;
    return false;
}

void pd_join_message(const uint8_t net[16], const uint8_t guest[32],
                     uint8_t out[PD_JOIN_MESSAGE_BYTES]) {
    memcpy(out, "peerd.join.v1", 13);
    memcpy(out + 13, net, 16);
    memcpy(out + 29, guest, 32);
}
