#include "replication/proposer.h"

#include "base/mem.h"
#include "replication/pace.h"
#include "replication/pack.h"
#include <assert.h>
#include <string.h>

struct proposal {
    uint64_t deadline_ms;
    struct proposal_call call;
    bool answered;
    uint32_t n;
    uint8_t bytes[];
};

/* Sequences: executed < first_unsent <= next_seq. [executed + 1, next_seq) is in flight, in a ring. */
struct proposer {
    pthread_mutex_t lock;
    const struct proposer_ops *ops;
    void *user;
    bool closed;

    uint64_t epoch;    /* of the session; 0: none */
    uint64_t next_seq; /* the next to give */
    uint64_t expected; /* the first that has not executed */
    uint64_t unsent;   /* the first to send */
    uint64_t max_sent; /* highest ever sent */
    uint64_t urgent;   /* the last that is not patient (pack.h) */
    struct pace pace;
    uint64_t resent_upto;
    bool resend;
    uint64_t progress_ms; /* something executed, was sent again, or came to an empty window */
    size_t n_bytes;
    struct proposal *ring[PROPOSER_WINDOW];

    uint64_t route;
    bool blocked; /* send said no: wait for the next route, or for silence */

    /* registration */
    bool is_member, register_due;
    uint64_t row_epoch;
    uint8_t nonce[PROPOSER_NONCE];
    uint64_t register_ms;
    uint64_t n_resent;
};

struct proposer *proposer_new(const struct proposer_ops *ops, void *user)
{
    struct proposer *p = mem_new(struct proposer);
    pthread_mutex_init(&p->lock, NULL);
    p->ops = ops;
    p->user = user;
    ops->draw_nonce(user, p->nonce);
    return p;
}

static struct proposal **slot(struct proposer *p, uint64_t seq)
{
    return &p->ring[seq % PROPOSER_WINDOW];
}

void proposer_free(struct proposer *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < PROPOSER_WINDOW; i++)
        mem_free(p->ring[i]);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

int proposer_submit(struct proposer *p, uint64_t now_ms, const void *command, size_t n_bytes,
                    uint64_t deadline_ms, const struct proposal_call *call, bool *first)
{
    int code = 0;
    pthread_mutex_lock(&p->lock);
    if (p->closed || p->epoch == 0) {
        code = ERR_UNAVAILABLE;
    } else if (n_bytes > PROPOSER_MAX_COMMAND || p->next_seq - p->expected >= PROPOSER_WINDOW ||
               p->n_bytes + n_bytes > PROPOSER_MAX_BYTES) {
        code = ERR_LIMIT;
    } else {
        struct proposal *x = mem_alloc(sizeof(*x) + n_bytes);
        *x = (struct proposal){.deadline_ms = deadline_ms, .call = *call, .n = (uint32_t)n_bytes};
        memcpy(x->bytes, command, n_bytes);
        bool urgent = !pack_is_patient(command, n_bytes);
        *first = p->unsent == p->next_seq || (urgent && p->urgent < p->unsent);
        if (urgent)
            p->urgent = p->next_seq;
        if (p->expected == p->next_seq)
            p->progress_ms = now_ms;
        *slot(p, p->next_seq++) = x;
        p->n_bytes += n_bytes;
    }
    pthread_mutex_unlock(&p->lock);
    return code;
}

void proposer_set_route(struct proposer *p, uint64_t now_ms, uint64_t route)
{
    pthread_mutex_lock(&p->lock);
    if (route != p->route) {
        p->route = route;
        p->blocked = false;
        p->resend = route != 0;
        p->register_due = true;
    }
    pthread_mutex_unlock(&p->lock);
}

static void send_register(struct proposer *p, uint64_t now_ms)
{
    if (p->epoch != 0 || !p->is_member || p->route == 0)
        return;
    if (!p->register_due && now_ms < p->register_ms + PROPOSER_SILENCE_MS)
        return;
    p->register_due = false;
    p->register_ms = now_ms;
    p->ops->send_register(p->user, p->nonce, p->row_epoch);
}

uint64_t proposer_pump(struct proposer *p, uint64_t now_ms, bool paced)
{
    uint64_t wait_ms = 0;
    pthread_mutex_lock(&p->lock);
    if (!p->closed)
        send_register(p, now_ms);
    if (p->route == 0 || p->epoch == 0)
        goto out;
    if (p->resend) {
        p->resend = false;
        p->blocked = false;
        if (p->unsent > p->expected)
            p->n_resent++;
        p->unsent = p->expected;
        p->resent_upto = p->max_sent;
        p->progress_ms = now_ms;
    } else if (paced && !p->blocked && p->unsent < p->next_seq) {
        bool patient = p->urgent < p->unsent;
        wait_ms = pace_wait(&p->pace, now_ms, p->expected - 1, patient);
        if (wait_ms)
            goto out;
        pace_sent(&p->pace, now_ms, p->unsent, p->expected - 1, patient && p->next_seq - p->unsent > 1);
    }
    while (!p->blocked && p->unsent < p->next_seq) {
        const struct proposal *x = *slot(p, p->unsent);
        if (!p->ops->send(p->user, p->epoch, p->unsent, x->bytes, x->n)) {
            p->blocked = true;
            break;
        }
        if (p->unsent > p->max_sent)
            p->max_sent = p->unsent;
        p->unsent++;
    }
out:
    pthread_mutex_unlock(&p->lock);
    return wait_ms;
}

bool proposer_has_unsent(struct proposer *p, bool *urgent)
{
    pthread_mutex_lock(&p->lock);
    bool has = p->unsent < p->next_seq;
    *urgent = has && p->urgent >= p->unsent;
    pthread_mutex_unlock(&p->lock);
    return has;
}

