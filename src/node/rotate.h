/* rotate.h - a node's change to its next key, in its folder; private to src/node. */
#ifndef PD_ROTATE_H
#define PD_ROTATE_H

#include "site.h"

/* If there is a DIR/key.heard and the ledger holds this node's ROTATE to it, be that key from now on. */
PD_CHECKED pd_err pd_site_finish_rotation(pd_site *s);

#endif
