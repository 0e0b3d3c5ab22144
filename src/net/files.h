/* files.h - file descriptors: as many as we may have, and how many we have. */
#ifndef PD_FILES_H
#define PD_FILES_H

#include <stdint.h>

enum { PD_FILES_WANTED = 4096 };

/* Raise the soft limit of open files towards PD_FILES_WANTED; returns the limit now in force. */
uint32_t pd_files_raise(void);
/* Descriptors in use now, or 0 where the system does not say. */
uint32_t pd_files_used(void);

#endif
