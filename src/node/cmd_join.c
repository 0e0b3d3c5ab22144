/* cmd_join.c - peerd join: a new node in a run, by a ticket.  Everything that can be wrong here is
 * looked at before the ticket is shown to anyone; the folder is built aside and appears whole. */
#include "cmd.h"
#include "join.h"
#include "local.h"
#include "parent.h"
#include "peerd/base.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "site.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const pd_command_help help = {
    .usage = "peerd join DIR TICKET --model FILE --data FILE",
    .what = "Make DIR, a new node in the run that the ticket is for (a member prints one with: "
            "peerctl invite).\n"
            "The inviter must be running. The model file must be the run's; the records stay here. "
            "Into a run\n"
            "that goes on from another one (peerd rebase): --parent, a stopped node of that one, "
            "instead of\n"
            "--model; files, address, name and the like are that node's where no flag says "
            "otherwise.",
    .example = "peerd join ./site-b peerd1aebagba... --model smollm2.gguf --data mine.jsonl"};

#define ASIDE ".joining-XXXXXX" /* behind the folder's name, while it is built */

typedef struct join {
    char dir[PATH_MAX], aside[PATH_MAX + 16];
    const char *ticket_text, *catch_up, *parent_dir;
    pd_catch_up wish;
    pd_ticket ticket;
    pd_local local;
    pd_config config, parent_config;
    pd_parent parent;
    char model[PATH_MAX + 32]; /* made from it */
    pd_identity identity;
    pd_base *base;
    pd_tokenizer *tokenizer;
    pd_joined joined;
} join;

/* ---- before anyone is asked ---- */

/* A node is there already: of which run? */
static pd_err already(const char *dir, const pd_ticket *t) {
    pd_site s;
    pd_err e = pd_site_open(dir, PD_SITE_RUN, &pd_site_as_set, &s);
    if (e)
        return pd_fail_in(e, "%s holds a node, but it cannot be read", dir);
    bool same = memcmp(s.run, t->net, sizeof t->net) == 0;
    pd_site_close(&s);
    return same ? pd_fail(PD_EEXIST,
                          "%s is a node of that run already; start it with: peerd run %s", dir, dir)
                : pd_fail(PD_EEXIST, "%s holds a node of another run; choose another folder", dir);
}

static bool is_empty(DIR *d) {
    struct dirent *f;
    while ((f = readdir(d)))
        if (strcmp(f->d_name, ".") != 0 && strcmp(f->d_name, "..") != 0)
            return false;
    return true;
}

/* The folder's name without slashes at its end; it must not exist, or be empty. */
static pd_err choose_dir(join *x, const char *dir) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (n == 0 || n >= sizeof x->dir)
        return pd_fail(PD_EUSAGE, "not a folder's name: %s", dir);
    memcpy(x->dir, dir, n);
    x->dir[n] = 0;
    if (pd_site_exists(x->dir))
        return already(x->dir, &x->ticket);
    DIR *d = opendir(x->dir);
    if (!d)
        return errno == ENOENT
                   ? PD_OK
                   : pd_fail(PD_EEXIST, "cannot make a node in %s: %s", x->dir, strerror(errno));
    bool empty = is_empty(d);
    closedir(d);
    if (!empty)
        return pd_fail(PD_EEXIST, "%s exists and is not empty; choose another folder", x->dir);
    return realpath(dir, x->dir) ? PD_OK
                                 : pd_fail(PD_EIO, "cannot open %s: %s", dir, strerror(errno));
}

static pd_err try_data(const join *x, const char *path) {
    pd_data_opts opts = {.max_tokens = x->config.batch_tokens, .skip_bad = x->config.skip_bad};
    pd_data *d;
    pd_err e = path[0] ? pd_data_open(path, x->tokenizer, &opts, &d) : PD_OK;
    if (!e && path[0])
        pd_data_close(d);
    return e;
}

/* Packing the model takes seconds and finds what only shows when it is used; a used-up ticket would
 * cost two people more.
 */
