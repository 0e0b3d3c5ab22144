/* test_control.c - the control socket: one request, one reply, whatever the client is like. */
#include "peerd/control.h"
#include "peerd/file.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static char dir[4096];
static pd_control *control;
static pthread_t server;
static atomic_bool stop;
static uint64_t put_off; /* the call that `later` did not answer at once */

static pd_err echo(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    cJSON_AddStringToObject(
        reply, "text", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "text")));
    cJSON_AddNumberToObject(reply, "ctx", *(int *)ctx);
    return PD_OK;
}

static pd_err refuse(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)ctx;
    (void)call;
    (void)request;
    cJSON_AddStringToObject(reply, "half", "made");
    return pd_fail(PD_EFULL, "no space for it: free some");
}

static pd_err later(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)ctx;
    (void)request;
    (void)reply;
    put_off = call;
    return PD_EAGAIN;
}

static pd_err large(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)ctx;
    (void)call;
    (void)request;
    cJSON *a = cJSON_AddArrayToObject(reply, "lines");
    for (int i = 0; i < 20000; i++)
        cJSON_AddItemToArray(a, cJSON_CreateString("a line of about forty characters or so."));
    return PD_OK;
}

static const pd_control_entry table[] = {
    {"echo", echo}, {"fail", refuse}, {"later", later}, {"large", large}, {NULL, NULL}};

static void *serve(void *arg) {
    (void)arg;
    while (!stop) {
        struct pollfd fds[1 + PD_CONTROL_CLIENTS];
        size_t n = pd_control_fds(control, fds, 1 + PD_CONTROL_CLIENTS);
        poll(fds, n, 10);
        pd_control_serve(control, fds, n);
        if (put_off) {
            cJSON *r = cJSON_CreateObject();
            cJSON_AddStringToObject(r, "text", "at last");
            pd_control_answer(control, put_off, PD_OK, r);
            put_off = 0;
        }
    }
    return NULL;
}

static void make_dir(void) {
    snprintf(dir, sizeof dir, "/tmp/pd-control-XXXXXX");
    ck_assert(mkdtemp(dir) != NULL);
}

static void start(void) {
    static int seven = 7;
    stop = false;
    put_off = 0;
    ck_assert_msg(pd_control_open(dir, table, &seven, &control) == PD_OK, "%s", pd_fail_text());
    pthread_create(&server, NULL, serve, NULL);
}

static void finish(void) {
    stop = true;
    pthread_join(server, NULL);
    pd_control_close(control);
}

/* Ask {"cmd": cmd, "text": text}. */
static pd_err ask(const char *cmd, const char *text, cJSON **reply) {
    cJSON *r = cJSON_CreateObject();
    cJSON_AddStringToObject(r, "cmd", cmd);
    cJSON_AddStringToObject(r, "text", text);
    pd_err e = pd_control_call(dir, r, 5000, reply);
    cJSON_Delete(r);
    return e;
}

static void check_echo(const char *text) {
    cJSON *reply;
    ck_assert_msg(ask("echo", text, &reply) == PD_OK, "%s", pd_fail_text());
    ck_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(reply, "text")), text);
    ck_assert_int_eq((int)cJSON_GetNumberValue(cJSON_GetObjectItem(reply, "ctx")), 7);
    cJSON_Delete(reply);
}

static int raw_connect(void) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%.90s/control.sock", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert(connect(fd, (struct sockaddr *)&un, sizeof un) == 0);
    return fd;
}

START_TEST(requests_are_answered_and_errors_arrive_as_they_were) {
    cJSON *reply = NULL;
    struct stat st;
    char path[4200];
    make_dir();
    start();
    snprintf(path, sizeof path, "%s/control.sock", dir);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0600);
    check_echo("hello");
    check_echo("with \"quotes\", a\nnewline and \xc3\xa4");
    ck_assert_int_eq(ask("fail", "", &reply), PD_EFULL);
    ck_assert_str_eq(pd_fail_text(), "no space for it: free some");
    ck_assert_int_eq(ask("nonsense", "", &reply), PD_EUSAGE);
    ck_assert(strstr(pd_fail_text(), "nonsense") != NULL);
    ck_assert(reply == NULL);
    ck_assert_int_eq(ask("later", "", &reply), PD_OK);
    ck_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(reply, "text")), "at last");
    cJSON_Delete(reply);
    ck_assert_int_eq(ask("large", "", &reply), PD_OK);
    ck_assert_int_eq(cJSON_GetArraySize(cJSON_GetObjectItem(reply, "lines")), 20000);
    cJSON_Delete(reply);
    finish();
    ck_assert(!pd_file_exists(path));
    rmdir(dir);
}
END_TEST

