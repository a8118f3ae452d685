#include "protocols/xmpp/c2s_throttle.h"
#include "base/htab.h"
#include "base/list.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    UNIT = 1000,    /* of a bucket's level: one event */
    MAX_DEBT = 3,   /* a bucket holds so many times what a minute allows: three minutes clear any debt */
    MINUTE = 60000, /* ms */
    KEY_MAX = 2100,
};

/* Fills with events, leaks at per_minute. */
struct bucket {
    uint64_t level, at_ms;
};

struct entry {
    struct hnode node;
    struct list link; /* oldest use first */
    unsigned n_connections;
    struct bucket attempts, failures;
    size_t n_key;
    char key[];
};

struct c2s_throttle {
    pthread_mutex_t lock;
    struct htab entries;
    struct list order;
    unsigned max_entries;
};

static bool key_equal(const struct hnode *node, const void *key, size_t n)
{
    const struct entry *e = container_of(node, struct entry, node);
    return e->n_key == n && memcmp(e->key, key, n) == 0;
}

struct c2s_throttle *c2s_throttle_new(unsigned max_entries)
{
    struct c2s_throttle *t = mem_new(struct c2s_throttle);
    pthread_mutex_init(&t->lock, NULL);
    htab_init(&t->entries, key_equal);
    list_init(&t->order);
    t->max_entries = max_entries;
    return t;
}

static void drop(struct c2s_throttle *t, struct entry *e)
{
    htab_remove(&t->entries, &e->node);
    list_remove(&e->link);
    mem_free(e);
}

void c2s_throttle_free(struct c2s_throttle *t)
{
    if (!t)
        return;
    struct entry *e;
    list_for_each(e, &t->order, struct entry, link) drop(t, e);
    htab_fini(&t->entries);
    pthread_mutex_destroy(&t->lock);
    mem_free(t);
}

/* "a1.2.3.4", "a2001:db8:0:1" (the first 64 bits), "u<bare JID>". */
static size_t address_key(char key[KEY_MAX], const char *address)
{
    struct in6_addr six;
    if (inet_pton(AF_INET6, address, &six) == 1) {
        const uint8_t *b = six.s6_addr;
        return (size_t)snprintf(key, KEY_MAX, "a%02x%02x:%02x%02x:%02x%02x:%02x%02x", b[0], b[1], b[2], b[3],
                                b[4], b[5], b[6], b[7]);
    }
    return (size_t)snprintf(key, KEY_MAX, "a%s", address);
}

static struct entry *find(struct c2s_throttle *t, const char *key, size_t n)
{
    struct hnode *node = htab_find(&t->entries, key, n);
    return node ? container_of(node, struct entry, node) : NULL;
}

/* The entry whose last use lies farthest back makes room; those with connections stay. */
static void make_room(struct c2s_throttle *t)
{
    enum { TRIES = 16 };
    struct list *at = t->order.next;
    for (int i = 0; i < TRIES && at != &t->order; i++) {
        struct entry *e = list_entry(at, struct entry, link);
        at = at->next;
        if (e->n_connections == 0) {
            drop(t, e);
            return;
        }
    }
}

static struct entry *get(struct c2s_throttle *t, const char *key, size_t n)
{
    struct entry *e = find(t, key, n);
    if (e) {
        list_remove(&e->link);
    } else {
        if (t->entries.n >= t->max_entries)
            make_room(t);
        e = mem_zalloc(sizeof(*e) + n);
        e->n_key = n;
        memcpy(e->key, key, n);
        htab_add(&t->entries, &e->node, e->key, n);
    }
    list_append(&t->order, &e->link);
    return e;
}

static void leak(struct bucket *b, unsigned per_minute, uint64_t now_ms)
{
    uint64_t out = now_ms > b->at_ms ? (now_ms - b->at_ms) * per_minute * UNIT / MINUTE : 0;
    if (out == 0 && b->level > 0)
        return; /* at_ms stays: small steps add up */
    b->level = out >= b->level ? 0 : b->level - out;
    b->at_ms = now_ms;
}

