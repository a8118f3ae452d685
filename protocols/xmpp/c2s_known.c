#include "protocols/xmpp/c2s_known.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/htab.h"
#include "base/list.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>

struct account {
    struct hnode node;
    struct list link; /* oldest use first */
    uint64_t uid;
    uint8_t mac[C2S_KNOWN_MAC];
};

struct c2s_known {
    pthread_mutex_t lock;
    struct htab accounts;
    struct list order;
    unsigned max_accounts;
    uint8_t key[32];
};

static bool uid_equal(const struct hnode *node, const void *key, size_t n)
{
    return container_of(node, struct account, node)->uid == *(const uint64_t *)key;
}

struct c2s_known *c2s_known_new(unsigned max_accounts)
{
    struct c2s_known *k = mem_new(struct c2s_known);
    pthread_mutex_init(&k->lock, NULL);
    htab_init(&k->accounts, uid_equal);
    list_init(&k->order);
    k->max_accounts = max_accounts;
    random_bytes(k->key, sizeof(k->key));
    return k;
}

static void drop(struct c2s_known *k, struct account *a)
{
    htab_remove(&k->accounts, &a->node);
    list_remove(&a->link);
    mem_wipe(a, sizeof(*a));
    mem_free(a);
}

void c2s_known_free(struct c2s_known *k)
{
    if (!k)
        return;
    for (struct list *item; (item = list_first(&k->order));)
        drop(k, list_entry(item, struct account, link));
    htab_fini(&k->accounts);
    pthread_mutex_destroy(&k->lock);
    mem_wipe(k, sizeof(*k));
    mem_free(k);
}

void c2s_known_mac(const struct c2s_known *k, uint64_t uid, const struct credential *c, const char *password,
                   size_t n_bytes, uint8_t out[C2S_KNOWN_MAC])
{
    /* Fields of fixed length first, so that no two inputs have the same bytes. */
    struct buf in = {0};
    buf_reserve(&in, sizeof(uid) + N_CREDENTIAL_HASHES * CREDENTIAL_MAX_KEY + n_bytes + 1);
    buf_add(&in, &uid, sizeof(uid));
    for (int hash = 0; hash < N_CREDENTIAL_HASHES; hash++)
        buf_add(&in, c->keys[hash].stored_key, CREDENTIAL_MAX_KEY);
    buf_add(&in, password, n_bytes);
    uint8_t mac[CREDENTIAL_MAX_KEY];
    credential_hmac(CREDENTIAL_SHA256, k->key, sizeof(k->key), in.data, in.n, mac);
    memcpy(out, mac, C2S_KNOWN_MAC);
    mem_wipe(in.data, in.cap);
    buf_fini(&in);
}

static struct account *find(struct c2s_known *k, uint64_t uid)
{
    struct hnode *node = htab_find(&k->accounts, &uid, sizeof(uid));
    return node ? container_of(node, struct account, node) : NULL;
}

static void used_now(struct c2s_known *k, struct account *a)
{
    list_remove(&a->link);
    list_append(&k->order, &a->link);
}

bool c2s_known_has(struct c2s_known *k, uint64_t uid, const uint8_t mac[C2S_KNOWN_MAC])
{
    pthread_mutex_lock(&k->lock);
    struct account *a = find(k, uid);
    bool has = a && CRYPTO_memcmp(a->mac, mac, C2S_KNOWN_MAC) == 0;
    if (has)
        used_now(k, a);
    pthread_mutex_unlock(&k->lock);
    return has;
}

void c2s_known_add(struct c2s_known *k, uint64_t uid, const uint8_t mac[C2S_KNOWN_MAC])
{
    pthread_mutex_lock(&k->lock);
    struct account *a = find(k, uid);
    if (!a) {
        if (k->accounts.n >= k->max_accounts)
            drop(k, list_entry(list_first(&k->order), struct account, link));
        a = mem_new(struct account);
        a->uid = uid;
        list_init(&a->link);
        htab_add(&k->accounts, &a->node, &a->uid, sizeof(a->uid));
    }
    memcpy(a->mac, mac, C2S_KNOWN_MAC);
    used_now(k, a);
    pthread_mutex_unlock(&k->lock);
}
