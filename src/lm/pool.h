/* pool.h - the one pool of threads: the OpenMP runtime that oneDNN brings along.
 *
 * Two pools that spin would fight for the cores (2 to 20 times slower where measured), so our loops
 * run in oneDNN's.  pd_parallel itself is public (model.h).
 */
#ifndef PEERD_LM_POOL_H
#define PEERD_LM_POOL_H

#include <stddef.h>

/* Set the number of threads for the whole process; 0 = the cores this process may use.  Returns
 * what was set. */
unsigned pd_pool_set(unsigned threads);
unsigned pd_pool_threads(void);

/* OpenMP keeps the thread count per calling thread: every way into the engine passes here. */
void pd_pool_enter(void);

#endif
