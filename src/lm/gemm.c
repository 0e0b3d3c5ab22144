/* gemm.c - oneDNN's matmul behind gemm.h, and its plain sgemm behind pd_gemm.
 *
 * The packed layout is what oneDNN chooses for SHAPE_ROWS rows; other buckets are held to it.
 * Scratch memory is ours
 * ("user mode"), so that running allocates nothing.
 */
#include "gemm.h"
#include "peerd/model.h"
#include "pool.h"

#include <assert.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

enum {
    SHAPES_MAX = 64,
    PLANS_MAX = 96,    /* buckets of one shape, with and without addition */
    SHAPE_ROWS = 1024, /* what the layout is chosen for */
    STEP_ROWS = 64,
};

typedef struct plan {
    uint32_t rows;
    bool add;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y, scratch;
} plan;

typedef struct shape {
    uint32_t out, in;
    bool bf16;
    dnnl_memory_desc_t packed;
    plan plans[PLANS_MAX];
    int n_plans;
} shape;

static struct {
    pthread_mutex_t lock;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    shape shapes[SHAPES_MAX];
    int n_shapes;
    pd_arena
        arena; /* scratch; a larger one replaces a smaller, which stays until the process ends */
    void *scratch;
    size_t scratch_bytes;
} door = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pd_err refused(const char *what, dnnl_status_t s) {
    if (s == dnnl_out_of_memory)
        return pd_fail(PD_ENOMEM, "no memory for %s", what);
    return pd_fail(PD_EUNSUPPORTED, "oneDNN cannot do %s (status %d)", what, (int)s);
}

static pd_err door_open(void) {
    pd_pool_enter();
    if (door.stream)
        return PD_OK;
    dnnl_status_t s = dnnl_engine_create(&door.engine, dnnl_cpu, 0);
    if (s == dnnl_success)
        s = dnnl_stream_create(&door.stream, door.engine, dnnl_stream_default_flags);
    return s == dnnl_success ? PD_OK : refused("an engine on this processor", s);
}

bool pd_gemm_has_bf16(void) {
    return ((unsigned)dnnl_get_effective_cpu_isa() & (unsigned)dnnl_cpu_isa_avx512_core_bf16) ==
           (unsigned)dnnl_cpu_isa_avx512_core_bf16;
}

