/* site.h - a node's folder, opened: settings, run, key, store, ledger, model, space, data; private
 * to src/node.
 *
 *   DIR/node.json   local settings (config.h)      DIR/manifest   canonical text of the run
 *   DIR/key         the node's secret key          DIR/ledger.db  everything else (store.h), the
 * basis file too
 */
#ifndef PD_SITE_H
#define PD_SITE_H

#include "config.h"
#include "peerd/base.h"
#include "peerd/manifest.h"
#include "peerd/net.h"
#include "peerd/probe.h"
#include "peerd/replica.h"
#include "peerd/store.h"

enum { PD_SITE_INVITES = 64 };

/* How much of a node a command needs; each includes those before it. */
typedef enum pd_site_depth {
    PD_SITE_RUN,    /* settings, manifest, key */
    PD_SITE_LEDGER, /* store, ledger, basis file, replica (at its newest checkpoint, then brought up
                       to date) */
    PD_SITE_MODEL,  /* tokenizer, model, basis, space */
    PD_SITE_DATA,   /* own records, those to train on and those held out */
} pd_site_depth;

typedef struct pd_site {
    char dir[PD_CONFIG_PATH];
    pd_config config;
    pd_manifest manifest;
    char manifest_text[PD_MANIFEST_MAX];
    size_t manifest_bytes;
    uint8_t run[32];
    pd_identity identity;

    pd_store *store;
    pd_ledger *ledger;
    uint32_t incarnation;
    bool restored;
    pd_store_begun begun; /* the checkpoint that it began with, if it did */
    pd_replica replica;
    uint8_t *basis_file;
    size_t basis_bytes;
    pd_invite invites[PD_SITE_INVITES]; /* outstanding */
    uint32_t n_invites;

    pd_tokenizer *tokenizer;
    pd_model *model;
    pd_basis *basis;
    pd_space *space;

    pd_data *data, *heldout_data;
    uint32_t *train,
        *held; /* indices: train into data; held into heldout_data, or into data if that is NULL */
    size_t n_train, n_held;
} pd_site;

/* What one command wants otherwise than the settings say. */
typedef struct pd_site_opts {
    bool backward;      /* the model is to do reverse mode */
    uint32_t threads;   /* UINT32_MAX: as set */
    pd_compute compute; /* PD_COMPUTE_AUTO: as set */
} pd_site_opts;
extern const pd_site_opts pd_site_as_set;

/* Open a node's folder.
 * Errors: PD_ENOENT (no node), PD_EBUSY (a process runs on it), PD_EMISMATCH (another model than
 * the run's, another run's store), and those of every part; each text names the file.
 */
PD_CHECKED pd_err pd_site_open(const char *dir, pd_site_depth depth, const pd_site_opts *opts,
                               pd_site *out);
void pd_site_close(pd_site *s);

/* Write a new node's folder: key, manifest, settings, an empty store that holds the basis file (if
 * any) and addresses. Errors: PD_EEXIST (a node is there already), PD_EIO, PD_EFULL.
 */
PD_CHECKED pd_err pd_site_create(const char *dir, const pd_config *config,
                                 const pd_identity *identity, const char *manifest,
                                 size_t manifest_bytes, const uint8_t *basis, size_t basis_bytes,
                                 const pd_store_addr *addrs, size_t n_addrs);
/* Is there a node's folder? */
bool pd_site_exists(const char *dir);

/* Check a base model against a run.  Errors: PD_EMISMATCH (which model the run is about, and which
 * this is). */
PD_CHECKED pd_err pd_site_check_model(const pd_manifest *m, const pd_base *b, const pd_tokenizer *t,
                                      const char *path);

/* Trust the checkpoint that the node began with no longer: back to the base model, for good. */
PD_CHECKED pd_err pd_site_forget_checkpoint(pd_site *s);

/* Memory that a node takes for a run's coordinates, at most: the replica's and a copy to seal, three
 * while a checkpoint is written, two files that are served; with `gradients` six of floats more
 * (project.h).  4 bytes each a coordinate.  Models, views and activations are not in it.
 */
uint64_t pd_site_bytes(const pd_manifest *m, bool gradients);
/* Are so many there?  Asked before they are touched, since Linux grants memory that it has not got
 * and kills whoever uses it.  Errors: PD_ENOMEM (both numbers).
 */
PD_CHECKED pd_err pd_site_room(const pd_manifest *m, bool gradients);

/* The held-out records. */
pd_subset pd_site_held(const pd_site *s);

/* The adapter as the replica stands (sealed and pending).  gives *out. */
PD_CHECKED pd_err pd_site_view(const pd_site *s, pd_view **out);

/* Where others reach this node: `advertise`, else what it listens on, spelt out for every
 * interface. */
uint32_t pd_site_listen_addresses(const pd_site *s, const pd_net *net, pd_addr out[PD_ADDRS_MAX]);
/* Addresses remembered. */
uint32_t pd_site_addresses(const pd_site *s, pd_known_addr *out, uint32_t room);

/* The key that this node passes its place on to, made and kept in DIR/key.next if it is not there yet. */
PD_CHECKED pd_err pd_site_next_key(const pd_site *s, pd_identity *out);
/* Others keep the ROTATE record: DIR/key.next becomes key.heard, which the next start makes the node's
 * key; the old one stays as key.old.  Errors: PD_EIO.
 */
PD_CHECKED pd_err pd_site_rotation_heard(const pd_site *s);

/* Outstanding invites, to the transport; one used: true when it has no use left. */
PD_CHECKED pd_err pd_site_allow_invites(const pd_site *s, pd_net *net);
bool pd_site_invite_used(pd_site *s, uint64_t id);

#endif
