#include "replication/apply.h"

#include "base/clock.h"
#include "replication/levels.h"
#include "replication/message_feed.h"
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct chunk {
    struct chunk *next;
    uint64_t first;
    unsigned n, done;
    struct rlog_entry entries[];
};

struct hash_point {
    uint64_t index;
    struct store_hash hashes[N_TABLES];
    uint64_t n_rows[N_TABLES];
};

struct apply {
    struct apply_config config;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* queue, stopping, news, points */
    pthread_cond_t more;
    struct chunk *head, *tail;
    bool stopping;
    struct apply_news news;
    struct hash_point points[APPLY_HASH_POINTS];
    unsigned n_points;
    struct kept_view {
        uint64_t index, made_ms;
        struct store_view *view;
    } views[APPLY_VIEWS]; /* under lock */
    _Atomic uint64_t applied;
    _Atomic unsigned level; /* the cluster's feature level */

    /* apply thread only */
    struct chunk *current; /* taken from the queue, not done yet */
    struct store_txn *txn;
    struct store_position position;
    struct message_feed messages;
    struct arena arena, session_arena;
    uint64_t index; /* being applied */
    unsigned n_commands;
    bool members_changed, session_dirty, session_changed, level_dirty;
    unsigned new_level;
    struct apply_hash hashes[APPLY_HASH_NEWS], last_hash; /* of the batch under way */
    unsigned n_hashes;
    uint64_t hash_period; /* FSM time / APPLY_HASH_MS */
    struct hash_point point;
    bool wants_view;
};

void apply_read_session(struct store_txn *t, uint32_t node, struct proposer_rows *out)
{
    struct arena arena;
    struct key key;
    arena_init(&arena);
    memset(out, 0, sizeof(*out));
    key_init(&key);
    key_u32(&key, node);
    const Imp__NodeRow *row = store_find_row(t, TABLE_NODE, &key, &arena);
    if (row) {
        out->is_member = true;
        out->epoch = row->epoch;
    }
    const Imp__ProposerRow *session = store_find_row(t, TABLE_PROPOSER, &key, &arena);
    if (session && session->nonce.len == PROPOSER_NONCE) {
        out->has_session = true;
        out->session_epoch = session->epoch;
        out->next_seq = session->next_seq;
        memcpy(out->nonce, session->nonce.data, PROPOSER_NONCE);
    }
    arena_fini(&arena);
}

static void end(struct apply *a, bool again, const char *what, const char *detail)
{
    char text[512];
    snprintf(text, sizeof(text), "applying entry %llu: %s%s%s", (unsigned long long)a->index, what,
             detail ? ": " : "", detail ? detail : "");
    a->config.on_fatal(a->config.user, again, text);
    log_fatal(a->config.log, "%s", text); /* nothing can go on from here */
}

static void fatal(struct apply *a, const char *what, const char *detail)
{
    end(a, true, what, detail);
}

/* Nothing of a level that this release does not know is ever committed here: what it would make of the
 * entries behind it may differ from what the others make. */
static void check_level(struct apply *a)
{
    struct err_ctx err = {0};
    a->level_dirty = false;
    a->new_level = fsm_level(a->txn, &a->arena);
    if (level_refuse(a->new_level, &err))
        end(a, false, "the cluster has moved on", err.text);
}

static void on_change(void *user, enum table t, const struct key *k, bool deleted)
{
    struct apply *a = user;
    if (table_scope(t) == SCOPE_LOCAL)
        return;
    message_feed_note(&a->messages, t);
    if (t == TABLE_MESSAGE_INDEX && !message_feed_wants(&a->messages, a->txn, a->index, k, deleted))
        return;
    feed_event(a->config.feed, a->index, t, k, deleted);
    if (t == TABLE_CLUSTER)
        a->level_dirty = true;
    if (t == TABLE_NODE || t == TABLE_NODE_TOMBSTONE) {
        a->members_changed = true;
        a->session_dirty = true;
    }
}

static void on_session_end(void *user, const struct proposal_call *call, int code)
{
    struct apply *a = user;
    feed_answer(a->config.feed, call, &(struct proposal_result){.code = code, .text = err_text(code)});
}

static void check_session(struct apply *a)
{
    struct proposer_rows rows;
    a->session_dirty = false;
    apply_read_session(a->txn, a->config.node, &rows);
    if (proposer_on_rows(a->config.proposer, clock_monotonic_ms(), &rows, on_session_end, a))
        a->session_changed = true;
}

/* The FSM has no part in it: hashes are not state. */
static void note_hash_point(struct apply *a)
{
    a->point.index = a->index;
    for (unsigned t = 0; t < N_TABLES; t++)
        if (table_scope(t) != SCOPE_LOCAL)
            store_table_hash(a->txn, t, &a->point.hashes[t], &a->point.n_rows[t]);
}

