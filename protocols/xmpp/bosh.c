#include "protocols/xmpp/bosh.h"
#include "base/mem.h"
#include "protocols/xmpp/home.h"
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { FIRST_WAIT_MS = 10000 }; /* for the stream's features */

/* ---- answers ---- */

void bosh_write_refusal(struct buf *out, const char *condition)
{
    buf_addf(out, "<body xmlns='" NS_BOSH "' type='terminate' condition='%s'/>", condition);
}

int bosh_legacy_status(const char *condition)
{
    if (!strcmp(condition, "bad-request"))
        return 400;
    if (!strcmp(condition, "policy-violation"))
        return 403;
    return strcmp(condition, "item-not-found") ? 200 : 404;
}

/* For repeats (§14.3). Takes BODY. */
static void remember(struct bosh *b, uint64_t rid, struct buf *body)
{
    struct bosh_answer *a = &b->answers[b->next_answer];
    b->next_answer = (b->next_answer + 1) % (b->requests + 1);
    buf_fini(&a->body);
    *a = (struct bosh_answer){.rid = rid, .body = *body};
    *body = (struct buf){0};
}

static void give(struct bosh *b, void *handle, const char *body, size_t n)
{
    if (handle)
        b->events->answer(b->user, handle, 200, body, n);
}

static void begin_body(struct bosh *b, struct buf *out, uint64_t rid)
{
    buf_adds(out, "<body xmlns='" NS_BOSH "'");
    if (b->first) {
        buf_adds(out, b->first);
        mem_free(b->first);
        b->first = NULL;
    } else if (b->o.acks && b->rid != rid) { /* §9.1 */
        buf_addf(out, " ack='%" PRIu64 "'", b->rid);
    }
}

/* The oldest one, with what there is. PAYLOAD false: without it (pause). */
static void answer_oldest(struct bosh *b, bool payload, uint64_t now_ms)
{
    struct bosh_held h = b->held[0];
    struct buf body = {0};
    memmove(b->held, b->held + 1, --b->n_held * sizeof(b->held[0]));
    begin_body(b, &body, h.rid);
    if (payload && b->out_stream)
        buf_adds(&body, " xmlns:stream='" NS_STREAM "'");
    buf_addc(&body, '>');
    b->last_answer_empty = !payload || !b->out.n;
    if (payload) {
        size_t weight = b->out_weight;
        buf_add(&body, b->out.data, b->out.n);
        buf_fini(&b->out);
        b->out_weight = 0;
        b->out_stream = false;
        b->events->on_taken(b->user, weight);
    }
    buf_adds(&body, "</body>");
    give(b, h.handle, body.data, body.n);
    if (payload)
        remember(b, h.rid, &body);
    buf_fini(&body);
    if (!b->n_held)
        b->idle_ms = now_ms;
}

/* ---- the end ---- */

static void end(struct bosh *b, bool in_order)
{
    if (b->ended)
        return;
    b->ended = true;
    b->events->on_end(b->user, in_order);
}

static void answer_rest(struct bosh *b)
{
    static const char empty[] = "<body xmlns='" NS_BOSH "'/>";
    for (unsigned i = 0; i < b->n_held; i++)
        give(b, b->held[i].handle, empty, sizeof(empty) - 1);
    for (unsigned i = 0; i < b->n_kept; i++)
        give(b, b->kept[i].handle, empty, sizeof(empty) - 1);
    b->n_held = 0;
    for (unsigned i = 0; i < b->n_kept; i++)
        b->kept[i].handle = NULL;
}

/* A terminal binding condition of ours to HANDLE; the other requests end with it. */
static void refuse(struct bosh *b, void *handle, const char *condition)
{
    struct buf body = {0};
    int status = b->o.legacy ? bosh_legacy_status(condition) : 200;
    if (status == 200)
        bosh_write_refusal(&body, condition);
    if (handle) /* its connection may be gone meanwhile */
        b->events->answer(b->user, handle, status, body.n ? body.data : "", body.n);
    buf_fini(&body);
    answer_rest(b);
    end(b, false);
}

