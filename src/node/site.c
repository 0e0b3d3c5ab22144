/* site.c - a node's folder opened as far as a command needs it, and made; see site.h. */
#include "site.h"
#include "peerd/ckpt.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "rotate.h"

#include <ifaddrs.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FOLLOW_STEP = 1 << 16 };

const pd_site_opts pd_site_as_set = {.threads = UINT32_MAX};

static pd_err in_dir(char out[PD_CONFIG_PATH + 16], const char *dir, const char *name) {
    return pd_path_join(out, PD_CONFIG_PATH + 16, dir, name);
}

/* ---- opening ---- */

static pd_err open_run(pd_site *s) {
    char path[PD_CONFIG_PATH + 16];
    uint8_t *text;
    size_t n;
    pd_err e = pd_config_read(s->dir, &s->config);
    if (!e)
        e = in_dir(path, s->dir, "manifest");
    if (!e)
        e = pd_file_read(path, PD_MANIFEST_MAX, &text, &n);
    if (e)
        return e;
    e = pd_manifest_read((const char *)text, n, &s->manifest);
    if (e) {
        e = pd_fail_in(e, "%s", path);
    } else {
        memcpy(s->manifest_text, text, n);
        s->manifest_bytes = n;
        pd_manifest_run_id(&s->manifest, s->run);
    }
    free(text);
    if (!e)
        e = in_dir(path, s->dir, "key");
    return e ? e : pd_identity_load(path, &s->identity);
}

/* The checkpoint that the node began with, while its logs begin there. */
static pd_err read_begun(pd_site *s) {
    uint8_t *file;
    size_t n;
    pd_err e = pd_store_file_get(s->store, s->begun.digest, &file, &n);
    if (e)
        return e;
    e = pd_ckpt_restore(file, n, &s->replica, s->ledger);
    free(file);
    return e;
}

/* What cannot be read cannot be audited either: nothing rests on it any more. */
static pd_err restore_begun(pd_site *s) {
    pd_err e = read_begun(s);
    if (!e || e == PD_ENOMEM)
        return e;
    pd_warn("the checkpoint that this node began with is lost, so that its records have to come "
            "and be replayed: %s",
            pd_fail_text());
    pd_err forgotten = pd_site_forget_checkpoint(s);
    return forgotten ? forgotten : e;
}

uint64_t pd_site_bytes(const pd_manifest *m, bool gradients) {
    enum { COPIES = 7, GRADIENTS = 6 };
    return (COPIES + (gradients ? GRADIENTS : 0)) * sizeof(int32_t) * m->n_coords;
}

pd_err pd_site_room(const pd_manifest *m, bool gradients) {
    uint64_t available, need = pd_site_bytes(m, gradients);
    if (!pd_proc_bytes("/proc/meminfo", "MemAvailable", &available) || need <= available)
        return PD_OK;
    return pd_fail(PD_ENOMEM,
                   "a node of %llu coordinates%s takes %llu MiB for them, and %llu MiB are free%s",
                   (unsigned long long)m->n_coords, gradients ? " and gradients" : "",
                   (unsigned long long)(need >> 20), (unsigned long long)(available >> 20),
                   gradients ? " (--estimator probe needs no gradient)" : "");
}

/* The newest checkpoint that verifies, or the one it began with, or the base; then every record
 * since.  Records that are not here yet (before a log's base) are left to the running node.
 */
static pd_err open_replica(pd_site *s) {
    pd_replica *r = &s->replica;
    pd_err e = pd_replica_open(&s->manifest, r);
    if (e)
        return e;
    int32_t *a = malloc(r->d * sizeof *a);
    pd_author authors[PD_AUTHORS_MAX];
    uint64_t n[PD_AUTHORS_MAX], folded = 1;
    uint32_t count;
    if (!a)
        return pd_fail(PD_ENOMEM, "no memory for %zu coordinates", r->d);
    e = pd_store_ckpt_get(s->store, a, r->d, authors, n, PD_AUTHORS_MAX, &count);
    if (!e)
        e = pd_replica_restore(r, s->ledger, a, authors, n, count);
    if (e && s->begun.state == PD_AUDIT_OPEN)
        e = restore_begun(s);
    if (e)
        pd_debug("no checkpoint to start from, replaying from the base: %s", pd_fail_text());
    free(a);
    for (e = PD_OK; folded && !e;) {
        e = pd_replica_follow(r, s->ledger, FOLLOW_STEP, &folded);
        if (folded == FOLLOW_STEP)
            pd_progress(false, "replaying: %llu of %llu records", (unsigned long long)r->records,
                        (unsigned long long)pd_ledger_records(s->ledger));
    }
    return e == PD_ENOENT ? PD_OK : e;
}

