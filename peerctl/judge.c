/* judge.c - one function a check; see judge.h.  A bound has its reason beside it. */
#include "judge.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const double FLUSH_LEAST_US = 50; /* no disk or flash makes a page durable in less */
static const double DISK_LEAST = 16e6;   /* twice what the store holds back for a full disk */
static const double DISK_LOW = 256e6;
static const double FILES_FULL = 0.8;        /* where the node shuts its door */
static const double FILES_LOW = 256;         /* 64 sessions of 3 descriptors each */
static const double MEMORY_LOW = 0.05;       /* of the machine's, left over */
static const double LONG_AGO_S = 1704067200; /* 2024-01-01: older than the program */
static const double DAY_S = 86400;
static const double WAIT_MS = 10000;    /* and three sealing times: then a seal is overdue */
static const double CALLED_MS = 120000; /* in two minutes every member has had time to dial */
static const double WORSE_SHARE = 0.05, WORSE_LEAST = 0.02; /* as the trainer judges */
static const double LOST_SHARE = 0.1;                       /* of probes, without a finite loss */
enum { MESH_MOST = 16 }; /* up to so many members everyone is linked with everyone */

const char *const ctl_level_names[] = {"ok", "warn", "bad"};

typedef struct facts {
    const char *dir;
    const cJSON *status, *health, *check;
} facts;

void ctl_say(ctl_check *c, ctl_level level, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->text, sizeof c->text, fmt, ap);
    va_end(ap);
    c->level = level;
}

void ctl_mend(ctl_check *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->mend, sizeof c->mend, fmt, ap);
    va_end(ap);
}

static bool is(const cJSON *o, const char *name, const char *text) {
    return strcmp(ctl_or_dash(ctl_text(o, name)), text) == 0;
}

/* A field in which the node names an error, or "". */
static const char *error_in(const cJSON *o, const char *name) {
    const char *text = ctl_text(o, name);
    return text ? text : "";
}

/* ---- the node ---- */

static void judge_node(const facts *f, ctl_check *c) {
    const char *state = ctl_or_dash(ctl_text(f->status, "state")),
               *why = ctl_or_dash(ctl_text(f->status, "why"));
    if (is(f->health, "trainer", "stopped")) {
        ctl_say(c, CTL_BAD, "silenced: %s", why);
        ctl_mend(c, "peerctl -d %s journal    (then: peerctl -d %s resume)", f->dir, f->dir);
    } else if (strcmp(state, "silenced") == 0) {
        ctl_say(c, CTL_BAD, "silenced: %s", why);
        ctl_mend(c, "under a new key: stop it, and peerd join NEWDIR with a member's ticket");
    } else if (strcmp(state, "paused") == 0) {
        ctl_say(c, CTL_WARN, "paused: it relays and makes no records");
        ctl_mend(c, "peerctl -d %s resume", f->dir);
    } else if (strcmp(state, "listening") == 0) {
        ctl_say(c, CTL_WARN, "listening: %s", why);
        ctl_mend(c, "wait; or start another member's node, so that it has somebody to listen to");
    } else {
        ctl_say(c, CTL_OK, "answers, %s at step %.0f", state, ctl_number(f->status, "step"));
    }
}

static void judge_version(const facts *f, ctl_check *c) {
    const char *version = ctl_or_dash(ctl_text(f->status, "version"));
    if (strcmp(version, PD_VERSION) == 0) {
        ctl_say(c, CTL_OK, "peerd and peerctl are both " PD_VERSION);
        return;
    }
    ctl_say(c, CTL_WARN, "peerd is %s, peerctl " PD_VERSION, version);
    ctl_mend(c, "install both of one version, then start the node again: peerd run %s", f->dir);
}

/* ---- others ---- */

static bool is_linked(const cJSON *p) {
    return is(p, "link", "up") || is(p, "link", "suspect");
}

/* The first member that is here and has no link; *count of them. */
static const cJSON *first_unlinked(const facts *f, unsigned *count) {
    const cJSON *p, *first = NULL;
    *count = 0;
    cJSON_ArrayForEach(p, cJSON_GetObjectItemCaseSensitive(f->status, "peers")) {
        if (is_linked(p) || !is(p, "member", "here"))
            continue;
        first = first ? first : p;
        ++*count;
    }
    return first;
}

