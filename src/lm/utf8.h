/* utf8.h - the two things that the parsers of src/lm ask of text: is it UTF-8, and how is it shown
 * in an error. */
#ifndef PD_LM_UTF8_H
#define PD_LM_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed character at p (1..4; no surrogates, nothing over-long, at most
 * U+10FFFF), 0 where there is none.  n >= 1 bytes are left.
 */
size_t pd_utf8_char(const char *p, size_t n);

/* Bytes at p that are well-formed UTF-8, up to n. */
size_t pd_utf8_span(const char *p, size_t n);

/* At most 60 bytes of a foreign text for an error message: unprintable bytes as '?', "..." where it
 * was cut. */
enum { PD_SHOW_ROOM = 64 };
const char *pd_show(const char *p, size_t n, char buf[PD_SHOW_ROOM]);

#endif