static pd_err read_incarnation(pd_site *s) {
    uint8_t *v;
    size_t n;
    pd_err e = pd_store_meta_get(s->store, "incarnation", &v, &n);
    if (e == PD_ENOENT)
        return PD_OK;
    if (e)
        return e;
    if (n == 4)
        s->incarnation = pd_load32(v);
    else
        e = pd_fail(PD_EFORMAT, "the store's incarnation is damaged");
    free(v);
    return e;
}

/* An own log that was cut may have been longer than what is left: never a second byte for one of
 * its steps. */
static pd_err next_incarnation(pd_site *s) {
    uint8_t v[4];
    if (s->incarnation + 1 == PD_INCARNATIONS)
        return pd_fail(PD_EFULL, "this node's log was damaged %d times; join again in a new folder",
                       PD_INCARNATIONS);
    pd_store32(v, ++s->incarnation);
    pd_warn("this node's own log was damaged: it goes on as incarnation %u", s->incarnation);
    pd_err e = pd_store_meta_set(s->store, "incarnation", v, sizeof v);
    return e ? e : pd_store_commit(s->store);
}

static pd_err open_ledger(pd_site *s) {
    pd_store_report report;
    pd_err e = pd_store_open(s->dir, false, s->run, &s->store);
    if (!e)
        e = pd_ledger_open(&s->ledger);
    if (!e)
        e = pd_store_load(s->store, s->identity.pub, s->ledger, &report);
    if (!e)
        e = read_incarnation(s);
    if (!e)
        e = pd_store_begun_get(s->store, &s->begun);
    if (!e && report.own_cut)
        e = next_incarnation(s);
    if (!e)
        e = pd_site_finish_rotation(s);
    if (e)
        return e;
    s->restored = pd_store_restored(s->store);
    if (report.cut)
        pd_warn("%u damaged logs were thrown away; peers will be asked for them", report.cut);
    if (s->restored)
        pd_warn("the store is older than the node (a backup, or damage): it will listen long "
                "before it speaks");
    if (s->manifest.space == PD_SPACE_ALIGNED)
        e = pd_store_file_get(s->store, s->manifest.basis_digest, &s->basis_file, &s->basis_bytes);
    if (e == PD_ENOENT)
        return pd_fail(
            e, "the basis file is missing from %s or damaged; join the run again in a new folder",
            s->dir);
    size_t n = 0;
    if (!e)
        e = pd_store_invite_expire(s->store, pd_wall_s());
    if (!e)
        e = pd_store_commit(s->store);
    if (!e)
        e = pd_store_invites(s->store, s->invites, PD_SITE_INVITES, &n);
    s->n_invites = (uint32_t)n;
    return e ? e : open_replica(s);
}

static void hex_prefix(const uint8_t *p, char out[17]) {
    pd_hex(p, 8, out);
}

pd_err pd_site_check_model(const pd_manifest *m, const pd_base *b, const pd_tokenizer *t,
                           const char *path) {
    uint8_t model[32], tokenizer[32];
    char here[17], there[17];
    pd_base_digest(b, model);
    hex_prefix(model, here);
    hex_prefix(m->model_digest, there);
    if (memcmp(model, m->model_digest, 32) != 0)
        return pd_fail(PD_EMISMATCH,
                       "%s is not the run's model: it has digest %s..., the run is about %s "
                       "(%s...); give that file with --model",
                       path, here, m->model_name, there);
    pd_tokenizer_digest(t, tokenizer);
    if (memcmp(tokenizer, m->tokenizer_digest, 32) != 0)
        return pd_fail(PD_EMISMATCH, "%s has the run's weights but another tokenizer", path);
    return PD_OK;
}

static pd_err open_model(pd_site *s, bool backward) {
    pd_base *b;
    pd_model_opts opts = {
        .compute = s->config.compute, .threads = s->config.threads, .backward = backward};
    pd_err e = pd_base_open(s->config.model, &b);
    if (e)
        return pd_fail_in(e, "the node's model");
    e = pd_base_tokenizer(b, &s->tokenizer);
    if (!e)
        e = pd_site_check_model(&s->manifest, b, s->tokenizer, s->config.model);
    if (!e)
        e = pd_base_model(b, &opts, &s->model);
    if (!e)
        e = pd_base_check_vocab(b, s->tokenizer, s->model);
    pd_base_close(b);
    if (!e && s->basis_file)
        e = pd_basis_read(s->basis_file, s->basis_bytes, pd_model_info_of(s->model), &s->basis);
    return e ? e : pd_space_open(&s->manifest, pd_model_info_of(s->model), s->basis, &s->space);
}

