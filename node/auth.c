#include "node/auth.h"
#include "base/clock.h"
#include "base/mem.h"
#include "protocols/axl/axl.h"
#include "replication/settings.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

enum {
    CACHE_MAX = 100000,
    IN_FLIGHT_MAX = 2000, /* more log-ins at once are told to try again */
    PENDING_AT_AXL = 16,  /* requests under way at the call manager; the others wait here */
    REQUEST_TIMEOUT_MS = 10 * 1000,
    REFUSED_HOLD_MS = 60 * 1000,
};

/* One question: posted by the shard, answered by a letter back. */
struct check {
    struct letter letter; /* to the control loop, then back */
    struct list link;     /* in auth->waiting */
    struct auth *auth;
    struct loop *reply_to;
    void (*on_done)(void *user, enum sasl_check result);
    void *done_user;
    uint64_t uid;
    char *userid, *password;
    enum sasl_check result;
};

struct remembered {
    struct hnode node;
    struct list link; /* oldest first */
    uint64_t uid, until_ms;
    uint8_t mac[32];
};

struct auth {
    struct auth_options o;
    struct axl *axl; /* NULL: no call manager is set */
    bool local_only; /* auth.mode = local */
    unsigned cache_s;
    uint8_t key[32];
    struct htab cache;
    struct list cache_order, waiting;
    unsigned n_waiting, n_asked;
    bool closing;
    unsigned n_closing; /* clients that are being closed */
    void (*on_closed)(void *user);
    void *closed_user;
};

static bool remembered_equal(const struct hnode *node, const void *key, size_t n)
{
    return memcmp(&container_of(node, const struct remembered, node)->uid, key, n) == 0;
}

/* ---- answers that were "yes" ---- */

static void password_mac(const struct auth *a, const struct check *c, uint8_t out[32])
{
    uint8_t text[8 + 1024];
    unsigned n = 32;
    size_t len = strnlen(c->password, sizeof text - 8);
    memcpy(text, &c->uid, 8);
    memcpy(text + 8, c->password, len);
    HMAC(EVP_sha256(), a->key, sizeof a->key, text, 8 + len, out, &n);
    mem_wipe(text, sizeof text);
}

static void forget(struct auth *a, struct remembered *r)
{
    htab_remove(&a->cache, &r->node);
    list_remove(&r->link);
    mem_free(r);
}

static struct remembered *find_remembered(struct auth *a, uint64_t uid)
{
    struct hnode *n = htab_find(&a->cache, &uid, sizeof uid);
    return n ? container_of(n, struct remembered, node) : NULL;
}

static bool is_remembered(struct auth *a, const struct check *c)
{
    uint8_t mac[32];
    struct remembered *r = a->cache_s ? find_remembered(a, c->uid) : NULL;
    if (!r)
        return false;
    if (r->until_ms <= clock_monotonic_ms()) {
        forget(a, r);
        return false;
    }
    password_mac(a, c, mac);
    return CRYPTO_memcmp(mac, r->mac, sizeof mac) == 0;
}

static void remember(struct auth *a, const struct check *c)
{
    struct remembered *r = find_remembered(a, c->uid);
    if (a->cache_s == 0)
        return;
    if (r)
        forget(a, r);
    if (a->cache.n >= CACHE_MAX)
        forget(a, list_entry(list_first(&a->cache_order), struct remembered, link));
    r = mem_new(struct remembered);
    r->uid = c->uid;
    r->until_ms = clock_monotonic_ms() + (uint64_t)a->cache_s * 1000;
    password_mac(a, c, r->mac);
    htab_add(&a->cache, &r->node, &r->uid, sizeof r->uid);
    list_append(&a->cache_order, &r->link);
}

/* ---- questions ---- */

static void check_free(struct check *c)
{
    if (c->password)
        mem_wipe(c->password, strlen(c->password));
    mem_free(c->password);
    mem_free(c->userid);
    mem_free(c);
}

static void deliver_answer(struct letter *l)
{
    struct check *c = container_of(l, struct check, letter);
    c->on_done(c->done_user, c->result);
    check_free(c);
}

static void discard(struct letter *l)
{
    check_free(container_of(l, struct check, letter));
}

static void answer(struct check *c, enum sasl_check result)
{
    c->result = result;
    c->letter.deliver = deliver_answer;
    loop_post(c->reply_to, &c->letter);
}

static void ask_more(struct auth *a);

static void on_authenticated(void *user, const struct axl_result *result)
{
    struct check *c = user;
    struct auth *a = c->auth;
    const struct axl_error *e = &result->error;
    a->n_asked--;
    if (e->outcome == AXL_OK && result->is_authenticated) {
        remember(a, c);
        answer(c, SASL_CHECK_OK);
    } else if (e->outcome == AXL_OK || e->outcome == AXL_NOT_FOUND) {
        struct remembered *r = find_remembered(a, c->uid);
        if (r && e->outcome == AXL_NOT_FOUND)
            forget(a, r);
        answer(c, SASL_CHECK_WRONG);
    } else {
        log_warning(a->o.log, "the password of %s could not be checked: %s: %s", c->userid, axl_outcome_text(e->outcome), e->text);
        answer(c, SASL_CHECK_UNAVAILABLE);
    }
    ask_more(a);
}

