/* test_frame.c - the bytes two nodes exchange: golden vectors, one encoding a meaning, no byte that breaks a reader. */
#include "peerd/frame.h"
#include "test.h"

static const uint8_t key[32] = {1, 2, 3, 4}, bytes[3] = {0x11, 0x22, 0x33};
static const uint8_t sig[64] = {0xaa, 0xbb};
static const pd_head heads[3] = {{0, 5}, {1, 300}, {9, 1}};

#define ZEROS_31 "00000000000000000000000000000000000000000000000000000000000000"
#define ZEROS_62 ZEROS_31 ZEROS_31

/* One of each kind; the hex is the contract with every other version of this program. */
static const struct {
    pd_item it;
    const char *hex;
} golden[] = {
    {{.kind = PD_ITEM_HELLO,
      .u.hello = {.net = {7}, .nonce = 0x0102030405060708, .inc = 3, .proto = 1, .caps = 0, .addr = {4, {10, 0, 0, 1}, 7433},
                  .members = 2, .memb_hash = 9, .vv_hash = 10, .total = 1000, .max_rate = 0, .links = 2}},
     "01"
     "0700000000000000000000000000000000000000000000000000000000000000"
     "0807060504030201" "03" "0100" "0000" "040a000001091d" "02" "0900000000000000" "0a00000000000000" "e807" "00000000" "02"},
    {{.kind = PD_ITEM_ALIAS, .u.alias = {5, {{1, 2, 3, 4}, 1}}},
     "0205" "0102030400000000000000000000000000000000000000000000000000000000" "01"},
    {{.kind = PD_ITEM_SEG, .u.seg = {.alias = 5, .start = 0, .bytes = bytes, .count = 3, .seal = sig}},
     "03050003112233" "aabb" ZEROS_62},
    {{.kind = PD_ITEM_SEG, .u.seg = {.alias = 5, .start = 129, .bytes = bytes, .count = 3}}, "8305810103112233"},
    {{.kind = PD_ITEM_CTL, .u.seg = {.alias = 0, .start = 1, .bytes = bytes, .count = 1}}, "8800010111"},
    {{.kind = PD_ITEM_HEADS, .u.heads = {.count = 3, .heads = heads}}, "0403" "0005" "00ac02" "0701"},
    {{.kind = PD_ITEM_VV, .u.heads = {.flags = PD_VV_WANT, .count = 0}}, "0a0100"},
    {{.kind = PD_ITEM_VV, .u.heads = {.flags = PD_VV_MORE | PD_VV_AGAIN, .count = 3, .heads = heads}},
     "0a06" "03" "0005" "00ac02" "0701"},
    {{.kind = PD_ITEM_PRUNE, .u.prune = 300}, "05ac02"},
    {{.kind = PD_ITEM_GRAFT, .u.pull = {3, 128, 65536}}, "0703800180" "8004"},
    {{.kind = PD_ITEM_PULL, .u.pull = {3, 128, 65536}}, "0603800180" "8004"},
    {{.kind = PD_ITEM_PREFIXQ, .u.pull = {3, 128, 65536}}, "0b03800180" "8004"},
    {{.kind = PD_ITEM_PREFIXA, .u.part = {.log = 3, .offset = 128, .bytes = bytes, .count = 3}}, "0c0380010311" "2233"},
    {{.kind = PD_ITEM_PREFIXA, .u.part = {.log = 300, .offset = 5}}, "0cac020500"},
    {{.kind = PD_ITEM_BASE, .u.pull = {.log = 3, .from = 2048}}, "0d038010"},
    {{.kind = PD_ITEM_SUMMARY, .u.summary = {1, 2, 3, 4}}, "09" "0100000000000000" "0200000000000000" "0304"},
    {{.kind = PD_ITEM_PING, .u.ping = {0xdeadbeef, 0}}, "0eefbeadde00"},
    {{.kind = PD_ITEM_PONG, .u.ping = {1, 0}}, "0f0100000000"},
    {{.kind = PD_ITEM_BYE, .u.bye = {.why = PD_BYE_LEAVING}}, "120100"},
    {{.kind = PD_ITEM_BYE, .u.bye = {PD_BYE_FULL, 2, {5, 200}}}, "12050205c801"},
    {{.kind = PD_ITEM_JOIN, .u.join = {.key = {1}, .sig = {2}, .addr = {0}, .name = "ann", .name_size = 3}},
     "13" "0100000000000000000000000000000000000000000000000000000000000000"
     "02" ZEROS_62 "00" "00" "03616e6e"},
    {{.kind = PD_ITEM_WELCOME, .u.part = {.offset = 0, .total = 300, .bytes = bytes, .count = 2}}, "1400ac02021122"},
    {{.kind = PD_ITEM_FORKQ, .u.fork = {.log = 3, .n = 2048}}, "1003" "8010"},
    {{.kind = PD_ITEM_FORKA, .u.fork = {.log = 3, .n = 2048, .head = {9}}},
     "1103" "8010" "09" "00000000000000000000000000000000000000000000000000000000000000"},
    {{.kind = PD_ITEM_BRANCHQ, .u.fork = {.log = 3, .j = 2, .offset = 130}}, "170302" "8201"},
    {{.kind = PD_ITEM_BRANCHA,
      .u.fork = {.log = 3, .j = 2, .n = 2100, .offset = 130, .total = 133, .bytes = bytes, .count = 3}},
     "180302" "b410" "8201" "8501" "03" "112233"},
    {{.kind = PD_ITEM_FILEQ, .u.part = {.digest = {7}, .offset = 8, .limit = 9}},
     "15" "07000000000000000000000000000000" "0809"},
    {{.kind = PD_ITEM_FILEA, .u.part = {.digest = {7}, .offset = 8, .total = 11, .bytes = bytes, .count = 3}},
     "16" "07000000000000000000000000000000" "080b03112233"},
};
enum { KINDS = sizeof golden / sizeof *golden };