/* Nobody there, a folder that is no node, no folder: each has its own way out. */
START_TEST(a_node_that_does_not_run_is_named) {
    cJSON *reply = NULL;
    char path[4200];
    make_dir();
    ck_assert_int_eq(ask("echo", "x", &reply), PD_ENOENT);
    ck_assert(strstr(pd_fail_text(), "is not a node") != NULL);
    snprintf(path, sizeof path, "%s/node.json", dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    ck_assert_int_eq(ask("echo", "x", &reply), PD_ENOENT);
    ck_assert(strstr(pd_fail_text(), "start it with: peerd run") != NULL);
    unlink(path);
    rmdir(dir);
    ck_assert_int_eq(ask("echo", "x", &reply), PD_ENOENT);
}
END_TEST

/* kill -9 leaves the socket file behind; the next start must not stumble over it, nor push a
 * living one aside. */
START_TEST(a_stale_socket_is_replaced_and_a_living_one_is_not) {
    char path[4200];
    pd_control *second = NULL;
    make_dir();
    snprintf(path, sizeof path, "%s/control.sock", dir);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%.100s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert(bind(fd, (struct sockaddr *)&un, sizeof un) == 0 && listen(fd, 1) == 0);
    close(fd);
    start();
    check_echo("reborn");
    ck_assert_int_eq(pd_control_open(dir, table, NULL, &second), PD_EBUSY);
    ck_assert(strstr(pd_fail_text(), "already runs") != NULL);
    check_echo("still here");
    finish();
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    ck_assert_int_eq(pd_control_open(dir, table, NULL, &second), PD_EEXIST);
    unlink(path);
    rmdir(dir);
}
END_TEST

/* sun_path holds 108 bytes; folders may be deeper. */
START_TEST(a_long_path_is_no_obstacle) {
    char top[64];
    make_dir();
    snprintf(top, sizeof top, "%.60s", dir);
    for (int i = 0; i < 6; i++) {
        strcat(dir, "/a-folder-with-a-rather-long-name-of-its-own");
        ck_assert_int_eq(mkdir(dir, 0700), 0);
    }
    start();
    check_echo("deep");
    finish();
    for (int i = 0; i < 6; i++) {
        rmdir(dir);
        *strrchr(dir, '/') = 0;
    }
    rmdir(top);
}
END_TEST

/* Clients that stop half-way, say nonsense or too much, or never read must not stop the others. */
START_TEST(odd_clients_do_no_harm) {
    make_dir();
    start();
    int half = raw_connect(), silent = raw_connect(), deaf = raw_connect(), gone = raw_connect();
    ck_assert(write(half, "{\"cmd\": \"ec", 11) == 11);
    ck_assert(write(deaf, "{\"cmd\": \"large\"}\n", 17) == 17);
    ck_assert(write(gone, "{\"cmd\": \"large\"}\n", 17) == 17);
    close(gone);
    check_echo("one");
    int noise = raw_connect();
    ck_assert(write(noise, "\0[[[[\n\n}{\nnull\n[1]\n7\n{\"cmd\":3}\n", 31) == 31);
    char buf[4096];
    size_t lines = 0;
    while (lines < 6) {
        ssize_t k = read(noise, buf, sizeof buf);
        ck_assert(k > 0);
        for (ssize_t i = 0; i < k; i++)
            lines += buf[i] == '\n';
    }
    int flood = raw_connect();
    memset(buf, 'x', sizeof buf);
    for (int i = 0; i < 8; i++)
        (void)!send(flood, buf, sizeof buf, MSG_NOSIGNAL);
    check_echo("two");
    ck_assert(write(half, "ho\", \"text\": \"whole\"}\n", 22) == 22);
    ssize_t k = read(half, buf, sizeof buf - 1);
    ck_assert(k > 0);
    buf[k] = 0;
    ck_assert_str_eq(buf, "{\"ok\":true,\"text\":\"whole\",\"ctx\":7}\n");
    close(half);
    close(silent);
    close(deaf);
    close(noise);
    close(flood);
    check_echo("three");
    finish();
    rmdir(dir);
}
END_TEST

/* More clients than places: the rest wait their turn in the backlog. */
START_TEST(more_clients_than_places_wait) {
    make_dir();
    start();
    int fds[PD_CONTROL_CLIENTS + 4];
    for (int i = 0; i < PD_CONTROL_CLIENTS + 4; i++) {
        fds[i] = raw_connect();
        pd_sleep_ms(2);
    }
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    for (int i = 4; i < PD_CONTROL_CLIENTS + 4; i++) {
        char buf[100];
        ck_assert(write(fds[i], "{\"cmd\":\"fail\"}\n", 15) == 15);
        ck_assert(read(fds[i], buf, sizeof buf) > 0);
        close(fds[i]);
    }
    check_echo("after all of them");
    finish();
    rmdir(dir);
}
END_TEST

/* A call that is open when the node ends is told so. */
START_TEST(the_end_of_the_node_is_told) {
    make_dir();
    start();
    stop = true;
    pthread_join(server, NULL);
    int fd = raw_connect();
    char buf[200];
    ck_assert(write(fd, "{\"cmd\":\"later\"}\n", 16) == 16);
    for (int i = 0; i < 2; i++) {
        struct pollfd fds[1 + PD_CONTROL_CLIENTS];
        size_t n = pd_control_fds(control, fds, 1 + PD_CONTROL_CLIENTS);
        poll(fds, n, 1000);
        pd_control_serve(control, fds, n);
    }
    ck_assert(put_off != 0);
    pd_control_close(control);
    ssize_t k = read(fd, buf, sizeof buf - 1);
    ck_assert(k > 0);
    buf[k] = 0;
    ck_assert(strstr(buf, "\"gone\"") != NULL);
    close(fd);
    rmdir(dir);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_test(tc, requests_are_answered_and_errors_arrive_as_they_were);
    tcase_add_test(tc, a_node_that_does_not_run_is_named);
    tcase_add_test(tc, a_stale_socket_is_replaced_and_a_living_one_is_not);
    tcase_add_test(tc, a_long_path_is_no_obstacle);
    tcase_add_test(tc, odd_clients_do_no_harm);
    tcase_add_test(tc, more_clients_than_places_wait);
    tcase_add_test(tc, the_end_of_the_node_is_told);
}

PD_TEST_MAIN("control", 30)
