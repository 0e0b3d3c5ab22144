/* main.c - run files through a fuzz target once: its corpus as a test, or one finding again.
 *
 *   fuzz_NAME FILE-OR-FOLDER ...
 */
#include "fuzz.h"

#include "peerd/file.h"

#include <dirent.h>
#include <sys/stat.h>

static unsigned files;

static int run_file(const char *path) {
    uint8_t *p;
    size_t n;
    if (pd_file_read(path, 1 << 20, &p, &n)) {
        fprintf(stderr, "%s\n", pd_fail_text());
        return 1;
    }
    uint8_t *exact = malloc(n ? n : 1); /* not a byte more, so that a sanitizer sees reads beyond */
    if (!exact)
        return 1;
    for (size_t i = 0; i < n; i++)
        exact[i] = p[i];
    free(p);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    files++;
    return 0;
}

static int run(const char *path) {
    struct stat st;
    char name[4096];
    int status = 0;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return run_file(path);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            status |= run_file(name);
    }
    if (d)
        closedir(d);
    return status;
}

int main(int argc, char **argv) {
    int status = 0;
    for (int i = 1; i < argc; i++)
        status |= run(argv[i]);
    printf("%u inputs\n", files);
    return status || files == 0;
}
