/* Reads of users, domains and homes for a shard. */
#include "im/envelope.h"
#include "im/im_impl.h"
#include "im/shard.h"
#include <string.h>

/* The id of a local domain, 0 when it is none of ours. */
static uint32_t domain_id(struct shard *s, const char *domain, size_t n)
{
    if (s->domain && s->default_domain && strlen(s->domain) == n && memcmp(s->domain, domain, n) == 0)
        return s->default_domain;
    if (n == 0 || n > 1023)
        return 0;
    struct arena a;
    arena_init(&a);
    struct key k;
    key_init(&k);
    key_str(&k, arena_strndup(&a, domain, n));
    Imp__DomainRow *row = store_find_row(shard_txn(s), TABLE_DOMAIN, &k, &a);
    uint32_t id = row ? row->id : 0;
    arena_fini(&a);
    return id;
}

bool shard_is_local_domain(struct shard *s, const char *domain)
{
    return domain_id(s, domain, strlen(domain)) != 0;
}

/* Rows with one varint at most are small: unpacking them on a stack arena is the cost that counts here. */
int shard_find_uid(struct shard *s, const char *jid, uint64_t *uid)
{
    size_t n_bare = jid_bare_length(jid);
    const char *at = memchr(jid, '@', n_bare);
    uint32_t domain = at ? domain_id(s, at + 1, n_bare - (size_t)(at + 1 - jid)) : domain_id(s, jid, n_bare);
    if (!domain)
        return ERR_INVALID;
    if (!at)
        return ERR_NOTFOUND;
    char localpart[1024];
    size_t n = (size_t)(at - jid);
    if (n == 0 || n >= sizeof localpart)
        return ERR_NOTFOUND;
    memcpy(localpart, jid, n);
    localpart[n] = 0;
    struct key k;
    key_init(&k);
    key_u32(&k, domain);
    key_str(&k, localpart);
    struct arena a;
    arena_init(&a);
    int rc = ERR_NOTFOUND;
    Imp__IdRow *row = store_find_row(shard_txn(s), TABLE_USER_BY_JID, &k, &a);
    if (row) {
        *uid = row->id;
        rc = 0;
    } else {
        Imp__UserGoneRow *gone = store_find_row(shard_txn(s), TABLE_USER_GONE, &k, &a);
        if (gone) {
            *uid = gone->uid;
            rc = ERR_CONFLICT;
        }
    }
    arena_fini(&a);
    return rc;
}

Imp__UserRow *shard_user_row(struct shard *s, uint64_t uid, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    return store_find_row(shard_txn(s), TABLE_USER, &k, a);
}

static bool read_domain(struct store_txn *t, uint32_t id, struct arena *a, const char **name)
{
    struct key all;
    key_init(&all);
    struct store_iter it;
    store_iter_init(&it, t, TABLE_DOMAIN, &all);
    *name = NULL;
    while (!*name && store_iter_next(&it)) {
        Imp__DomainRow *row = store_iter_row(&it, a);
        if (row && row->id == id)
            *name = row->domain;
    }
    store_iter_fini(&it);
    return *name != NULL;
}

const char *shard_user_jid(struct shard *s, uint64_t uid, struct arena *a)
{
    Imp__UserRow *row = shard_user_row(s, uid, a);
    if (!row)
        return NULL;
    const char *domain = s->domain;
    if ((row->domain != s->default_domain || !domain) && !read_domain(shard_txn(s), row->domain, a, &domain))
        return NULL;
    return arena_printf(a, "%s@%s", row->localpart, domain);
}

enum home_place shard_place_of_row(struct shard *s, const Imp__UserRow *row, uint32_t *node, uint64_t *since)
{
    uint64_t at;
    uint32_t home = home_active(s->members, row->home, row->home_index, row->uid, &at);
    if (node)
        *node = home;
    if (since)
        *since = at;
    if (home != s->im->options.node_id)
        return home ? PLACE_ELSEWHERE : PLACE_NONE;
    /* The row may be newer than the members: then what it says is not all of the truth. */
    return at <= s->feed_index && handover_allows(s->floor, at) ? PLACE_HERE : PLACE_ARRIVING;
}

enum home_place shard_place_of(struct shard *s, uint64_t uid, uint32_t *node, uint64_t *since)
{
    struct arena a;
    arena_init(&a);
    Imp__UserRow *row = shard_user_row(s, uid, &a);
    enum home_place place = PLACE_NONE;
    if (row) {
        place = shard_place_of_row(s, row, node, since);
    } else {
        if (node)
            *node = 0;
        if (since)
            *since = 0;
    }
    arena_fini(&a);
    return place;
}

uint32_t shard_home_of(struct shard *s, uint64_t uid)
{
    uint32_t node;
    shard_place_of(s, uid, &node, NULL);
    return node;
}
