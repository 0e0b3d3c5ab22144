/* test_safetensors.c - weights from anywhere: what the header says is what the bytes are, or the
 * file is refused by name.
 */
#include "gguf_writer.h"
#include "peerd/safetensors.h"
#include "test.h"

static char one[] = "/tmp/pd-safetensors-XXXXXX", two[] = "/tmp/pd-safetensors-XXXXXX";

static void remove_files(void) {
    unlink(one);
    unlink(two);
}

/* n:u64 | header | `data` bytes counting up from 0. */
static void write_file(const char *path, const char *header, size_t data) {
    gw_buf b = {0};
    gw_text(&b, header);
    for (size_t i = 0; i < data; i++)
        gw_int(&b, i, 1);
    gw_write(path, b.p, b.n);
    free(b.p);
}

static pd_err open_one(pd_safetensors **s) {
    const char *paths[] = {one};
    return pd_safetensors_open(paths, 1, s);
}

static void refuse(const char *header, size_t data, pd_err code, const char *says) {
    pd_safetensors *s = NULL;
    write_file(one, header, data);
    ck_assert_msg(open_one(&s) == code, "%s: %s", header, pd_fail_text());
    ck_assert_msg(strstr(pd_fail_text(), says) != NULL, "%s, not %s", pd_fail_text(), says);
    ck_assert_msg(strncmp(pd_fail_text(), one, strlen(one)) == 0, "%s names no file",
                  pd_fail_text());
    ck_assert_ptr_null(s);
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}"
#define B "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[8,14]}"

/* Shapes come fastest first whatever the order of the header, and a scalar is a vector of one. */
START_TEST(tensors_are_found_with_shape_type_and_bytes) {
    pd_safetensors *s;
    write_file(one,
               "{\"__metadata__\":{\"format\":\"pt\"}," B "," A
               ",\"step\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[14,22]}}   ",
               22);
    ck_assert_msg(open_one(&s) == PD_OK, "%s", pd_fail_text());
    ck_assert_uint_eq(pd_safetensors_count(s), 3);
    const pd_tensor *t = pd_safetensors_find(s, "a");
    ck_assert(t == pd_safetensors_at(s, 0) && t->type == PD_GGML_F32 && t->n_dims == 2);
    ck_assert(t->shape[0] == 1 && t->shape[1] == 2 && t->shape[2] == 1 && t->shape[3] == 1);
    ck_assert(t->size_bytes == 8 && t->data[0] == 0 && t->data[7] == 7);
    t = pd_safetensors_find(s, "b");
    ck_assert(t->type == PD_GGML_BF16 && t->n_dims == 1 && t->shape[0] == 3 && t->data[0] == 8);
    t = pd_safetensors_find(s, "step");
    ck_assert(t->type == PD_SAFETENSORS_OTHER && t->n_dims == 1 && t->shape[0] == 1);
    ck_assert_uint_eq(pd_safetensors_index(s, t), 2);
    ck_assert_str_eq(pd_safetensors_dtype(s, 2), "I64");
    ck_assert_ptr_null(pd_safetensors_find(s, "c"));
    ck_assert_ptr_null(pd_safetensors_find(
        s, "a name of more than sixty-four bytes, which no tensor of a file can have: none"));
    pd_safetensors_close(s);
    pd_safetensors_close(NULL);
}
END_TEST

START_TEST(shards_are_one_set) {
    const char *paths[] = {two, one};
    pd_safetensors *s = NULL;
    size_t n;
    write_file(one, "{" A "}", 8);
    write_file(two, "{\"z\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2);
    ck_assert_int_eq(pd_safetensors_open(paths, 2, &s), PD_OK);
    ck_assert_uint_eq(pd_safetensors_count(s), 2);
    ck_assert(pd_safetensors_file(s, 0) == 1 && pd_safetensors_file(s, 1) == 0);
    ck_assert(pd_safetensors_bytes(s, 0, &n) + n - 2 == pd_safetensors_find(s, "z")->data);
    pd_safetensors_close(s);
    s = NULL;
    write_file(two, "{" A "}", 8);
    ck_assert_int_eq(pd_safetensors_open(paths, 2, &s), PD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "tensor a stands twice"));
    ck_assert_ptr_null(s);
}
END_TEST

#define TENSOR(dtype, shape, at)                                                                   \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" at "}}"

