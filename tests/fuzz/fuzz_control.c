/* fuzz_control.c - a client of the control socket that says anything, in any pieces: every answer
 * is a line of JSON, and the server goes on.
 *
 * Input: (size 2 | bytes) ..., one write each, the server polled between them.
 */
#include "fuzz.h"

#include "peerd/control.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static char dir[32], path[64];
static pd_control *control;

static void clean(void) {
    pd_control_close(control);
    rmdir(dir);
}

/* As the node's handlers do: read fields of every kind, answer with what was said. */
static pd_err echo(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)ctx, (void)call;
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(request, "text");
    const cJSON *uses = cJSON_GetObjectItemCaseSensitive(request, "uses");
    if (cJSON_IsNumber(uses) && uses->valuedouble > 10)
        return pd_fail(PD_EUSAGE, "too many uses");
    cJSON_AddStringToObject(reply, "text", cJSON_IsString(text) ? text->valuestring : "");
    return PD_OK;
}

static const pd_control_entry table[] = {{"echo", echo}, {NULL, NULL}};

static void start(void) {
    strcpy(dir, "/tmp/pd-fuzz-XXXXXX");
    FUZZ_CHECK(mkdtemp(dir) != NULL);
    FUZZ_CHECK(pd_control_open(dir, table, NULL, &control) == PD_OK);
    snprintf(path, sizeof path, "%s/control.sock", dir);
    atexit(clean);
}

static void serve(void) {
    struct pollfd fds[1 + PD_CONTROL_CLIENTS];
    size_t n = pd_control_fds(control, fds, 1 + PD_CONTROL_CLIENTS);
    if (poll(fds, n, 0) > 0)
        pd_control_serve(control, fds, n);
}

/* Lines of the answers, each whole and JSON with "ok". */
static void check(int fd) {
    static char answer[1 << 16];
    ssize_t n = recv(fd, answer, sizeof answer - 1, MSG_DONTWAIT);
    if (n <= 0)
        return;
    answer[n] = 0;
    for (char *line = answer, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        cJSON *r = cJSON_Parse(line);
        FUZZ_CHECK(r && cJSON_IsBool(cJSON_GetObjectItemCaseSensitive(r, "ok")));
        cJSON_Delete(r);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    fuzz_bytes in = {p, n};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (!control)
        start();
    memcpy(un.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof un) != 0) {
        close(fd);
        return 0;
    }
    serve();
    while (in.n) {
        size_t size = fuzz_take16(&in);
        size = size < in.n ? size : in.n;
        if (send(fd, in.p, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break;
        in.p += size;
        in.n -= size;
        serve();
        check(fd);
    }
    serve();
    check(fd);
    close(fd);
    serve();
    return 0;
}
