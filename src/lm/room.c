/* room.c - what reverse mode adds to a model's weights, and whether the machine has it.
 *
 * Linux grants memory that it has not got and kills whoever touches it: better refuse beforehand,
 * while a node can still be told to make its bytes from loss pairs.
 */
#include "engine.h"
#include "peerd/file.h"

pd_err pd_reverse_fits(pd_model *m, uint64_t available) {
    pd_model_info *i = &m->info;
    uint64_t n = 0, table = (uint64_t)i->vocab * i->width, size = m->half ? 2 : 4;
    for (uint32_t t = 0; t < PD_TARGETS; t++) {
        uint32_t out, in;
        pd_model_shape(i, (pd_target)t, &out, &in);
        n += (uint64_t)out * in * i->n_layers;
    }
    i->reverse_bytes = (size_t)((n + table) * size);
    uint64_t need = (2 * (n + table) + table) * size; /* and the embedding's rows */
    if (need <= available)
        return PD_OK;
    return pd_fail(
        PD_ENOMEM,
        "gradients of this model take %llu MiB of weights, half of it for reverse mode, and "
        "%llu MiB are free (a node that makes its bytes from loss pairs needs no gradient: "
        "--estimator probe)",
        (unsigned long long)(need >> 20), (unsigned long long)(available >> 20));
}

pd_err pd_room_for_reverse(pd_model *m) {
    uint64_t available;
    if (!pd_proc_bytes("/proc/meminfo", "MemAvailable", &available))
        available = UINT64_MAX; /* nothing is known: as without this look */
    return pd_reverse_fits(m, available);
}
