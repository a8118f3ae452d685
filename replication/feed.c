#include "replication/feed.h"

#include "base/buf.h"
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

/* The events of one batch, packed: index 8, table 2, deleted 1, key length 2, key. Shared by the letters. */
struct batch {
    atomic_uint refs;
    uint64_t applied;
    unsigned n;
    struct buf packed;
};

struct answer {
    proposal_done_fn *fn;
    void *user;
    struct proposal_result result; /* text: heap, or a constant "" */
    char *text;
};

struct feed_letter {
    struct letter letter;
    struct feed_loop *to;
    struct batch *batch; /* NULL: none */
    bool reload;
    uint64_t applied;
    unsigned n_answers;
    struct answer *answers;
};

struct feed_loop {
    struct feed *feed;
    struct loop *loop;
    struct feed_handler handler;
    void *user;
    atomic_uint n_queued;
    atomic_bool reloading;   /* a reload is queued: what happens until it is delivered is covered by it */
    atomic_bool follows;     /* it wants to hear of indexes that bring it nothing, too */
    _Atomic uint64_t passed; /* the last batch that brought it nothing; what was posted before is older */
    unsigned n_wanted;       /* events of use in the batch under way */
    struct answer *answers;  /* of the batch under way */
    unsigned n_answers, cap;
};

/* Letters refer to it: they may be delivered after the replica was stopped. */
struct feed {
    atomic_uint refs;
    struct feed_loop loops[FEED_MAX_LOOPS];
    unsigned n;
    struct batch *batch;
};

struct feed *feed_new(void)
{
    struct feed *f = mem_new(struct feed);
    atomic_init(&f->refs, 1);
    return f;
}

static void batch_unref(struct batch *b)
{
    if (b && atomic_fetch_sub(&b->refs, 1) == 1) {
        buf_fini(&b->packed);
        mem_free(b);
    }
}

static void free_answers(struct answer *answers, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        mem_free(answers[i].text);
    mem_free(answers);
}

void feed_free(struct feed *f)
{
    if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
        return;
    for (unsigned i = 0; i < f->n; i++)
        free_answers(f->loops[i].answers, f->loops[i].n_answers);
    batch_unref(f->batch);
    mem_free(f);
}

void feed_add(struct feed *f, struct loop *loop, const struct feed_handler *handler, void *user)
{
    assert(f->n < FEED_MAX_LOOPS && !feed_find(f, loop));
    struct feed_loop *x = &f->loops[f->n++];
    x->feed = f;
    x->loop = loop;
    x->handler = *handler;
    x->user = user;
}

struct feed_loop *feed_find(struct feed *f, const struct loop *loop)
{
    for (unsigned i = 0; i < f->n; i++)
        if (f->loops[i].loop == loop)
            return &f->loops[i];
    return NULL;
}

void feed_event(struct feed *f, uint64_t index, enum table table, const struct key *key, bool deleted)
{
    if (!f->batch) {
        f->batch = mem_new(struct batch);
        atomic_init(&f->batch->refs, 1);
    }
    struct buf *out = &f->batch->packed;
    buf_add_u64(out, index);
    buf_add_u16(out, (uint16_t)table);
    buf_add_u8(out, deleted);
    buf_add_u16(out, key->n);
    buf_add(out, key->bytes, key->n);
    f->batch->n++;
    for (unsigned i = 0; i < f->n; i++) {
        struct feed_loop *x = &f->loops[i];
        x->n_wanted += !x->handler.wants || x->handler.wants(x->user, table, key);
    }
}

void feed_answer(struct feed *f, const struct proposal_call *call, const struct proposal_result *result)
{
    struct feed_loop *x = call->to;
    if (x->n_answers == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 16;
        x->answers = mem_realloc(x->answers, x->cap * sizeof(*x->answers));
    }
    struct answer *a = &x->answers[x->n_answers++];
    a->fn = (proposal_done_fn *)call->fn;
    a->user = call->user;
    a->result = *result;
    a->text = result->text && result->text[0] ? mem_strdup(result->text) : NULL;
    a->result.text = a->text ? a->text : "";
}

