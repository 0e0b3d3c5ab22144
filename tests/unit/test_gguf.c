/* test_gguf.c - a model file is a stranger's bytes: sound ones are read exactly, all others are
 * refused in words. */
#include "gguf_writer.h"
#include "peerd/gguf.h"
#include "test.h"

#include <math.h>

static char path[] = "/tmp/pd-gguf-XXXXXX";

static void remove_file(void) {
    unlink(path);
}

static pd_err open_bytes(const uint8_t *p, size_t n, pd_gguf **g) {
    gw_write(path, p, n);
    return pd_gguf_open(path, g);
}

/* Opens what was written and expects an error whose text holds `says`. */
static void refuse(gw *w, pd_err code, const char *says) {
    pd_gguf *g = NULL;
    gw_save(w, path);
    ck_assert_int_eq(pd_gguf_open(path, &g), code);
    ck_assert_msg(strstr(pd_fail_text(), says) != NULL, "%s", pd_fail_text());
    ck_assert_msg(strstr(pd_fail_text(), path) != NULL, "%s", pd_fail_text());
    ck_assert_ptr_null(g);
}

static const uint64_t dims_2x3[] = {2, 3};
static const float six[] = {1, 2, 3, 4, 5, 6};

static gw sound_file(void) {
    gw w = gw_new();
    const char *words[] = {"a", "", "ccc"};
    const int32_t ints[] = {-1, 2, 3};
    const float floats[] = {0.5f, -0.25f};
    gw_str(&w, "name", "model");
    gw_u32(&w, "count", 7);
    gw_f32(&w, "eps", 0.125f);
    gw_bool(&w, "yes", 1);
    gw_strs(&w, "words", words, 3);
    gw_i32s(&w, "ints", ints, 3);
    gw_f32s(&w, "floats", floats, 2);
    gw_key(&w, "minus", 11);
    gw_int(&w.keys, (uint64_t)-5, 8);
    gw_key(&w, "byte", 0);
    gw_int(&w.keys, 200, 1);
    gw_tensor(&w, "zeta", PD_GGML_F32, 2, dims_2x3, six, sizeof six);
    gw_tensor(&w, "alpha", PD_GGML_F16, 2, dims_2x3, six, 12);
    return w;
}

START_TEST(a_sound_file_is_read_exactly) {
    for (uint32_t version = 2; version <= 3; version++) {
        gw w = sound_file();
        w.version = version;
        gw_save(&w, path);
        pd_gguf *g;
        ck_assert_int_eq(pd_gguf_open(path, &g), PD_OK);
        uint64_t u = 99;
        double f = 0;
        bool b = false;
        pd_str s, words[3];
        int32_t ints[3];
        float floats[2];
        size_t n = 0;
        ck_assert(pd_gguf_u64(g, "count", &u) && u == 7);
        ck_assert(pd_gguf_u64(g, "byte", &u) && u == 200);
        ck_assert(!pd_gguf_u64(g, "minus", &u) && !pd_gguf_u64(g, "eps", &u) &&
                  !pd_gguf_u64(g, "none", &u));
        ck_assert(!pd_gguf_u64(g, "ints", &u) && u == 200);
        ck_assert(pd_gguf_f64(g, "eps", &f) && f == 0.125);
        ck_assert(!pd_gguf_f64(g, "count", &f));
        ck_assert(pd_gguf_bool(g, "yes", &b) && b);
        ck_assert(pd_gguf_str(g, "name", &s) && s.n == 5 && memcmp(s.p, "model", 5) == 0);
        ck_assert(pd_gguf_count(g, "words", &n) && n == 3 && !pd_gguf_count(g, "name", &n));
        ck_assert(pd_gguf_strs(g, "words", words, 3) && words[1].n == 0 && words[2].n == 3);
        ck_assert(!pd_gguf_strs(g, "words", words, 2) && !pd_gguf_strs(g, "ints", words, 3));
        ck_assert(pd_gguf_i32s(g, "ints", ints, 3) && ints[0] == -1 && ints[2] == 3);
        ck_assert(pd_gguf_f32s(g, "floats", floats, 2) && floats[1] == -0.25f);
        ck_assert_uint_eq(pd_gguf_tensors(g), 2);
        const pd_tensor *t = pd_gguf_tensor(g, "zeta");
        ck_assert(t == pd_gguf_tensor_at(g, 0) && t->n_dims == 2 && t->shape[0] == 2 &&
                  t->shape[1] == 3);
        ck_assert(t->shape[2] == 1 && t->shape[3] == 1 && t->size_bytes == 24);
        ck_assert_mem_eq(t->data, six, 24);
        ck_assert(pd_gguf_tensor(g, "alpha") == pd_gguf_tensor_at(g, 1) &&
                  !pd_gguf_tensor(g, "beta"));
        pd_gguf_close(g);
    }
    pd_gguf_close(NULL);
}
END_TEST