static pd_err try_model(join *x) {
    pd_model_opts opts = {.compute = x->config.compute, .threads = x->config.threads};
    pd_model *m;
    pd_err e = pd_base_open(x->config.model, &x->base);
    if (!e)
        e = pd_base_tokenizer(x->base, &x->tokenizer);
    if (!e)
        e = pd_base_model(x->base, &opts, &m);
    if (e)
        return e;
    e = pd_base_check_vocab(x->base, x->tokenizer, m);
    pd_model_close(m);
    return e;
}

static pd_err open_aside(join *x) {
    snprintf(x->aside, sizeof x->aside, "%s" ASIDE, x->dir);
    if (mkdtemp(x->aside))
        return PD_OK;
    pd_err e = pd_fail(PD_EIO, "cannot make a folder beside %s: %s", x->dir, strerror(errno));
    x->aside[0] = 0;
    return e;
}

/* The run's base, made from the parent's node. */
static pd_err make_model(join *x) {
    if (x->local.model)
        return pd_fail(PD_EUSAGE, "--parent makes the model: give it or --model, not both");
    pd_err e = open_aside(x);
    if (!e)
        e = pd_path_join(x->model, sizeof x->model, x->aside, PD_PARENT_MODEL);
    if (!e)
        e = pd_parent_merge(x->parent_dir, x->model, &x->parent);
    x->local.model = x->model;
    return e;
}

/* Where that will lie once the folder is in its place. */
static void name_model(join *x) {
    char *folder =
        strstr(x->config.model, x->aside + strlen(x->dir)); /* ".joining-" and its draw */
    assert(folder);
    memmove(folder, folder + strlen(ASIDE), strlen(folder + strlen(ASIDE)) + 1);
}

static pd_err look_first(join *x, const char *dir) {
    pd_err e = pd_ticket_read(x->ticket_text, &x->ticket);
    if (!e)
        e = choose_dir(x, dir);
    if (!e)
        e = pd_catch_up_parse(x->catch_up, &x->wish);
    if (!e && x->parent_dir)
        e = make_model(x);
    if (!e)
        e = pd_local_config(&x->local, x->dir, &x->config);
    if (!e)
        e = try_model(x);
    if (!e)
        e = try_data(x, x->config.data);
    if (!e)
        e = try_data(x, x->config.heldout);
    if (!e && x->parent_dir)
        name_model(x);
    return e;
}

/* ---- the folder ---- */

static void drop_aside(join *x) {
    char path[PATH_MAX + 300];
    DIR *d = x->aside[0] ? opendir(x->aside) : NULL;
    struct dirent *f;
    if (!d)
        return;
    while ((f = readdir(d)))
        if (snprintf(path, sizeof path, "%s/%s", x->aside, f->d_name) < (int)sizeof path)
            unlink(path); /* of `.` and `..` it does nothing */
    closedir(d);
    rmdir(x->aside);
}

/* What the first start begins with, and its audit ends with. */
static pd_err store_checkpoint(const join *x, pd_store *s) {
    const pd_joined *g = &x->joined;
    pd_store_begun b = {
        .state = PD_AUDIT_OPEN, .voices = g->voices, .records = g->ckpt_name.records};
    if (!g->ckpt)
        return PD_OK;
    memcpy(b.digest, g->ckpt_name.file, 32);
    pd_err e = pd_store_file_put(s, b.digest, g->ckpt, (size_t)g->ckpt_name.size);
    return e ? e : pd_store_begun_set(s, &b);
}

/* What was told while joining, so that the first start knows every member. */
static pd_err store_logs(const join *x) {
    pd_store *s;
    uint8_t inc[4];
    bool behind = true;
    pd_err e = pd_store_open(x->aside, false, x->joined.run, &s);
    if (e)
        return e;
    pd_store32(inc, x->joined.incarnation);
    if (x->joined.incarnation)
        e = pd_store_meta_set(s, "incarnation", inc, sizeof inc);
    while (behind && !e)
        e = pd_store_follow(s, x->joined.ledger, &behind);
    if (!e)
        e = store_checkpoint(x, s);
    if (!e)
        e = pd_store_commit(s);
    pd_store_close(s);
    return e;
}