static void judge_links(const facts *f, ctl_check *c) {
    double members = ctl_number(f->status, "members"), links = ctl_number(f->status, "links");
    unsigned count;
    const cJSON *p = first_unlinked(f, &count);
    const char *why = p ? error_in(p, "link_why") : "";
    bool solo = ctl_true(f->health, "solo");
    if (solo || !(members > 0)) {
        ctl_say(c, CTL_WARN, solo ? "it runs alone (--solo)" : "nobody else is in the run");
        ctl_mend(c,
                 solo ? "start it without --solo: peerd run %s"
                      : "peerctl -d %s invite    (a ticket for another node)",
                 f->dir);
    } else if (!(links > 0)) {
        ctl_say(c, CTL_BAD, "linked to none of %.0f members%s%s", members, *why ? ": " : "", why);
        ctl_mend(c, "start their nodes; see where they are dialled: peerctl -d %s members", f->dir);
    } else if (count && members < MESH_MOST) {
        ctl_say(c, CTL_WARN, "%u members that are here have no link; %s: %s", count,
                ctl_or_dash(ctl_text(p, "name")), *why ? why : "not reached yet");
        ctl_mend(c, "see where they are dialled: peerctl -d %s members; same peerd everywhere",
                 f->dir);
    } else {
        ctl_say(c, CTL_OK,
                "linked to %.0f of %.0f; each link began by comparing run (%.8s) and protocol",
                links, members, ctl_or_dash(ctl_text(f->status, "run")));
    }
}

/* Whether others can dial this node.  Nobody is asked to try: what is known is who has dialled. */
static void judge_reachable(const facts *f, ctl_check *c) {
    double ago = ctl_number(f->health, "called_ago_ms"), up = ctl_number(f->status, "uptime_s");
    const char *from = ctl_or_dash(ctl_text(f->health, "called_from"));
    unsigned unlinked;
    bool local = strncmp(from, "127.", 4) == 0 || strncmp(from, "[::1]", 5) == 0;
    (void)first_unlinked(f, &unlinked);
    if (!ctl_text(f->status, "listen")) {
        ctl_say(c, CTL_OK, "it only dials, as its settings say; members that listen reach it so");
    } else if (!isnan(ago)) {
        ctl_say(c, CTL_OK, "a member dialled it %s ago, from %s%s", ctl_age(ago), from,
                local ? " on this machine, which says nothing about others" : "");
    } else if (unlinked && 1000 * up > CALLED_MS) {
        ctl_say(c, CTL_WARN, "no member has dialled it in %s, and %u have no link",
                ctl_age(1000 * up), unlinked);
        ctl_mend(c, "let TCP to %s in; behind a NAT, set \"advertise\" in %s/node.json",
                 ctl_text(f->status, "listen"), f->dir);
    } else {
        ctl_say(c, CTL_OK, "not known: no member has dialled it yet%s",
                ctl_number(f->status, "links") > 0 ? ", all links are of its own dialling" : "");
    }
}

static void judge_peers(const facts *f, ctl_check *c) {
    double frames = ctl_number(f->status, "bad_frames"), seals = ctl_number(f->status, "bad_seals");
    if (frames + seals > 0) {
        ctl_say(c, CTL_WARN,
                "refused %.0f frames that do not parse and %.0f seals that do not hold", frames,
                seals);
        ctl_mend(c, "see who sent them: peerctl -d %s journal", f->dir);
    } else {
        ctl_say(c, CTL_OK, "nothing malformed or wrongly sealed came in");
    }
}

/* ---- training ---- */

static void judge_sealing(const facts *f, ctl_check *c) {
    double every = ctl_number(f->status, "seal_ms"), age = ctl_number(f->status, "unsealed_age_ms"),
           ago = ctl_number(f->health, "sealed_ago_ms"), n = ctl_number(f->status, "unsealed");
    if (n > 0 && age > 3 * every + WAIT_MS) {
        ctl_say(c, CTL_BAD, "%.0f own records wait for their seal since %s, which is due every %s",
                n, ctl_age(age), ctl_age(every));
        ctl_mend(c, "see what the store says: peerctl -d %s journal", f->dir);
    } else if (isnan(ago)) {
        ctl_say(c, CTL_OK, "nothing sealed since its start; every %s when there are records",
                ctl_age(every));
    } else {
        ctl_say(c, CTL_OK, "sealed %s ago, every %s when there are records", ctl_age(ago),
                ctl_age(every));
    }
}