/* The shard has ended the stream, and there is a request to say so. */
static void finish(struct bosh *b, uint64_t now_ms)
{
    struct bosh_held h = b->held[0];
    struct buf body = {0};
    memmove(b->held, b->held + 1, --b->n_held * sizeof(b->held[0]));
    begin_body(b, &body, h.rid);
    buf_adds(&body, " type='terminate'");
    if (*b->end_condition)
        buf_addf(&body, " condition='%s'", b->end_condition);
    buf_adds(&body, " xmlns:stream='" NS_STREAM "'>");
    buf_add(&body, b->out.data, b->out.n);
    if (b->end_content)
        buf_adds(&body, b->end_content);
    buf_adds(&body, "</body>");
    b->events->on_taken(b->user, b->out_weight);
    give(b, h.handle, body.data, body.n);
    buf_fini(&body);
    answer_rest(b);
    end(b, true);
}

/* ---- the window (§14.2, §14.3) ---- */

static unsigned n_open(const struct bosh *b)
{
    return b->n_held + b->n_kept;
}

/* True: done, it was one that had come before. */
static bool take_repeat(struct bosh *b, const struct bosh_request *r, void *handle, uint64_t now_ms)
{
    static const char again[] = "<body xmlns='" NS_BOSH "' type='error'/>";
    if (r->rid > b->rid)
        return false;
    for (unsigned i = 0; i < b->n_held; i++) {
        struct bosh_held *h = &b->held[i];
        if (h->rid != r->rid)
            continue;
        give(b, h->handle, again, sizeof(again) - 1); /* §17.3 */
        h->handle = handle;
        h->since_ms = now_ms;
        return true;
    }
    for (unsigned i = 0; i <= b->requests; i++) {
        struct bosh_answer *a = &b->answers[i];
        if (!a->body.n || a->rid != r->rid)
            continue;
        if (++a->n_repeats > BOSH_MAX_REPEATS)
            refuse(b, handle, "policy-violation");
        else
            give(b, handle, a->body.data, a->body.n);
        return true;
    }
    refuse(b, handle, "item-not-found");
    return true;
}

static void free_kept(struct bosh_kept *k)
{
    mem_free((char *)(uintptr_t)k->request.key);
    mem_free((char *)(uintptr_t)k->request.newkey);
    mem_free((char *)(uintptr_t)k->request.payload);
    mem_free((char *)(uintptr_t)k->request.header);
}

/* Came before its turn. */
static void keep(struct bosh *b, const struct bosh_request *r, void *handle)
{
    static const char again[] = "<body xmlns='" NS_BOSH "' type='error'/>";
    for (unsigned i = 0; i < b->n_kept; i++)
        if (b->kept[i].request.rid == r->rid) {
            give(b, b->kept[i].handle, again, sizeof(again) - 1);
            b->kept[i].handle = handle;
            return;
        }
    struct bosh_kept *k = &b->kept[b->n_kept++];
    k->request = *r;
    k->request.key = mem_strdup(r->key);
    k->request.newkey = mem_strdup(r->newkey);
    k->request.header = mem_strdup(r->header);
    k->request.payload = r->n_payload ? mem_dup(r->payload, r->n_payload) : NULL;
    k->handle = handle;
}

/* ---- key sequences (§15) ---- */

