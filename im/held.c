#include "im/held.h"
#include <string.h>

struct held_user {
    struct hnode node;
    uint64_t key;
    struct list items; /* struct envelope */
};

static bool has_key(const struct hnode *node, const void *key, size_t n_bytes)
{
    (void)n_bytes;
    uint64_t k;
    memcpy(&k, key, sizeof k);
    return container_of(node, struct held_user, node)->key == k;
}

static struct held_user *find(const struct held *h, uint64_t key)
{
    struct hnode *node = htab_find(&h->users, &key, sizeof key);
    return node ? container_of(node, struct held_user, node) : NULL;
}

void held_init(struct held *h)
{
    memset(h, 0, sizeof *h);
    htab_init(&h->users, has_key);
}

void held_fini(struct held *h)
{
    htab_for_each(node, &h->users)
    {
        struct held_user *u = container_of(node, struct held_user, node);
        struct envelope *e;
        list_for_each(e, &u->items, struct envelope, link) envelope_free(e);
        mem_free(u);
    }
    htab_fini(&h->users);
}

bool held_is_empty(const struct held *h)
{
    return h->users.n == 0;
}

uint64_t held_key(const struct envelope *e)
{
    return e->flags & ENVELOPE_BROADCAST ? e->from_uid : e->to_uid;
}

bool held_has(const struct held *h, uint64_t key)
{
    return h->users.n && find(h, key);
}

static struct held_user *get(struct held *h, uint64_t key)
{
    struct held_user *u = find(h, key);
    if (u)
        return u;
    u = mem_new(struct held_user);
    u->key = key;
    list_init(&u->items);
    htab_add(&h->users, &u->node, &u->key, sizeof u->key);
    return u;
}

void held_put_back(struct held *h, struct envelope *e)
{
    h->n_bytes += e->n_bytes;
    list_prepend(&get(h, held_key(e))->items, &e->link);
}

void held_add(struct held *h, struct envelope *e)
{
    struct held_user *u = get(h, held_key(e));
    h->n_bytes += e->n_bytes;
    /* One that was passed on may come behind a later one that came straight. Numbers of different senders say
     * nothing to each other. */
    struct list *at = &u->items;
    for (struct list *item = at->prev; e->order && item != &u->items; item = item->prev) {
        const struct envelope *before = list_entry(item, struct envelope, link);
        if (!before->order || before->from_uid != e->from_uid)
            continue;
        if (before->order_index < e->order_index ||
            (before->order_index == e->order_index && before->order <= e->order))
            break;
        at = item;
    }
    list_insert_before(at, &e->link);
}

struct envelope *held_first(const struct held *h, uint64_t key)
{
    struct held_user *u = find(h, key);
    return u ? list_entry(list_first(&u->items), struct envelope, link) : NULL;
}

struct envelope *held_take(struct held *h, uint64_t key)
{
    struct held_user *u = find(h, key);
    if (!u)
        return NULL;
    struct envelope *e = list_entry(list_first(&u->items), struct envelope, link);
    list_remove(&e->link);
    h->n_bytes -= e->n_bytes;
    if (list_is_empty(&u->items)) {
        htab_remove(&h->users, &u->node);
        mem_free(u);
    }
    return e;
}

bool held_is_of(const struct envelope *e, uint64_t session)
{
    return e->flags & ENVELOPE_COUNTED && !e->from_node && e->session == session;
}

void held_forget(struct held *h, uint64_t session)
{
    htab_for_each(node, &h->users)
    {
        struct held_user *u = container_of(node, struct held_user, node);
        struct envelope *e;
        list_for_each(e, &u->items, struct envelope, link)
        {
            if (!held_is_of(e, session))
                continue;
            list_remove(&e->link);
            h->n_bytes -= e->n_bytes;
            envelope_free(e);
        }
        if (list_is_empty(&u->items)) {
            htab_remove(&h->users, &u->node);
            mem_free(u);
        }
    }
}

uint64_t *held_keys(const struct held *h, size_t *n)
{
    uint64_t *keys = mem_alloc((h->users.n + 1) * sizeof *keys);
    *n = 0;
    htab_for_each(node, &h->users) keys[(*n)++] = container_of(node, struct held_user, node)->key;
    return keys;
}
