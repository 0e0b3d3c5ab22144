/* local.h - the flags that init and join share: what is local to a node; private to src/node. */
#ifndef PD_LOCAL_H
#define PD_LOCAL_H

#include "config.h"
#include "peerd/flags.h"

typedef struct pd_local {
    const char *model, *data, *heldout, *listen, *advertise, *name, *compute, *estimator;
    double heldout_share;
    uint32_t batch, batch_tokens, local_steps, threads;
    uint32_t probes; /* 0: as the estimator has it */
    uint64_t seed;
    bool thin, observer, skip_bad;
} pd_local;

/* Start values, those of pd_config_defaults. */
pd_local pd_local_of_defaults(void);

/* The same, but as a node has it; c is borrowed as long as they are used.  The model is left out. */
pd_local pd_local_of_config(const pd_config *c);

/* Lines of a flag table for a pd_local l. */
#define PD_LOCAL_MODEL_FLAG(l)                                                                     \
    {"model", 0, PD_FLAG_TEXT, &(l)->model, 0, 0, "PATH", "the base model: a GGUF file or a Hugging Face folder"}

#define PD_LOCAL_FLAGS(l)                                                                                              \
    {"data", 0, PD_FLAG_TEXT, &(l)->data, 0, 0, "FILE", "this site's records, JSON lines; they never leave it"},   \
        {"heldout", 0, PD_FLAG_TEXT, &(l)->heldout, 0, 0, "FILE", "records to judge by (default: a share of --data)"}, \
        {"heldout-share", 0, PD_FLAG_REAL, &(l)->heldout_share, 0, 0.5, "X", "that share (default 0.1)"},              \
        {"listen", 0, PD_FLAG_TEXT, &(l)->listen, 0, 0, "ADDR", "where others dial this node (default 0.0.0.0:7433)"}, \
        {"advertise", 0, PD_FLAG_TEXT, &(l)->advertise, 0, 0, "ADDR", "what to tell them, behind a NAT"},              \
        {"name", 0, PD_FLAG_TEXT, &(l)->name, 0, 0, "NAME", "shown to others (default: the folder's name)"},           \
        {"batch", 0, PD_FLAG_U32, &(l)->batch, 1, 4096, "N", "records a probe or local step (default 16)"},            \
        {"batch-tokens", 0, PD_FLAG_U32, &(l)->batch_tokens, 16, 65536, "N", "tokens a probe at most (default 1024)"}, \
        {"probes", 0, PD_FLAG_U32, &(l)->probes, 1, 4096, "K", "directions a batch (default 1; project: 16)"},         \
        {"estimator", 0, PD_FLAG_TEXT, &(l)->estimator, 0, 0, "KIND",                                                  \
         "probe: bytes from loss pairs; project: from gradients, about twice the memory (default probe)"},             \
        {"local-steps", 0, PD_FLAG_U32, &(l)->local_steps, 1, 4096, "E", "batches a gradient (project; default 1)"},   \
        {"threads", 0, PD_FLAG_U32, &(l)->threads, 0, 1024, "N", "cores to use (default: all)"},                       \
        {"compute", 0, PD_FLAG_TEXT, &(l)->compute, 0, 0, "TYPE", "auto, f32 or bf16 (default auto)"},                 \
        {"seed", 0, PD_FLAG_U64, &(l)->seed, 0, 9007199254740992.0, "N", "of the held-out choice (default 1)"},        \
        {"thin", 0, PD_FLAG_SWITCH, &(l)->thin, 0, 0, NULL, "a line of about 64 kbit/s: small buffers, fewer frames"}, \
        {"observer", 0, PD_FLAG_SWITCH, &(l)->observer, 0, 0, NULL,                                                    \
         "make no records: follow the others' and judge them"},                                                        \
        {"skip-bad", 0, PD_FLAG_SWITCH, &(l)->skip_bad, 0, 0, NULL, "pass over bad lines instead of stopping"}

/* Check them and make the settings; paths become absolute, "none" as --listen means dialling only.
 * Errors: PD_EUSAGE, PD_ENOENT; each names the flag or file.
 */
PD_CHECKED pd_err pd_local_config(const pd_local *l, const char *dir, pd_config *out);

#endif
