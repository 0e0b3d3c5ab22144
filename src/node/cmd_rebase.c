/* cmd_rebase.c - peerd rebase: a run goes on as a new one, whose base is the old base with its
 * adapter, and whose basis is calibrated there.  A basis ages as the model moves away from where it
 * was taken; a new one costs the members no bytes but the basis file's. */
#include "cmd.h"
#include "found.h"
#include "parent.h"
#include "peerd/file.h"

#include <stdio.h>
#include <unistd.h>

static const pd_command_help help = {
    .usage = "peerd rebase DIR NEWDIR --calibrate FILE",
    .what =
        "Go on from the run of DIR, a stopped node, as a new run: NEWDIR is its founder's node,\n"
        "NEWDIR/" PD_PARENT_MODEL " its base, the old base with what was learnt added. Files, "
        "address, name and the\n"
        "like are DIR's where no flag says otherwise. Let all members get to one digest and stop "
        "before;\n"
        "they follow, each from its own node of the old run, with: peerd join NEWDIR TICKET "
        "--parent DIR",
    .example = "peerd rebase ./site-a ./site-a2 --calibrate public.jsonl"};

/* What would be found wrong only once the model is made. */
static pd_err look_first(pd_founding *x) {
    char path[PD_CONFIG_PATH];
    pd_err e = pd_founding_check(x);
    if (!e && x->calibrate)
        e = pd_path_absolute(x->calibrate, path);
    return e ? e : pd_path_absolute(x->local.data, path);
}

static pd_err found_at(pd_founding *x, const char *model, const char *dir) {
    pd_parent parent;
    char run[17];
    pd_err e = pd_parent_merge(dir, model, &parent);
    if (e)
        return e;
    pd_hex(parent.run, 8, run);
    printf("%s: the base of run %s... with the adapter of its %llu records\n", model, run,
           (unsigned long long)parent.records);
    pd_parent_put(&parent, &x->manifest);
    x->local.model = model;
    e = pd_found(x);
    if (e)
        unlink(model);
    else
        printf("the others follow with: peerd join NEWDIR TICKET --parent DIR\n");
    return e;
}

static pd_err rebase(pd_founding *x, const char *dir) {
    char model[PD_CONFIG_PATH];
    pd_err e = look_first(x);
    if (!e)
        e = pd_path_join(model, sizeof model, x->dir, PD_PARENT_MODEL);
    if (e)
        return e;
    bool is_there = access(x->dir, F_OK) == 0;
    e = pd_dir_make(x->dir);
    if (!e)
        e = found_at(x, model, dir);
    if (e && !is_there)
        rmdir(x->dir);
    return e;
}

int pd_cmd_rebase(int argc, char **argv) {
    pd_founding x = pd_founding_of_defaults();
    pd_config old;
    pd_flag flags[PD_FOUNDING_FLAGS];
    const char *at[2];
    size_t n;
    bool asked;
    pd_founding_flags(&x, false, flags);
    pd_err e = pd_flags_parse(argc, argv, flags, at, 2, 2, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e)
        e = pd_config_read(at[0], &old);
    if (!e) { /* again, now that the folder is known whose settings the flags are laid over */
        x.local = pd_local_of_config(&old);
        e = pd_flags_parse(argc, argv, flags, at, 2, 2, &n, &asked);
    }
    if (!e) {
        x.dir = at[1];
        e = rebase(&x, at[0]);
    }
    pd_founding_close(&x);
    if (e)
        fprintf(stderr, "peerd rebase: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
