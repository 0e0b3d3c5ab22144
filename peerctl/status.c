/* status.c - peerctl status: the node on half a screen, a line a peer; 80 columns. */
#include "ctl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PEERS_SHOWN = 40 };

static void print_heldout(const cJSON *h) {
    if (!cJSON_IsObject(h)) {
        printf("held-out  none yet\n");
        return;
    }
    char text[256], accuracy[64] = "";
    double before = ctl_number(h, "accuracy_before"), now = ctl_number(h, "accuracy_now");
    if (!isnan(now))
        snprintf(accuracy, sizeof accuracy, ", accuracy %.1f -> %.1f %%", 100 * before, 100 * now);
    snprintf(text, sizeof text, "loss %.4f -> %.4f%s (%.0f examples, at record %.0f)",
             ctl_number(h, "loss_before"), ctl_number(h, "loss_now"), accuracy,
             ctl_number(h, "examples"), ctl_number(h, "at_records"));
    ctl_wrap(10, "held-out", text);
}

static void print_run(const cJSON *r) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(r, "model");
    const cJSON *space = cJSON_GetObjectItemCaseSensitive(r, "space");
    const cJSON *parent = cJSON_GetObjectItemCaseSensitive(r, "parent");
    const char *listen = ctl_text(r, "listen");
    char text[256];
    printf("run       %s  %.48s (%s)\n", ctl_key(ctl_text(r, "run")),
           ctl_or_dash(ctl_text(model, "name")), ctl_or_dash(ctl_text(model, "arch")));
    if (parent)
        printf("parent    %s, with %s records, digest %s\n", ctl_key(ctl_text(parent, "run")),
               ctl_count(ctl_number(parent, "records")), ctl_key(ctl_text(parent, "digest")));
    text[0] = 0;
    if (ctl_number(space, "first_layer") > 0)
        snprintf(text, sizeof text, " from layer %s on",
                 ctl_count(ctl_number(space, "first_layer")));
    printf("space     %s, rank %s, %s coordinates%s; rule %s\n",
           ctl_or_dash(ctl_text(space, "kind")), ctl_count(ctl_number(space, "rank")),
           ctl_count(ctl_number(space, "coords")), text, ctl_or_dash(ctl_text(r, "rule")));
    bool thin = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(r, "thin"));
    snprintf(text, sizeof text, "%s  %s, %s%s%s, up %s", ctl_key(ctl_text(r, "key")),
             ctl_or_dash(ctl_text(r, "name")), listen ? "listening on " : "which cannot be dialled",
             listen ? listen : "", thin ? ", on a thin line" : "",
             ctl_age(1000 * ctl_number(r, "uptime_s")));
    ctl_wrap(10, "node", text);
}

/* In one line, wrapped: the state, and if it is not speaking, why. */
static void print_state(const cJSON *r) {
    char text[640];
    const char *why = ctl_or_dash(ctl_text(r, "why")), *store = ctl_text(r, "store_error");
    double wanted = ctl_number(r, "records_wanted");
    size_t n = (size_t)snprintf(text, sizeof text, "%s at step %.0f",
                                ctl_or_dash(ctl_text(r, "state")), ctl_number(r, "step"));
    if (!isnan(wanted))
        n += (size_t)snprintf(text + n, sizeof text - n, " of %.0f", wanted);
    if (strcmp(why, "-") != 0 && n < sizeof text)
        n += (size_t)snprintf(text + n, sizeof text - n, ": %s", why);
    if (strcmp(ctl_or_dash(ctl_text(r, "state")), "listening") == 0 && n < sizeof text)
        snprintf(text + n, sizeof text - n, " (compared with %.0f of %.0f)",
                 ctl_number(r, "listen_heard"), ctl_number(r, "listen_wanted"));
    ctl_wrap(10, "state", text);
    if (ctl_number(r, "unsealed") > 0)
        printf("sealing   every %s; %.0f own records unsealed for %s\n",
               ctl_age(ctl_number(r, "seal_ms")), ctl_number(r, "unsealed"),
               ctl_age(ctl_number(r, "unsealed_age_ms")));
    else
        printf("sealing   every %s; all own records are sealed\n",
               ctl_age(ctl_number(r, "seal_ms")));
    if (store && *store)
        ctl_wrap(10, "store", store);
    if (!isnan(ctl_number(r, "loss")))
        printf("loss      %.4f in the last probe\n", ctl_number(r, "loss"));
    print_heldout(cJSON_GetObjectItemCaseSensitive(r, "heldout"));
}