static void give_events(struct feed_loop *x, const struct batch *b)
{
    enum { CHUNK = 64 };
    struct feed_event events[CHUNK];
    struct reader r;
    reader_init(&r, b->packed.data, b->packed.n);
    for (unsigned left = b->n; left;) {
        unsigned n = left < CHUNK ? left : CHUNK;
        for (unsigned i = 0; i < n; i++) {
            events[i].index = read_u64(&r);
            events[i].table = read_u16(&r);
            events[i].deleted = read_u8(&r) != 0;
            events[i].key.n = read_u16(&r);
            memcpy(events[i].key.bytes, read_bytes(&r, events[i].key.n), events[i].key.n);
        }
        left -= n;
        x->handler.on_events(x->user, events, n, b->applied);
    }
}

static void letter_free(struct letter *letter)
{
    struct feed_letter *x = container_of(letter, struct feed_letter, letter);
    struct feed *f = x->to->feed;
    batch_unref(x->batch);
    free_answers(x->answers, x->n_answers);
    mem_free(x);
    feed_free(f);
}

static void letter_deliver(struct letter *letter)
{
    struct feed_letter *m = container_of(letter, struct feed_letter, letter);
    struct feed_loop *x = m->to;
    if (m->reload) {
        /* Before the handler reads: what is committed from here on is told again. */
        atomic_store(&x->reloading, false);
        if (x->handler.on_reload)
            x->handler.on_reload(x->user, m->applied);
    } else if (m->batch) {
        atomic_fetch_sub(&x->n_queued, m->batch->n);
        if (x->handler.on_events)
            give_events(x, m->batch);
    } else if (m->applied && x->handler.on_events) {
        x->handler.on_events(x->user, NULL, 0, m->applied);
    }
    for (unsigned i = 0; i < m->n_answers; i++)
        m->answers[i].fn(m->answers[i].user, &m->answers[i].result);
    letter_free(letter);
}

static struct feed_letter *letter_new(struct feed_loop *to)
{
    struct feed_letter *m = mem_new(struct feed_letter);
    m->letter = (struct letter){.deliver = letter_deliver, .discard = letter_free};
    m->to = to;
    atomic_fetch_add(&to->feed->refs, 1);
    return m;
}

/* A loop that begins to follow reads `passed` after it has said so: either it is told of this batch, or it
 * finds it there. */
static bool is_told(struct feed_loop *x, uint64_t applied_index)
{
    atomic_store(&x->passed, applied_index);
    return atomic_load(&x->follows);
}

static void flush_loop(struct feed *f, struct feed_loop *x, uint64_t applied_index)
{
    bool skip = atomic_load(&x->reloading);
    unsigned n = x->n_wanted ? f->batch->n : 0;
    bool overflow = !skip && n && atomic_load(&x->n_queued) + n > FEED_MAX_QUEUED && x->handler.on_reload;
    x->n_wanted = 0;
    if (!x->n_answers && (skip || (!n && !is_told(x, applied_index))))
        return;
    struct feed_letter *m = letter_new(x);
    m->applied = skip ? 0 : applied_index;
    if (overflow) {
        m->reload = true;
        atomic_store(&x->reloading, true);
    } else if (!skip && n) {
        m->batch = f->batch;
        atomic_fetch_add(&m->batch->refs, 1);
        atomic_fetch_add(&x->n_queued, n);
    }
    m->answers = x->answers;
    m->n_answers = x->n_answers;
    x->answers = NULL;
    x->n_answers = x->cap = 0;
    loop_post(x->loop, &m->letter);
}

void feed_flush(struct feed *f, uint64_t applied_index)
{
    if (f->batch)
        f->batch->applied = applied_index;
    for (unsigned i = 0; i < f->n; i++)
        flush_loop(f, &f->loops[i], applied_index);
    batch_unref(f->batch);
    f->batch = NULL;
}

void feed_follow(struct feed_loop *x, bool on)
{
    if (on == atomic_exchange(&x->follows, on) || !on)
        return;
    struct feed_letter *m = letter_new(x); /* behind what was posted up to there */
    m->applied = atomic_load(&x->passed);
    loop_post(x->loop, &m->letter);
}

void feed_answer_now(const struct proposal_call *call, int code)
{
    struct feed_loop *x = call->to;
    struct feed_letter *m = letter_new(x);
    m->answers = mem_new(struct answer);
    m->n_answers = 1;
    m->answers[0] = (struct answer){.fn = (proposal_done_fn *)call->fn,
                                    .user = call->user,
                                    .result = {.code = code, .text = err_text(code)}};
    loop_post(x->loop, &m->letter);
}
