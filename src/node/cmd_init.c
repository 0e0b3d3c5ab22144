/* cmd_init.c - peerd init: a new run and its founder. */
#include "cmd.h"
#include "found.h"

#include <stdio.h>

static const pd_command_help help = {
    .usage = "peerd init DIR --model PATH --data FILE --calibrate FILE | --space lora|full",
    .what = "Make a new run and DIR, its founder's node. The calibration text gives the run its "
            "basis and its start\n"
            "adapter; both are a summary of that text and go to every member, so take public or "
            "released records.\n"
            "A lora or full space has no basis. In a full space every entry of the --targets is a "
            "coordinate: for\n"
            "small models, since it takes 28 bytes of memory an entry. What it learns is exported "
            "merged.",
    .example =
        "peerd init ./site-a --model smollm2.gguf --data mine.jsonl --calibrate public.jsonl"};

int pd_cmd_init(int argc, char **argv) {
    pd_founding x = pd_founding_of_defaults();
    pd_flag flags[PD_FOUNDING_FLAGS];
    size_t n;
    bool asked;
    pd_founding_flags(&x, true, flags);
    pd_err e = pd_flags_parse(argc, argv, flags, &x.dir, 1, 1, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e)
        e = pd_found(&x);
    pd_founding_close(&x);
    if (e)
        fprintf(stderr, "peerd init: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