static void judge_loss(const facts *f, ctl_check *c) {
    const cJSON *h = cJSON_GetObjectItemCaseSensitive(f->status, "heldout");
    double first = ctl_number(h, "loss_before"), now = ctl_number(h, "loss_now"),
           best = ctl_number(f->health, "heldout_best"), lost = ctl_number(f->health, "not_finite"),
           made = ctl_number(f->health, "made");
    if (lost > LOST_SHARE * (lost + made)) {
        ctl_say(c, CTL_BAD, "%.0f of %.0f probes gave no finite loss", lost, lost + made);
        ctl_mend(c, "a run with a smaller --lr or --eps: peerd init --help");
    } else if (isnan(now)) {
        ctl_say(c, CTL_OK, "no held-out loss yet");
    } else if (now > best + fmax(WORSE_LEAST, WORSE_SHARE * best)) {
        ctl_say(c, CTL_WARN, "held-out loss %.4f, and it has been %.4f: it rises", now, best);
        ctl_mend(c, "watch it: peerctl -d %s status; stop speaking: peerctl -d %s pause", f->dir,
                 f->dir);
    } else {
        ctl_say(c, CTL_OK, "held-out loss %.4f, %.4f at the start", now, first);
    }
}

/* ---- what it keeps ---- */

static void judge_ledger(const facts *f, ctl_check *c) {
    const char *ledger = error_in(f->check, "ledger_error");
    if (*ledger) {
        ctl_say(c, CTL_BAD, "%s", ledger);
        ctl_mend(c, "stop the node and restore a backup: peerctl backup --help");
    } else {
        ctl_say(c, CTL_OK, "the database is whole (%s) and of this start",
                ctl_bytes(ctl_number(f->check, "ledger_bytes")));
    }
}

static void judge_disk(const facts *f, ctl_check *c) {
    const char *store = error_in(f->status, "store_error"),
               *disk = error_in(f->check, "disk_error");
    double room = ctl_number(f->check, "disk_free_bytes"), us = ctl_number(f->check, "flush_us");
    ctl_mend(c, "make room on the disk of %s; the node goes on by itself", f->dir);
    if (*store || *disk) {
        ctl_say(c, CTL_BAD, "%s", *store ? store : disk);
    } else if (room < DISK_LEAST) {
        ctl_say(c, CTL_BAD, "%s are free", ctl_bytes(room));
    } else if (us < FLUSH_LEAST_US) {
        ctl_say(c, CTL_WARN, "does not flush: 4 KiB were durable in %.0f us, which no disk does",
                us);
        ctl_mend(c, "keep %s on a disk that survives a loss of power; turn its write cache off",
                 f->dir);
    } else if (room < DISK_LOW) {
        ctl_say(c, CTL_WARN, "%s are free", ctl_bytes(room));
    } else {
        ctl_say(c, CTL_OK, "%s free; 4 KiB are durable in %.1f ms", ctl_bytes(room), us / 1000);
        ctl_mend(c, "%s", "");
    }
}

static void judge_model(const facts *f, ctl_check *c) {
    const char *model = ctl_text(f->check, "model_error");
    if (!model) {
        ctl_say(c, CTL_OK, "the model file was not read (--quick)");
    } else if (*model) {
        ctl_say(c, CTL_BAD, "%s", model);
        ctl_mend(c, "put the run's model back before the next start, or name it in %s/node.json",
                 f->dir);
    } else {
        ctl_say(c, CTL_OK, "the model file is the run's");
    }
}

/* The state that this node began with, and those that others offer. */
static void judge_checkpoint(const facts *f, ctl_check *c) {
    const cJSON *k = cJSON_GetObjectItemCaseSensitive(f->status, "checkpoint");
    const char *audit = ctl_or_dash(ctl_text(k, "audit")),
               *why = ctl_or_dash(ctl_text(k, "wrong_why"));
    if (strcmp(audit, "differs") == 0) {
        ctl_say(c, CTL_BAD,
                "the one that this node began with was wrong, though %.0f members attest it; it "
                "has gone on with what the records give",
                ctl_number(k, "voices"));
        ctl_mend(c, "see who attests it, and ban them: peerctl -d %s log --control", f->dir);
    } else if (ctl_number(k, "wrong") > 0) {
        ctl_say(c, CTL_BAD, "%.0f that members attest are wrong: %.200s", ctl_number(k, "wrong"),
                why);
        ctl_mend(c, "see who attests them, and ban them: peerctl -d %s log --control", f->dir);
    } else if (ctl_true(k, "waits")) {
        ctl_say(c, CTL_WARN, "replay waits for %s from before the one that this node began with",
                ctl_bytes(ctl_number(k, "lacking_bytes")));
        ctl_mend(c, "wait; or start a member's node that holds all records: peerctl -d %s members",
                 f->dir);
    } else if (strcmp(audit, "open") == 0) {
        ctl_say(c, CTL_OK, "this node's state rests on %.0f members until its audit is done",
                ctl_number(k, "voices"));
    } else {
        ctl_say(c, CTL_OK, "everything here was replayed by this node itself");
    }
}

