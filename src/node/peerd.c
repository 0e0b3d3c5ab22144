/* peerd.c - main of the node: one table of commands. */
#include "cmd.h"
#include "peerd/err.h"
#include "peerd/identity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"init", pd_cmd_init, "a new run, and its founder's node"},
    {"join", pd_cmd_join, "a new node in the run that a ticket names"},
    {"rebase", pd_cmd_rebase, "go on from a stopped node's run as a new one"},
    {"run", pd_cmd_run, "train and gossip until stopped"},
    {"eval", pd_cmd_eval, "mean loss of a model over a file of records"},
    {"generate", pd_cmd_generate, "continue a text"},
    {"fit", pd_cmd_fit, "first-order training in a run's space: the ceiling"},
    {"verify", pd_cmd_verify, "replay a stopped node from the base, compare digests"},
    {"export", pd_cmd_export, "a stopped node's adapter, for other engines"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *f) {
    fputs("usage: peerd COMMAND ...      (peerd COMMAND --help says more)\n\n", f);
    for (int i = 0; i < COMMANDS; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\npeerctl is the tool for a running node.\n", f);
}

/* Idle threads of the OpenMP runtime spin by default, which on few cores takes time from other
 * processes (a swarm on one machine) and from our own.  The runtime reads the environment while it
 * loads, before any of our code, so the program starts itself once more with the wish set.  Whoever
 * sets either variable is left alone.
 */
static void wait_passively(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    if (setenv("OMP_WAIT_POLICY", "passive", 1) == 0)
        execv("/proc/self/exe", argv); /* where that fails we go on, only less politely */
}

int main(int argc, char **argv) {
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
        puts("peerd " PD_VERSION);
        return 0;
    }
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                      strcmp(argv[1], "help") == 0)) {
        print_help(stdout);
        return 0;
    }
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        wait_passively(argv);
        if (pd_crypto_init()) {
            fprintf(stderr, "peerd: %s\n", pd_fail_text());
            return 1;
        }
        char name[32];
        snprintf(name, sizeof name, "peerd %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "peerd: unknown command '%s' (see peerd --help)\n", argv[1]);
    return 2;
}