static void ask_more(struct auth *a)
{
    while (a->n_asked < PENDING_AT_AXL && !list_is_empty(&a->waiting)) {
        struct check *c = list_entry(list_first(&a->waiting), struct check, link);
        list_remove(&c->link);
        a->n_waiting--;
        if (a->closing || !a->axl || a->local_only) {
            answer(c, SASL_CHECK_UNAVAILABLE);
        } else {
            a->n_asked++;
            axl_authenticate(a->axl, c->userid, c->password, on_authenticated, c);
        }
    }
}

static void deliver_question(struct letter *l)
{
    struct check *c = container_of(l, struct check, letter);
    struct auth *a = c->auth;
    if (!*c->password) {
        answer(c, SASL_CHECK_WRONG); /* never ask with an empty password */
    } else if (is_remembered(a, c)) {
        answer(c, SASL_CHECK_OK);
    } else if (a->n_waiting >= IN_FLIGHT_MAX) {
        answer(c, SASL_CHECK_UNAVAILABLE);
    } else {
        list_append(&a->waiting, &c->link);
        a->n_waiting++;
        ask_more(a);
    }
}

void auth_check_password(void *user, const struct c2s_password *p, struct loop *reply_to,
                         void (*on_done)(void *done_user, enum sasl_check result), void *done_user)
{
    struct auth *a = user;
    struct check *c = mem_new(struct check);
    list_init(&c->link);
    c->letter = (struct letter){.deliver = deliver_question, .discard = discard};
    c->auth = a;
    c->reply_to = reply_to;
    c->on_done = on_done;
    c->done_user = done_user;
    c->uid = p->uid;
    c->userid = mem_strdup(p->userid);
    c->password = mem_strdup(p->password);
    loop_post(a->o.loop, &c->letter);
}

/* ---- life ---- */

static void on_axl_closed(void *user)
{
    struct auth *a = user;
    if (--a->n_closing || !a->closing)
        return;
    ask_more(a); /* answers who still waits */
    while (!list_is_empty(&a->cache_order))
        forget(a, list_entry(list_first(&a->cache_order), struct remembered, link));
    htab_fini(&a->cache);
    mem_wipe(a->key, sizeof a->key);
    if (a->on_closed)
        a->on_closed(a->closed_user);
    mem_free(a);
}

static void close_axl(struct auth *a)
{
    if (!a->axl)
        return;
    a->n_closing++;
    axl_close(a->axl, on_axl_closed, a);
    a->axl = NULL;
}

static void open_axl(struct auth *a, struct store_txn *t, struct arena *arena)
{
    struct err_ctx err = {0};
    struct buf password = {0};
    const uint8_t *sealed;
    size_t n;
    struct axl_options o = {
        .url = setting_string(t, a->o.node_name, SETTING_AXL_URL, arena),
        .user = setting_string(t, a->o.node_name, SETTING_AXL_USER, arena),
        .password = "",
        .ca_pem = setting_string(t, a->o.node_name, SETTING_AXL_CA, arena),
        .version = setting_string(t, a->o.node_name, SETTING_AXL_VERSION, arena),
        .timeout_ms = REQUEST_TIMEOUT_MS,
        .refused_hold_ms = REFUSED_HOLD_MS,
    };
    if (!*o.url)
        return;
    if (setting_sealed(t, SETTING_AXL_PASSWORD, arena, &sealed, &n) &&
        seal_open(a->o.seal, "setting:axl.password", sealed, n, &password, &err) == 0)
        o.password = password.data;
    if (axl_open(&a->axl, a->o.loop, &o, &err)) {
        a->axl = NULL;
        log_error(a->o.log, "passwords cannot be checked by the call manager: %s", err.text);
    }
    seal_buf_fini(&password);
}

void auth_settings_changed(struct auth *a)
{
    struct arena arena;
    struct store_txn *t = store_read_txn(a->o.reader);
    if (a->closing)
        return;
    arena_init(&arena);
    a->local_only = strcmp(setting_string(t, a->o.node_name, SETTING_AUTH_MODE, &arena), "local") == 0;
    a->cache_s = (unsigned)setting_int(t, a->o.node_name, SETTING_AUTH_CACHE);
    close_axl(a);
    open_axl(a, t, &arena);
    arena_fini(&arena);
    ask_more(a);
}

struct auth *auth_new(const struct auth_options *o)
{
    struct auth *a = mem_new(struct auth);
    a->o = *o;
    random_bytes(a->key, sizeof a->key);
    htab_init(&a->cache, remembered_equal);
    list_init(&a->cache_order);
    list_init(&a->waiting);
    auth_settings_changed(a);
    return a;
}

void auth_close(struct auth *a, void (*on_closed)(void *user), void *user)
{
    a->closing = true;
    a->on_closed = on_closed;
    a->closed_user = user;
    a->n_closing++;
    close_axl(a);
    on_axl_closed(a);
}
