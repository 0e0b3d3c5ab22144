/* control.c - the control socket, both ends; see control.h.
 *
 * A client is a small state: what it has sent so far, what it is still to be sent, and the call it
 * waits for.  It asks again only after its answer, so that a request waits in the socket and not in
 * our memory.
 */
#include "peerd/control.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct client {
    int fd; /* -1: free */
    char in[PD_CONTROL_REQUEST_MAX + 1];
    size_t n_in;
    char *out; /* the reply, or NULL */
    size_t n_out, sent;
    uint64_t call; /* the request being answered, or 0 */
    uint64_t seen_ms;
} client;

struct pd_control {
    int fd;
    char path[4096]; /* to remove at the end */
    const pd_control_entry *table;
    void *ctx;
    uint64_t next_call;
    client clients[PD_CONTROL_CLIENTS];
};

/* ---- the socket's name ---- */

/* The address of DIR/control.sock.  A path too long for sun_path goes through a descriptor of the
 * folder: *dir_fd, which the caller closes (or -1).
 */
static pd_err address_of(const char *dir, struct sockaddr_un *un, int *dir_fd) {
    int n;
    *dir_fd = -1;
    memset(un, 0, sizeof *un);
    un->sun_family = AF_UNIX;
    n = snprintf(un->sun_path, sizeof un->sun_path, "%s/control.sock", dir);
    if (n >= 0 && (size_t)n < sizeof un->sun_path)
        return PD_OK;
    *dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dir_fd < 0)
        return pd_fail(errno == ENOENT ? PD_ENOENT : PD_EIO, "cannot open %s: %s", dir,
                       strerror(errno));
    snprintf(un->sun_path, sizeof un->sun_path, "/proc/self/fd/%d/control.sock", *dir_fd);
    return PD_OK;
}

static void close_if(int fd) {
    if (fd >= 0)
        close(fd);
}

/* ---- server: open and close ---- */

/* Does a living process listen there? */
static bool answers(const struct sockaddr_un *un) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool alive = fd >= 0 && (connect(fd, (const struct sockaddr *)un, sizeof *un) == 0 ||
                             errno == EAGAIN || errno == EINPROGRESS);
    close_if(fd);
    return alive;
}