/* Re-encode a parsed frame; lists are walked, so that what the walker sees is what is compared. */
static size_t encode_again(const uint8_t *p, size_t n, uint8_t *out, size_t room, bool *ok) {
    static pd_head list[PD_LOGS_MAX];
    pd_reader r;
    pd_item it;
    uint64_t ack;
    pd_writer w = pd_writer_of(out, room);
    *ok = pd_frame_open(p, n, &r, &ack);
    if (!*ok)
        return 0;
    pd_frame_begin(&w, ack);
    while (pd_frame_next(&r, &it)) {
        if (it.kind == PD_ITEM_HEADS || it.kind == PD_ITEM_VV) {
            pd_heads_walk walk;
            uint32_t k = 0;
            pd_heads_begin(&it, &walk);
            while (pd_heads_next(&walk, &list[k]))
                k++;
            ck_assert_uint_eq(k, it.u.heads.count);
            it.u.heads.heads = list;
        }
        ck_assert(pd_frame_put(&w, &it));
    }
    *ok = r.ok;
    return (size_t)(w.p - out);
}

/* A changed byte here is a node of another version that cannot talk to this one. */
START_TEST(every_item_has_its_golden_bytes) {
    for (size_t i = 0; i < KINDS; i++) {
        uint8_t b[512];
        char hex[1025];
        pd_writer w = pd_writer_of(b, sizeof b);
        ck_assert(pd_frame_put(&w, &golden[i].it));
        pd_hex(b, (size_t)(w.p - b), hex);
        ck_assert_str_eq(hex, golden[i].hex);
        ck_assert_uint_eq(pd_item_size(&golden[i].it), (size_t)(w.p - b));
        for (size_t room = 0; room < (size_t)(w.p - b); room++) { /* what does not fit leaves no trace */
            pd_writer small = pd_writer_of(b, room);
            ck_assert(!pd_frame_put(&small, &golden[i].it));
            ck_assert(small.p == b && small.ok);
        }
    }
}
END_TEST

static size_t whole_frame(uint8_t *b, size_t room) {
    pd_writer w = pd_writer_of(b, room);
    pd_frame_begin(&w, 123456);
    for (size_t i = 0; i < KINDS; i++)
        ck_assert(pd_frame_put(&w, &golden[i].it));
    return (size_t)(w.p - b);
}

