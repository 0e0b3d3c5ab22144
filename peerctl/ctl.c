/* ctl.c - what the commands share; see ctl.h. */
#include "ctl.h"
#include "peerd/file.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool ctl_help(int argc, char **argv, const pd_flag *flags, const pd_command_help *text,
              const char **rest, size_t n, pd_err *e) {
    bool help;
    size_t got;
    *e = pd_flags_parse(argc, argv, flags, rest, n, n, &got, &help);
    if (!*e && help)
        pd_flags_help(text, flags);
    return !*e && help;
}

int ctl_fail(pd_err e) {
    fprintf(stderr, "peerctl: %s\n", pd_fail_text());
    return pd_err_exit(e);
}

bool ctl_is_node(const char *dir) {
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/node.json", dir) < (int)sizeof path &&
           pd_file_exists(path);
}

pd_err ctl_dir(ctl *c) {
    const char *env = getenv("PEERD_DIR");
    if (!c->dir && env && *env)
        c->dir = env;
    if (!c->dir && ctl_is_node("."))
        c->dir = ".";
    return c->dir ? PD_OK
                  : pd_fail(PD_EUSAGE, "this folder holds no node: name one with -d DIR or "
                                       "$PEERD_DIR");
}

pd_err ctl_ask(ctl *c, const char *cmd, cJSON *request, uint32_t timeout_ms, cJSON **reply) {
    pd_err e = ctl_dir(c);
    cJSON *r = request ? request : cJSON_CreateObject();
    if (!e && (!r || !cJSON_AddStringToObject(r, "cmd", cmd)))
        e = pd_fail(PD_ENOMEM, "no memory for a request");
    if (!e)
        e = pd_control_call(c->dir, r, timeout_ms, reply);
    cJSON_Delete(r);
    return e;
}

int ctl_simple(ctl *c, int argc, char **argv, const pd_flag *flags, const pd_command_help *text,
               const char *cmd, uint32_t timeout_ms, cJSON **reply) {
    pd_err e;
    *reply = NULL;
    if (ctl_help(argc, argv, flags, text, NULL, 0, &e))
        return 0;
    if (!e)
        e = ctl_ask(c, cmd, NULL, timeout_ms, reply);
    return e ? ctl_fail(e) : 0;
}

double ctl_number(const cJSON *o, const char *name) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNumber(v) ? cJSON_GetNumberValue(v) : (double)NAN;
}

const char *ctl_text(const cJSON *o, const char *name) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, name));
}

bool ctl_true(const cJSON *o, const char *name) {
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, name));
}

void ctl_print_json(cJSON *reply) {
    cJSON_DeleteItemFromObjectCaseSensitive(reply, "ok");
    char *text = cJSON_Print(reply);
    puts(text ? text : "{}");
    cJSON_free(text);
}

/* A few results at a time, for one printf. */
static char *buffer(void) {
    static char ring[8][32];
    static unsigned at;
    return ring[at++ % 8];
}

const char *ctl_count(double n) {
    char *out = buffer();
    if (n >= 0)
        snprintf(out, 32, "%.0f", n);
    return n >= 0 ? out : "-";
}

const char *ctl_short(double n) {
    char *out = buffer();
    if (!(n >= 0))
        return "-";
    if (n < 99999.5)
        snprintf(out, 32, "%.0f", n);
    else if (n < 1e6)
        snprintf(out, 32, "%.0fk", n / 1e3);
    else if (n < 999.95e6)
        snprintf(out, 32, "%.1fM", n / 1e6);
    else if (n < 999.95e9)
        snprintf(out, 32, "%.1fG", n / 1e9);
    else
        snprintf(out, 32, "%.0fT", n / 1e12);
    return out;
}

void ctl_wrap(int indent, const char *label, const char *text) {
    enum { WIDTH = 79 };
    size_t at = (size_t)printf("%-*s", indent, label);
    for (bool first = true; *text; first = false) {
        size_t n = strcspn(text, " ");
        if (!first && at + 1 + n > WIDTH) {
            printf("\n%*s", indent, "");
            at = (size_t)indent;
            first = true;
        }
        at += (size_t)printf("%s%.*s", first ? "" : " ", (int)n, text);
        text += n;
        text += *text == ' ';
    }
    putchar('\n');
}

const char *ctl_bytes(double b) {
    char *out = buffer();
    if (!(b >= 0))
        return "-";
    if (b < 1000)
        snprintf(out, 32, "%.0f B", b);
    else if (b < 1e6)
        snprintf(out, 32, "%.1f kB", b / 1e3);
    else if (b < 1e9)
        snprintf(out, 32, "%.1f MB", b / 1e6);
    else
        snprintf(out, 32, "%.1f GB", b / 1e9);
    return out;
}

const char *ctl_age(double ms) {
    char *out = buffer();
    if (!(ms >= 0))
        return "-";
    double s = ms / 1000;
    unsigned long whole = s < 1e9 ? (unsigned long)s : 1000000000ul;
    if (ms < 1000)
        snprintf(out, 32, "%.0f ms", ms);
    else if (s < 60)
        snprintf(out, 32, "%.1f s", s);
    else if (s < 3600)
        snprintf(out, 32, "%lu min %lu s", whole / 60, whole % 60);
    else if (s < 86400)
        snprintf(out, 32, "%lu h %lu min", whole / 3600, whole / 60 % 60);
    else
        snprintf(out, 32, "%lu d %lu h", whole / 86400, whole / 3600 % 24);
    return out;
}

pd_err ctl_absolute(const char *path, char out[PATH_MAX]) {
    char cwd[PATH_MAX] = "";
    if (path[0] != '/' && !getcwd(cwd, sizeof cwd))
        return pd_fail(PD_EIO, "cannot tell the current folder");
    int n = snprintf(out, PATH_MAX, "%s%s%s", cwd, path[0] == '/' ? "" : "/", path);
    return n >= 0 && n < PATH_MAX ? PD_OK : pd_fail(PD_EUSAGE, "path too long: %s", path);
}

const char *ctl_key(const char *hex) {
    char *out = buffer();
    snprintf(out, 32, "%.8s", hex ? hex : "-");
    return out;
}

const char *ctl_or_dash(const char *text) {
    return text && *text ? text : "-";
}

int ctl_exec_peerd(const char *const args[]) {
    char path[PATH_MAX] = "";
    char *argv[64];
    size_t n = 0;
    ssize_t k = readlink("/proc/self/exe", path, sizeof path - 8);
    char *slash = k > 0 ? memrchr(path, '/', (size_t)k) : NULL;
    argv[n++] = "peerd";
    for (size_t i = 0; args[i] && n < sizeof argv / sizeof *argv - 1; i++)
        argv[n++] = (char *)(uintptr_t)args[i];
    argv[n] = NULL;
    fflush(stdout);
    if (slash) {
        strcpy(slash + 1, "peerd");
        execv(path, argv);
    }
    execvp("peerd", argv);
    return ctl_fail(pd_fail(PD_ENOENT,
                            "cannot start peerd: %s (it belongs beside peerctl or on "
                            "PATH)",
                            strerror(errno)));
}
