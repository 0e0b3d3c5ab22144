/* loop.c - the node on one screen: wait, hand events to the core, carry its actions out; see
 * node.h. */
#include "node.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { NET_EVENTS = 64, POLL_MS = 1000, CONTROL_FDS = 16, MAIL_TURN = 512 };

/* ---- inbox ---- */

static pd_err inbox_open(pd_inbox *b) {
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->fd < 0)
        return pd_fail(PD_EIO, "cannot make an event descriptor: %s", strerror(errno));
    pthread_mutex_init(&b->lock, NULL);
    return PD_OK;
}

static void inbox_close(pd_inbox *b) {
    if (b->fd <= 0)
        return;
    close(b->fd);
    pthread_mutex_destroy(&b->lock);
}

void pd_inbox_put(pd_inbox *b, const pd_mail *m) {
    for (bool done = false; !done;) {
        pthread_mutex_lock(&b->lock);
        if (b->n < PD_INBOX_MAX) {
            b->at[(b->first + b->n++) % PD_INBOX_MAX] = *m;
            done = true;
        }
        pthread_mutex_unlock(&b->lock);
        uint64_t one = 1;
        ssize_t k = write(b->fd, &one, sizeof one);
        (void)k; /* a full counter wakes the loop just as well */
        if (!done)
            pd_sleep_ms(1);
    }
}

bool pd_inbox_take(pd_inbox *b, pd_mail *m) {
    pthread_mutex_lock(&b->lock);
    bool there = b->n > 0;
    if (there) {
        *m = b->at[b->first];
        b->first = (b->first + 1) % PD_INBOX_MAX;
        b->n--;
    }
    pthread_mutex_unlock(&b->lock);
    return there;
}

/* ---- the core ---- */

static void one_step(pd_node *n, const pd_event *e) {
    size_t count = pd_core_step(n->core, pd_clock_ms(), e, n->actions, PD_ACTIONS_MAX);
    for (size_t i = 0; i < count; i++)
        pd_node_act(n, &n->actions[i]);
}

void pd_node_step(pd_node *n, const pd_event *e) {
    one_step(n, e);
    for (uint32_t i = 0; i < n->n_deferred; i++) { /* grows while it is worked off */
        pd_event next = n->deferred[i];
        one_step(n, &next);
    }
    n->n_deferred = 0;
}

static void on_net(pd_node *n, const pd_net_event *x) {
    pd_event e = {.session = x->session,
                  .outbound = x->outbound,
                  .invite = x->invite,
                  .guest = x->invite != 0};
    memcpy(e.key, x->peer, 32);
    pd_watch_net(n, x);
    switch (x->kind) {
    case PD_NET_UP:
        e.kind = PD_EV_SESSION_UP;
        break;
    case PD_NET_FRAME:
        e.kind = PD_EV_FRAME;
        e.p = x->bytes;
        e.n = x->n;
        break;
    case PD_NET_FLOWING:
        e.kind = PD_EV_FLOWING;
        break;
    case PD_NET_DOWN:
        pd_debug("session %llu is down: %s", (unsigned long long)x->session, x->text);
        e.kind = PD_EV_SESSION_DOWN;
        break;
    case PD_NET_DIAL_FAILED:
        pd_debug("a dial came to nothing: %s", x->text);
        e.kind = PD_EV_DIAL_FAILED;
        break;
    }
    pd_node_step(n, &e);
}

static void on_gradient(pd_node *n, const pd_mail *m) {
    pd_author author;
    uint64_t before = 0, after = 0;
    pd_event e = {.kind = PD_EV_GRADIENT, .author = m->author, .at = m->at, .byte = m->byte};
    if (n->stopping)
        return; /* unsaid: the next start makes it anew */
    (void)pd_core_may_speak(n->core, &author, &before);
    pd_node_step(n, &e);
    bool may = pd_core_may_speak(n->core, &author, &after);
    if (before != m->at || after != m->at + 1)
        pd_trainer_refused(n->trainer, after);
    if (!may)
        pd_trainer_speak(n->trainer, false, NULL);
}

