/* status.c - peerctl status: the node on half a screen, a line a peer; 80 columns. */
#include "ctl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *or_dash(const char *s) {
    return s && *s ? s : "-";
}

static void print_heldout(const cJSON *h) {
    if (!cJSON_IsObject(h)) {
        printf("held-out  none yet\n");
        return;
    }
    double before = ctl_number(h, "accuracy_before"), now = ctl_number(h, "accuracy_now");
    printf("held-out  loss %.4f -> %.4f", ctl_number(h, "loss_before"), ctl_number(h, "loss_now"));
    if (!isnan(now))
        printf(", accuracy %.1f -> %.1f %%", 100 * before, 100 * now);
    printf(" (%.0f examples, at record %.0f)\n", ctl_number(h, "examples"),
           ctl_number(h, "at_records"));
}

static void print_run(const cJSON *r) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(r, "model");
    const cJSON *space = cJSON_GetObjectItemCaseSensitive(r, "space");
    printf("run       %.8s  %s (%s)\n", or_dash(ctl_text(r, "run")),
           or_dash(ctl_text(model, "name")), or_dash(ctl_text(model, "arch")));
    printf("space     %s, rank %.0f, %.0f coordinates; rule %s\n", or_dash(ctl_text(space, "kind")),
           ctl_number(space, "rank"), ctl_number(space, "coords"), or_dash(ctl_text(r, "rule")));
    printf("node      %.8s  %s, listening on %s, up %s\n", or_dash(ctl_text(r, "key")),
           or_dash(ctl_text(r, "name")), ctl_text(r, "listen") ? ctl_text(r, "listen") : "nothing",
           ctl_age(1000 * ctl_number(r, "uptime_s")));
}

static void print_state(const cJSON *r) {
    const char *why = ctl_text(r, "why");
    double wanted = ctl_number(r, "records_wanted"), loss = ctl_number(r, "loss");
    printf("state     %s at step %.0f", or_dash(ctl_text(r, "state")), ctl_number(r, "step"));
    if (!isnan(wanted))
        printf(" of %.0f", wanted);
    if (ctl_number(r, "unsealed") > 0)
        printf(", %.0f unsealed for %s", ctl_number(r, "unsealed"),
               ctl_age(ctl_number(r, "unsealed_age_ms")));
    printf(", seals every %s\n", ctl_age(ctl_number(r, "seal_ms")));
    if (why && *why)
        printf("          %s\n", why);
    if (!isnan(loss))
        printf("loss      %.4f in the last probe\n", loss);
    print_heldout(cJSON_GetObjectItemCaseSensitive(r, "heldout"));
}

static void print_ledger(const cJSON *r) {
    double wire = ctl_number(r, "wire_bytes_per_record"),
           total = ctl_number(r, "fetch_total_bytes");
    printf("records   %.0f held, %.0f missing; %.0f of %.0f peers linked\n",
           ctl_number(r, "records"), ctl_number(r, "missing"), ctl_number(r, "links"),
           ctl_number(r, "members"));
    printf("bytes     in %s (%s/s), out %s (%s/s)", ctl_bytes(ctl_number(r, "bytes_in")),
           ctl_bytes(ctl_number(r, "bytes_in_per_s")), ctl_bytes(ctl_number(r, "bytes_out")),
           ctl_bytes(ctl_number(r, "bytes_out_per_s")));
    if (!isnan(wire))
        printf(", %.1f on the wire a record", wire);
    printf("\n");
    if (total > 0)
        printf("fetching  %s of %s of the basis\n", ctl_bytes(ctl_number(r, "fetched_bytes")),
               ctl_bytes(total));
    printf("digest    %s at %.0f records\n", or_dash(ctl_text(r, "digest")),
           ctl_number(r, "digest_records"));
    if (ctl_number(r, "bad_frames") + ctl_number(r, "bad_seals") > 0)
        printf("refused   %.0f frames, %.0f seals\n", ctl_number(r, "bad_frames"),
               ctl_number(r, "bad_seals"));
}

/* The link where there is one, else what is known of the member. */
static const char *link_of(const cJSON *p) {
    const char *link = ctl_text(p, "link"), *member = ctl_text(p, "member");
    if (link && strcmp(link, "none") != 0)
        return link;
    return member && strcmp(member, "here") != 0 ? member : "none";
}

static void print_peers(const cJSON *peers) {
    const cJSON *p;
    if (cJSON_GetArraySize(peers) == 0) {
        printf("\nno peers yet (invite one with: peerctl invite)\n");
        return;
    }
    printf("\n%-8s %-8s %-7s %7s %6s %7s %7s %6s  %s\n", "peer", "name", "link", "records",
           "behind", "in B/s", "out B/s", "rtt", "address");
    cJSON_ArrayForEach(p, peers) {
        double rtt = ctl_number(p, "rtt_ms");
        char ms[16] = "-";
        if (rtt > 0)
            snprintf(ms, sizeof ms, "%.0f ms", rtt);
        printf("%-8.8s %-8.8s %-7.7s %7s %6s %7s %7s %6s  %s\n", or_dash(ctl_text(p, "key")),
               or_dash(ctl_text(p, "name")), link_of(p), ctl_count(ctl_number(p, "records")),
               ctl_count(ctl_number(p, "behind")), ctl_count(ctl_number(p, "bytes_in_per_s")),
               ctl_count(ctl_number(p, "bytes_out_per_s")), ms, or_dash(ctl_text(p, "addr")));
    }
}

int ctl_status(ctl *c, int argc, char **argv) {
    bool json = false, help;
    const pd_flag flags[] = {
        CTL_DIR_FLAG(c),
        {"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "as one JSON object"},
        {0},
    };
    const pd_command_help text = {
        "peerctl [-d DIR] status [--json]",
        "Show the run, this node and a line for each peer. `behind` counts bytes that the peer is\n"
        "not known to have; `records` are the peer's own that this node holds.",
        "peerctl -d site-a status",
    };
    size_t n;
    cJSON *r;
    pd_err e = pd_flags_parse(argc, argv, flags, NULL, 0, 0, &n, &help);
    if (!e && help) {
        pd_flags_help(&text, flags);
        return 0;
    }
    if (!e)
        e = ctl_ask(c, "status", NULL, CTL_QUICK_MS, &r);
    if (e)
        return ctl_fail(e);
    if (json) {
        ctl_print_json(r);
    } else {
        print_run(r);
        print_state(r);
        print_ledger(r);
        print_peers(cJSON_GetObjectItemCaseSensitive(r, "peers"));
    }
    cJSON_Delete(r);
    return 0;
}
