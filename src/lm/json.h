/* json.h - JSON of a stranger as a tree: size, depth and NUL checked before anyone looks.  Private
 * to src/lm. */
#ifndef PD_LM_JSON_H
#define PD_LM_JSON_H

#include "peerd/err.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parse n bytes.  gives *out (cJSON_Delete).  The tree takes at most about 40 times n, so callers
 * bound n.
 *
 *   what  in  "its header", "the file": for the texts
 *
 * Errors: PD_EFORMAT (not JSON, not an object, deeper than 1000, a NUL character in a string, which
 *         would cut it short unseen), PD_ENOMEM.
 */
PD_CHECKED pd_err json_parse(const char *p, size_t n, const char *what, cJSON **out);

/* The same for a file of at most `max` bytes; the texts name it.  Errors: as pd_file_read and
 * json_parse. */
PD_CHECKED pd_err json_read(const char *path, size_t max, cJSON **out);

/* Value of a key, or NULL where it is missing or null. */
const cJSON *json_at(const cJSON *object, const char *key);
/* Text of a key, or NULL where it is missing or no string. */
const char *json_text(const cJSON *object, const char *key);
/* true, or false where it is missing, null or anything but true. */
bool json_true(const cJSON *object, const char *key);
/* A whole number 0..2^53; false where it is anything else.  NULL is fine. */
bool json_count(const cJSON *v, uint64_t *out);

#endif
