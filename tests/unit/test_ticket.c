/* test_ticket.c - addresses and tickets: what a person copies from one machine to another. */
#include "peerd/identity.h"
#include "peerd/ticket.h"
#include "test.h"

static pd_ticket sample(uint32_t n_addrs) {
    pd_ticket t = {.n_addrs = n_addrs, .expiry_s = 1700000000};
    for (unsigned i = 0; i < 32; i++)
        t.inviter[i] = (uint8_t)(i + 1);
    memset(t.net, 0xaa, 16);
    memset(t.secret, 0x55, 16);
    for (uint32_t i = 0; i < n_addrs; i++) {
        t.addrs[i] = (pd_addr){.family = i % 2 ? 6 : 4, .port = (uint16_t)(7433 + i)};
        memset(t.addrs[i].ip, (int)i + 1, i % 2 ? 16 : 4);
    }
    return t;
}

static void check_equal(const pd_ticket *a, const pd_ticket *b) {
    ck_assert_mem_eq(a->net, b->net, 16);
    ck_assert_mem_eq(a->inviter, b->inviter, 32);
    ck_assert_mem_eq(a->secret, b->secret, 16);
    ck_assert_uint_eq(a->expiry_s, b->expiry_s);
    ck_assert_uint_eq(a->n_addrs, b->n_addrs);
    for (uint32_t i = 0; i < a->n_addrs; i++)
        ck_assert(pd_addr_equal(&a->addrs[i], &b->addrs[i]));
}

/* A ticket that does not come back whole would leave its guest outside, with no way to know why. */
START_TEST(ticket_round_trips) {
    for (uint32_t n = 1; n <= PD_TICKET_ADDRS; n++) {
        char text[PD_TICKET_TEXT], padded[PD_TICKET_TEXT + 8];
        pd_ticket t = sample(n), u;
        pd_ticket_write(&t, text);
        if (n == 1)
            ck_assert_uint_eq(strlen(text), 136);
        ck_assert_int_eq(pd_ticket_read(text, &u), PD_OK);
        check_equal(&t, &u);
        snprintf(padded, sizeof padded, " %s\r\n", text);
        for (char *p = padded; *p; p++)
            *p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
        ck_assert_int_eq(pd_ticket_read(padded, &u), PD_OK);
        check_equal(&t, &u);
    }
}
END_TEST

/* The format is a promise between versions: these characters must never read differently. */
START_TEST(ticket_of_today_is_the_ticket_of_tomorrow) {
    static const char golden[] =
        "peerd1agvkvkvkvkvkvkvkvkvkvkvkvkvacaqdaqcqmbyibefawdanbyhraeiscmkbkfqx"
        "damrugy4dupb6icvkvkvkvkvkvkvkvkvkvkvkvkvaecacaibaeer2ahrkns454ky4i";
    char text[PD_TICKET_TEXT];
    pd_ticket t = sample(1), u;
    pd_ticket_write(&t, text);
    ck_assert_str_eq(text, golden);
    ck_assert_int_eq(pd_ticket_read(golden, &u), PD_OK);
    check_equal(&t, &u);
}
END_TEST

/* Every cut and every single mistyped character is refused, with a reason; out stays untouched. */
START_TEST(damaged_tickets_are_refused_with_a_reason) {
    char text[PD_TICKET_TEXT], bad[PD_TICKET_TEXT];
    pd_ticket t = sample(2), u;
    memset(&u, 0x77, sizeof u);
    pd_ticket_write(&t, text);
    size_t n = strlen(text);
    for (size_t cut = 0; cut < n; cut++) {
        memcpy(bad, text, cut);
        bad[cut] = 0;
        ck_assert_int_eq(pd_ticket_read(bad, &u), PD_EFORMAT);
    }
    for (size_t i = 0; i < n; i++)
        for (int c = 33; c < 127; c++) {
            memcpy(bad, text, n + 1);
            bad[i] = (char)c;
            if ((bad[i] | 32) == (text[i] | 32))
                continue;
            pd_err e = pd_ticket_read(bad, &u);
            ck_assert_msg(e == PD_EFORMAT, "character %zu as %c gave %d", i, c, e);
        }
    for (size_t i = 0; i < sizeof u; i++)
        ck_assert_uint_eq(((const uint8_t *)&u)[i], 0x77);
    ck_assert_int_eq(pd_ticket_read("hello", &u), PD_EFORMAT);
    ck_assert(strstr(pd_fail_text(), "not a ticket") != NULL);
    snprintf(bad, sizeof bad, "%.100s", text);
    ck_assert_int_eq(pd_ticket_read(bad, &u), PD_EFORMAT);
    ck_assert(strstr(pd_fail_text(), "cut short") != NULL);
    memcpy(bad, text, n + 1);
    bad[20] = bad[20] == 'a' ? 'b' : 'a';
    ck_assert_int_eq(pd_ticket_read(bad, &u), PD_EFORMAT);
    ck_assert(strstr(pd_fail_text(), "mistyped") != NULL);
}
END_TEST