/* ---- the machine ---- */

static void judge_memory(const facts *f, ctl_check *c) {
    double used = ctl_number(f->health, "memory_bytes"),
           out = ctl_number(f->health, "swapped_bytes"),
           room = ctl_number(f->health, "memory_free_bytes"),
           all = ctl_number(f->health, "memory_total_bytes");
    bool swapped = out > used / 10, low = room < MEMORY_LOW * all;
    if (swapped || low) {
        ctl_say(c, CTL_WARN, "the node holds %s%s%s; %s of %s are free", ctl_bytes(used),
                swapped ? " and is swapped out by " : "", swapped ? ctl_bytes(out) : "",
                ctl_bytes(room), ctl_bytes(all));
        ctl_mend(c, "fewer records a probe: peerd run %s --batch N; or end other programs", f->dir);
    } else {
        ctl_say(c, CTL_OK, "the node holds %s; %s of %s are free", ctl_bytes(used), ctl_bytes(room),
                ctl_bytes(all));
    }
}

static void judge_cores(const facts *f, ctl_check *c) {
    double threads = ctl_number(f->health, "threads"), cores = ctl_number(f->health, "cores"),
           load = ctl_number(f->health, "load");
    if (threads > cores) {
        ctl_say(c, CTL_WARN, "%.0f threads on %.0f cores wait for each other", threads, cores);
        ctl_mend(c, "peerd run %s --threads %.0f", f->dir, cores);
    } else if (load > 2 * cores + 1) {
        ctl_say(c, CTL_WARN, "a load of %.1f on %.0f cores: probes wait for other programs", load,
                cores);
        ctl_mend(c, "leave cores to them: peerd run %s --threads N", f->dir);
    } else {
        ctl_say(c, CTL_OK, "%.0f threads on %.0f cores, load %.1f", threads, cores, load);
    }
}

static void judge_files(const facts *f, ctl_check *c) {
    double used = ctl_number(f->health, "files"), most = ctl_number(f->health, "files_max");
    bool open = ctl_true(f->health, "door_open") || !ctl_text(f->status, "listen");
    ctl_mend(c, "in the shell that starts it: ulimit -n 4096; peerd run %s", f->dir);
    if (!open || used > FILES_FULL * most) {
        ctl_say(c, CTL_BAD, "%.0f of %.0f file descriptors are in use%s", used, most,
                open ? "" : "; no peer is accepted");
    } else if (most < FILES_LOW) {
        ctl_say(c, CTL_WARN, "it may open only %.0f files", most);
    } else {
        ctl_say(c, CTL_OK, "%.0f of %.0f file descriptors are in use", used, most);
        ctl_mend(c, "%s", "");
    }
}

static void judge_clock(const facts *f, ctl_check *c) {
    double wall = ctl_number(f->health, "wall_s"), made = ctl_number(f->health, "made_s"),
           invites = ctl_number(f->health, "expiring_invites");
    time_t t = (time_t)wall;
    struct tm tm;
    char text[32] = "";
    strftime(text, sizeof text, "%Y-%m-%d %H:%M", gmtime_r(&t, &tm));
    if (wall < LONG_AGO_S || wall < made - DAY_S) {
        ctl_say(c, invites > 0 ? CTL_BAD : CTL_WARN,
                "it says %s UTC, before the node was made; %.0f invites will not expire in time",
                text, invites);
        ctl_mend(c, "timedatectl set-ntp true");
    } else {
        ctl_say(c, CTL_OK, "%s UTC; only invites depend on it, and %.0f of those out expire", text,
                invites);
    }
}

/* ---- all of it ---- */

void ctl_judge(const char *dir, const cJSON *status, const cJSON *health, const cJSON *check,
               ctl_check out[CTL_CHECKS]) {
    static const struct {
        const char *name;
        void (*judge)(const facts *f, ctl_check *c);
    } all[CTL_CHECKS] = {
        {"node", judge_node},
        {"version", judge_version},
        {"links", judge_links},
        {"reachable", judge_reachable},
        {"peers", judge_peers},
        {"sealing", judge_sealing},
        {"loss", judge_loss},
        {"ledger", judge_ledger},
        {"disk", judge_disk},
        {"model", judge_model},
        {"memory", judge_memory},
        {"cores", judge_cores},
        {"files", judge_files},
        {"clock", judge_clock},
        {"checkpoint", judge_checkpoint},
    };
    const facts f = {dir, status, health, check};
    for (int i = 0; i < CTL_CHECKS; i++) {
        out[i] = (ctl_check){.name = all[i].name};
        all[i].judge(&f, &out[i]);
    }
}