/* The one before the last makes room. */
static void keep_view(struct apply *a)
{
    struct kept_view *oldest = &a->views[0];
    struct store_view *v = store_view_new(a->config.store);
    a->wants_view = false;
    pthread_mutex_lock(&a->lock);
    for (unsigned i = 1; i < APPLY_VIEWS; i++)
        if (a->views[i].made_ms < oldest->made_ms)
            oldest = &a->views[i];
    struct store_view *old = oldest->view;
    *oldest = (struct kept_view){a->index, clock_monotonic_ms(), v};
    pthread_mutex_unlock(&a->lock);
    if (old)
        store_view_close(old);
    store_view_unref(old);
}

static void publish_hash_point(struct apply *a)
{
    if (a->wants_view)
        keep_view(a);
    pthread_mutex_lock(&a->lock);
    a->points[a->n_points++ % APPLY_HASH_POINTS] = a->point;
    pthread_mutex_unlock(&a->lock);
    memset(&a->point, 0, sizeof(a->point));
}

static void apply_proposal(struct apply *a, const Imp__Proposal *p, uint64_t term, uint32_t place)
{
    struct fsm_input in = {.index = a->index, .term = term, .place = place};
    struct fsm_result result;
    memset(&result, 0, sizeof(result));
    bool executed = fsm_execute(a->txn, p, &in, &a->arena, &result);
    a->n_commands++;
    if (p->node == a->config.node && p->epoch != 0) {
        struct proposal_call call;
        bool answered;
        if (proposer_seen(a->config.proposer, clock_monotonic_ms(), p->epoch, p->seq, executed, &call,
                          &answered) &&
            !answered)
            feed_answer(a->config.feed, &call,
                        &(struct proposal_result){.code = result.code,
                                                  .index = a->index,
                                                  .value = result.value,
                                                  .value2 = result.value2,
                                                  .text = result.text});
    }
    if (executed && p->command && p->command->body_case == IMP__COMMAND__BODY_HASH_POINT) {
        note_hash_point(a);
        a->wants_view |= p->command->hash_point->table[0] != 0;
    }
    if (a->session_dirty)
        check_session(a);
    if (a->level_dirty)
        check_level(a);
}

static void apply_command(struct apply *a, const struct rlog_entry *e)
{
    ProtobufCAllocator allocator;
    arena_reset(&a->arena);
    arena_protobuf_allocator(&a->arena, &allocator);
    Imp__Entry *entry = imp__entry__unpack(&allocator, e->payload->n, (const uint8_t *)e->payload->data);
    if (!entry)
        fatal(a, "the entry is no message of this release", NULL);
    for (size_t i = 0; i < entry->n_proposals; i++)
        apply_proposal(a, entry->proposals[i], e->term, (uint32_t)i);
}

/* FSM time is state: it is the same on every node at an index. */
static uint64_t hash_period(struct store_txn *t)
{
    struct arena arena;
    struct key key;
    arena_init(&arena);
    key_init(&key);
    const Imp__CountRow *clock = store_find_row(t, TABLE_CLOCK, &key, &arena);
    uint64_t period = clock ? clock->n / APPLY_HASH_MS : 0;
    arena_fini(&arena);
    return period;
}

/* By number under load, by time when little happens. */
static bool is_hash_due(struct apply *a, uint64_t index)
{
    uint64_t period = hash_period(a->txn);
    bool due = index % APPLY_HASH_EVERY == 0 || period != a->hash_period;
    a->hash_period = period;
    return due;
}

static void apply_entry(struct apply *a, uint64_t index, const struct rlog_entry *e)
{
    a->index = index;
    if (e->type == RLOG_COMMAND) {
        apply_command(a, e);
    } else if (e->type == RLOG_CHANGE) {
        mem_free(a->position.conf);
        a->position.conf = mem_dup(e->payload->data, e->payload->n);
        a->position.n_conf = e->payload->n;
        a->position.conf_index = index;
        a->members_changed = true;
    }
    a->position.applied_index = index;
    a->position.applied_term = e->term;
    if (is_hash_due(a, index) && a->n_hashes < APPLY_HASH_NEWS) {
        struct apply_hash *h = &a->hashes[a->n_hashes++];
        h->index = index;
        store_state_hash(a->txn, &h->hash);
    }
}