static void on_mail(pd_node *n, const pd_mail *m) {
    pd_event e = {.author = m->author, .stream = m->stream, .at = m->at};
    switch (m->kind) {
    case PD_MAIL_GRADIENT:
        on_gradient(n, m);
        break;
    case PD_MAIL_STORED:
        e.kind = PD_EV_STORED;
        n->last_news_ms = pd_clock_ms();
        pd_node_step(n, &e);
        pd_trainer_wake(n->trainer);
        break;
    case PD_MAIL_STORE_FAILED:
        e.kind = PD_EV_STORE_FAILED;
        pd_node_step(n, &e);
        break;
    case PD_MAIL_ANSWER:
        pd_node_answered(n, m->answer);
        break;
    case PD_MAIL_AUDITED:
        pd_ckpts_audited(n, m->at);
        break;
    }
}

/* ---- ends ---- */

void pd_node_stop(pd_node *n, bool leave) {
    if (n->stopping)
        return;
    n->stopping = true;
    n->leaving = leave;
    pd_trainer_speak(n->trainer, false, NULL);
    pd_event e = {.kind = PD_EV_STOP, .leave = leave};
    pd_node_step(n, &e);
}

static bool finished(pd_node *n) {
    pd_trainer_status t;
    pd_core_status s;
    uint64_t now = pd_clock_ms();
    if (n->opts.until_records && pd_ledger_records(n->site->ledger) >= n->opts.until_records)
        return true;
    if (!n->opts.until_idle_s)
        return false;
    pd_trainer_status_get(n->trainer, &t);
    pd_core_status_get(n->core, now, &s);
    return t.state == PD_TRAINER_DONE && !s.unsealed && !s.missing && t.records == s.records &&
           t.held_at == t.records && now - n->last_news_ms >= 1000ull * n->opts.until_idle_s;
}

static void show_progress(pd_node *n) {
    pd_trainer_status t;
    pd_core_status s;
    if (n->opts.quiet)
        return;
    pd_trainer_status_get(n->trainer, &t);
    pd_core_status_get(n->core, pd_clock_ms(), &s);
    char held[48] = "";
    if (t.held_now.units)
        snprintf(held, sizeof held, " · held-out %.3f", pd_loss_mean(&t.held_now));
    pd_progress(false,
                "%s · step %llu · loss %.3f%s · peers %u/%u · records %llu · in %.0f out %.0f B/s",
                s.voice == PD_VOICE_LISTENING ? "listening" : pd_trainer_state_names[t.state],
                (unsigned long long)s.step, t.loss, held, s.links, s.members,
                (unsigned long long)s.records, n->watch.rate.in_per_s, n->watch.rate.out_per_s);
}

/* ---- the loop ---- */

static int wait_ms(pd_node *n) {
    uint64_t wake = pd_core_wake(n->core), now = pd_clock_ms();
    if (wake <= now)
        return 0;
    return wake - now < POLL_MS ? (int)(wake - now) : POLL_MS;
}