static bool is_key_right(struct bosh *b, const struct bosh_request *r)
{
    if (*b->key) {
        uint8_t hash[SHA_DIGEST_LENGTH];
        char hex[BOSH_KEY_CHARS + 1];
        if (!r->key || strlen(r->key) != BOSH_KEY_CHARS ||
            EVP_Digest(r->key, BOSH_KEY_CHARS, hash, NULL, EVP_sha1(), NULL) != 1)
            return false;
        for (size_t i = 0; i < sizeof(hash); i++)
            snprintf(hex + 2 * i, 3, "%02x", hash[i]);
        if (strcasecmp(hex, b->key))
            return false;
    }
    const char *next = r->newkey ? r->newkey : *b->key ? r->key : NULL;
    if (next && strlen(next) != BOSH_KEY_CHARS)
        return false;
    if (next)
        snprintf(b->key, sizeof(b->key), "%s", next);
    return true;
}

/* ---- a request's turn ---- */

static bool is_empty(const struct bosh_request *r)
{
    return !r->n_payload && !r->restart && !r->terminate && !r->has_pause;
}

/* §11, §12: asks again too soon. */
static bool is_overactive(struct bosh *b, const struct bosh_request *r, uint64_t now_ms)
{
    bool polls = !b->o.hold || !b->o.wait_s, soon = now_ms - b->empty_ms < BOSH_POLLING_S * 1000;
    bool bad = false;
    if (is_empty(r) && soon)
        bad = polls ? b->was_empty && b->last_answer_empty : b->n_held + 1 >= b->requests;
    b->was_empty = is_empty(r);
    b->empty_ms = now_ms;
    return bad;
}

static void do_pause(struct bosh *b, const struct bosh_request *r, uint64_t now_ms)
{
    while (b->n_held)
        answer_oldest(b, false, now_ms);
    b->pause_s = r->pause_s ? r->pause_s : 1;
}

static void do_terminate(struct bosh *b, const struct bosh_request *r)
{
    static const char farewell[] = "<body xmlns='" NS_BOSH "' type='terminate'/>";
    struct bosh_held oldest = b->held[0];
    memmove(b->held, b->held + 1, --b->n_held * sizeof(b->held[0]));
    give(b, oldest.handle, farewell, sizeof(farewell) - 1);
    answer_rest(b);
    end(b, true);
}

/* Not more are held than the client wants, and none that has something to say. */
static void settle(struct bosh *b, uint64_t now_ms)
{
    if (b->ended)
        return;
    if (b->n_held && b->end_condition) {
        finish(b, now_ms);
        return;
    }
    while (!b->ended && b->n_held && (b->out.n || (!b->first && b->n_held > b->o.hold)))
        answer_oldest(b, true, now_ms);
}

static void take(struct bosh *b, const struct bosh_request *r, void *handle, uint64_t now_ms)
{
    b->rid = r->rid;
    if (!is_key_right(b, r)) {
        refuse(b, handle, "item-not-found");
        return;
    }
    if (is_overactive(b, r, now_ms) || (r->has_pause && r->pause_s > BOSH_MAX_PAUSE_S)) {
        refuse(b, handle, "policy-violation");
        return;
    }
    b->pause_s = 0;
    b->held[b->n_held++] = (struct bosh_held){.rid = r->rid, .since_ms = now_ms, .handle = handle};
    if (r->restart)
        b->events->on_restart(b->user, r->header); /* a payload beside it is ignored (XEP-0206 §5) */
    else if (r->n_payload)
        b->events->on_payload(b->user, r->payload, r->n_payload);
    if (b->ended)
        return;
    if (r->terminate)
        do_terminate(b, r);
    else if (r->has_pause)
        do_pause(b, r, now_ms);
    else
        settle(b, now_ms);
}

static bool take_next_kept(struct bosh *b, uint64_t now_ms)
{
    for (unsigned i = 0; i < b->n_kept && !b->ended; i++) {
        struct bosh_kept k = b->kept[i];
        if (k.request.rid != b->rid + 1)
            continue;
        b->kept[i] = b->kept[--b->n_kept];
        take(b, &k.request, k.handle, now_ms);
        free_kept(&k);
        return true;
    }
    return false;
}

