/* test.h - what every Check suite here shares: one main, and the way to the shared fixtures.
 *
 * A test file defines `static void add_tests(TCase *tc)` and ends with PD_TEST_MAIN(name).  CK_FORK=no works.
 */
#ifndef PD_TEST_H
#define PD_TEST_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Path of a file in the tree, from the folder that Meson names.  Static buffer, good until the next call. */
static inline const char *pd_test_path(const char *rel) {
    static char path[4096];
    const char *root = getenv("PD_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/%s", root ? root : ".", rel);
    return path;
}

/* Path of a file in ../shared, or NULL (and a line that says so) where it is missing: the test is then skipped. */
static inline const char *pd_test_shared(const char *rel) {
    static char path[4096];
    const char *root = getenv("PD_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/../shared/%s", root ? root : ".", rel);
    if (access(path, R_OK) == 0)
        return path;
    printf("skipped: %s is not here\n", rel);
    return NULL;
}

#define PD_TEST_MAIN(name, timeout_s)                                                              \
    int main(void) {                                                                               \
        Suite *s = suite_create(name);                                                             \
        TCase *tc = tcase_create(name);                                                            \
        tcase_set_timeout(tc, timeout_s);                                                          \
        add_tests(tc);                                                                             \
        suite_add_tcase(s, tc);                                                                    \
        SRunner *r = srunner_create(s);                                                            \
        srunner_run_all(r, CK_ENV);                                                                \
        int failed = srunner_ntests_failed(r);                                                     \
        srunner_free(r);                                                                           \
        return failed ? 1 : 0;                                                                     \
    }

#endif