static void commit(struct apply *a)
{
    struct err_ctx err = {0};
    store_set_position(a->txn, &a->position);
    a->last_hash.index = a->position.applied_index;
    store_state_hash(a->txn, &a->last_hash.hash);
    if (store_commit(a->txn, &err) != 0)
        fatal(a, "the store cannot be written", err.text);
    a->txn = NULL;
    if (a->point.index)
        publish_hash_point(a); /* before the index says that it can be asked for */
    atomic_store_explicit(&a->level, a->new_level, memory_order_release); /* before answers are posted */
    atomic_store_explicit(&a->applied, a->position.applied_index, memory_order_release);
    metrics_set(a->config.metrics, METRIC_RAFT_APPLIED_INDEX, (int64_t)a->position.applied_index);

    bool is_news = a->members_changed || a->session_changed || a->n_hashes > 0;
    pthread_mutex_lock(&a->lock);
    struct apply_news *news = &a->news;
    news->index = a->position.applied_index;
    news->term = a->position.applied_term;
    news->last = a->last_hash;
    news->members_changed |= a->members_changed;
    news->session_changed |= a->session_changed;
    for (unsigned i = 0; i < a->n_hashes; i++) {
        if (news->n_hashes == APPLY_HASH_NEWS)
            memmove(news->hashes, news->hashes + 1, (--news->n_hashes) * sizeof(news->hashes[0]));
        news->hashes[news->n_hashes++] = a->hashes[i];
    }
    pthread_mutex_unlock(&a->lock);

    feed_flush(a->config.feed, a->position.applied_index);
    a->members_changed = a->session_changed = false;
    a->n_hashes = 0;
    a->n_commands = 0;
    a->config.on_batch(a->config.user, is_news);
}

/* The next entry in the queue; waits if WAIT. NULL: none, or stopping. Its chunk stays ours until all of it
 * is done. */
static struct rlog_entry *next_entry(struct apply *a, struct chunk **current, bool wait, uint64_t *index)
{
    struct chunk *c = *current;
    if (c && c->done == c->n) {
        mem_free(c);
        c = *current = NULL;
    }
    if (!c) {
        pthread_mutex_lock(&a->lock);
        while (wait && !a->head && !a->stopping)
            pthread_cond_wait(&a->more, &a->lock);
        c = a->stopping ? NULL : a->head;
        if (c) {
            a->head = c->next;
            if (!a->head)
                a->tail = NULL;
        }
        pthread_mutex_unlock(&a->lock);
        *current = c;
        if (!c)
            return NULL;
    }
    *index = c->first + c->done;
    return &c->entries[c->done++];
}

static void chunk_free(struct chunk *c)
{
    for (unsigned i = c->done; i < c->n; i++)
        blob_unref(c->entries[i].payload);
    mem_free(c);
}

/* One transaction: E and what is queued behind it, up to MAX entries. */
static void apply_batch(struct apply *a, struct chunk **current, struct rlog_entry *e, uint64_t index,
                        unsigned max)
{
    a->txn = store_begin(a->config.store);
    store_set_observer(a->txn, on_change, a);
    uint64_t end_us = clock_monotonic_us() + APPLY_US;
    do {
        apply_entry(a, index, e);
        blob_unref(e->payload);
        if (--max == 0 || a->n_commands >= APPLY_COMMANDS || a->point.index || clock_monotonic_us() >= end_us)
            break;
        e = next_entry(a, current, false, &index);
    } while (e);
    commit(a);
}

static void *run(void *arg)
{
    struct apply *a = arg;
    struct rlog_entry *e;
    uint64_t index;
    while ((e = next_entry(a, &a->current, true, &index)))
        apply_batch(a, &a->current, e, index, UINT_MAX);
    return NULL;
}

bool apply_step(struct apply *a, unsigned max)
{
    uint64_t index;
    struct rlog_entry *e = next_entry(a, &a->current, false, &index);
    if (e)
        apply_batch(a, &a->current, e, index, max);
    return e != NULL;
}

struct apply *apply_new(const struct apply_config *config)
{
    struct apply *a = mem_new(struct apply);
    a->config = *config;
    a->messages.node = config->node;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->more, NULL);
    arena_init(&a->arena);
    struct store_reader *reader = store_reader_new(config->store);
    struct store_txn *t = store_read_txn(reader);
    struct arena arena;
    arena_init(&arena);
    store_get_position(t, &a->position, &arena);
    a->position.conf = a->position.n_conf ? mem_dup(a->position.conf, a->position.n_conf) : NULL;
    struct proposer_rows rows;
    apply_read_session(t, config->node, &rows);
    a->hash_period = hash_period(t);
    a->news.last.index = a->position.applied_index;
    store_state_hash(t, &a->news.last.hash);
    a->new_level = fsm_level(t, &arena);
    atomic_store(&a->level, a->new_level);
    proposer_on_rows(config->proposer, clock_monotonic_ms(), &rows, on_session_end, a);
    arena_fini(&arena);
    store_reader_free(reader);
    atomic_store(&a->applied, a->position.applied_index);
    a->news.index = a->position.applied_index;
    a->news.term = a->position.applied_term;
    a->news.members_changed = true;
    return a;
}

