/* parent.h - the run that another one goes on from; private to src/node.
 *
 *   data > tokens > loss pair > byte > ledger > gossip > REPLAY > WEIGHTS, which are the next run's
 *
 * The child's base is the parent's base with its adapter (export_merged.h), so whoever holds the
 * parent's records makes it on its own, bit for bit, and no model crosses the network.  The child's
 * manifest names the parent, how many records it goes on from and their digest: that tells a member
 * what it lacks.  What binds is the digest of the base, a cryptographic one.
 */
#ifndef PD_PARENT_H
#define PD_PARENT_H

#include "config.h"
#include "peerd/manifest.h"

#define PD_PARENT_MODEL "base.gguf" /* in the child's folder */

typedef struct pd_parent {
    uint8_t run[32], digest[PD_DIGEST_BYTES];
    uint64_t records;
} pd_parent;

/* Write base + adapter of a stopped node's run to `path`, a GGUF file; matrices keep F32 and BF16
 * and become F16 else.
 *
 *   dir  in   the node's folder
 *   out  out  what was merged
 *
 * Errors: PD_EBUSY (the node runs), PD_EUNSUPPORTED (its base is a folder), PD_EGONE (it lacks
 * records that it knows of), and those of pd_site_open and pd_export_merged_gguf.
 */
PD_CHECKED pd_err pd_parent_merge(const char *dir, const char *path, pd_parent *out);

/* Say in a child's manifest that it goes on from here. */
void pd_parent_put(const pd_parent *p, pd_manifest *m);

/* Is it this parent, with these records, that the manifest's run goes on from?
 *
 *   dir  in  the parent's node, for the text
 *
 * Errors: PD_EMISMATCH (both sides of what differs, and what to do).
 */
PD_CHECKED pd_err pd_parent_check(const pd_parent *p, const char *dir, const pd_manifest *m);

#endif
