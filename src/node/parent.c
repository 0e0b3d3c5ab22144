/* parent.c - merges a stopped node's run, compares it with what a child's manifest says; see
 * parent.h. */
#include "parent.h"
#include "export_merged.h"
#include "peerd/bytes.h"
#include "site.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Refused by name before the model is opened, which takes seconds. */
static pd_err check_base(const char *dir) {
    pd_config c;
    pd_err e = pd_config_read(dir, &c);
    if (e)
        return e;
    return pd_base_is_folder(c.model)
               ? pd_fail(PD_EUNSUPPORTED,
                         "%s is a Hugging Face folder: a run can be continued where its base is a "
                         "GGUF file",
                         c.model)
               : PD_OK;
}

static pd_err merge(pd_site *s, const char *path) {
    pd_view *v = NULL;
    pd_err e = pd_site_view(s, &v);
    if (e)
        return e;
    pd_merged m = {.base = s->config.model,
                   .info = pd_model_info_of(s->model),
                   .manifest = &s->manifest,
                   .view = v,
                   .type = PD_MERGED_AUTO};
    e = pd_export_merged_gguf(path, &m);
    pd_view_close(v);
    return e;
}

pd_err pd_parent_merge(const char *dir, const char *path, pd_parent *out) {
    pd_site s;
    pd_err e = check_base(dir);
    if (!e)
        e = pd_site_open(dir, PD_SITE_MODEL, &pd_site_as_set, &s);
    if (e)
        return e;
    uint64_t known = pd_ledger_records(s.ledger);
    if (s.replica.records != known)
        e = pd_fail(PD_EGONE,
                    "%s has replayed %" PRIu64 " of the %" PRIu64
                    " records it knows of: run it until it has them all",
                    dir, s.replica.records, known);
    if (!e)
        e = merge(&s, path);
    if (!e) {
        memcpy(out->run, s.run, sizeof out->run);
        pd_replay_digest(s.replica.a, s.replica.d, out->digest);
        out->records = s.replica.records;
    }
    pd_site_close(&s);
    return e;
}

void pd_parent_put(const pd_parent *p, pd_manifest *m) {
    memcpy(m->parent_run, p->run, sizeof m->parent_run);
    memcpy(m->parent_digest, p->digest, sizeof m->parent_digest);
    m->parent_records = p->records;
}

pd_err pd_parent_check(const pd_parent *p, const char *dir, const pd_manifest *m) {
    char here[17], there[17];
    if (!pd_manifest_has_parent(m))
        return pd_fail(PD_EMISMATCH,
                       "the run goes on from no other one: join with --model, without --parent");
    if (memcmp(p->run, m->parent_run, sizeof p->run) != 0) {
        pd_hex(p->run, 8, here);
        pd_hex(m->parent_run, 8, there);
        return pd_fail(PD_EMISMATCH, "%s is a node of run %s..., the run goes on from run %s...",
                       dir, here, there);
    }
    if (p->records == m->parent_records &&
        memcmp(p->digest, m->parent_digest, sizeof p->digest) == 0)
        return PD_OK;
    pd_hex(p->digest, 8, here);
    pd_hex(m->parent_digest, 8, there);
    return pd_fail(PD_EMISMATCH,
                   "your node of the parent run, %s, holds %" PRIu64
                   " records and digest %s..., the run goes on from %" PRIu64
                   " records and digest %s...: %s",
                   dir, p->records, here, m->parent_records, there,
                   p->records <= m->parent_records
                       ? "run it until they are equal"
                       : "it went on after the new run was made: take the model from a member, "
                         "with --model");
}
