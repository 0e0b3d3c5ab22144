/* files.c - file descriptors; see files.h. */
#include "files.h"

#include <dirent.h>
#include <stddef.h>
#include <sys/resource.h>

uint32_t pd_files_raise(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return 1024;
    if (r.rlim_cur < PD_FILES_WANTED) {
        struct rlimit more = r;
        more.rlim_cur = r.rlim_max < PD_FILES_WANTED ? r.rlim_max : PD_FILES_WANTED;
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            r = more;
    }
    return r.rlim_cur > UINT32_MAX ? UINT32_MAX : (uint32_t)r.rlim_cur;
}

uint32_t pd_files_used(void) {
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return 0;
    uint32_t n = 0;
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n > 3 ? n - 3 : 0; /* `.`, `..` and the one that looks */
}