/* A file that takes another's metadata over must be able to copy all of it, in its order. */
START_TEST(keys_are_given_as_they_stand) {
    gw w = sound_file();
    gw_buf keys = {0};
    gw_put(&keys, w.keys.p, w.keys.n);
    gw_save(&w, path);
    pd_gguf *g;
    ck_assert_int_eq(pd_gguf_open(path, &g), PD_OK);
    static const char *const names[] = {"name", "count", "eps",    "yes",   "words",
                                        "ints", "floats", "minus", "byte"};
    ck_assert_uint_eq(pd_gguf_keys(g), 9);
    size_t at = 0;
    for (size_t i = 0; i < 9; i++) {
        pd_str name, raw = pd_gguf_key_at(g, i, &name);
        ck_assert(name.n == strlen(names[i]) && memcmp(name.p, names[i], name.n) == 0);
        ck_assert_uint_le(at + raw.n, keys.n);
        ck_assert_mem_eq(raw.p, keys.p + at, raw.n);
        at += raw.n;
    }
    ck_assert_uint_eq(at, keys.n);
    pd_gguf_close(g);
    free(keys.p);
}
END_TEST

/* The digest names a model for every member of a run: layout and metadata must not change it, one
 * bit must. */
START_TEST(digest_is_of_the_weights_not_of_the_layout) {
    uint8_t a[32], b[32];
    pd_gguf *g;
    gw w = sound_file();
    gw_save(&w, path);
    ck_assert_int_eq(pd_gguf_open(path, &g), PD_OK);
    pd_gguf_digest(g, a);
    pd_gguf_close(g);

    w = gw_new();
    w.align = 64;
    gw_u32(&w, "general.alignment", 64);
    gw_tensor(&w, "alpha", PD_GGML_F16, 2, dims_2x3, six, 12);
    gw_tensor(&w, "zeta", PD_GGML_F32, 2, dims_2x3, six, sizeof six);
    gw_save(&w, path);
    ck_assert_int_eq(pd_gguf_open(path, &g), PD_OK);
    pd_gguf_digest(g, b);
    pd_gguf_close(g);
    ck_assert_mem_eq(a, b, 32);

    float other[6];
    memcpy(other, six, sizeof six);
    other[5] = nextafterf(other[5], 7);
    w = gw_new();
    gw_tensor(&w, "alpha", PD_GGML_F16, 2, dims_2x3, six, 12);
    gw_tensor(&w, "zeta", PD_GGML_F32, 2, dims_2x3, other, sizeof six);
    gw_save(&w, path);
    ck_assert_int_eq(pd_gguf_open(path, &g), PD_OK);
    pd_gguf_digest(g, b);
    pd_gguf_close(g);
    ck_assert(memcmp(a, b, 32) != 0);
}
END_TEST

/* A download stops anywhere. */
START_TEST(every_truncation_is_refused) {
    gw w = sound_file();
    gw_buf b = gw_finish(&w);
    for (size_t n = 0; n < b.n; n++) {
        pd_gguf *g = NULL;
        ck_assert_msg(open_bytes(b.p, n, &g) == PD_EFORMAT, "%zu bytes of %zu", n, b.n);
    }
    pd_gguf *g;
    ck_assert_int_eq(open_bytes(b.p, b.n, &g), PD_OK);
    pd_gguf_close(g);
    free(b.p);
}
END_TEST