void bosh_request(struct bosh *b, const struct bosh_request *r, void *handle, uint64_t now_ms)
{
    bool last = r->terminate || r->has_pause; /* one more than 'requests' is allowed for these (§11) */
    if (b->ended) {
        refuse(b, handle, "item-not-found");
        return;
    }
    if (take_repeat(b, r, handle, now_ms))
        return;
    if (r->rid > b->rid + b->requests + (last ? 1 : 0)) {
        refuse(b, handle, "item-not-found");
        return;
    }
    if (n_open(b) >= b->requests + (last ? 1 : 0)) {
        refuse(b, handle, "policy-violation");
        return;
    }
    if (r->rid != b->rid + 1) {
        keep(b, r, handle);
        return;
    }
    take(b, r, handle, now_ms);
    while (take_next_kept(b, now_ms))
        ;
}

void bosh_gone(struct bosh *b, void *handle)
{
    for (unsigned i = 0; i < b->n_held; i++)
        if (b->held[i].handle == handle)
            b->held[i].handle = NULL;
    for (unsigned i = 0; i < b->n_kept; i++)
        if (b->kept[i].handle == handle)
            b->kept[i].handle = NULL;
}

/* ---- output ---- */

void bosh_output(struct bosh *b, const char *element, size_t n, size_t weight, bool stream_prefix)
{
    buf_add(&b->out, element, n);
    b->out_weight += weight;
    b->out_stream |= stream_prefix;
}

void bosh_flush(struct bosh *b, uint64_t now_ms)
{
    settle(b, now_ms);
}

void bosh_close(struct bosh *b, const char *condition, const char *content, uint64_t now_ms)
{
    if (b->ended || b->end_condition)
        return;
    b->end_condition = mem_strdup(condition);
    b->end_content = mem_strdup(content);
    settle(b, now_ms);
}

/* ---- time ---- */

static uint64_t wait_ms(const struct bosh *b)
{
    uint64_t wait = b->o.wait_s * UINT64_C(1000);
    return b->first && wait < FIRST_WAIT_MS ? FIRST_WAIT_MS : wait;
}

uint64_t bosh_due_ms(const struct bosh *b)
{
    if (b->ended)
        return UINT64_MAX;
    if (b->n_held)
        return b->held[0].since_ms + wait_ms(b);
    return b->idle_ms + (b->pause_s ? b->pause_s : b->o.inactivity_s) * UINT64_C(1000);
}

void bosh_tick(struct bosh *b, uint64_t now_ms)
{
    while (!b->ended && b->n_held && b->held[0].since_ms + wait_ms(b) <= now_ms)
        answer_oldest(b, true, now_ms);
    if (!b->ended && !b->n_held && bosh_due_ms(b) <= now_ms) {
        answer_rest(b);
        end(b, false); /* §10: without telling the client */
    }
}

/* ---- life ---- */

void bosh_init_session(struct bosh *b, const struct bosh_options *o, const struct bosh_events *events,
                       void *user, const struct bosh_request *r, void *handle, uint64_t now_ms)
{
    *b = (struct bosh){.events = events, .user = user, .o = *o, .rid = r->rid, .idle_ms = now_ms};
    b->requests = o->hold + 1;
    b->first = mem_strdup(o->first_attributes);
    b->o.first_attributes = NULL;
    b->o.sid = NULL;
    if (r->newkey && strlen(r->newkey) == BOSH_KEY_CHARS)
        snprintf(b->key, sizeof(b->key), "%s", r->newkey);
    b->held[b->n_held++] = (struct bosh_held){.rid = r->rid, .since_ms = now_ms, .handle = handle};
}

void bosh_fini_session(struct bosh *b)
{
    for (unsigned i = 0; i < b->n_kept; i++)
        free_kept(&b->kept[i]);
    for (size_t i = 0; i < n_elements(b->answers); i++)
        buf_fini(&b->answers[i].body);
    buf_fini(&b->out);
    mem_free(b->first);
    mem_free(b->end_condition);
    mem_free(b->end_content);
}
