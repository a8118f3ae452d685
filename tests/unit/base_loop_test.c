/* Loops: mailbox order, timers, deferred work, hooks, the thread pool. Runs under TSan, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/loop.h"
#include "base/mem.h"
#include "base/metrics.h"
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { N_SENDERS = 4, N_LETTERS = 20000 };

struct inbox {
    struct loop *loop;
    unsigned next[N_SENDERS];
    unsigned n_total, n_wrong;
};
struct numbered {
    struct letter letter;
    struct inbox *inbox;
    unsigned sender, number;
};

static void deliver_numbered(struct letter *letter)
{
    struct numbered *m = container_of(letter, struct numbered, letter);
    struct inbox *in = m->inbox;
    in->n_wrong += m->number != in->next[m->sender] || !loop_is_current(in->loop);
    in->next[m->sender] = m->number + 1;
    if (++in->n_total == N_SENDERS * N_LETTERS)
        loop_stop(in->loop);
    mem_free(m);
}

struct sender {
    pthread_t thread;
    struct inbox *inbox;
    unsigned id;
};

static void *sender_main(void *arg)
{
    struct sender *s = arg;
    for (unsigned i = 0; i < N_LETTERS; i++) {
        struct numbered *m = mem_new(struct numbered);
        m->letter.deliver = deliver_numbered;
        m->inbox = s->inbox;
        m->sender = s->id;
        m->number = i;
        loop_post(s->inbox->loop, &m->letter);
    }
    return NULL;
}

static void mailbox_keeps_each_senders_order(void **state)
{
    struct inbox in = {0};
    struct sender senders[N_SENDERS];
    assert_int_equal(loop_new(&in.loop, "inbox", NULL), 0);
    assert_int_equal(loop_start_thread(in.loop), 0);
    for (unsigned i = 0; i < N_SENDERS; i++) {
        senders[i] = (struct sender){.inbox = &in, .id = i};
        assert_int_equal(pthread_create(&senders[i].thread, NULL, sender_main, &senders[i]), 0);
    }
    for (unsigned i = 0; i < N_SENDERS; i++)
        pthread_join(senders[i].thread, NULL);
    loop_join_thread(in.loop);
    assert_int_equal(in.n_total, N_SENDERS * N_LETTERS);
    assert_int_equal(in.n_wrong, 0);
    loop_free(in.loop);
}

struct ball {
    struct letter letter;
    struct loop *side[2];
    unsigned n, at;
};

static void deliver_ball(struct letter *letter)
{
    struct ball *b = container_of(letter, struct ball, letter);
    if (b->n == 0) {
        loop_stop(b->side[0]);
        loop_stop(b->side[1]);
        return;
    }
    b->n--;
    b->at ^= 1;
    loop_post(b->side[b->at], letter);
}

static void no_wake_up_is_lost(void **state)
{
    struct ball b = {.letter = {.deliver = deliver_ball}, .n = 20000};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(loop_new(&b.side[i], "pong", NULL), 0);
        assert_int_equal(loop_start_thread(b.side[i]), 0);
    }
    loop_post(b.side[0], &b.letter);
    loop_join_thread(b.side[0]);
    loop_join_thread(b.side[1]);
    assert_int_equal(b.n, 0);
    loop_free(b.side[0]);
    loop_free(b.side[1]);
}

struct mark {
    struct letter letter;
    int delivered, discarded;
};

static void mark_delivered(struct letter *letter)
{
    container_of(letter, struct mark, letter)->delivered++;
}
static void mark_discarded(struct letter *letter)
{
    container_of(letter, struct mark, letter)->discarded++;
}

static void undelivered_letters_are_discarded(void **state)
{
    struct loop *l;
    struct mark before = {{NULL, mark_delivered, mark_discarded}, 0, 0}, after = before;
    assert_int_equal(loop_new(&l, "x", NULL), 0);
    loop_post(l, &before.letter);
    assert_int_equal(loop_start_thread(l), 0);
    loop_stop(l);
    loop_join_thread(l);
    loop_post(l, &after.letter);
    loop_free(l);
    assert_int_equal(before.delivered + before.discarded, 1);
    assert_int_equal(after.delivered, 0);
    assert_int_equal(after.discarded, 1);
}

struct timing {
    struct loop *loop;
    struct timer t[6];
    char trace[64];
    unsigned n_repeats;
    uint64_t started_ms;
};
static struct timing *timing_of(struct timer *t, unsigned i)
{
    return container_of(t, struct timing, t[i]);
}

static void note(struct timing *x, const char *what)
{
    strncat(x->trace, what, sizeof(x->trace) - strlen(x->trace) - 1);
}
static void on_a(struct timer *t)
{
    struct timing *x = timing_of(t, 0);
    note(x, "a");
    timer_stop(&x->t[2]); /* due in the same moment */
    timer_start(t, 0, 0); /* must not run again in this turn, nor starve the others */
    t->fn = NULL;
    timer_stop(t);
}
static void on_b(struct timer *t)
{
    note(timing_of(t, 1), "b");
}
static void on_c(struct timer *t)
{
    note(timing_of(t, 2), "c");
}
static void on_d(struct timer *t)
{
    struct timing *x = timing_of(t, 3);
    note(x, "d");
    if (++x->n_repeats == 3) {
        timer_stop(t);
        timer_start(&x->t[4], 1, 0);
    }
}
static void on_e(struct timer *t)
{
    struct timing *x = timing_of(t, 4);
    note(x, "e");
    loop_stop(x->loop);
}

