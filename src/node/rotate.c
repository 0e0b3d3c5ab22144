/* rotate.c - from key to key.next: the file is there before the record is written, and takes the
 * key's place only after others keep the record too, for nobody else would let it in; see site.h.
 *
 *   key.next written ─> ROTATE durable ─> heard: key.heard = key.next ─> node ends
 *                                  │         ─> start: key.old = key, key = key.heard
 *                                  └─ not heard: the old key goes on telling, and makes no records
 */
#include "rotate.h"
#include "peerd/core.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef char path[PD_CONFIG_PATH + 16];

static pd_err in_dir(path out, const pd_site *s, const char *name) {
    return pd_path_join(out, sizeof(path), s->dir, name);
}

pd_err pd_site_next_key(const pd_site *s, pd_identity *out) {
    path next;
    pd_err e = in_dir(next, s, "key.next");
    if (e)
        return e;
    if (pd_file_exists(next))
        return pd_identity_load(next, out);
    pd_identity_new(out);
    return pd_identity_save(next, out);
}

static pd_err is_written(pd_site *s, const uint8_t key[32], bool *written) {
    pd_log_info info;
    *written = false;
    for (uint32_t i = 0; !*written && pd_ledger_info(s->ledger, i, &info); i++) {
        size_t n = (size_t)info.n[PD_STREAM_CONTROL];
        if (n == 0 || memcmp(info.author.key, s->identity.pub, 32) != 0)
            continue;
        uint8_t *bytes = malloc(n);
        if (!bytes)
            return pd_fail(PD_ENOMEM, "no memory for %zu bytes of a control log", n);
        n = pd_ledger_read(s->ledger, i, PD_STREAM_CONTROL, 0, bytes, n);
        *written = pd_control_rotates(bytes, n, key);
        free(bytes);
    }
    return PD_OK;
}

static pd_err become(pd_site *s, const pd_identity *next) {
    static const uint8_t first[4] = {0};
    path key, old, from;
    pd_err e = in_dir(key, s, "key");
    if (!e)
        e = in_dir(old, s, "key.old");
    if (!e)
        e = in_dir(from, s, "key.heard");
    if (!e)
        e = pd_identity_save(old, &s->identity);
    if (!e)
        e = pd_store_meta_set(s->store, "incarnation", first, sizeof first);
    if (!e)
        e = pd_store_commit(s->store);
    if (!e && rename(from, key) != 0)
        e = pd_fail(PD_EIO, "cannot make %s the node's key: %s", from, strerror(errno));
    if (e)
        return e;
    s->identity = *next;
    s->incarnation = 0;
    pd_info("this node goes on with its next key; the old one is kept as key.old");
    return PD_OK;
}

pd_err pd_site_rotation_heard(const pd_site *s) {
    path next, heard;
    pd_err e = in_dir(next, s, "key.next");
    if (!e)
        e = in_dir(heard, s, "key.heard");
    if (!e && rename(next, heard) != 0 && errno != ENOENT) /* not there: it was heard before */
        e = pd_fail(PD_EIO, "cannot rename %s: %s", next, strerror(errno));
    return e;
}

pd_err pd_site_finish_rotation(pd_site *s) {
    path file;
    pd_identity next;
    bool written = false;
    pd_err e = in_dir(file, s, "key.heard");
    if (e || !pd_file_exists(file))
        return e;
    e = pd_identity_load(file, &next);
    if (!e)
        e = is_written(s, next.pub, &written);
    if (!e && written)
        e = become(s, &next);
    pd_identity_wipe(&next);
    return e;
}