static void turn(pd_node *n, int signals) {
    struct pollfd fds[2 + CONTROL_FDS] = {{.fd = n->inbox.fd, .events = POLLIN},
                                          {.fd = signals, .events = POLLIN}};
    size_t n_fds = 2 + pd_control_fds(n->control, fds + 2, CONTROL_FDS);
    if (pd_net_wait(n->net, wait_ms(n), fds, n_fds) != PD_OK) {
        pd_error("cannot wait for the network: %s", pd_fail_text());
        pd_sleep_ms(100);
    }
    struct signalfd_siginfo info;
    if (fds[1].revents && read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (n->stopping) {
            pd_warn("stopped at once, at the second signal");
            n->stopped = true;
        } else {
            pd_info(
                "stopping: sealing what is pending, saying goodbye (once more to stop at once)");
        }
        pd_node_stop(n, false);
    }
    pd_net_event x;
    for (int i = 0; i < NET_EVENTS && !pd_storer_is_full(n->storer) && pd_net_next(n->net, &x); i++)
        on_net(n, &x);
    uint64_t count;
    ssize_t k = read(n->inbox.fd, &count, sizeof count);
    (void)k;
    pd_mail m;
    for (int i = 0; i < MAIL_TURN && pd_inbox_take(&n->inbox, &m); i++)
        on_mail(n, &m);
    pd_control_serve(n->control, fds + 2, n_fds - 2);
    if (pd_core_wake(n->core) <= pd_clock_ms()) {
        pd_event tick = {.kind = PD_EV_TICK};
        pd_node_step(n, &tick);
    }
    pd_node_measure(n);
    pd_ckpts_turn(n);
    show_progress(n);
    if (!n->stopping && finished(n)) {
        pd_info("done: %llu records", (unsigned long long)pd_ledger_records(n->site->ledger));
        pd_node_stop(n, false);
    }
}

static void stop_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