static void timers_fire_in_order(void **state)
{
    struct timing x = {0};
    assert_int_equal(loop_new(&x.loop, "timers", NULL), 0);
    void (*const fns[])(struct timer *) = {on_a, on_b, on_c, on_d, on_e};
    for (unsigned i = 0; i < 5; i++) {
        timer_init(&x.t[i], x.loop, fns[i]);
        assert_false(timer_is_on(&x.t[i]));
        timer_stop(&x.t[i]);
    }
    x.started_ms = clock_monotonic_ms();
    timer_start(&x.t[3], 20, 10);
    timer_start(&x.t[1], 5000, 0);
    timer_start(&x.t[0], 10, 0);
    timer_start(&x.t[2], 10, 0);
    timer_start(&x.t[1], 10, 0); /* restarted: behind a and c */
    assert_true(timer_is_on(&x.t[1]));
    loop_run(x.loop);
    assert_string_equal(x.trace, "abddde");
    assert_true(clock_monotonic_ms() - x.started_ms >= 40);
    loop_free(x.loop);
}

/* The heap against a plain search: random starts and stops. */
struct many {
    struct timer t;
    uint64_t due;
};
static uint64_t last_due;
static unsigned n_fired, n_disorder;
static struct loop *many_loop;

static void on_many(struct timer *t)
{
    struct many *m = container_of(t, struct many, t);
    n_disorder += m->due < last_due || m->due > loop_now_ms(many_loop);
    last_due = m->due;
    n_fired++;
}
static void on_last(struct timer *t)
{
    loop_stop(many_loop);
}

static void heap_survives_random_use(void **state)
{
    enum { N = 3000 };
    struct many *all = mem_calloc(N, sizeof(*all));
    unsigned expected = 0;
    uint64_t seed = 12345;
    assert_int_equal(loop_new(&many_loop, "many", NULL), 0);
    for (unsigned i = 0; i < N; i++)
        timer_init(&all[i].t, many_loop, on_many);
    for (unsigned i = 0; i < 10 * N; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        struct many *m = &all[(seed >> 33) % N];
        if ((seed >> 20) % 3 == 0) {
            timer_stop(&m->t);
        } else {
            timer_start(&m->t, (unsigned)((seed >> 40) % 100), 0);
            m->due = m->t.due_ms;
        }
    }
    for (unsigned i = 0; i < N; i++)
        expected += timer_is_on(&all[i].t);
    struct timer end;
    timer_init(&end, many_loop, on_last);
    timer_start(&end, 200, 0);
    loop_run(many_loop);
    assert_int_equal(n_fired, expected);
    assert_int_equal(n_disorder, 0);
    loop_free(many_loop);
    mem_free(all);
}

struct turn {
    struct loop *loop;
    struct letter letter;
    struct deferred a, b, canceled;
    struct loop_hook h1, h2;
    char trace[64];
};

static void turn_note(struct turn *t, char c)
{
    size_t n = strlen(t->trace);
    if (n + 1 < sizeof(t->trace))
        t->trace[n] = c;
}
static void turn_letter(struct letter *letter)
{
    struct turn *t = container_of(letter, struct turn, letter);
    t->trace[0] = '\0';
    memset(t->trace, 0, sizeof(t->trace));
    loop_defer(t->loop, &t->a);
    loop_defer(t->loop, &t->canceled);
    loop_cancel_deferred(&t->canceled);
    turn_note(t, 'L');
    loop_stop(t->loop);
}
static void turn_a(struct deferred *d)
{
    struct turn *t = container_of(d, struct turn, a);
    turn_note(t, 'A');
    loop_defer(t->loop, &t->b);
}
static void turn_b(struct deferred *d)
{
    turn_note(container_of(d, struct turn, b), 'B');
}
static void turn_canceled(struct deferred *d)
{
    turn_note(container_of(d, struct turn, canceled), '!');
}
static void turn_h1(struct loop_hook *h)
{
    struct turn *t = container_of(h, struct turn, h1);
    turn_note(t, '1');
}
static void turn_h2(struct loop_hook *h)
{
    struct turn *t = container_of(h, struct turn, h2);
    turn_note(t, '2');
    if (strchr(t->trace, 'B'))
        loop_remove_before_poll(h);
}