/* Which records are held out: a share drawn by the node's seed, or all of another file. */
static pd_err split(pd_site *s) {
    size_t n = pd_data_count(s->data);
    s->n_held = s->heldout_data ? pd_data_count(s->heldout_data)
                                : (size_t)lround((double)n * s->config.heldout_share);
    s->n_train = s->heldout_data ? n : n - s->n_held;
    uint32_t *order = malloc((n ? n : 1) * sizeof *order);
    s->train = malloc((s->n_train ? s->n_train : 1) * sizeof *s->train);
    s->held = malloc((s->n_held ? s->n_held : 1) * sizeof *s->held);
    if (!order || !s->train || !s->held) {
        free(order);
        return pd_fail(PD_ENOMEM, "no memory for %zu records", n);
    }
    pd_rng rng = {s->config.seed};
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    if (!s->heldout_data)
        pd_rng_shuffle(&rng, order, n);
    memcpy(s->train, order, s->n_train * sizeof *order);
    for (size_t i = 0; i < s->n_held; i++)
        s->held[i] = s->heldout_data ? (uint32_t)i : order[s->n_train + i];
    free(order);
    return s->n_train ? PD_OK
                      : pd_fail(PD_EUSAGE, "%s: every record is held out, none is left to train on",
                                s->config.data);
}

static pd_err open_data(pd_site *s) {
    uint32_t context = pd_model_info_of(s->model)->context;
    pd_data_opts opts = {.skip_bad = s->config.skip_bad};
    opts.max_tokens =
        context && context < s->config.batch_tokens ? context : s->config.batch_tokens;
    pd_err e = pd_data_open(s->config.data, s->tokenizer, &opts, &s->data);
    if (!e && s->config.heldout[0])
        e = pd_data_open(s->config.heldout, s->tokenizer, &opts, &s->heldout_data);
    if (e)
        return e;
    if (pd_data_skipped(s->data))
        pd_warn("%zu bad lines of %s were skipped", pd_data_skipped(s->data), s->config.data);
    return split(s);
}

pd_err pd_site_open(const char *dir, pd_site_depth depth, const pd_site_opts *opts, pd_site *out) {
    pd_site *s = out;
    memset(s, 0, sizeof *s);
    if (strlen(dir) >= sizeof s->dir)
        return pd_fail(PD_EUSAGE, "path too long: %s", dir);
    strcpy(s->dir, dir);
    pd_err e = open_run(s);
    if (!e && opts->threads != UINT32_MAX)
        s->config.threads = opts->threads;
    if (!e && opts->compute != PD_COMPUTE_AUTO)
        s->config.compute = opts->compute;
    if (!e && depth >= PD_SITE_LEDGER)
        e = pd_site_room(&s->manifest, opts->backward);
    if (!e && depth >= PD_SITE_LEDGER)
        e = open_ledger(s);
    if (!e && depth >= PD_SITE_MODEL)
        e = open_model(s, opts->backward);
    if (!e && depth >= PD_SITE_DATA)
        e = open_data(s);
    if (e)
        pd_site_close(s);
    return e;
}

void pd_site_close(pd_site *s) {
    free(s->train);
    free(s->held);
    pd_data_close(s->data);
    pd_data_close(s->heldout_data);
    pd_space_close(s->space);
    pd_basis_free(s->basis);
    pd_model_close(s->model);
    pd_tokenizer_close(s->tokenizer);
    pd_replica_close(&s->replica);
    free(s->basis_file);
    pd_ledger_close(s->ledger);
    pd_store_close(s->store);
    pd_identity_wipe(&s->identity);
    memset(s, 0, sizeof *s);
}

/* ---- making ---- */

bool pd_site_exists(const char *dir) {
    char path[PD_CONFIG_PATH + 16];
    return in_dir(path, dir, "node.json") == PD_OK && pd_file_exists(path);
}

static pd_err fill_store(const char *dir, const char *manifest, size_t manifest_bytes,
                         const uint8_t *basis, size_t basis_bytes, const pd_store_addr *addrs,
                         size_t n_addrs) {
    pd_manifest m;
    uint8_t run[32];
    pd_store *store;
    pd_err e = pd_manifest_read(manifest, manifest_bytes, &m);
    if (e)
        return e;
    pd_manifest_run_id(&m, run);
    e = pd_store_open(dir, true, run, &store);
    if (e)
        return e;
    if (basis)
        e = pd_store_file_put(store, m.basis_digest, basis, basis_bytes);
    for (size_t i = 0; i < n_addrs && !e; i++)
        e = pd_store_addr_put(store, &addrs[i]);
    if (!e)
        e = pd_store_commit(store);
    pd_store_close(store);
    return e;
}