/* Any bit may be wrong: the file opens or is refused, nothing else (the sanitizers watch). */
START_TEST(every_flipped_byte_opens_or_is_refused) {
    gw w = sound_file();
    gw_buf b = gw_finish(&w);
    const uint8_t masks[] = {0x01, 0x80, 0xff};
    for (size_t i = 0; i < b.n; i++) {
        for (size_t m = 0; m < sizeof masks; m++) {
            b.p[i] ^= masks[m];
            pd_gguf *g = NULL;
            pd_err e = open_bytes(b.p, b.n, &g);
            ck_assert(e == PD_OK || e == PD_EFORMAT || e == PD_EUNSUPPORTED);
            if (!e) {
                uint8_t digest[32];
                pd_gguf_digest(g, digest);
            }
            pd_gguf_close(g);
            b.p[i] ^= masks[m];
        }
    }
    free(b.p);
}
END_TEST

START_TEST(headers_that_lie_are_refused) {
    pd_gguf *g = NULL;
    ck_assert_int_eq(pd_gguf_open("/nonexistent/x.gguf", &g), PD_ENOENT);
    ck_assert_int_eq(open_bytes((const uint8_t *)"GGML", 4, &g), PD_EFORMAT);
    const uint32_t versions[] = {0, 1, 4, 0x03000000};
    for (size_t i = 0; i < 4; i++) {
        gw w = sound_file();
        w.version = versions[i];
        refuse(&w, PD_EUNSUPPORTED, i == 3 ? "big-endian" : "version");
    }
    const uint64_t huge[] = {100, 1u << 30, UINT64_MAX / 8, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        gw w = sound_file();
        w.n_keys = huge[i];
        refuse(&w, PD_EFORMAT, "");
        w = sound_file();
        w.n_tensors = huge[i];
        refuse(&w, PD_EFORMAT, "ends within its list of tensors");
    }
}
END_TEST

START_TEST(metadata_that_lies_is_refused) {
    const uint64_t huge[] = {1000, UINT64_MAX / 8, UINT64_MAX / 4 + 1, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        gw w = gw_new(); /* a string's length */
        gw_key(&w, "s", 8);
        gw_int(&w.keys, huge[i], 8);
        refuse(&w, PD_EFORMAT, "ends within its metadata");
        for (uint32_t type = 0; type < 13; type++) { /* an array's */
            if (type == 9)
                continue;
            w = gw_new();
            gw_key(&w, "a", 9);
            gw_int(&w.keys, type, 4);
            gw_int(&w.keys, huge[i], 8);
            refuse(&w, PD_EFORMAT, "ends within its metadata");
        }
        w = gw_new(); /* a name's */
        gw_int(&w.keys, huge[i], 8);
        gw_int(&w.keys, 0, 8);
        w.n_keys = 1;
        refuse(&w, PD_EFORMAT, "ends within its metadata");
    }
    gw w = gw_new();
    gw_u32(&w, "twice", 1);
    gw_u32(&w, "other", 1);
    gw_u32(&w, "twice", 1);
    refuse(&w, PD_EFORMAT, "key twice stands twice");
    w = gw_new();
    gw_key(&w, "odd", 13);
    gw_int(&w.keys, 0, 8);
    refuse(&w, PD_EFORMAT, "key odd has type 13");
    w = gw_new();
    gw_bool(&w, "maybe", 2);
    refuse(&w, PD_EFORMAT, "neither 0 nor 1");
    w = gw_new();
    gw_key(&w, "deep", 9);
    gw_int(&w.keys, 9, 4);
    gw_int(&w.keys, 1, 8);
    refuse(&w, PD_EUNSUPPORTED, "array of arrays");
    w = gw_new();
    gw_u32(&w, "", 1);
    refuse(&w, PD_EFORMAT, "name of 0 bytes");
    w = gw_new();
    gw_str(&w, "general.alignment", "32");
    refuse(&w, PD_EFORMAT, "power of two");
    const uint32_t aligns[] = {0, 3, 24, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        w = gw_new();
        gw_u32(&w, "general.alignment", aligns[i]);
        refuse(&w, PD_EFORMAT, "power of two");
    }
}
END_TEST