void pd_node_hold_signals(void) {
    sigset_t set;
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int open_signals(void) {
    sigset_t set;
    stop_signals(&set);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* ---- open and close ---- */

static pd_err open_core(pd_node *n) {
    pd_site *s = n->site;
    n->ports = (pd_ports){.identity = &s->identity,
                          .ledger = s->ledger,
                          .files[0] = {.p = s->basis_file, .n = s->basis_bytes}};
    memcpy(n->ports.files[0].digest, s->manifest.basis_digest, 32);
    pd_ckpts_serve(n);
    pd_core_crypto crypto = pd_ports_crypto(&n->ports);
    pd_core_log log = pd_ports_log(&n->ports);
    pd_known_addr known[PD_MEMBERS_MAX * PD_ADDRS_MAX];
    pd_core_conf conf = {
        .incarnation = s->incarnation,
        .manifest = s->manifest_text,
        .manifest_bytes = s->manifest_bytes,
        .n_known = pd_site_addresses(s, known, PD_MEMBERS_MAX * PD_ADDRS_MAX),
        .known = known,
        .seal_bytes_per_s = s->manifest.seal_bytes_per_s,
        .seal_ms = n->opts.seal_ms,
        .seal_records = n->opts.seal_records,
        .thin = s->config.thin,
        .observer = s->config.observer,
        .solo = n->opts.solo,
        .restored = s->restored,
        .ckpt_ms = (uint64_t)(s->config.checkpoint_hours * 3600000),
    };
    memcpy(conf.run, s->run, 32);
    memcpy(conf.key, s->identity.pub, 32);
    memcpy(conf.founder, s->manifest.founder, 32);
    snprintf(conf.name, sizeof conf.name, "%s", s->config.name);
    if (!n->opts.solo)
        conf.n_listen = pd_site_listen_addresses(s, n->net, conf.listen);
    size_t bytes = pd_core_bytes(&conf);
    n->arena = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!n->arena)
        return pd_fail(PD_ENOMEM, "no memory for the gossip core (%zu bytes)", bytes);
    n->core_ms = pd_clock_ms();
    pd_err e = pd_core_open(&conf, &crypto, &log, n->core_ms, n->arena, bytes, &n->core);
    pd_log_info info;
    for (uint32_t i = 0; !e && pd_ledger_info(s->ledger, i, &info); i++)
        pd_ledger_void(s->ledger, i, pd_core_void_at(n->core, &info.author));
    return e;
}

static pd_err open_net(pd_node *n) {
    pd_net_conf conf = {.identity = &n->site->identity, .thin = n->site->config.thin};
    if (!n->opts.solo && n->site->config.listen[0]) {
        pd_err e = pd_addr_parse(n->site->config.listen, true, &conf.listen);
        if (e)
            return e;
    }
    pd_err e = pd_net_open(&conf, &n->net);
    return e ? e : pd_site_allow_invites(n->site, n->net);
}

static void on_made(void *ctx, const pd_author *author, uint64_t step, uint8_t byte) {
    pd_mail m = {.kind = PD_MAIL_GRADIENT, .author = *author, .at = step, .byte = byte};
    pd_inbox_put(&((pd_node *)ctx)->inbox, &m);
}

static void on_checkpoint(void *ctx, const pd_replica *r, const int32_t *a,
                          const uint8_t digest[PD_DIGEST_BYTES]) {
    pd_storer_checkpoint(((pd_node *)ctx)->storer, r, a, digest);
}

static void on_audited(void *ctx, pd_audit_state state) {
    pd_mail m = {.kind = PD_MAIL_AUDITED, .at = state};
    pd_inbox_put(&((pd_node *)ctx)->inbox, &m);
}

static pd_err open_trainer(pd_node *n) {
    pd_site *s = n->site;
    pd_trainer_conf conf = {
        .manifest = &s->manifest,
        .ledger = s->ledger,
        .model = s->model,
        .space = s->space,
        .replica = &s->replica,
        .train = {s->data, s->train, s->n_train},
        .held = pd_site_held(s),
        .batch_records = s->config.batch,
        .batch_tokens = s->config.batch_tokens,
        .probes = s->config.probes,
        .project = pd_config_projects(&s->config),
        .local_steps = s->config.local_steps,
        .records = n->opts.records,
        .seed = s->config.seed ^ pd_random64(),
        .audit = s->begun.state == PD_AUDIT_OPEN,
        .hooks = {n, on_made, on_checkpoint, on_audited},
    };
    pd_err e = pd_trainer_start(&conf, &n->trainer);
    if (!e)
        pd_trainer_pause(n->trainer, s->config.paused);
    return e;
}

static pd_err node_open(pd_node *n) {
    pd_err e = inbox_open(&n->inbox);
    if (!e)
        e = open_net(n);
    if (!e)
        e = pd_node_control_open(n);
    if (!e) {
        pd_ckpts_open(n); /* while the store is this thread's */
        e = pd_storer_start(n->site->store, &n->inbox, n->site->ledger, &n->storer);
    }
    if (!e)
        e = open_core(n);
    return e ? e : open_trainer(n);
}

static void node_close(pd_node *n) {
    pd_trainer_stop(n->trainer); /* its last checkpoint goes to the store thread */
    pd_storer_stop(n->storer);
    pd_node_control_close(n);
    pd_ckpts_close(n);
    pd_net_free(n->net);
    pd_watch_finish(&n->watch);
    free(n->arena);
    pd_ports_finish(&n->ports);
    inbox_close(&n->inbox);
    free(n);
}

static void say_peak(void) {
    uint64_t bytes;
    if (pd_proc_bytes("/proc/self/status", "VmHWM", &bytes))
        pd_info("memory: %llu MiB at most", (unsigned long long)(bytes >> 20));
}

int pd_node_run(pd_site *site, const pd_run_opts *opts) {
    int signals = open_signals();
    pd_node *n = calloc(1, sizeof *n);
    if (signals < 0 || !n) {
        pd_error("cannot start: %s", strerror(errno));
        free(n);
        return 1;
    }
    n->site = site;
    n->opts = *opts;
    if (site->config.observer) {
        pd_info(
            "an observer: it makes no records, follows what the others make, judges it by its own "
            "data and hands it on to who asks");
        n->opts.records = 0;
    }
    n->started_ms = n->last_news_ms = pd_clock_ms();
    pd_err e = node_open(n);
    if (e) {
        fprintf(stderr, "peerd: %s\n", pd_fail_text());
        n->exit_status = pd_err_exit(e);
    } else {
        pd_event tick = {.kind = PD_EV_TICK};
        pd_node_step(n, &tick);
        while (!n->stopped)
            turn(n, signals);
    }
    int status = n->exit_status;
    node_close(n);
    say_peak();
    close(signals);
    return status;
}
