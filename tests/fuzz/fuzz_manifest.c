/* fuzz_manifest.c - a run has one text: what is read as a manifest is written as the same bytes. */
#include "fuzz.h"

#include "peerd/manifest.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    pd_manifest m;
    char out[PD_MANIFEST_MAX];
    size_t size = 0;
    if (pd_manifest_read((const char *)p, n, &m) != PD_OK)
        return 0;
    pd_manifest_write(&m, out, &size);
    FUZZ_CHECK(size == n && memcmp(out, p, n) == 0);
    FUZZ_CHECK(pd_manifest_check(&m) == PD_OK);
    return 0;
}
