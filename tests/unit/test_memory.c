/* test_memory.c - a model is held once: opening it takes its packed weights and little more.
 *
 * Pages of the file count as the process's as long as they are mapped, and so does what reading
 * and packing leave behind; either would be a second copy of a model of gigabytes.
 */
#include "gguf_writer.h"
#include "peerd/base.h"
#include "peerd/file.h"
#include "test.h"

#include <fcntl.h>

enum { LAYERS = 24, WIDTH = 256, FF = 1024, HEADS = 4, VOCAB = 512 }; /* 25 M weights */

static const struct {
    const char *name;
    uint64_t in, out; /* out 0: a vector */
} parts[] = {{"attn_norm", WIDTH, 0},  {"ffn_norm", WIDTH, 0},   {"attn_q", WIDTH, WIDTH},
             {"attn_k", WIDTH, WIDTH}, {"attn_v", WIDTH, WIDTH}, {"attn_output", WIDTH, WIDTH},
             {"ffn_gate", WIDTH, FF},  {"ffn_up", WIDTH, FF},    {"ffn_down", FF, WIDTH}};

static void add(gw *w, const char *name, uint64_t in, uint64_t out, uint64_t *at) {
    gw_list(w, name, out ? 1 : 0, out ? 2 : 1, (uint64_t[]){in, out}, *at); /* F16 or F32 */
    *at += out ? 2 * in * out : 4 * in;
}

/* A file of zeros, which take no room on the disk, with a head that says what they are. */
static void write_model(const char *path) {
    gw w = gw_new();
    uint64_t at = 0;
    char name[64];
    gw_str(&w, "general.architecture", "llama");
    gw_u32(&w, "llama.block_count", LAYERS);
    gw_u32(&w, "llama.embedding_length", WIDTH);
    gw_u32(&w, "llama.feed_forward_length", FF);
    gw_u32(&w, "llama.context_length", 64);
    gw_u32(&w, "llama.attention.head_count", HEADS);
    gw_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    add(&w, "token_embd.weight", WIDTH, VOCAB, &at);
    add(&w, "output_norm.weight", WIDTH, 0, &at);
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, parts[i].name);
            add(&w, name, parts[i].in, parts[i].out, &at);
        }
    gw_buf head = gw_finish(&w);
    gw_write(path, head.p, head.n);
    ck_assert_int_eq(truncate(path, (off_t)(head.n + at)), 0);
    free(head.p);
}

static uint64_t status(const char *name) {
    uint64_t bytes = 0;
    ck_assert(pd_proc_bytes("/proc/self/status", name, &bytes));
    return bytes;
}

/* Bytes of packed weights; *most: what the process took at most meanwhile. */
static size_t open_once(const char *path, uint64_t *most) {
    static const pd_model_opts opts = {.compute = PD_COMPUTE_F32, .threads = 1};
    uint8_t digest[32];
    uint64_t before = status("VmRSS");
    pd_base *b;
    pd_model *m;
    ck_assert_msg(pd_base_open(path, &b) == PD_OK, "%s", pd_fail_text());
    pd_base_digest(b, digest); /* as a node does: it looks at the whole file */
    ck_assert_msg(pd_base_model(b, &opts, &m) == PD_OK, "%s", pd_fail_text());
    pd_base_close(b);
    size_t packed = pd_model_info_of(m)->packed_bytes;
    pd_model_close(m);
    *most = status("VmHWM") - before;
    return packed;
}

/* Tools that keep books of their own about every byte take the room that is measured here. */
static bool is_measurable(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#else
    const char *preload = getenv("LD_PRELOAD");
    return !preload || !strstr(preload, "vgpreload");
#endif
}

START_TEST(a_model_is_held_once) {
    static char path[] = "/tmp/pd-memory-XXXXXX";
    uint64_t most;
    if (!is_measurable()) {
        printf("skipped: memory is not the process's own under this tool\n");
        return;
    }
    int fd = mkstemp(path);
    ck_assert(fd >= 0 && close(fd) == 0);
    (void)open_once(pd_test_path("examples/models/house-2m.gguf"), &most); /* what comes but once */
    write_model(path);
    size_t packed = open_once(path, &most);
    unlink(path);
    printf("%zu MiB of packed weights, %llu MiB at most\n", packed >> 20,
           (unsigned long long)(most >> 20));
    ck_assert_uint_ge(packed, (size_t)LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * FF) * 4);
    ck_assert_msg(most < packed + packed / 3, "%llu bytes for %zu of weights",
                  (unsigned long long)most, packed);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, a_model_is_held_once);
}

PD_TEST_MAIN("memory", 60)