static pd_err listen_at(pd_control *c, const char *dir, const struct sockaddr_un *un) {
    struct stat st;
    if (lstat(un->sun_path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
            return pd_fail(PD_EEXIST, "%s/control.sock is in the way and is no socket (remove it)",
                           dir);
        if (answers(un))
            return pd_fail(PD_EBUSY, "peerd already runs on %s (stop it, or use another folder)",
                           dir);
        unlink(un->sun_path);
    }
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Linux gives the socket file the mode of the descriptor, so it is never open to others */
    if (c->fd < 0 || fchmod(c->fd, 0600) != 0 ||
        bind(c->fd, (const struct sockaddr *)un, sizeof *un) != 0 ||
        listen(c->fd, PD_CONTROL_CLIENTS) != 0)
        return pd_fail(errno == ENOENT       ? PD_ENOENT
                       : errno == EADDRINUSE ? PD_EBUSY
                                             : PD_EIO,
                       "cannot listen at %s/control.sock: %s", dir, strerror(errno));
    snprintf(c->path, sizeof c->path, "%s/control.sock", dir);
    return PD_OK;
}

pd_err pd_control_open(const char *dir, const pd_control_entry *table, void *ctx,
                       pd_control **out) {
    struct sockaddr_un un;
    int dir_fd;
    pd_control *c = calloc(1, sizeof *c);
    if (!c)
        return pd_fail(PD_ENOMEM, "no memory for the control socket");
    c->fd = -1;
    c->table = table;
    c->ctx = ctx;
    c->next_call = 1;
    for (size_t i = 0; i < PD_CONTROL_CLIENTS; i++)
        c->clients[i].fd = -1;
    pd_err e = address_of(dir, &un, &dir_fd);
    if (!e)
        e = listen_at(c, dir, &un);
    close_if(dir_fd);
    if (e) {
        pd_control_close(c);
        return e;
    }
    *out = c;
    return PD_OK;
}

static void client_drop(client *k) {
    close_if(k->fd);
    free(k->out);
    *k = (client){.fd = -1};
}

/* ---- server: replies ---- */

/* One word for each code, in its order; part of the protocol. */
static const char *const code_names[] = {
    "ok",       "io",     "full",     "memory", "absent", "exists", "format", "unsupported",
    "mismatch", "denied", "busy_now", "gone",   "busy",   "usage",  "numeric"};
enum { CODES = sizeof code_names / sizeof *code_names };
_Static_assert(CODES == PD_ENUMERIC + 1, "a word for every code");

static pd_err code_of(const char *name) {
    for (int i = 1; name && i < CODES; i++)
        if (strcmp(name, code_names[i]) == 0)
            return (pd_err)i;
    return PD_EIO;
}

static void client_write(client *k) {
    while (k->out && k->sent < k->n_out) {
        ssize_t n = send(k->fd, k->out + k->sent, k->n_out - k->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n <= 0) {
            client_drop(k);
            return;
        }
        k->sent += (size_t)n;
    }
    free(k->out);
    k->out = NULL;
    k->n_out = k->sent = 0;
}

/* Send `reply` with ok, or the error that pd_fail_text names. */
static void client_reply(client *k, pd_err code, cJSON *reply) {
    cJSON *r = code ? cJSON_CreateObject() : reply;
    char *text = NULL;
    if (code) {
        cJSON_AddBoolToObject(r, "ok", false);
        cJSON_AddStringToObject(r, "code", code_names[code]);
        cJSON_AddStringToObject(r, "error", pd_fail_text());
    } else if (!cJSON_HasObjectItem(r, "ok")) {
        cJSON_AddBoolToObject(r, "ok", true);
    }
    text = cJSON_PrintUnformatted(r);
    if (code)
        cJSON_Delete(r);
    size_t n = text ? strlen(text) : 0;
    char *line = n ? realloc(text, n + 2) : NULL;
    k->call = 0;
    if (!line) {
        cJSON_free(text);
        client_drop(k);
        return;
    }
    memcpy(line + n, "\n", 2);
    k->out = line;
    k->n_out = n + 1;
    k->sent = 0;
    client_write(k);
}

/* ---- server: requests ---- */

static void answer(pd_control *c, client *k, const char *line, size_t n) {
    cJSON *request = cJSON_ParseWithLength(line, n), *reply = cJSON_CreateObject();
    const char *cmd = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "cmd"));
    const pd_control_entry *t = c->table;
    pd_err e;
    cJSON_AddBoolToObject(reply, "ok", true); /* first, for people who read it raw */
    k->call = c->next_call++;
    while (cmd && t->cmd && strcmp(t->cmd, cmd) != 0)
        t++;
    if (!reply)
        e = pd_fail(PD_ENOMEM, "no memory for a reply");
    else if (!cmd)
        e = pd_fail(PD_EUSAGE, "a request is a line like {\"cmd\": \"status\"}");
    else if (!t->cmd)
        e = pd_fail(PD_EUSAGE, "unknown request '%.40s' (is peerctl newer than the running peerd?)",
                    cmd);
    else
        e = t->run(c->ctx, k->call, request, reply);
    if (e != PD_EAGAIN)
        client_reply(k, e, reply);
    cJSON_Delete(reply);
    cJSON_Delete(request);
}

/* Answer the first whole line, if one is there and no answer is due. */
static void client_step(pd_control *c, client *k) {
    while (k->fd >= 0 && !k->call && !k->out) {
        char *end = memchr(k->in, '\n', k->n_in);
        if (!end) {
            if (k->n_in < PD_CONTROL_REQUEST_MAX)
                return;
            pd_err e =
                pd_fail(PD_EUSAGE, "the request is longer than %d bytes", PD_CONTROL_REQUEST_MAX);
            client_reply(k, e, NULL);
            client_drop(k);
            return;
        }
        char line[PD_CONTROL_REQUEST_MAX];
        size_t n = (size_t)(end - k->in);
        memcpy(line, k->in, n);
        k->n_in -= n + 1;
        memmove(k->in, end + 1, k->n_in);
        answer(c, k, line, n);
    }
}