int apply_start(struct apply *a)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&a->thread, NULL, run, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return ERR_SYSTEM;
    pthread_setname_np(a->thread, "apply");
    a->has_thread = true;
    return 0;
}

void apply_stop(struct apply *a)
{
    pthread_mutex_lock(&a->lock);
    a->stopping = true;
    pthread_cond_signal(&a->more);
    pthread_mutex_unlock(&a->lock);
    if (a->has_thread)
        pthread_join(a->thread, NULL);
    a->has_thread = false;
}

int apply_view(struct apply *a, uint64_t index, struct store_view **out)
{
    int code = ERR_NOTFOUND;
    pthread_mutex_lock(&a->lock);
    for (unsigned i = 0; i < APPLY_VIEWS; i++)
        if (a->views[i].view && a->views[i].index == index) {
            *out = store_view_ref(a->views[i].view);
            code = 0;
        }
    pthread_mutex_unlock(&a->lock);
    return code;
}

static void end_views(struct apply *a, uint64_t made_before_ms)
{
    struct store_view *ended[APPLY_VIEWS];
    unsigned n = 0;
    pthread_mutex_lock(&a->lock);
    for (unsigned i = 0; i < APPLY_VIEWS; i++)
        if (a->views[i].view && a->views[i].made_ms < made_before_ms) {
            ended[n++] = a->views[i].view;
            a->views[i] = (struct kept_view){0};
        }
    pthread_mutex_unlock(&a->lock);
    for (unsigned i = 0; i < n; i++) {
        store_view_close(ended[i]);
        store_view_unref(ended[i]);
    }
}

void apply_expire_views(struct apply *a, uint64_t now_ms)
{
    if (now_ms > APPLY_VIEW_MS)
        end_views(a, now_ms - APPLY_VIEW_MS);
}

void apply_free(struct apply *a)
{
    if (!a)
        return;
    end_views(a, UINT64_MAX);
    if (a->current)
        chunk_free(a->current);
    for (struct chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        chunk_free(c);
    }
    arena_fini(&a->arena);
    mem_free(a->position.conf);
    pthread_cond_destroy(&a->more);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

void apply_push(struct apply *a, uint64_t first, const struct rlog_entry *entries, unsigned n)
{
    struct chunk *c = mem_alloc(sizeof(*c) + n * sizeof(entries[0]));
    *c = (struct chunk){.first = first, .n = n};
    for (unsigned i = 0; i < n; i++) {
        c->entries[i] = entries[i];
        blob_ref(entries[i].payload);
    }
    pthread_mutex_lock(&a->lock);
    if (a->tail)
        a->tail->next = c;
    else
        a->head = c;
    a->tail = c;
    pthread_mutex_unlock(&a->lock);
    pthread_cond_signal(&a->more); /* who wakes finds the lock free */
    if (a->config.on_work)
        a->config.on_work(a->config.user);
}

void apply_take(struct apply *a, struct apply_news *out)
{
    pthread_mutex_lock(&a->lock);
    *out = a->news;
    a->news.members_changed = a->news.session_changed = false;
    a->news.n_hashes = 0;
    pthread_mutex_unlock(&a->lock);
}

unsigned apply_level(const struct apply *a)
{
    return atomic_load_explicit(&((struct apply *)a)->level, memory_order_acquire);
}

uint64_t apply_index(const struct apply *a)
{
    return atomic_load_explicit(&((struct apply *)a)->applied, memory_order_acquire);
}

uint64_t apply_term(struct apply *a)
{
    pthread_mutex_lock(&a->lock);
    uint64_t term = a->news.term;
    pthread_mutex_unlock(&a->lock);
    return term;
}

int apply_table_hashes(struct apply *a, uint64_t index, struct store_hash hashes[N_TABLES],
                       uint64_t n_rows[N_TABLES])
{
    int code = index > apply_index(a) ? ERR_AGAIN : ERR_NOTFOUND;
    pthread_mutex_lock(&a->lock);
    for (unsigned i = 0; i < APPLY_HASH_POINTS; i++) {
        if (a->points[i].index == index && index != 0) {
            memcpy(hashes, a->points[i].hashes, sizeof(a->points[i].hashes));
            memcpy(n_rows, a->points[i].n_rows, sizeof(a->points[i].n_rows));
            code = 0;
        }
    }
    pthread_mutex_unlock(&a->lock);
    return code;
}