START_TEST(tensors_that_lie_are_refused) {
    const uint64_t d4[] = {4}, d40[] = {40}, d0[] = {4, 0};
    const uint64_t wrap[] = {1ull << 32, 1ull << 32, 2}, wide[] = {1ull << 40, 1ull << 22},
                   five[] = {1, 1, 1, 1, 1};
    const uint8_t bytes[64] = {0};
    struct {
        const char *name;
        uint32_t type, n_dims;
        const uint64_t *dims;
        uint64_t offset;
        pd_err code;
        const char *says;
    } c[] = {
        {"x", 0, 1, d4, 64, PD_EFORMAT, "beyond the end"},
        {"x", 0, 1, d4, UINT64_MAX - 31, PD_EFORMAT, "beyond the end"},
        {"x", 0, 1, d4, 8, PD_EFORMAT, "multiple of 32"},
        {"x", 0, 1, d4, 0, PD_EFORMAT, "overlaps"},
        {"base", 0, 1, d4, 32, PD_EFORMAT, "tensor base stands twice"},
        {"x", 2, 1, d40, 32, PD_EFORMAT, "whole blocks of Q4_0"},
        {"x", 0, 2, d0, 32, PD_EFORMAT, "no elements"},
        {"x", 0, 3, wrap, 32, PD_EFORMAT, "2^64 elements"},
        {"x", 0, 2, wide, 32, PD_EFORMAT, "2^64 bytes"},
        {"x", 0, 0, d4, 32, PD_EFORMAT, "0 dimensions"},
        {"x", 0, 5, five, 32, PD_EFORMAT, "5 dimensions"},
        {"x", 99, 1, d4, 32, PD_EUNSUPPORTED, "type 99"},
        {"", 0, 1, d4, 32, PD_EFORMAT, "0 bytes; 1 to 64"},
        {"0123456789012345678901234567890123456789012345678901234567890123x", 0, 1, d4, 32,
         PD_EFORMAT, "65 bytes"},
        {"x", 12, 1, d4, 32, PD_EFORMAT, "whole blocks of Q4_K"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        gw w = gw_new();
        gw_tensor(&w, "base", 0, 1, d4, bytes, 16);
        gw_list(&w, c[i].name, c[i].type, c[i].n_dims, c[i].dims, c[i].offset);
        gw_put(&w.data, bytes, 48);
        refuse(&w, c[i].code, c[i].says);
    }
}
END_TEST

START_TEST(real_files_open) {
    for (int i = 0; i < 2; i++) {
        const char *p = i == 0 ? pd_test_path("examples/models/house-2m.gguf")
                               : pd_test_shared("data/stories260K/stories260K.gguf");
        pd_gguf *g;
        if (!p)
            continue;
        ck_assert_int_eq(pd_gguf_open(p, &g), PD_OK);
        ck_assert_uint_eq(pd_gguf_tensors(g), i == 0 ? 38 : 47);
        pd_gguf_close(g);
    }
}
END_TEST

static void add_tests(TCase *tc) {
    close(mkstemp(path));
    atexit(remove_file);
    tcase_add_test(tc, a_sound_file_is_read_exactly);
    tcase_add_test(tc, keys_are_given_as_they_stand);
    tcase_add_test(tc, digest_is_of_the_weights_not_of_the_layout);
    tcase_add_test(tc, every_truncation_is_refused);
    tcase_add_test(tc, every_flipped_byte_opens_or_is_refused);
    tcase_add_test(tc, headers_that_lie_are_refused);
    tcase_add_test(tc, metadata_that_lies_is_refused);
    tcase_add_test(tc, tensors_that_lie_are_refused);
    tcase_add_test(tc, real_files_open);
}

PD_TEST_MAIN("gguf", 60)