/* If two byte strings meant the same, a relay could change what it passes on unseen. */
START_TEST(what_parses_encodes_to_the_same_bytes) {
    uint8_t b[2048], again[4096];
    bool ok;
    size_t n = whole_frame(b, sizeof b);
    ck_assert_uint_eq(encode_again(b, n, again, sizeof again, &ok), n);
    ck_assert(ok);
    ck_assert_mem_eq(b, again, n);
    for (size_t at = 0; at < n; at++) {
        uint8_t was = b[at];
        for (unsigned v = 0; v < 256; v++) {
            b[at] = (uint8_t)v;
            size_t m = encode_again(b, n, again, sizeof again, &ok);
            if (ok)
                ck_assert(m == n && !memcmp(b, again, n));
        }
        b[at] = was;
    }
}
END_TEST

START_TEST(every_truncation_is_refused_or_ends_at_an_item) {
    uint8_t b[2048], again[4096];
    size_t n = whole_frame(b, sizeof b), whole = 0;
    bool ok;
    for (size_t cut = 0; cut < n; cut++) {
        size_t m = encode_again(b, cut, again, sizeof again, &ok);
        whole += ok;
        if (ok)
            ck_assert_uint_eq(m, cut);
    }
    ck_assert_uint_eq(whole, KINDS); /* behind the head, and behind each item but the last */
}
END_TEST

START_TEST(bytes_out_of_range_are_refused) {
    static const char *const bad[] = {
        "020001000000", "01", "0000000000", /* version, flags, nothing */
        "010000" "0b" "00",                 /* a kind kept free */
        "010000" "05" "80c102",             /* PRUNE of log 41088 */
        "010000" "8403",                    /* an unsealed HEADS */
        "010000" "83" "00" "00" "00",       /* no bytes */
        "010000" "83" "c0a001" "00" "01" "11", /* alias 20544 */
        "010000" "83" "00" "00" "8140" "11", /* 8193 bytes */
        "010000" "04" "01" "80c102" "00",   /* log 41088 */
        "010000" "04" "01" "00" "8080808010", /* a head of 2^32 */
        "010000" "04" "02" "ffc00200" "0000", /* log 41087, then 41088 */
        "010000" "0a" "08" "00",            /* a flag that is none */
        "010000" "120000", "010000" "120a00", /* no such reason */
        "010000" "120504",          /* more than 3 alternatives */
        "010000" "14" "05" "04" "00",       /* offset behind the end */
        "010000" "14" "03" "04" "02" "1111", /* bytes behind the end */
        "010080" "00",                      /* an ack that is not minimal */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t b[64], again[128];
        size_t n = strlen(bad[i]) / 2;
        bool ok;
        ck_assert(pd_unhex(bad[i], b, n));
        encode_again(b, n, again, sizeof again, &ok);
        ck_assert_msg(!ok, "%s", bad[i]);
    }
    uint8_t large[PD_FRAME_MAX + 1] = {1};
    pd_reader r;
    uint64_t ack;
    ck_assert(pd_frame_open(large, PD_FRAME_MAX, &r, &ack));
    ck_assert(!pd_frame_open(large, sizeof large, &r, &ack));
}
END_TEST

/* ---- control records ---- */

static size_t write_record(const pd_control *rec, uint8_t *b, size_t room) {
    pd_writer w = pd_writer_of(b, room);
    ck_assert(pd_control_put(&w, rec));
    return (size_t)(w.p - b);
}