static void fill(struct bucket *b, unsigned per_minute, uint64_t now_ms)
{
    leak(b, per_minute, now_ms);
    b->level += UNIT;
    if (b->level > (uint64_t)MAX_DEBT * per_minute * UNIT)
        b->level = (uint64_t)MAX_DEBT * per_minute * UNIT;
}

/* Until there is room for one event. */
static unsigned wait_of(struct bucket *b, unsigned per_minute, uint64_t now_ms)
{
    leak(b, per_minute, now_ms);
    uint64_t full = (uint64_t)per_minute * UNIT;
    if (b->level + UNIT <= full)
        return 0;
    return (unsigned)((b->level + UNIT - full) * MINUTE / full) + 1;
}

bool c2s_throttle_connect(struct c2s_throttle *t, const char *address, unsigned max, uint64_t now_ms)
{
    char key[KEY_MAX];
    size_t n = address_key(key, address);
    pthread_mutex_lock(&t->lock);
    struct entry *e = get(t, key, n);
    bool ok = e->n_connections < max;
    if (ok)
        e->n_connections++;
    pthread_mutex_unlock(&t->lock);
    return ok;
}

void c2s_throttle_disconnect(struct c2s_throttle *t, const char *address)
{
    char key[KEY_MAX];
    size_t n = address_key(key, address);
    pthread_mutex_lock(&t->lock);
    struct entry *e = find(t, key, n);
    if (e && e->n_connections > 0)
        e->n_connections--;
    if (e && e->n_connections == 0 && e->attempts.level == 0 && e->failures.level == 0)
        drop(t, e);
    pthread_mutex_unlock(&t->lock);
}

static bool take_attempt(struct c2s_throttle *t, const char *key, size_t n, unsigned per_minute,
                         uint64_t now_ms)
{
    pthread_mutex_lock(&t->lock);
    struct entry *e = get(t, key, n);
    bool ok = wait_of(&e->attempts, per_minute, now_ms) == 0;
    if (ok)
        fill(&e->attempts, per_minute, now_ms);
    pthread_mutex_unlock(&t->lock);
    return ok;
}

bool c2s_throttle_attempt(struct c2s_throttle *t, const char *address, unsigned per_minute, uint64_t now_ms)
{
    char key[KEY_MAX];
    size_t n = address_key(key, address);
    return per_minute == 0 || take_attempt(t, key, n, per_minute, now_ms);
}

bool c2s_throttle_register(struct c2s_throttle *t, const char *address, unsigned per_minute, uint64_t now_ms)
{
    char key[KEY_MAX];
    size_t n = address_key(key, address);
    key[0] = 'r';
    return take_attempt(t, key, n, per_minute, now_ms);
}

static size_t account_key(char key[KEY_MAX], const char *account)
{
    int n = snprintf(key, KEY_MAX, "u%s", account);
    return n < KEY_MAX ? (size_t)n : KEY_MAX - 1;
}

void c2s_throttle_failed(struct c2s_throttle *t, const char *address, const char *account,
                         unsigned per_minute, uint64_t now_ms)
{
    char key[KEY_MAX];
    pthread_mutex_lock(&t->lock);
    fill(&get(t, key, address_key(key, address))->failures, per_minute, now_ms);
    if (account)
        fill(&get(t, key, account_key(key, account))->failures, per_minute, now_ms);
    pthread_mutex_unlock(&t->lock);
}

unsigned c2s_throttle_wait_ms(struct c2s_throttle *t, const char *address, const char *account,
                              unsigned per_minute, uint64_t now_ms)
{
    char key[KEY_MAX];
    pthread_mutex_lock(&t->lock);
    struct entry *e = find(t, key, address_key(key, address));
    unsigned wait = e ? wait_of(&e->failures, per_minute, now_ms) : 0;
    e = account ? find(t, key, account_key(key, account)) : NULL;
    unsigned other = e ? wait_of(&e->failures, per_minute, now_ms) : 0;
    pthread_mutex_unlock(&t->lock);
    return wait > other ? wait : other;
}