/* Encode raw bytes with a good checksum: what only a broken or newer writer would make. */
static void seal_raw(uint8_t *b, size_t n, char out[PD_TICKET_TEXT]) {
    uint8_t full[32];
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, "peerd.ticket", 12);
    pd_hash_add(&h, b, n);
    pd_hash_end(&h, full);
    memcpy(b + n, full, 4);
    memcpy(out, "peerd1", 6);
    pd_base32(b, n + 4, out + 6);
}

START_TEST(well_sealed_nonsense_is_refused) {
    uint8_t b[200] = {0};
    char text[PD_TICKET_TEXT];
    pd_ticket u;
    b[0] = 2; /* a version of the future */
    seal_raw(b, 77, text);
    ck_assert_int_eq(pd_ticket_read(text, &u), PD_EUNSUPPORTED);
    b[0] = 1;
    b[65] = 0; /* no address */
    seal_raw(b, 77, text);
    ck_assert_int_eq(pd_ticket_read(text, &u), PD_EFORMAT);
    b[65] = 1;
    b[66] = 5; /* neither IPv4 nor IPv6 */
    b[71] = 1;
    seal_raw(b, 77, text);
    ck_assert_int_eq(pd_ticket_read(text, &u), PD_EFORMAT);
    b[66] = 4;
    seal_raw(b, 77, text);
    ck_assert_int_eq(pd_ticket_read(text, &u), PD_OK);
    b[71] = 0; /* port 0 */
    seal_raw(b, 77, text);
    ck_assert_int_eq(pd_ticket_read(text, &u), PD_EFORMAT);
    b[71] = 1;
    b[65] = 2; /* two addresses promised, one there */
    seal_raw(b, 77, text);
    ck_assert_int_eq(pd_ticket_read(text, &u), PD_EFORMAT);
    b[65] = 1;
    seal_raw(b, 78, text); /* a byte too many */
    ck_assert_int_eq(pd_ticket_read(text, &u), PD_EFORMAT);
}
END_TEST

START_TEST(addresses_as_people_write_them) {
    const struct {
        const char *in, *out;
        bool listening;
    } good[] = {
        {"10.1.2.3:80", "10.1.2.3:80", false},
        {"10.1.2.3", "10.1.2.3:7433", false},
        {"[fd00::1]:9", "[fd00::1]:9", false},
        {"[fd00::1]", "[fd00::1]:7433", false},
        {"fd00::1", "[fd00::1]:7433", false},
        {":7433", "0.0.0.0:7433", true},
        {"*:1", "0.0.0.0:1", true},
        {"8000", "0.0.0.0:8000", true},
        {"[::]:0", "[::]:0", true},
        {"127.0.0.1:65535", "127.0.0.1:65535", false},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        pd_addr a;
        char text[PD_ADDR_TEXT];
        ck_assert_msg(pd_addr_parse(good[i].in, good[i].listening, &a) == PD_OK, "%s: %s",
                      good[i].in, pd_fail_text());
        pd_addr_print(&a, text);
        ck_assert_str_eq(text, good[i].out);
    }
    const char *bad[] = {"",           ":80",        "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536",
                         "1.2.3.4:8o", "[::1",       "[::1]80",  "[::1]:",    "0.0.0.0:7433",
                         "[::]:7433",  "1.2.3.4:-1", "*:7433"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pd_addr a;
        ck_assert_msg(pd_addr_parse(bad[i], false, &a) == PD_EUSAGE, "%s was accepted", bad[i]);
    }
    pd_addr a;
    ck_assert_int_eq(pd_addr_parse("localhost:81", false, &a), PD_OK);
    ck_assert(pd_addr_is_loopback(&a) && a.port == 81);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, ticket_round_trips);
    tcase_add_test(tc, ticket_of_today_is_the_ticket_of_tomorrow);
    tcase_add_test(tc, damaged_tickets_are_refused_with_a_reason);
    tcase_add_test(tc, well_sealed_nonsense_is_refused);
    tcase_add_test(tc, addresses_as_people_write_them);
}

PD_TEST_MAIN("ticket", 20)