START_TEST(records_have_their_golden_bytes) {
    const struct {
        pd_control rec;
        const char *hex;
    } g[] = {
        {{.kind = PD_RECORD_MEMBER, .subject = {1, 2, 3, 4}, .invite = 0x0102, .name = "ann"},
         "012d" "0102030400000000000000000000000000000000000000000000000000000000" "00" "0201000000000000" "03616e6e"},
        {{.kind = PD_RECORD_ADDR, .n_addrs = 1, .addrs = {{4, {10, 0, 0, 1}, 7433}}, .name = "b"}, "020a01040a000001091d0162"},
        {{.kind = PD_RECORD_LEAVE, .reason = 0, .step = 300}, "030300ac02"},
        {{.kind = PD_RECORD_EVIDENCE, .proof = (const uint8_t *)"abc", .proof_size = 3}, "0403616263"},
        {{.kind = PD_RECORD_BAN, .subject = {1, 2, 3, 4}, .inc = 1, .step = 300, .control = 7},
         "0524" "0102030400000000000000000000000000000000000000000000000000000000" "01ac0207"},
        {{.kind = PD_RECORD_ROTATE, .subject = {1, 2, 3, 4}, .sig = {5}, .step = 1},
         "0661" "0102030400000000000000000000000000000000000000000000000000000000" "05"
         "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
         "00000000000000000000000000000000" "01"},
        {{.kind = PD_RECORD_BEACON}, "0700"},
        {{.kind = PD_RECORD_CKPT, .ckpt = {.file = {1, 2}, .model = {3}, .size = 300, .records = 7}},
         "0833" "0102" "000000000000000000000000000000000000000000000000000000000000"
         "03000000000000000000000000000000" "ac0207"},
    };
    for (size_t i = 0; i < sizeof g / sizeof *g; i++) {
        uint8_t b[256];
        char hex[513];
        size_t n = write_record(&g[i].rec, b, sizeof b);
        pd_hex(b, n, hex);
        ck_assert_str_eq(hex, g[i].hex);
        pd_control got;
        ck_assert_int_eq(pd_control_get(b, n, &got), (int)n);
        if (got.proof) { /* it lies in the bytes that were read */
            ck_assert_mem_eq(got.proof, g[i].rec.proof, got.proof_size);
            got.proof = g[i].rec.proof;
        }
        ck_assert_mem_eq(&got, &g[i].rec, sizeof got);
        for (size_t cut = 0; cut < n; cut++)
            ck_assert_int_eq(pd_control_get(b, cut, &got), 0); /* not whole yet */
        for (size_t at = 0; at < n; at++)
            for (unsigned v = 0; v < 256; v++) {
                uint8_t c[256];
                memcpy(c, b, n);
                c[at] = (uint8_t)v;
                ptrdiff_t took = pd_control_get(c, n, &got);
                ck_assert(took >= -1 && took <= (ptrdiff_t)n);
            }
    }
}
END_TEST

/* A log's other records must stay readable behind one that this version does not know, and a name cannot move a cursor. */
START_TEST(unknown_records_are_passed_over_and_names_are_printable) {
    uint8_t b[] = {0x63, 2, 9, 9, 2, 5, 0, 3, 'a', 27, 'c'};
    pd_control got;
    ck_assert_int_eq(pd_control_get(b, sizeof b, &got), 4);
    ck_assert_uint_eq(got.kind, 0x63);
    ck_assert_int_eq(pd_control_get(b + 4, sizeof b - 4, &got), 7);
    ck_assert_uint_eq(got.kind, PD_RECORD_ADDR);
    ck_assert_str_eq(got.name, "a?c");
    uint8_t slack[] = {3, 3, 0, 1, 1}, endless[] = {3, 0x81, 0x04, 0};
    ck_assert_int_eq(pd_control_get(slack, sizeof slack, &got), 5);
    ck_assert_uint_eq(got.kind, 0); /* a body with a byte too many says nothing */
    ck_assert_int_eq(pd_control_get(endless, sizeof endless, &got), -1);
}
END_TEST

START_TEST(what_a_guest_signs_names_run_and_ticket) {
    uint8_t msg[PD_JOIN_MESSAGE_BYTES], net[16] = {0xab};
    char hex[2 * PD_JOIN_MESSAGE_BYTES + 1];
    pd_join_message(net, key, msg);
    pd_hex(msg, sizeof msg, hex);
    ck_assert_str_eq(hex, "70656572642e6a6f696e2e7631" "ab000000000000000000000000000000"
                          "0102030400000000000000000000000000000000000000000000000000000000");
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, every_item_has_its_golden_bytes);
    tcase_add_test(tc, what_parses_encodes_to_the_same_bytes);
    tcase_add_test(tc, every_truncation_is_refused_or_ends_at_an_item);
    tcase_add_test(tc, bytes_out_of_range_are_refused);
    tcase_add_test(tc, records_have_their_golden_bytes);
    tcase_add_test(tc, unknown_records_are_passed_over_and_names_are_printable);
    tcase_add_test(tc, what_a_guest_signs_names_run_and_ticket);
}

PD_TEST_MAIN("frame", 60)
