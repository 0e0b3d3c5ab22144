/* json.h - small pieces of the control socket's replies; private to src/node. */
#ifndef PD_JSON_H
#define PD_JSON_H

#include "peerd/addr.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Lower-case hex of at most 32 bytes. */
void pd_json_hex(cJSON *j, const char *name, const uint8_t *p, size_t n);
void pd_json_count(cJSON *j, const char *name, uint64_t v);
/* null where v is not finite. */
void pd_json_real(cJSON *j, const char *name, double v);
/* null where the address has no family. */
void pd_json_addr(cJSON *j, const char *name, const pd_addr *a);

/* A request's whole number within bounds; false where it is missing or anything else. */
bool pd_json_whole(const cJSON *request, const char *name, double least, double most, double *out);

#endif