/* Describe y (rows, out) = x (rows, in) . w; `packed` NULL lets oneDNN choose w's layout. */
static dnnl_status_t describe(uint32_t rows, uint32_t out, uint32_t in, bool bf16, bool add,
                              const dnnl_memory_desc_t *packed, dnnl_primitive_desc_t *pd) {
    dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_memory_desc_t x, w, y;
    dnnl_dims_t xd = {rows, in}, wd = {in, out}, yd = {rows, out};
    dnnl_memory_desc_init_by_tag(&x, 2, xd, type, dnnl_ab);
    dnnl_memory_desc_init_by_tag(&y, 2, yd, dnnl_f32, dnnl_ab);
    dnnl_memory_desc_init_by_tag(&w, 2, wd, type, dnnl_format_tag_any);
    dnnl_matmul_desc_t desc;
    dnnl_status_t s = dnnl_matmul_desc_init(&desc, &x, packed ? packed : &w, NULL, &y);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    if (s == dnnl_success)
        s = dnnl_primitive_attr_create(&attr);
    if (s == dnnl_success)
        s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (s == dnnl_success && add) {
        s = dnnl_post_ops_create(&ops);
        if (s == dnnl_success)
            s = dnnl_post_ops_append_sum(ops, 1.0f);
        if (s == dnnl_success)
            s = dnnl_primitive_attr_set_post_ops(attr, ops);
        dnnl_post_ops_destroy(ops);
    }
    if (s == dnnl_success)
        s = dnnl_primitive_desc_create(pd, &desc, attr, door.engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

/* Find or add the entry of a shape; -1 and a failure if there is none to be had. */
static int shape_of(uint32_t out, uint32_t in, bool bf16) {
    for (int i = 0; i < door.n_shapes; i++)
        if (door.shapes[i].out == out && door.shapes[i].in == in && door.shapes[i].bf16 == bf16)
            return i;
    if (door.n_shapes == SHAPES_MAX) {
        (void)pd_fail(PD_EFULL, "more than %d shapes of matrices in one process", SHAPES_MAX);
        return -1;
    }
    dnnl_primitive_desc_t pd;
    dnnl_status_t s = describe(SHAPE_ROWS, out, in, bf16, false, NULL, &pd);
    if (s != dnnl_success) {
        (void)refused("a matrix product", s);
        return -1;
    }
    door.shapes[door.n_shapes] = (shape){.out = out, .in = in, .bf16 = bf16};
    door.shapes[door.n_shapes].packed = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_primitive_desc_destroy(pd);
    return door.n_shapes++;
}

static pd_err scratch_grow(size_t bytes) {
    if (bytes <= door.scratch_bytes)
        return PD_OK;
    bytes += bytes / 2;
    void *p = pd_arena_take(&door.arena, bytes);
    if (!p)
        return pd_fail(PD_ENOMEM, "no memory for %zu bytes of scratch", bytes);
    door.scratch = p;
    door.scratch_bytes = bytes;
    return PD_OK;
}

static void plan_destroy(plan *p) {
    dnnl_memory_destroy(p->x);
    dnnl_memory_destroy(p->w);
    dnnl_memory_destroy(p->y);
    dnnl_memory_destroy(p->scratch);
    dnnl_primitive_destroy(p->primitive);
}

static dnnl_status_t plan_memory(dnnl_primitive_desc_t pd, dnnl_query_t what, dnnl_memory_t *out) {
    return dnnl_memory_create(out, dnnl_primitive_desc_query_md(pd, what, 0), door.engine,
                              DNNL_MEMORY_NONE);
}

static pd_err plan_make(shape *sh, uint32_t rows, bool add, plan *out) {
    dnnl_primitive_desc_t pd;
    dnnl_status_t s = describe(rows, sh->out, sh->in, sh->bf16, add, &sh->packed, &pd);
    if (s != dnnl_success)
        return refused("a matrix product", s);
    plan p = {.rows = rows, .add = add};
    s = dnnl_primitive_create(&p.primitive, pd);
    if (s == dnnl_success)
        s = plan_memory(pd, dnnl_query_src_md, &p.x);
    if (s == dnnl_success)
        s = plan_memory(pd, dnnl_query_weights_md, &p.w);
    if (s == dnnl_success)
        s = plan_memory(pd, dnnl_query_dst_md, &p.y);
    if (s == dnnl_success)
        s = plan_memory(pd, dnnl_query_scratchpad_md, &p.scratch);
    size_t need =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    dnnl_primitive_desc_destroy(pd);
    pd_err e = s == dnnl_success ? scratch_grow(need) : refused("a matrix product", s);
    if (e) {
        plan_destroy(&p);
        return e;
    }
    *out = p;
    return PD_OK;
}

/* Find or make the plan.  A full table forgets its oldest entry. */
static pd_err plan_of(shape *sh, uint32_t rows, bool add, plan **out) {
    for (int i = 0; i < sh->n_plans; i++)
        if (sh->plans[i].rows == rows && sh->plans[i].add == add) {
            *out = &sh->plans[i];
            return PD_OK;
        }
    plan p;
    pd_err e = plan_make(sh, rows, add, &p);
    if (e)
        return e;
    if (sh->n_plans == PLANS_MAX) {
        plan_destroy(&sh->plans[0]);
        memmove(sh->plans, sh->plans + 1, (PLANS_MAX - 1) * sizeof(plan));
        sh->n_plans--;
    }
    *out = &sh->plans[sh->n_plans];
    sh->plans[sh->n_plans++] = p;
    return PD_OK;
}

/* Reorder one matrix into its packed layout, converting to bf16 on the way. */
static dnnl_status_t reorder(const float *w, uint32_t out, uint32_t in, bool transposed,
                             const dnnl_memory_desc_t *packed, void *data) {
    dnnl_memory_desc_t src;
    dnnl_dims_t dims = {
        in, out}; /* oneDNN's weights are (in, out): ours row-major (out, in) is its "ba" */
    dnnl_memory_desc_init_by_tag(&src, 2, dims, dnnl_f32, transposed ? dnnl_ab : dnnl_ba);
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t prim = NULL;
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_status_t s =
        dnnl_reorder_primitive_desc_create(&pd, &src, door.engine, packed, door.engine, NULL);
    if (s == dnnl_success)
        s = dnnl_primitive_create(&prim, pd);
    if (s == dnnl_success)
        s = dnnl_memory_create(&from, &src, door.engine, (void *)(uintptr_t)w);
    if (s == dnnl_success)
        s = dnnl_memory_create(&to, packed, door.engine, data);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    if (s == dnnl_success)
        s = dnnl_primitive_execute(prim, door.stream, 2, args);
    if (s == dnnl_success)
        s = dnnl_stream_wait(door.stream);
    dnnl_memory_destroy(from);
    dnnl_memory_destroy(to);
    dnnl_primitive_destroy(prim);
    dnnl_primitive_desc_destroy(pd);
    return s;
}

static pd_err pack_locked(pd_arena *a, const float *w, uint32_t out, uint32_t in, bool transposed,
                          bool bf16, pd_matrix *m) {
    pd_err e = door_open();
    if (e)
        return e;
    int i = shape_of(out, in, bf16);
    if (i < 0)
        return PD_EUNSUPPORTED;
    const dnnl_memory_desc_t *packed = &door.shapes[i].packed;
    size_t bytes = dnnl_memory_desc_get_size(packed);
    void *data = pd_arena_take(a, bytes);
    if (!data)
        return pd_fail(PD_ENOMEM, "no memory for %zu bytes of packed weights", bytes);
    dnnl_status_t s = reorder(w, out, in, transposed, packed, data);
    if (s != dnnl_success)
        return refused("the packing of a matrix", s);
    *m = (pd_matrix){.out = out, .in = in, .bf16 = bf16, .shape = i, .data = data};
    return PD_OK;
}

pd_err pd_gemm_pack(pd_arena *a, const float *w, uint32_t out, uint32_t in, bool transposed,
                    bool bf16, pd_matrix *m) {
    pthread_mutex_lock(&door.lock);
    pd_err e = pack_locked(a, w, out, in, transposed, bf16, m);
    pthread_mutex_unlock(&door.lock);
    return e;
}

/* Least seconds of a product of ROWS x SIDE x SIDE, or a negative number where it cannot be had. */
static double time_product(bool bf16) {
    enum { ROWS = 256, SIDE = 512, TRIES = 6 };
    pd_arena a = {0};
    pd_matrix m;
    double best = -1.0;
    float *zeros = pd_arena_take(&a, SIDE * SIDE * sizeof(float));
    float *y = pd_arena_take(&a, ROWS * SIDE * sizeof(float));
    if (zeros && y && pd_gemm_pack(&a, zeros, SIDE, SIDE, false, bf16, &m) == PD_OK)
        for (int i = 0; i <= TRIES; i++) { /* the first makes the code */
            struct timespec from, to;
            clock_gettime(CLOCK_MONOTONIC, &from);
            pd_gemm_run(&m, ROWS, zeros, y, false);
            clock_gettime(CLOCK_MONOTONIC, &to);
            double s =
                (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
            if (i > 0 && (best < 0.0 || s < best))
                best = s;
        }
    pd_arena_free(&a);
    return best;
}

bool pd_gemm_bf16_pays(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int known = -1;
    pthread_mutex_lock(&lock);
    if (known < 0) {
        double half = pd_gemm_has_bf16() ? time_product(true) : -1.0;
        double full = half > 0.0 ? time_product(false) : -1.0;
        known = half > 0.0 && half < full;
    }
    pthread_mutex_unlock(&lock);
    return known;
}

/* Dimension `which` of oneDNN's (in, out): inner blocks are listed from the outermost. */
static void layout_dim(const dnnl_blocking_desc_t *b, int which, pd_layout_dim *out) {
    size_t stride = 1;
    *out = (pd_layout_dim){.outer = (size_t)b->strides[which]};
    for (int i = b->inner_nblks; i-- > 0;) {
        if (b->inner_idxs[i] == which) {
            assert(out->n < sizeof out->block / sizeof *out->block);
            out->block[out->n] = (uint32_t)b->inner_blks[i];
            out->stride[out->n++] = stride;
        }
        stride *= (size_t)b->inner_blks[i];
    }
}

void pd_gemm_layout(const pd_matrix *m, pd_layout *out) {
    pthread_mutex_lock(&door.lock);
    const dnnl_memory_desc_t *md = &door.shapes[m->shape].packed;
    assert(md->format_kind == dnnl_blocked && md->offset0 == 0);
    const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
    pd_layout l = {.bytes = dnnl_memory_desc_get_size(md)};
    layout_dim(b, 0, &l.in);
    layout_dim(b, 1, &l.out);
    l.run = l.out.n ? l.out.block[0] : m->out;
    l.step = (uint32_t)(l.out.n ? l.out.stride[0] : l.out.outer);
    l.padded = l.bytes != (size_t)m->out * m->in * (m->bf16 ? 2 : 4);
    pthread_mutex_unlock(&door.lock);
    *out = l;
}

uint32_t pd_gemm_rows(uint32_t rows) {
    uint32_t r = 1;
    while (r < rows && r < STEP_ROWS)
        r *= 2;
    if (rows > STEP_ROWS) {
        uint32_t step = rows > SHAPE_ROWS ? 2 * STEP_ROWS : STEP_ROWS;
        r = (rows + step - 1) / step * step;
    }
    return r;
}

pd_err pd_gemm_prepare(const pd_matrix *m, uint32_t rows) {
    plan *p;
    pthread_mutex_lock(&door.lock);
    pd_pool_enter();
    pd_err e = plan_of(&door.shapes[m->shape], pd_gemm_rows(rows), false, &p);
    pthread_mutex_unlock(&door.lock);
    return e;
}

void pd_gemm_run(const pd_matrix *m, uint32_t rows, const void *x, float *y, bool add) {
    assert(rows > 0);
    pthread_mutex_lock(&door.lock);
    pd_pool_enter();
    plan *p;
    pd_err e = plan_of(&door.shapes[m->shape], pd_gemm_rows(rows), add, &p);
    assert(e == PD_OK && "a product of a packed shape can be made for any number of rows");
    dnnl_memory_set_data_handle(p->x, (void *)(uintptr_t)x);
    dnnl_memory_set_data_handle(p->w, m->data);
    dnnl_memory_set_data_handle(p->y, y);
    dnnl_memory_set_data_handle(p->scratch, door.scratch);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->x},
                              {DNNL_ARG_WEIGHTS, p->w},
                              {DNNL_ARG_DST, p->y},
                              {DNNL_ARG_SCRATCHPAD, p->scratch}};
    dnnl_status_t s = dnnl_primitive_execute(p->primitive, door.stream, 4, args);
    if (s == dnnl_success)
        s = dnnl_stream_wait(door.stream);
    assert(s == dnnl_success);
    pthread_mutex_unlock(&door.lock);
}

void pd_gemm(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *a,
             const float *b, float beta, float *c) {
    if (m == 0 || n == 0)
        return;
    pd_pool_enter();
    dnnl_status_t s = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', (dnnl_dim_t)m, (dnnl_dim_t)n,
                                 (dnnl_dim_t)k, alpha, a, (dnnl_dim_t)(ta ? m : k), b,
                                 (dnnl_dim_t)(tb ? k : n), beta, c, (dnnl_dim_t)n);
    assert(s == dnnl_success);
}