START_TEST(what_cannot_be_is_refused_by_name) {
    refuse("{" A "," B "}", 13, PD_EFORMAT, "tensor b lies beyond the end of the file");
    refuse("{" A "," B "}", 15, PD_EFORMAT, "1 bytes at the file's end");
    refuse("{" B "}", 14, PD_EFORMAT, "8 bytes before tensor b");
    refuse("{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[7,10]}}", 10, PD_EFORMAT,
           "tensor b overlaps tensor a");
    refuse("{" A "," A "}", 8, PD_EFORMAT, "tensor a overlaps tensor a");
    refuse("{}", 0, PD_EFORMAT, "holds no tensor");
    refuse("[]", 0, PD_EFORMAT, "its header is not a JSON object");
    refuse("{\"a\":", 0, PD_EFORMAT, "its header is not JSON");
    refuse("{" A "} x", 8, PD_EFORMAT, "its header is not JSON");
    refuse("{\"a\\u0000b\":1}", 0, PD_EFORMAT, "NUL");
    refuse("{\"\":{}}", 0, PD_EFORMAT, "named \"\"");
    refuse("{\"\\u00e9\":{}}", 0, PD_EFORMAT, "not plain text");
    refuse("{\"0123456789012345678901234567890123456789012345678901234567890123456789\":{}}", 0,
           PD_EFORMAT, "70 bytes");
    refuse("{\"a\":3}", 0, PD_EFORMAT, "not described by an object");
    refuse("{\"a\":{}}", 0, PD_EFORMAT, "no dtype");
    refuse(TENSOR("F4", "[1]", "[0,1]"), 1, PD_EUNSUPPORTED, "dtype F4");
    refuse(TENSOR("F32", "7", "[0,4]"), 4, PD_EFORMAT, "no shape");
    refuse(TENSOR("F32", "[0]", "[0,0]"), 0, PD_EFORMAT, "not 1 or more");
    refuse(TENSOR("F32", "[1.5]", "[0,4]"), 4, PD_EFORMAT, "not 1 or more");
    refuse(TENSOR("F32", "[-1]", "[0,4]"), 4, PD_EFORMAT, "not 1 or more");
    refuse(TENSOR("F32", "[1,1,1,1,1]", "[0,4]"), 4, PD_EUNSUPPORTED, "more than 4 dimensions");
    refuse(TENSOR("F32", "[2]", "[0,4]"), 4, PD_EFORMAT, "has 4 bytes, but its shape");
    refuse(TENSOR("F32", "[4294967296,4294967296]", "[0,0]"), 0, PD_EFORMAT, "2^64");
    refuse(TENSOR("F32", "[1]", "[4,0]"), 4, PD_EFORMAT, "no data_offsets");
    refuse(TENSOR("F32", "[1]", "[0]"), 4, PD_EFORMAT, "no data_offsets");
    refuse(TENSOR("F32", "[1]", "[0,1e300]"), 4, PD_EFORMAT, "no data_offsets");
    refuse(TENSOR("F32", "[1]", "[\"0\",4]"), 4, PD_EFORMAT, "no data_offsets");
}
END_TEST

static void refuse_bytes(const void *p, size_t n, const char *says) {
    pd_safetensors *s = NULL;
    gw_write(one, p, n);
    ck_assert_int_eq(open_one(&s), PD_EFORMAT);
    ck_assert_msg(strstr(pd_fail_text(), says) != NULL, "%s, not %s", pd_fail_text(), says);
}

START_TEST(lengths_are_checked_before_use) {
    const char *none[] = {"/nonexistent/x.safetensors"};
    pd_safetensors *s = NULL;
    refuse_bytes("", 0, "not a safetensors file: it has 0 bytes");
    refuse_bytes("\7\0\0\0\0\0\0", 7, "not a safetensors file: it has 7 bytes");
    refuse_bytes("\7\0\0\0\0\0\0\0{}", 10, "ends within its header");
    refuse_bytes("\377\377\377\377\377\377\377\377{}", 10, "not a safetensors file: its header");
    refuse_bytes("GGUF\3\0\0\0{}", 10, "not a safetensors file: its header");
    ck_assert_int_eq(pd_safetensors_open(none, 1, &s), PD_ENOENT);
    char *deep = malloc(4001);
    memset(deep, '[', 4000);
    memcpy(deep, "{\"a\":", 5);
    deep[4000] = 0;
    refuse(deep, 0, PD_EFORMAT, "is not JSON");
    free(deep);
}
END_TEST

/* Any byte of a file may be wrong, and any end missing: it opens or is refused, and what opens can
 * be read (the sanitizers watch). */
START_TEST(every_flipped_byte_reads_or_is_refused) {
    gw_buf b = {0};
    unsigned sum = 0;
    gw_text(&b, "{\"__metadata__\":{}," A "," B "}  ");
    for (size_t i = 0; i < 14; i++)
        gw_int(&b, i, 1);
    for (size_t i = 0; i < 2 * b.n; i++) {
        pd_safetensors *s = NULL;
        uint8_t was = b.p[i / 2];
        b.p[i / 2] ^= i % 2 ? 0xff : 0x04;
        gw_write(one, b.p, i % 2 ? b.n : i / 2 + 1);
        if (open_one(&s) == PD_OK)
            for (size_t k = 0; k < pd_safetensors_count(s); k++)
                for (size_t j = 0; j < pd_safetensors_at(s, k)->size_bytes; j++)
                    sum += pd_safetensors_at(s, k)->data[j];
        pd_safetensors_close(s);
        b.p[i / 2] = was;
    }
    ck_assert_uint_gt(sum, 0);
    free(b.p);
}
END_TEST

static void add_tests(TCase *tc) {
    close(mkstemp(one));
    close(mkstemp(two));
    atexit(remove_files);
    tcase_add_test(tc, tensors_are_found_with_shape_type_and_bytes);
    tcase_add_test(tc, shards_are_one_set);
    tcase_add_test(tc, what_cannot_be_is_refused_by_name);
    tcase_add_test(tc, lengths_are_checked_before_use);
    tcase_add_test(tc, every_flipped_byte_reads_or_is_refused);
}

PD_TEST_MAIN("safetensors", 60)