pd_err pd_site_create(const char *dir, const pd_config *config, const pd_identity *identity,
                      const char *manifest, size_t manifest_bytes, const uint8_t *basis,
                      size_t basis_bytes, const pd_store_addr *addrs, size_t n_addrs) {
    char path[PD_CONFIG_PATH + 16];
    if (pd_site_exists(dir))
        return pd_fail(PD_EEXIST, "%s holds a node already; choose another folder", dir);
    pd_err e = pd_dir_make(dir);
    if (!e)
        e = fill_store(dir, manifest, manifest_bytes, basis, basis_bytes, addrs, n_addrs);
    if (!e)
        e = in_dir(path, dir, "key");
    if (!e)
        e = pd_identity_save(path, identity);
    if (!e)
        e = in_dir(path, dir, "manifest");
    if (!e)
        e = pd_file_replace(path, manifest, manifest_bytes, 0644);
    return e ? e : pd_config_write(dir, config); /* last: with it the folder is a node */
}

/* ---- small things ---- */

pd_err pd_site_forget_checkpoint(pd_site *s) {
    pd_store_begun none = {.state = PD_AUDIT_NONE};
    pd_err e = pd_store_begun_set(s->store, &none);
    if (!e)
        e = pd_store_commit(s->store);
    if (e)
        return e;
    s->begun = none;
    pd_replica_reset(&s->replica);
    return PD_OK;
}

pd_subset pd_site_held(const pd_site *s) {
    return (pd_subset){s->heldout_data ? s->heldout_data : s->data, s->held, s->n_held};
}

pd_err pd_site_view(const pd_site *s, pd_view **out) {
    pd_err e = pd_view_open(s->space, out);
    if (!e)
        pd_view_set(*out, s->replica.a, NULL, 0);
    return e;
}

/* Every address of the machine's interfaces but loopback, IPv4 first; loopback if there is nothing
 * else. */
static uint32_t spell_out(const pd_addr *any, pd_addr out[PD_ADDRS_MAX]) {
    struct ifaddrs *list;
    uint32_t n = 0;
    if (getifaddrs(&list) != 0)
        return 0;
    for (int pass = 0; pass < 3; pass++)
        for (struct ifaddrs *i = list; i && n < PD_ADDRS_MAX; i = i->ifa_next) {
            int family = i->ifa_addr ? i->ifa_addr->sa_family : 0;
            pd_addr a = {.port = any->port};
            if (family == AF_INET) {
                a.family = 4;
                memcpy(a.ip, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, 4);
            } else if (family == AF_INET6 && any->family == 6) {
                a.family = 6;
                memcpy(a.ip, &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr, 16);
            }
            bool link_local = a.family == 6 && a.ip[0] == 0xfe && (a.ip[1] & 0xc0) == 0x80;
            bool loop = a.family && pd_addr_is_loopback(&a);
            if (!a.family || link_local ||
                (pass == 2 ? !loop || n : loop || a.family != (pass == 0 ? 4 : 6)))
                continue;
            out[n++] = a;
        }
    freeifaddrs(list);
    return n;
}

uint32_t pd_site_listen_addresses(const pd_site *s, const pd_net *net, pd_addr out[PD_ADDRS_MAX]) {
    pd_addr a = pd_net_listening(net);
    if (s->config.advertise[0] && pd_addr_parse(s->config.advertise, false, &out[0]) == PD_OK)
        return 1;
    if (!a.family)
        return 0;
    if (pd_addr_is_any(&a))
        return spell_out(&a, out);
    out[0] = a;
    return 1;
}

uint32_t pd_site_addresses(const pd_site *s, pd_known_addr *out, uint32_t room) {
    pd_store_addr addrs[PD_MEMBERS_MAX * PD_ADDRS_MAX];
    size_t n = 0;
    if (pd_store_addrs(s->store, addrs, sizeof addrs / sizeof *addrs, &n) != PD_OK)
        return 0;
    for (size_t i = 0; i < n && i < room; i++) {
        memcpy(out[i].key, addrs[i].key, 32);
        out[i].addr = addrs[i].addr;
    }
    return (uint32_t)(n < room ? n : room);
}

pd_err pd_site_allow_invites(const pd_site *s, pd_net *net) {
    pd_err e = PD_OK;
    for (uint32_t i = 0; i < s->n_invites && !e; i++) {
        uint8_t pub[32], sec[32];
        if (!s->invites[i].uses)
            continue;
        pd_curve_from_ticket(s->invites[i].secret, pub, sec);
        e = pd_net_allow_guest(net, pub, s->invites[i].id);
        pd_wipe(sec, sizeof sec);
    }
    return e;
}

bool pd_site_invite_used(pd_site *s, uint64_t id) {
    for (uint32_t i = 0; i < s->n_invites; i++)
        if (s->invites[i].id == id && s->invites[i].uses) {
            s->invites[i].uses--;
            return s->invites[i].uses == 0;
        }
    return true;
}
