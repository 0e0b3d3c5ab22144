/* utf8.c - see utf8.h. */
#include "utf8.h"

#include <string.h>

size_t pd_utf8_char(const char *text, size_t n) {
    const uint8_t *p = (const uint8_t *)text;
    size_t len = p[0] < 0x80   ? 1
                 : p[0] < 0xc2 ? 0
                 : p[0] < 0xe0 ? 2
                 : p[0] < 0xf0 ? 3
                 : p[0] < 0xf5 ? 4
                               : 0;
    if (len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

size_t pd_utf8_span(const char *p, size_t n) {
    size_t i = 0, len;
    while (i < n && (len = pd_utf8_char(p + i, n - i)) != 0)
        i += len;
    return i;
}

const char *pd_show(const char *p, size_t n, char buf[PD_SHOW_ROOM]) {
    size_t keep = n < 60 ? n : 60;
    for (size_t i = 0; i < keep; i++)
        buf[i] = p[i] >= ' ' && p[i] <= '~' ? p[i] : '?';
    strcpy(buf + keep, n > keep ? "..." : "");
    return buf;
}
