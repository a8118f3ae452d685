#include "base/clock.h"
#include "base/err.h"
#include "base/loop_impl.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* An eventfd of our own. libuv's wake-up (uv_async) marks that a sender is at work before it writes and has
 * the woken thread spin until the mark is gone; but with fewer processors than threads the write lets the
 * woken thread run in the sender's place, and it spins for nothing. */
static void wake(struct loop *l)
{
    uint64_t one = 1;
    /* Full (EAGAIN) is as good: the loop is woken. */
    while (write(l->wakeup_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void on_wakeup(uv_poll_t *handle, int status, int events)
{
    struct loop *l = handle->data;
    uint64_t n;
    while (read(l->wakeup_fd, &n, sizeof(n)) < 0 && errno == EINTR)
        ;
    if (atomic_load_explicit(&l->stopping, memory_order_acquire))
        uv_stop(&l->uv);
}

static void on_check(uv_check_t *handle)
{
    struct loop *l = handle->data;
    atomic_store_explicit(&l->asleep, false, memory_order_relaxed);
    l->woke_ms = uv_now(&l->uv); /* taken when the poll returned, before the turn's input was handled */
    loop_deliver_mail(l);
}

/* The sender writes the mailbox and then reads asleep, the loop writes asleep and then reads the mailbox, all
 * four sequentially consistent: at least one of them sees the other, so no letter waits in front of a
 * sleeping loop. */
void loop_post(struct loop *l, struct letter *letter)
{
    struct letter *head = atomic_load_explicit(&l->mailbox, memory_order_relaxed);
    do
        letter->next = head;
    while (!atomic_compare_exchange_weak(&l->mailbox, &head, letter));
    if (!head && atomic_load(&l->asleep))
        wake(l);
}

/* May the loop sleep? If so, whoever posts from here on wakes it. */
static bool fall_asleep(struct loop *l)
{
    atomic_store(&l->asleep, true);
    if (!atomic_load(&l->mailbox))
        return true;
    atomic_store_explicit(&l->asleep, false, memory_order_relaxed);
    return false;
}

static void on_again(uv_idle_t *handle)
{
}

/* The start is known to the millisecond only: what is shorter counts as nothing. */
static void note_turn(struct loop *l)
{
    if (!l->turns || !l->woke_ms)
        return;
    uint64_t now_us = clock_monotonic_us(), from_us = (l->woke_ms + 1) * 1000;
    metrics_turn(l->turns, now_us, now_us > from_us ? now_us - from_us : 0);
}

static void on_prepare(uv_prepare_t *handle)
{
    struct loop *l = handle->data;
    if (loop_settle(l) && fall_asleep(l))
        uv_idle_stop(&l->again);
    else
        uv_idle_start(&l->again, on_again);
    timer_arm(l);
    note_turn(l);
}

int loop_new(struct loop **out, const char *name, struct log *log)
{
    struct loop *l = aligned_alloc(64, (sizeof(*l) + 63) / 64 * 64);
    if (!l)
        return ERR_NOMEM;
    memset(l, 0, sizeof(*l));
    if (uv_loop_init(&l->uv) != 0) {
        mem_free(l);
        return ERR_SYSTEM;
    }
    l->wakeup_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->wakeup_fd < 0 || uv_poll_init(&l->uv, &l->wakeup, l->wakeup_fd) != 0) {
        if (l->wakeup_fd >= 0)
            close(l->wakeup_fd);
        uv_loop_close(&l->uv);
        mem_free(l);
        return ERR_SYSTEM;
    }
    uv_prepare_init(&l->uv, &l->prepare);
    uv_check_init(&l->uv, &l->check);
    uv_idle_init(&l->uv, &l->again);
    uv_timer_init(&l->uv, &l->clock);
    l->wakeup.data = l->prepare.data = l->check.data = l->again.data = l->clock.data = l;
    uv_poll_start(&l->wakeup, UV_READABLE, on_wakeup);
    uv_prepare_start(&l->prepare, on_prepare);
    uv_check_start(&l->check, on_check);
    atomic_init(&l->asleep, true);
    l->log = log;
    snprintf(l->name, sizeof(l->name), "%s", name);
    list_init(&l->hooks);
    list_init(&l->deferred);
    *out = l;
    return 0;
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    assert(!atomic_load(&l->running));
    if (l->streams) {
        l->streams_free(l->streams);
        l->streams = NULL;
    }
    for (struct letter *letter; (letter = loop_take_mail(l));) {
        for (struct letter *next; letter; letter = next) {
            next = letter->next;
            if (letter->discard)
                letter->discard(letter);
        }
    }
    while (!list_is_empty(&l->deferred))
        loop_run_deferred(l);
    if (l->streams) { /* made again by what ran just now */
        l->streams_free(l->streams);
        l->streams = NULL;
    }
    uv_close((uv_handle_t *)&l->wakeup, NULL);
    uv_close((uv_handle_t *)&l->prepare, NULL);
    uv_close((uv_handle_t *)&l->check, NULL);
    uv_close((uv_handle_t *)&l->again, NULL);
    uv_close((uv_handle_t *)&l->clock, NULL);
    /* Ends when the pool has done its work for this loop and every handle is closed. */
    uv_run(&l->uv, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&l->uv);
    if (rc != 0)
        log_fatal(l->log, "loop %s: freed with open handles", l->name);
    close(l->wakeup_fd);
    for (unsigned i = 0; i < l->n_timers; i++)
        l->heap[i]->slot = 0; /* the owner may still call timer_stop */
    mem_free(l->heap);
    mem_free(l);
}

void loop_run(struct loop *l)
{
    assert(!atomic_load(&l->running));
    atomic_store(&l->owner, pthread_self());
    atomic_store_explicit(&l->running, true, memory_order_release);
    while (!atomic_load_explicit(&l->stopping, memory_order_acquire))
        uv_run(&l->uv, UV_RUN_DEFAULT);
    loop_settle(l); /* the last turn's, too */
    atomic_store(&l->asleep, true);
    atomic_store(&l->stopping, false);
    atomic_store_explicit(&l->running, false, memory_order_release);
}

void loop_stop(struct loop *l)
{
    atomic_store_explicit(&l->stopping, true, memory_order_release);
    wake(l);
}

static void *thread_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

int loop_start_thread(struct loop *l)
{
    assert(!l->has_thread);
    sigset_t all, before;
    sigfillset(&all);
    /* Signals are for the main thread, but those that a fault raises here. */
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGABRT);
    sigdelset(&all, SIGTRAP);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&l->thread, NULL, thread_main, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return ERR_SYSTEM;
    pthread_setname_np(l->thread, l->name);
    l->has_thread = true;
    return 0;
}

void loop_join_thread(struct loop *l)
{
    if (!l->has_thread)
        return;
    pthread_join(l->thread, NULL);
    l->has_thread = false;
}

bool loop_is_current(const struct loop *l)
{
    struct loop *any = (struct loop *)l;
    if (!atomic_load_explicit(&any->running, memory_order_acquire))
        return true;
    return pthread_equal(atomic_load_explicit(&any->owner, memory_order_relaxed), pthread_self());
}

uint64_t loop_now_ms(const struct loop *l)
{
    struct loop *any = (struct loop *)l;
    if (!atomic_load_explicit(&any->running, memory_order_relaxed))
        uv_update_time(&any->uv);
    return uv_now(&any->uv);
}

struct uv_loop_s *loop_uv(struct loop *l)
{
    return &l->uv;
}

struct log *loop_log(struct loop *l)
{
    return l->log;
}

/* The pool keeps its own record, so that struct work needs no uv types. */
struct pool_work {
    uv_work_t uv;
    struct work *work;
};

static void on_pool(uv_work_t *uv)
{
    struct work *w = container_of(uv, struct pool_work, uv)->work;
    w->work(w);
}

static void on_pool_done(uv_work_t *uv, int status)
{
    struct pool_work *p = container_of(uv, struct pool_work, uv);
    struct work *w = p->work;
    mem_free(p);
    w->handle = NULL;
    w->done(w);
}

void loop_run_work(struct loop *l, struct work *w)
{
    assert(loop_is_current(l));
    struct pool_work *p = mem_new(struct pool_work);
    p->work = w;
    w->handle = p;
    int rc = uv_queue_work(&l->uv, &p->uv, on_pool, on_pool_done);
    assert(rc == 0);
    (void)rc;
}