static void a_turn_ends_with_deferred_work_then_hooks(void **state)
{
    struct turn t = {.letter = {.deliver = turn_letter}};
    t.a.fn = turn_a;
    t.b.fn = turn_b;
    t.canceled.fn = turn_canceled;
    list_init(&t.a.link);
    list_init(&t.b.link);
    list_init(&t.canceled.link);
    t.h1.fn = turn_h1;
    t.h2.fn = turn_h2;
    assert_int_equal(loop_new(&t.loop, "turn", NULL), 0);
    loop_add_before_poll(t.loop, &t.h1);
    loop_add_before_poll(t.loop, &t.h2);
    loop_post(t.loop, &t.letter);
    loop_run(t.loop);
    /* B was deferred by A: later in the same turn, and hooks run after it once more. */
    assert_memory_equal(t.trace, "LA12B12", 7);
    loop_free(t.loop);
}

static void turn_that_takes_long(struct timer *timer)
{
    struct timespec t = {.tv_nsec = 70 * 1000 * 1000};
    nanosleep(&t, NULL);
}
static void turn_that_ends(struct timer *timer)
{
    loop_stop(timer->loop);
}

/* A turn is from the end of the sleep to the next: the sleep itself is not counted. */
static void long_turns_are_told(void **state)
{
    enum { SLEEP_MS = 300 };
    struct metrics *m = mem_new(struct metrics);
    struct loop *l;
    struct timer slow, end;
    assert_int_equal(loop_new(&l, "slow", NULL), 0);
    loop_set_metrics(l, m);
    timer_init(&slow, l, turn_that_takes_long);
    timer_init(&end, l, turn_that_ends);
    uint64_t begin = clock_monotonic_us();
    timer_start(&slow, SLEEP_MS, 0);
    timer_start(&end, SLEEP_MS + 100, 0);
    loop_run(l);
    uint64_t took = clock_monotonic_us() - begin;
    assert_int_equal(atomic_load(&m->n_loops), 1);
    assert_string_equal(m->loops[0].name, "slow");
    assert_true(atomic_load(&m->loops[0].n_slow) >= 1);
    assert_in_range(atomic_load(&m->loops[0].max_us), 65000, took - (SLEEP_MS - 5) * 1000);
    loop_free(l);
    mem_free(m);
}

struct endless {
    struct deferred d;
    struct loop *loop;
    struct timer timer;
    unsigned n;
};
static void again(struct deferred *d)
{
    struct endless *e = container_of(d, struct endless, d);
    e->n++;
    loop_defer(e->loop, d);
}
static void stop_endless(struct timer *t)
{
    struct endless *e = container_of(t, struct endless, timer);
    loop_cancel_deferred(&e->d);
    loop_stop(e->loop);
}

/* Work that defers itself again and again neither stops the loop from looking at timers nor waits for one. */
static void endless_deferred_work_starves_nobody(void **state)
{
    struct endless e = {.d = {.fn = again}};
    list_init(&e.d.link);
    assert_int_equal(loop_new(&e.loop, "endless", NULL), 0);
    timer_init(&e.timer, e.loop, stop_endless);
    timer_start(&e.timer, 50, 0);
    loop_defer(e.loop, &e.d);
    loop_run(e.loop);
    assert_true(e.n > 1000);
    loop_free(e.loop);
}

struct job {
    struct work work;
    struct loop *loop;
    int value;
    pthread_t worker;
    bool on_loop;
};
static void job_work(struct work *w)
{
    struct job *j = container_of(w, struct job, work);
    j->worker = pthread_self();
    j->value = 42;
}
static void job_done(struct work *w)
{
    struct job *j = container_of(w, struct job, work);
    j->on_loop = loop_is_current(j->loop) && j->value == 42;
    j->value++;
    loop_stop(j->loop);
}

static void work_runs_elsewhere_and_ends_on_the_loop(void **state)
{
    struct job j = {.work = {.work = job_work, .done = job_done}};
    assert_int_equal(loop_new(&j.loop, "job", NULL), 0);
    loop_run_work(j.loop, &j.work);
    loop_run(j.loop);
    assert_int_equal(j.value, 43);
    assert_true(j.on_loop);
    assert_false(pthread_equal(j.worker, pthread_self()));
    /* Work under way when the loop is freed still ends. */
    loop_run_work(j.loop, &j.work);
    loop_free(j.loop);
    assert_int_equal(j.value, 43);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mailbox_keeps_each_senders_order),
        cmocka_unit_test(no_wake_up_is_lost),
        cmocka_unit_test(undelivered_letters_are_discarded),
        cmocka_unit_test(timers_fire_in_order),
        cmocka_unit_test(heap_survives_random_use),
        cmocka_unit_test(a_turn_ends_with_deferred_work_then_hooks),
        cmocka_unit_test(long_turns_are_told),
        cmocka_unit_test(endless_deferred_work_starves_nobody),
        cmocka_unit_test(work_runs_elsewhere_and_ends_on_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
