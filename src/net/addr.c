/* addr.c - addresses as people write them; see addr.h. */
#include "peerd/addr.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { HOST_MAX = 256 };

/* A port in decimal and nothing else; -1 otherwise. */
static long port_of(const char *s) {
    if (*s < '0' || *s > '9')
        return -1;
    char *end;
    long v = strtol(s, &end, 10);
    return *end == 0 && v <= 65535 ? v : -1;
}

/* Split `host:port`, `[v6]:port`, `v6`, `host`, `:port`, `port` into host (maybe empty) and port
 * text (or NULL). */
static bool split(const char *text, char host[HOST_MAX], const char **port) {
    const char *from = text, *to, *colon = strrchr(text, ':');
    *port = NULL;
    if (*text == '[') {
        from = text + 1;
        to = strchr(text, ']');
        if (!to || (to[1] && to[1] != ':'))
            return false;
        *port = to[1] ? to + 2 : NULL;
    } else if (colon && strchr(text, ':') == colon) {
        to = colon;
        *port = colon + 1;
    } else if (!colon && port_of(text) >= 0) {
        to = text;
        *port = text;
    } else {
        to = text + strlen(text);
    }
    if ((size_t)(to - from) >= HOST_MAX)
        return false;
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = 0;
    return true;
}

static pd_err resolve(const char *host, pd_addr *out) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC}, *list = NULL;
    int r = getaddrinfo(host, NULL, &hints, &list);
    if (r != 0)
        return pd_fail(PD_ENOENT, "cannot find the host '%s': %s (give its IP address instead)",
                       host, gai_strerror(r));
    out->family = list->ai_family == AF_INET6 ? 6 : 4;
    if (out->family == 6)
        memcpy(out->ip, &((const struct sockaddr_in6 *)(const void *)list->ai_addr)->sin6_addr, 16);
    else
        memcpy(out->ip, &((const struct sockaddr_in *)(const void *)list->ai_addr)->sin_addr, 4);
    freeaddrinfo(list);
    return PD_OK;
}

pd_err pd_addr_parse(const char *text, bool listening, pd_addr *out) {
    char host[HOST_MAX];
    const char *port_text;
    pd_addr a = {.port = PD_PORT};
    if (!split(text, host, &port_text))
        return pd_fail(PD_EUSAGE, "'%s' is not an address (write host:port or [v6]:port)", text);
    if (port_text) {
        long port = port_of(port_text);
        if (port < (listening ? 0 : 1))
            return pd_fail(PD_EUSAGE, "'%s' has no port from 1 to 65535 after its colon", text);
        a.port = (uint16_t)port;
    }
    if (*host == 0 || strcmp(host, "*") == 0) {
        if (!listening)
            return pd_fail(PD_EUSAGE, "'%s' names no host (write host:port)", text);
        a.family = 4;
    } else if (inet_pton(AF_INET, host, a.ip) == 1) {
        a.family = 4;
    } else if (inet_pton(AF_INET6, host, a.ip) == 1) {
        a.family = 6;
    } else {
        memset(a.ip, 0, sizeof a.ip);
        pd_err e = resolve(host, &a);
        if (e)
            return e;
    }
    if (!listening && pd_addr_is_any(&a))
        return pd_fail(PD_EUSAGE,
                       "'%s' stands for every address of a machine and cannot be dialled", text);
    *out = a;
    return PD_OK;
}

void pd_addr_print(const pd_addr *a, char out[PD_ADDR_TEXT]) {
    char ip[INET6_ADDRSTRLEN];
    if (a->family == 4 && inet_ntop(AF_INET, a->ip, ip, sizeof ip))
        snprintf(out, PD_ADDR_TEXT, "%s:%u", ip, a->port);
    else if (a->family == 6 && inet_ntop(AF_INET6, a->ip, ip, sizeof ip))
        snprintf(out, PD_ADDR_TEXT, "[%s]:%u", ip, a->port);
    else
        snprintf(out, PD_ADDR_TEXT, "-");
}

bool pd_addr_is_any(const pd_addr *a) {
    static const uint8_t zero[16];
    return a->family != 0 && memcmp(a->ip, zero, a->family == 6 ? 16 : 4) == 0;
}

bool pd_addr_is_loopback(const pd_addr *a) {
    static const uint8_t one[16] = {[15] = 1};
    return a->family == 4 ? a->ip[0] == 127 : a->family == 6 && memcmp(a->ip, one, 16) == 0;
}