/* Answers are given without the lock: they may post letters, and a caller's answer may lead to a new
 * proposal. */
struct answers {
    struct proposal_call *calls;
    size_t n, cap;
};

static void answers_add(struct answers *a, const struct proposal_call *call)
{
    if (a->n == a->cap) {
        a->cap = a->cap ? 2 * a->cap : 64;
        a->calls = mem_realloc(a->calls, a->cap * sizeof(*a->calls));
    }
    a->calls[a->n++] = *call;
}

static void answers_give(struct answers *a, int code, proposer_answer_fn *answer, void *user)
{
    for (size_t i = 0; i < a->n; i++)
        answer(user, &a->calls[i], code);
    mem_free(a->calls);
}

void proposer_tick(struct proposer *p, uint64_t now_ms, proposer_answer_fn *answer, void *user)
{
    struct answers late = {0};
    pthread_mutex_lock(&p->lock);
    for (uint64_t seq = p->expected; seq < p->next_seq; seq++) {
        struct proposal *x = *slot(p, seq);
        if (!x->answered && now_ms >= x->deadline_ms) {
            x->answered = true;
            answers_add(&late, &x->call);
        }
    }
    if (p->unsent > p->expected || (p->blocked && p->next_seq > p->expected))
        if (p->route != 0 && now_ms >= p->progress_ms + PROPOSER_SILENCE_MS)
            p->resend = true;
    pthread_mutex_unlock(&p->lock);
    answers_give(&late, ERR_UNKNOWN_OUTCOME, answer, user);
}

bool proposer_seen(struct proposer *p, uint64_t now_ms, uint64_t epoch, uint64_t seq, bool executed,
                   struct proposal_call *call, bool *answered)
{
    bool ours = false;
    pthread_mutex_lock(&p->lock);
    if (epoch == p->epoch && epoch != 0 && executed) {
        /* The FSM executes in sequence, and what it executes we have given. */
        assert(seq == p->expected && seq < p->next_seq);
        struct proposal *x = *slot(p, seq);
        *slot(p, seq) = NULL;
        *call = x->call;
        *answered = x->answered;
        p->n_bytes -= x->n;
        mem_free(x);
        p->expected++;
        if (p->unsent < p->expected)
            p->unsent = p->expected;
        p->progress_ms = now_ms;
        ours = true;
    } else if (epoch == p->epoch && epoch != 0 && seq > p->expected && seq > p->resent_upto) {
        /* A gap, and this copy cannot be one from before the last sending again. */
        p->resend = true;
    }
    pthread_mutex_unlock(&p->lock);
    return ours;
}

static void drop_all(struct proposer *p, struct answers *a)
{
    for (uint64_t seq = p->expected; seq < p->next_seq; seq++) {
        struct proposal *x = *slot(p, seq);
        *slot(p, seq) = NULL;
        if (!x->answered)
            answers_add(a, &x->call);
        mem_free(x);
    }
    p->n_bytes = 0;
    p->expected = p->unsent = p->next_seq;
    p->resend = false;
}

bool proposer_on_rows(struct proposer *p, uint64_t now_ms, const struct proposer_rows *rows,
                      proposer_answer_fn *answer, void *user)
{
    struct answers ended = {0};
    pthread_mutex_lock(&p->lock);
    uint64_t before = p->epoch;
    p->is_member = rows->is_member;
    bool live = rows->is_member && rows->has_session && rows->session_epoch == rows->epoch &&
                rows->epoch != 0 && memcmp(rows->nonce, p->nonce, PROPOSER_NONCE) == 0;
    if (p->epoch != 0 && !(live && rows->epoch == p->epoch)) {
        drop_all(p, &ended);
        p->epoch = 0;
    }
    if (live && p->epoch == 0 && !p->closed) {
        p->epoch = rows->epoch;
        p->next_seq = p->expected = p->unsent = rows->next_seq;
        p->urgent = 0;
        p->max_sent = p->resent_upto = rows->next_seq ? rows->next_seq - 1 : 0;
        p->progress_ms = now_ms;
    } else if (!live && (rows->epoch != p->row_epoch || before != 0)) {
        /* Another registration or a node_down came in between: this nonce is spent. */
        p->ops->draw_nonce(p->user, p->nonce);
        p->register_due = true;
    }
    p->row_epoch = rows->epoch;
    bool changed = p->epoch != before;
    pthread_mutex_unlock(&p->lock);
    answers_give(&ended, ERR_UNAVAILABLE, answer, user);
    return changed;
}

void proposer_close(struct proposer *p, int code, proposer_answer_fn *answer, void *user)
{
    struct answers all = {0};
    pthread_mutex_lock(&p->lock);
    p->closed = true;
    for (uint64_t seq = p->expected; seq < p->next_seq; seq++) {
        struct proposal *x = *slot(p, seq);
        if (!x->answered)
            answers_add(&all, &x->call);
        x->answered = true;
    }
    pthread_mutex_unlock(&p->lock);
    answers_give(&all, code, answer, user);
}

void proposer_get_status(struct proposer *p, struct proposer_status *out)
{
    pthread_mutex_lock(&p->lock);
    *out = (struct proposer_status){.epoch = p->epoch,
                                    .next_seq = p->next_seq,
                                    .executed_seq = p->expected,
                                    .in_flight = (unsigned)(p->next_seq - p->expected),
                                    .n_resent = p->n_resent};
    pthread_mutex_unlock(&p->lock);
}