static bool is_linked(const cJSON *p) {
    const char *link = ctl_or_dash(ctl_text(p, "link"));
    return strcmp(link, "up") == 0 || strcmp(link, "suspect") == 0;
}

/* Who among the linked is behind, and the one that is most. */
static void print_behind(const cJSON *peers) {
    const cJSON *p, *most = NULL;
    double lag = 0;
    unsigned linked = 0, lagging = 0;
    cJSON_ArrayForEach(p, peers) {
        double behind = ctl_number(p, "behind");
        linked += is_linked(p);
        if (!is_linked(p) || !(behind > 0))
            continue;
        lagging++;
        if (behind > lag) {
            lag = behind;
            most = p;
        }
    }
    if (most) {
        char text[160];
        snprintf(text, sizeof text, "%u of %u linked peers; most of all %s, by %.0f records",
                 lagging, linked, ctl_or_dash(ctl_text(most, "name")), lag);
        ctl_wrap(10, "behind", text);
    } else if (linked) {
        printf("behind    nobody\n");
    }
}

static void print_ledger(const cJSON *r) {
    double wire = ctl_number(r, "wire_bytes_per_record"), copies = ctl_number(r, "copies"),
           total = ctl_number(r, "fetch_total_bytes");
    printf("members   N = %s; linked to %s of %s others\n", ctl_count(ctl_number(r, "counted")),
           ctl_count(ctl_number(r, "links")), ctl_count(ctl_number(r, "members")));
    printf("records   %s held, %s missing\n", ctl_count(ctl_number(r, "records")),
           ctl_count(ctl_number(r, "missing")));
    print_behind(cJSON_GetObjectItemCaseSensitive(r, "peers"));
    printf("bytes     in %s (%s/s), out %s (%s/s)\n", ctl_bytes(ctl_number(r, "bytes_in")),
           ctl_bytes(ctl_number(r, "bytes_in_per_s")), ctl_bytes(ctl_number(r, "bytes_out")),
           ctl_bytes(ctl_number(r, "bytes_out_per_s")));
    if (!isnan(wire) || !isnan(copies)) {
        char a_record[32] = "-", of_each[32] = "-";
        if (!isnan(wire))
            snprintf(a_record, sizeof a_record, "%.1f", wire);
        if (!isnan(copies))
            snprintf(of_each, sizeof of_each, "%.2f", copies);
        printf("wire      %s bytes a record; %s copies of each came in\n", a_record, of_each);
    }
    if (total > 0)
        printf("fetching  %s of %s of a file\n", ctl_bytes(ctl_number(r, "fetched_bytes")),
               ctl_bytes(total));
    printf("digest    %s at %s records\n", ctl_or_dash(ctl_text(r, "digest")),
           ctl_count(ctl_number(r, "digest_records")));
    if (ctl_number(r, "bad_frames") + ctl_number(r, "bad_seals") > 0)
        printf("refused   %.0f frames, %.0f seals\n", ctl_number(r, "bad_frames"),
               ctl_number(r, "bad_seals"));
}

/* What the model rests on, where that is not this node's own replay; and what others claim wrongly.
 */