static pd_err put_in_place(join *x) {
    char parent[PATH_MAX];
    if (rename(x->aside, x->dir) != 0)
        return pd_fail(errno == ENOSPC ? PD_EFULL : PD_EIO, "cannot make %s: %s", x->dir,
                       strerror(errno));
    x->aside[0] = 0;
    const char *slash = strrchr(x->dir, '/');
    int n = slash ? (int)(slash - x->dir) : 0;
    snprintf(parent, sizeof parent, "%.*s", slash ? (n ? n : 1) : 1, slash ? x->dir : ".");
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        pd_warn("cannot flush %s: %s", parent, strerror(errno));
    if (fd >= 0)
        close(fd);
    return PD_OK;
}

static pd_err write_node(join *x) {
    const pd_joined *g = &x->joined;
    pd_store_addr inviter = {.addr = g->inviter, .last_ok_s = pd_wall_s()};
    memcpy(inviter.key, x->ticket.inviter, 32);
    pd_err e =
        pd_site_create(x->aside, &x->config, &x->identity, g->manifest_text, g->manifest_bytes,
                       g->basis, (size_t)g->manifest.basis_bytes, &inviter, 1);
    if (!e)
        e = store_logs(x);
    return e ? e : put_in_place(x);
}

/* ---- the command ---- */

/* The run has counted this node in by now. */
static pd_err check_model(void *ctx, const pd_manifest *m) {
    join *x = ctx;
    char why[640];
    pd_err e = x->parent_dir ? pd_parent_check(&x->parent, x->parent_dir, m) : PD_OK;
    if (!e)
        e = pd_site_check_model(m, x->base, x->tokenizer, x->config.model);
    if (e && !x->parent_dir && pd_manifest_has_parent(m))
        e = pd_fail_in(e, "the run goes on from another one, see: peerd join --parent");
    if (!e)
        return PD_OK;
    snprintf(why, sizeof why, "%s", pd_fail_text());
    return pd_fail(e, "%s (a ticket for one node is used up by this: ask for another)", why);
}

static pd_err make(join *x, const char *dir) {
    char id[17];
    pd_err e = look_first(x, dir);
    if (!e && !x->aside[0])
        e = open_aside(x);
    if (e)
        return e;
    pd_identity_new(&x->identity);
    e = pd_join_run(&x->ticket, &x->identity, &x->config, x->wish, check_model, x, &x->joined);
    if (!e)
        e = write_node(x);
    if (e)
        return e;
    pd_hex(x->joined.run, 8, id);
    printf("joined run %s..., %s, %llu coordinates, in %s\nnext: peerd run %s\n", id,
           x->joined.manifest.model_name, (unsigned long long)x->joined.manifest.n_coords, x->dir,
           x->dir);
    return PD_OK;
}

static void join_close(join *x) {
    drop_aside(x);
    pd_joined_close(&x->joined);
    pd_tokenizer_close(x->tokenizer);
    pd_base_close(x->base);
    pd_identity_wipe(&x->identity);
    pd_wipe(&x->ticket, sizeof x->ticket);
}

int pd_cmd_join(int argc, char **argv) {
    join x = {.local = pd_local_of_defaults(), .catch_up = "auto"};
    const pd_flag flags[] = {PD_LOCAL_MODEL_FLAG(&x.local),
                             PD_LOCAL_FLAGS(&x.local),
                             {"parent", 0, PD_FLAG_TEXT, &x.parent_dir, 0, 0, "DIR",
                              "a stopped node of the run that this one goes on from"},
                             {"catch-up", 0, PD_FLAG_TEXT, &x.catch_up, 0, 0, "HOW",
                              "auto, replay or checkpoint: how to get the records so far (default "
                              "auto: what takes less)"},
                             {.name = NULL}};
    const char *at[2];
    size_t n;
    bool asked;
    pd_err e = pd_flags_parse(argc, argv, flags, at, 2, 2, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e && x.parent_dir)
        e = pd_config_read(x.parent_dir, &x.parent_config);
    if (!e && x.parent_dir) { /* again, laid over that node's settings */
        x.local = pd_local_of_config(&x.parent_config);
        e = pd_flags_parse(argc, argv, flags, at, 2, 2, &n, &asked);
    }
    if (!e) {
        x.ticket_text = at[1];
        e = make(&x, at[0]);
    }
    join_close(&x);
    if (e)
        fprintf(stderr, "peerd join: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
