#include "storage/scrubber.h"
#include "base/clock.h"
#include "base/mem.h"
#include "storage/store_internal.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct scrubber {
    struct store *store;
    scrubber_round_fn *on_round;
    void *user;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
    unsigned round_s;
};

/* The next round begins at BEGIN + interval; the interval may change meanwhile. False: stop. */
static bool wait_round(struct scrubber *c, uint64_t begin_ms, unsigned divisor)
{
    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        uint64_t at = begin_ms + (uint64_t)c->round_s * 1000 / divisor;
        if (c->round_s && clock_monotonic_ms() >= at)
            break;
        struct timespec until = {.tv_sec = at / 1000, .tv_nsec = at % 1000 * 1000000};
        if (c->round_s)
            pthread_cond_timedwait(&c->changed, &c->lock, &until);
        else
            pthread_cond_wait(&c->changed, &c->lock);
    }
    bool go_on = !c->stop;
    pthread_mutex_unlock(&c->lock);
    return go_on;
}

/* False: canceled in the middle, nothing to tell. */
static bool scrub_all(struct scrubber *c, unsigned *n_bad, char text[384])
{
    *n_bad = 0;
    text[0] = 0;
    for (int t = 0; t < N_TABLES; t++) {
        struct err_ctx err = {0};
        int rc = store_scrub_table(c->store, t, &err);
        if (rc == ERR_CANCELED)
            return false;
        if (rc == ERR_CORRUPT && !(*n_bad)++)
            snprintf(text, 384, "%s", err.text);
        else if (rc && rc != ERR_CORRUPT)
            log_warning(c->store->log, "scrub of table %s: %s", table_name(t), err.text);
    }
    return true;
}

static void *run(void *arg)
{
    struct scrubber *c = arg;
    uint64_t begin = clock_monotonic_ms();
    for (unsigned divisor = 10; wait_round(c, begin, divisor); divisor = 1) {
        unsigned n_bad;
        char text[384];
        begin = clock_monotonic_ms();
        if (scrub_all(c, &n_bad, text))
            c->on_round(c->user, n_bad, text);
    }
    return NULL;
}

int scrubber_start(struct scrubber **out, struct store *s, unsigned round_s, scrubber_round_fn *on_round,
                   void *user, struct err_ctx *err)
{
    struct scrubber *c = mem_new(struct scrubber);
    *c = (struct scrubber){.store = s, .on_round = on_round, .user = user, .round_s = round_s};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&c->lock, NULL);
    atomic_store(&s->scrub_cancel, false);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&c->thread, NULL, run, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        mem_free(c);
        return err_set(err, ERR_SYSTEM, "thread: %s", strerror(rc));
    }
    pthread_setname_np(c->thread, "scrub");
    *out = c;
    return 0;
}

void scrubber_set_round(struct scrubber *c, unsigned round_s)
{
    pthread_mutex_lock(&c->lock);
    if (c->round_s != round_s) {
        c->round_s = round_s;
        pthread_cond_signal(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
}

void scrubber_stop(struct scrubber *c)
{
    if (!c)
        return;
    atomic_store(&c->store->scrub_cancel, true);
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    mem_free(c);
}