static void print_checkpoint(const cJSON *r) {
    const cJSON *c = cJSON_GetObjectItemCaseSensitive(r, "checkpoint");
    const char *audit = ctl_or_dash(ctl_text(c, "audit"));
    char text[768];
    bool open = strcmp(audit, "open") == 0;
    if (open && ctl_true(c, "waits"))
        snprintf(text, sizeof text,
                 "begun with; some of it counts no longer: waiting for %s from before it",
                 ctl_bytes(ctl_number(c, "lacking_bytes")));
    else if (open && ctl_number(c, "lacking_bytes") > 0)
        snprintf(text, sizeof text,
                 "begun with %s records on the word of %.0f members; %s from before it are "
                 "still to come",
                 ctl_count(ctl_number(c, "records")), ctl_number(c, "voices"),
                 ctl_bytes(ctl_number(c, "lacking_bytes")));
    else if (open)
        snprintf(text, sizeof text,
                 "begun with %s records on the word of %.0f members; being replayed, at %.0f",
                 ctl_count(ctl_number(c, "records")), ctl_number(c, "voices"),
                 ctl_number(c, "audited_records"));
    else if (strcmp(audit, "differs") == 0)
        snprintf(text, sizeof text,
                 "WRONG: the records of the one that this node began with give another model, "
                 "which it has gone on with; %.0f members attest it",
                 ctl_number(c, "voices"));
    if (open || strcmp(audit, "differs") == 0)
        ctl_wrap(10, "ckpt", text);
    if (ctl_number(c, "wrong") > 0) {
        snprintf(text, sizeof text, "%.0f that members attest are wrong: %.400s",
                 ctl_number(c, "wrong"), ctl_or_dash(ctl_text(c, "wrong_why")));
        ctl_wrap(10, "ckpt", text);
    }
}

/* Where there is no link, what is known of the member. */
static const char *link_of(const cJSON *p) {
    const char *link = ctl_or_dash(ctl_text(p, "link")),
               *member = ctl_or_dash(ctl_text(p, "member"));
    return strcmp(link, "none") != 0 || strcmp(member, "here") == 0 ? link : member;
}

static void print_peer(const cJSON *p) {
    bool linked = is_linked(p);
    printf("%-8s %-10.10s %-8.8s %-3s %6s %7s %7s %7s %6s %7s\n", ctl_key(ctl_text(p, "key")),
           ctl_or_dash(ctl_text(p, "name")), link_of(p),
           !linked                   ? "-"
           : ctl_true(p, "outbound") ? "out"
                                     : "in",
           linked ? ctl_short(ctl_number(p, "behind")) : "-", ctl_short(ctl_number(p, "missing")),
           linked ? ctl_short(ctl_number(p, "bytes_in_per_s")) : "-",
           linked ? ctl_short(ctl_number(p, "bytes_out_per_s")) : "-",
           ctl_number(p, "rtt_ms") > 0 ? ctl_short(ctl_number(p, "rtt_ms")) : "-",
           ctl_short(ctl_number(p, "quiet_ms") / 1000));
}

/* The linked ones and those that could be. */
static void print_peers(const cJSON *r) {
    const cJSON *p;
    double shown = 0, members = ctl_number(r, "members");
    if (!(members > 0)) {
        printf("\nno peers yet (invite one with: peerctl invite)\n");
        return;
    }
    printf("\n%-8s %-10s %-8s %-3s %6s %7s %7s %7s %6s %7s\n", "peer", "name", "link", "dir",
           "behind", "missing", "in B/s", "out B/s", "rtt ms", "quiet s");
    cJSON_ArrayForEach(p, cJSON_GetObjectItemCaseSensitive(r, "peers")) {
        const char *member = ctl_or_dash(ctl_text(p, "member"));
        bool may_be = strcmp(member, "here") == 0 || strcmp(member, "away") == 0;
        if (shown == PEERS_SHOWN || (!is_linked(p) && !may_be))
            continue;
        print_peer(p);
        shown++;
    }
    if (members > shown)
        printf("%.0f more are gone, have left or have no link (peerctl members)\n",
               members - shown);
}

void ctl_print_status(const cJSON *r) {
    print_run(r);
    print_state(r);
    print_ledger(r);
    print_checkpoint(r);
    print_peers(r);
}

int ctl_status(ctl *c, int argc, char **argv) {
    bool json = false;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] status [--json]",
        "Show the run, this node and a line for each peer, the linked ones first.\n\n"
        "  link     up, suspect (silent for 30 s), dialing, none, or away (silent for 15 min)\n"
        "  dir      who dialled: out this node, in the peer\n"
        "  behind   bytes that the peer is not known to have\n"
        "  missing  bytes of the peer that this node knows of and does not hold\n"
        "  B/s      frames of the last ten seconds or so; copies count bytes that came twice",
        "peerctl -d site-a status",
    };
    cJSON *r;
    int status = ctl_simple(c, argc, argv, flags, &text, "status", CTL_QUICK_MS, &r);
    if (!r)
        return status;
    if (json)
        ctl_print_json(r);
    else
        ctl_print_status(r);
    cJSON_Delete(r);
    return 0;
}
