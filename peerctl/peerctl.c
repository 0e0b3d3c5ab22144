/* peerctl.c - main of the person's tool: one table of commands; each talks to the running node. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    ctl_command *run;
    const char *help;
} commands[] = {
    {"status", ctl_status, "what the node and its peers are doing"},
    {"members", ctl_members, "who is in the run: state, address, records, who invited them"},
    {"log", ctl_log, "the records, one a line"},
    {"journal", ctl_journal, "what the node has said lately, with reasons"},
    {"doctor", ctl_doctor, "what is wrong, and the line that mends it"},
    {"invite", ctl_invite, "print a ticket: one string that lets one more node join the run"},
    {"join", ctl_join, "join a run with a ticket"},
    {"leave", ctl_leave, "say goodbye for good and end the node"},
    {"ban", ctl_ban, "put a member out of the run"},
    {"rotate", ctl_rotate, "give the node a new key"},
    {"pause", ctl_pause, "stop training, keep relaying"},
    {"resume", ctl_resume, "train again"},
    {"verify", ctl_verify, "replay all records from the base and compare digests"},
    {"checkpoint", ctl_checkpoint, "make a checkpoint for newcomers now"},
    {"backup", ctl_backup, "copy the ledger while the node runs"},
    {"export", ctl_export, "write the adapter, or the whole model, for other programs"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *f) {
    fputs("usage: peerctl [-d DIR] COMMAND ...      (peerctl COMMAND --help says more)\n\n", f);
    for (int i = 0; i < COMMANDS; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\n  -d DIR   the node's folder; else $PEERD_DIR, else the current one\n"
          "  --version, --help\n\n"
          "example: peerctl -d site-a status\n",
          f);
}

static int run(ctl *c, const char *command, int argc, char **argv) {
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(command, commands[i].name) == 0) {
            char name[32];
            snprintf(name, sizeof name, "peerctl %s", command);
            argv[0] = name;
            return commands[i].run(c, argc, argv);
        }
    fprintf(stderr, "peerctl: unknown command '%s' (see: peerctl --help)\n", command);
    return 2;
}

int main(int argc, char **argv) {
    ctl c = {0};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--version") == 0) {
            puts("peerctl " PD_VERSION);
            return 0;
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(stdout);
            return 0;
        }
        bool dir = strcmp(argv[i], "-d") == 0 || strcmp(argv[i], "--dir") == 0;
        if (!dir || i + 1 == argc) {
            fprintf(stderr, "peerctl: %s %s (see: peerctl --help)\n",
                    dir ? "no folder stands after" : "unknown flag", argv[i]);
            return 2;
        }
        c.dir = argv[++i];
    }
    if (i < argc && strcmp(argv[i], "help") == 0) {
        char *help[] = {argv[i], "--help", NULL};
        if (i + 1 < argc)
            return run(&c, argv[i + 1], 2, help);
        print_help(stdout);
        return 0;
    }
    if (i == argc) {
        print_help(stderr);
        return 2;
    }
    return run(&c, argv[i], argc - i, argv + i);
}
