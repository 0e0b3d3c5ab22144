/* cmd_verify.c - peerd verify: replay a stopped node's records from the base and compare digests.
 */
#include "cmd.h"
#include "peerd/file.h"
#include "peerd/flags.h"
#include "peerd/log.h"
#include "site.h"

#include <stdio.h>

static const pd_command_help help = {
    .usage = "peerd verify DIR",
    .what =
        "Replay every record of a stopped node from the base, without its checkpoint, and compare\n"
        "the digest with the checkpoint's. (A running one: peerctl verify.) Exit status 1 where "
        "they\n"
        "differ, and while records from before the checkpoint that it began with are not here.",
    .example = "peerd verify ./site-a"};

/* Records from before the checkpoint that the node began with are not here: what it rests on. */
static int say_unverified(const pd_site *s, uint64_t lacking, bool json) {
    printf(json ? "{\"ok\": true, \"equal\": null, \"records\": %llu, \"voices\": %u, "
                  "\"lacking_bytes\": %llu}\n"
                : "not verified: %llu records, on the word of %u members who attest the checkpoint "
                  "that this node began with; %llu bytes from before it are still to come\n",
           (unsigned long long)s->replica.records, s->begun.voices, (unsigned long long)lacking);
    return 1;
}

/* Both kept checkpoints are replaced by what the records give. */
static pd_err mend(pd_site *s, const pd_replica *fresh, const uint8_t digest[PD_DIGEST_BYTES]) {
    pd_err e = PD_OK;
    for (int i = 0; i < 2 && !e; i++)
        e = pd_store_ckpt_put(s->store, digest, fresh->a, fresh->d, fresh->author, fresh->n,
                              fresh->n_authors);
    return e ? e : pd_store_commit(s->store);
}

static pd_err replay(pd_site *s, bool json, bool *equal) {
    pd_replica fresh;
    uint64_t folded = 1, began = pd_clock_ms();
    uint8_t kept[PD_DIGEST_BYTES], again[PD_DIGEST_BYTES];
    char kept_text[33], again_text[33];
    pd_err e = pd_replica_open(&s->manifest, &fresh);
    while (!e && folded) {
        e = pd_replica_follow(&fresh, s->ledger, 1 << 16, &folded);
        pd_progress(false, "replaying: %llu of %llu records", (unsigned long long)fresh.records,
                    (unsigned long long)s->replica.records);
    }
    if (!e) {
        pd_replay_digest(s->replica.a, s->replica.d, kept);
        pd_replay_digest(fresh.a, fresh.d, again);
        pd_hex(kept, sizeof kept, kept_text);
        pd_hex(again, sizeof again, again_text);
        *equal = memcmp(kept, again, sizeof kept) == 0;
        pd_progress(true, "replayed %llu records", (unsigned long long)fresh.records);
        printf(json ? "{\"ok\": true, \"equal\": %s, \"records\": %llu, \"digest\": \"%s\", "
                      "\"digest_replayed\": \"%s\", "
                      "\"took_ms\": %llu}\n"
                    : "%s: %llu records, digest %s, replayed from the base %s, %llu ms\n",
               json     ? *equal ? "true" : "false"
               : *equal ? "equal"
                        : "DIFFERENT",
               (unsigned long long)fresh.records, kept_text, again_text,
               (unsigned long long)(pd_clock_ms() - began));
    }
    if (!e && !*equal) {
        e = mend(s, &fresh, again);
        if (!e)
            fprintf(stderr, "peerd verify: the checkpoints were replaced by the replayed state\n");
    }
    pd_replica_close(&fresh);
    return e;
}

int pd_cmd_verify(int argc, char **argv) {
    const char *dir;
    bool json = false, asked, equal = false;
    size_t n;
    const pd_flag flags[] = {{"json", 0, PD_FLAG_SWITCH, &json, 0, 0, NULL, "for scripts"},
                             {.name = NULL}};
    pd_site site;
    pd_err e = pd_flags_parse(argc, argv, flags, &dir, 1, 1, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e)
        e = pd_site_open(dir, PD_SITE_LEDGER, &pd_site_as_set, &site);
    uint64_t lacking = e ? 0 : pd_ledger_lacking(site.ledger);
    if (lacking) {
        int status = say_unverified(&site, lacking, json);
        pd_site_close(&site);
        return status;
    }
    if (!e) {
        e = replay(&site, json, &equal);
        pd_site_close(&site);
    }
    if (e) {
        fprintf(stderr, "peerd verify: %s\n", pd_fail_text());
        return pd_err_exit(e);
    }
    return equal ? 0 : 1;
}
