#include "base/admission.h"
#include "base/clock.h"
#include "base/htab.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SETS = 1024, /* a power of two */
    WAYS = 8,
    TOKEN = 1000, /* of bucket.used: one connection */
    LOG_MS = 60000,
    V6_BYTES = 16,
    V4_AT = 12,        /* where the IPv4 address is in one of IPv6 */
    NETWORK_BYTES = 8, /* of IPv6, that one customer has */
};

/* How much an address has used of what it may; all zero: nothing, which is like not being here. */
struct bucket {
    uint8_t key[V6_BYTES];
    uint64_t used, at_ms;
};

struct admission {
    pthread_mutex_t lock;
    const struct log *log;
    struct metrics *metrics;
    unsigned per_second;
    char *exempt;
    uint64_t seed[2];
    uint64_t logged_ms, n_refused; /* since then */
    bool has_logged;
    struct bucket buckets[SETS][WAYS];
};

/* ---- addresses ---- */

/* As one of IPv6. */
static bool read_address(uint8_t out[V6_BYTES], const char *text)
{
    memset(out, 0, V6_BYTES);
    out[10] = out[11] = 0xff;
    return inet_pton(AF_INET, text, out + V4_AT) == 1 || inet_pton(AF_INET6, text, out) == 1;
}

static bool is_v4(const uint8_t address[V6_BYTES])
{
    static const uint8_t mapped[V4_AT] = {[10] = 0xff, [11] = 0xff};
    return memcmp(address, mapped, sizeof(mapped)) == 0;
}

/* WORD: ADDRESS or ADDRESS/BITS. */
static bool is_in_network(const char *word, size_t n, const uint8_t have[V6_BYTES])
{
    enum { MAX = 64 };
    char network[MAX];
    uint8_t want[V6_BYTES];
    if (n >= sizeof(network))
        return false;
    memcpy(network, word, n);
    network[n] = '\0';
    char *slash = strchr(network, '/');
    if (slash)
        *slash++ = '\0';
    if (!read_address(want, network) || (slash && (!*slash || slash[strspn(slash, "0123456789")])))
        return false;
    unsigned long before = strchr(network, ':') ? 0 : V4_AT * 8, all = V6_BYTES * 8 - before;
    unsigned long bits = slash ? strtoul(slash, NULL, 10) : all;
    if (bits > all)
        return false;
    bits += before;
    uint8_t mask = (uint8_t)(0xff00 >> bits % 8);
    return memcmp(want, have, bits / 8) == 0 &&
           (bits % 8 == 0 || !((want[bits / 8] ^ have[bits / 8]) & mask));
}

static bool is_in_list(const char *list, const uint8_t address[V6_BYTES])
{
    static const char between[] = " ,\t\r\n";
    for (const char *at = list; *(at += strspn(at, between));) {
        size_t n = strcspn(at, between);
        if (is_in_network(at, n, address))
            return true;
        at += n;
    }
    return false;
}

bool address_is_in_list(const char *list, const char *address)
{
    uint8_t have[V6_BYTES];
    return read_address(have, address) && is_in_list(list, have);
}

/* ---- buckets ---- */

struct admission *admission_new(const struct log *log, struct metrics *metrics)
{
    struct admission *a = mem_new(struct admission);
    pthread_mutex_init(&a->lock, NULL);
    a->log = log;
    a->metrics = metrics;
    a->exempt = mem_strdup("");
    random_bytes(a->seed, sizeof(a->seed));
    return a;
}

void admission_free(struct admission *a)
{
    if (!a)
        return;
    pthread_mutex_destroy(&a->lock);
    mem_free(a->exempt);
    mem_free(a);
}

void admission_set(struct admission *a, unsigned per_second, const char *exempt)
{
    char *copy = mem_strdup(exempt);
    pthread_mutex_lock(&a->lock);
    mem_free(a->exempt);
    a->exempt = copy;
    a->per_second = per_second;
    pthread_mutex_unlock(&a->lock);
}

static uint64_t used_now(const struct admission *a, const struct bucket *b, uint64_t now_ms)
{
    uint64_t back = now_ms > b->at_ms ? (now_ms - b->at_ms) * a->per_second * TOKEN / 1000 : 0;
    return back >= b->used ? 0 : b->used - back;
}

/* Of those that share a set the one that has used the least makes room: nobody who opens many is forgotten
 * because others come. */
static struct bucket *find(struct admission *a, const uint8_t key[V6_BYTES], uint64_t now_ms)
{
    struct bucket *set = a->buckets[hash_siphash(a->seed, key, V6_BYTES) % SETS], *least = set;
    for (struct bucket *b = set; b < set + WAYS; b++) {
        if (b->used && memcmp(b->key, key, V6_BYTES) == 0)
            return b;
        if (used_now(a, b, now_ms) < used_now(a, least, now_ms))
            least = b;
    }
    memcpy(least->key, key, V6_BYTES);
    least->used = 0;
    least->at_ms = now_ms;
    return least;
}

static bool take(struct admission *a, const uint8_t address[V6_BYTES], uint64_t now_ms)
{
    uint8_t key[V6_BYTES] = {0};
    if (!a->per_second || is_in_list(a->exempt, address))
        return true;
    memcpy(key, address, is_v4(address) ? V6_BYTES : NETWORK_BYTES);
    struct bucket *b = find(a, key, now_ms);
    uint64_t used = used_now(a, b, now_ms) + TOKEN;
    if (used > (uint64_t)a->per_second * ADMISSION_BURST_S * TOKEN)
        return false;
    b->used = used;
    b->at_ms = now_ms;
    return true;
}

bool admission_take(struct admission *a, const char *address, uint64_t now_ms)
{
    uint8_t bytes[V6_BYTES];
    if (!a || !read_address(bytes, address))
        return true;
    uint64_t n = 0;
    pthread_mutex_lock(&a->lock);
    bool ok = take(a, bytes, now_ms);
    unsigned per_second = a->per_second;
    a->n_refused += !ok;
    if (!ok && (!a->has_logged || now_ms - a->logged_ms >= LOG_MS)) {
        n = a->n_refused;
        a->n_refused = 0;
        a->logged_ms = now_ms;
        a->has_logged = true;
    }
    pthread_mutex_unlock(&a->lock);
    if (!ok)
        metrics_add(a->metrics, METRIC_CONNECTIONS_REFUSED, 1);
    if (n)
        log_warning(
            a->log,
            "connections of %s come faster than limits.new_connections_per_address (%u a second) and are "
            "closed; %llu of all addresses since this was last said. If many users come from there, name "
            "it in limits.new_connections_exempt",
            address, per_second, (unsigned long long)n);
    return ok;
}