static void client_read(client *k) {
    ssize_t n;
    do
        n = recv(k->fd, k->in + k->n_in, PD_CONTROL_REQUEST_MAX - k->n_in, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        k->n_in += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
        client_drop(k);
}

static bool reads(const client *k) {
    return !k->call && !k->out && k->n_in < PD_CONTROL_REQUEST_MAX;
}

static client *client_free(pd_control *c) {
    for (size_t i = 0; i < PD_CONTROL_CLIENTS; i++)
        if (c->clients[i].fd < 0)
            return &c->clients[i];
    return NULL;
}

static void accept_clients(pd_control *c) {
    for (client *k; (k = client_free(c)) != NULL;) {
        int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        k->fd = fd;
        k->seen_ms = pd_clock_ms();
    }
}

size_t pd_control_fds(const pd_control *c, struct pollfd *fds, size_t room) {
    size_t n = 0;
    bool free_slot = false;
    for (size_t i = 0; c && i < PD_CONTROL_CLIENTS; i++) {
        const client *k = &c->clients[i];
        free_slot |= k->fd < 0;
        short events = (short)(k->out ? POLLOUT : reads(k) ? POLLIN : 0);
        if (k->fd >= 0 && events && n < room)
            fds[n++] = (struct pollfd){.fd = k->fd, .events = events};
    }
    if (free_slot && n < room)
        fds[n++] = (struct pollfd){.fd = c->fd, .events = POLLIN};
    return n;
}

void pd_control_serve(pd_control *c, const struct pollfd *fds, size_t n) {
    uint64_t now = pd_clock_ms();
    bool knock = false;
    for (size_t i = 0; i < n; i++)
        knock |= c && fds[i].fd == c->fd && fds[i].revents;
    for (size_t i = 0; c && i < PD_CONTROL_CLIENTS; i++) {
        client *k = &c->clients[i];
        bool ready = false;
        for (size_t j = 0; j < n && k->fd >= 0; j++)
            ready |= fds[j].fd == k->fd && fds[j].revents;
        if (ready) {
            k->seen_ms = now;
            if (k->out)
                client_write(k);
            else if (reads(k))
                client_read(k);
            client_step(c, k);
        } else if (k->fd >= 0 && !k->call && now - k->seen_ms > PD_CONTROL_IDLE_MS) {
            client_drop(k);
        }
    }
    if (knock)
        accept_clients(c);
}

void pd_control_answer(pd_control *c, uint64_t call, pd_err code, cJSON *reply) {
    for (size_t i = 0; call && i < PD_CONTROL_CLIENTS; i++) {
        client *k = &c->clients[i];
        if (k->fd < 0 || k->call != call)
            continue;
        cJSON *r = reply ? reply : cJSON_CreateObject();
        k->seen_ms = pd_clock_ms();
        client_reply(k, code, r);
        client_step(c, k);
        if (!reply)
            cJSON_Delete(r);
        break;
    }
    cJSON_Delete(reply);
}

void pd_control_close(pd_control *c) {
    if (!c)
        return;
    for (size_t i = 0; i < PD_CONTROL_CLIENTS; i++) {
        client *k = &c->clients[i];
        if (k->fd >= 0 && k->call)
            client_reply(k, pd_fail(PD_EGONE, "the node stopped before it was done"), NULL);
        client_drop(k);
    }
    if (c->path[0])
        unlink(c->path);
    close_if(c->fd);
    free(c);
}

/* ---- client ---- */

bool pd_control_runs(const char *dir) {
    struct sockaddr_un un;
    int dir_fd;
    if (address_of(dir, &un, &dir_fd) != PD_OK)
        return false;
    bool alive = answers(&un);
    close_if(dir_fd);
    return alive;
}

static pd_err fail_no_node(const char *dir) {
    char conf[4096];
    if (pd_path_join(conf, sizeof conf, dir, "node.json") == PD_OK && !pd_file_exists(conf))
        return pd_fail(PD_ENOENT, "%s is not a node (make one with: peerd init, or peerd join)",
                       dir);
    return pd_fail(PD_ENOENT,
                   "no node answers at %s (is peerd running? start it with: peerd run %s)", dir,
                   dir);
}

static pd_err wait_for(int fd, short events, uint64_t until_ms, const char *dir) {
    for (;;) {
        uint64_t now = pd_clock_ms();
        struct pollfd p = {.fd = fd, .events = events};
        int left = now >= until_ms ? 0 : (int)(until_ms - now);
        int r = poll(&p, 1, left);
        if (r > 0)
            return PD_OK;
        if (r < 0 && errno != EINTR)
            return pd_fail(PD_EIO, "cannot wait for the node at %s: %s", dir, strerror(errno));
        if (r == 0 && left == 0)
            return pd_fail(PD_EIO,
                           "the node at %s does not answer in time (it may be busy: again?)", dir);
    }
}

static pd_err send_line(int fd, const cJSON *request, uint64_t until_ms, const char *dir) {
    char *text = cJSON_PrintUnformatted(request);
    size_t n = text ? strlen(text) : 0;
    pd_err e = PD_OK;
    if (!text)
        return pd_fail(PD_ENOMEM, "no memory for a request");
    text[n++] = '\n'; /* over the terminator: from here on it is bytes */
    for (size_t at = 0; !e && at < n;) {
        ssize_t k = send(fd, text + at, n - at, MSG_NOSIGNAL);
        if (k > 0)
            at += (size_t)k;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            e = wait_for(fd, POLLOUT, until_ms, dir);
        else if (errno != EINTR)
            e = pd_fail(PD_EIO, "the node at %s hung up: %s", dir, strerror(errno));
    }
    cJSON_free(text);
    return e;
}

/* Read one line, gives *out with a terminator for the newline. */
static pd_err recv_line(int fd, uint64_t until_ms, const char *dir, char **out) {
    size_t n = 0, room = 16384;
    char *p = malloc(room);
    pd_err e = p ? PD_OK : pd_fail(PD_ENOMEM, "no memory for a reply");
    while (!e) {
        if (n == room) {
            char *q = room < PD_CONTROL_REPLY_MAX ? realloc(p, 2 * room) : NULL;
            if (!q) {
                e = pd_fail(PD_EFORMAT, "the node at %s sends an endless reply", dir);
                break;
            }
            p = q;
            room *= 2;
        }
        ssize_t k = recv(fd, p + n, room - n, 0);
        if (k > 0) {
            char *end = memchr(p + n, '\n', (size_t)k);
            n += (size_t)k;
            if (end) {
                *end = 0;
                *out = p;
                return PD_OK;
            }
        } else if (k == 0) {
            e = pd_fail(PD_EIO, "the node at %s hung up without an answer", dir);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            e = wait_for(fd, POLLIN, until_ms, dir);
        } else if (errno != EINTR) {
            e = pd_fail(PD_EIO, "cannot read the reply of %s: %s", dir, strerror(errno));
        }
    }
    free(p);
    return e;
}

/* Open a reply's envelope. */
static pd_err unwrap(const char *line, const char *dir, cJSON **reply) {
    cJSON *r = cJSON_Parse(line);
    const cJSON *ok = cJSON_GetObjectItemCaseSensitive(r, "ok");
    if (cJSON_IsTrue(ok)) {
        *reply = r;
        return PD_OK;
    }
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(r, "error"));
    const char *code = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(r, "code"));
    pd_err e = cJSON_IsFalse(ok) && text
                   ? pd_fail(code_of(code), "%s", text)
                   : pd_fail(PD_EFORMAT, "what answers at %s is no peerd of this version", dir);
    cJSON_Delete(r);
    return e;
}

pd_err pd_control_call(const char *dir, const cJSON *request, uint32_t timeout_ms, cJSON **reply) {
    struct sockaddr_un un;
    int dir_fd;
    uint64_t until = pd_clock_ms() + timeout_ms;
    if (address_of(dir, &un, &dir_fd) != PD_OK)
        return fail_no_node(dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r = fd < 0 ? -1 : connect(fd, (const struct sockaddr *)&un, sizeof un);
    int err = errno;
    close_if(dir_fd);
    if (r != 0) {
        close_if(fd);
        if (err == EACCES || err == EPERM)
            return pd_fail(PD_EAUTH, "the node at %s belongs to another user", dir);
        if (err == EAGAIN)
            return pd_fail(PD_EIO, "the node at %s has too many callers (again?)", dir);
        return fail_no_node(dir);
    }
    char *line = NULL;
    pd_err e = send_line(fd, request, until, dir);
    if (!e)
        e = recv_line(fd, until, dir, &line);
    if (!e)
        e = unwrap(line, dir, reply);
    free(line);
    close(fd);
    return e;
}
