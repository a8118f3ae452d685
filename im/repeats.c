#include "im/repeats.h"
#include "im/sm_session.h"
#include <string.h>

/* In sets, the newest one first: what is not long ago is found although others fell on the same place. */
enum { SETS = 512 /* a power of two */, WAYS = 8 };

struct repeats_slot {
    uint64_t session, n_in, to_uid; /* session: its row, if it has one; n_in 0: free */
    uint64_t place;                 /* of the row, and one; 0: it has none */
    uint64_t print;
    uint64_t asks; /* the sender's session, as it is at its home now */
    bool settled;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

/* A client numbers its stanzas by itself; if it leaves one out when it sends again, a number means another.
 */
static uint64_t print_bytes(uint64_t h, const char *p, size_t n)
{
    uint64_t word;
    for (; n >= sizeof word; p += sizeof word, n -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = mix(h, word);
    }
    word = 0; /* with the number of bytes that are left, or a shorter text would be one that ends in zeros */
    memcpy(&word, p, n);
    return mix(mix(h, n), word);
}

static uint64_t print_of(const struct envelope *e)
{
    uint64_t h = e->id ? print_bytes(1, e->id, strlen(e->id)) : 0;
    return e->payload ? print_bytes(h, e->payload->data, e->payload->n) : h;
}

/* The row stays the same when the sender's home is another. */
static struct repeats_slot key_of(const struct envelope *e)
{
    struct repeats_slot k = {.n_in = e->n_in, .to_uid = e->to_uid};
    k.session = e->row ? e->row : e->session;
    k.place = e->row ? e->row_place + UINT64_C(1) : 0;
    return k;
}

static struct repeats_slot *set_of(struct shard *s, const struct repeats_slot *k)
{
    return &s->repeats[WAYS * (mix(mix(mix(k->session, k->place), k->n_in), k->to_uid) & (SETS - 1))];
}

static bool has(const struct repeats_slot *slot, const struct repeats_slot *k)
{
    return slot->n_in == k->n_in && slot->session == k->session && slot->place == k->place &&
           slot->to_uid == k->to_uid;
}

/* NULL: it is not there. */
static struct repeats_slot *find_in(struct repeats_slot *set, const struct repeats_slot *k)
{
    for (unsigned i = 0; i < WAYS; i++)
        if (has(&set[i], k))
            return &set[i];
    return NULL;
}

/* Instead of the one with the same key, a free one or the oldest. */
static void add(struct repeats_slot *set, const struct repeats_slot *k)
{
    unsigned i = 0;
    while (i < WAYS - 1 && set[i].n_in && !has(&set[i], k))
        i++;
    memmove(set + 1, set, i * sizeof *set);
    *set = *k;
}

static struct repeats_slot *find(struct shard *s, const struct envelope *e)
{
    if (!s->repeats || !(e->flags & ENVELOPE_COUNTED) || !e->n_in)
        return NULL;
    const struct repeats_slot k = key_of(e);
    return find_in(set_of(s, &k), &k);
}

/* It has come before, and is answered when that one is safe. */
static bool is_known(struct shard *s, struct repeats_slot *slot, const struct envelope *e, uint64_t print)
{
    if (!slot || slot->print != print)
        return false;
    slot->asks = e->session;
    if (slot->settled)
        sm_settle(s, e);
    return true;
}

bool repeats_is_one(struct shard *s, const struct envelope *e)
{
    if (!(e->flags & ENVELOPE_COUNTED) || !e->n_in)
        return false;
    if (!s->repeats)
        s->repeats = mem_zalloc(SETS * WAYS * sizeof *s->repeats);
    struct repeats_slot k = key_of(e), *set = set_of(s, &k);
    k.print = print_of(e);
    k.asks = e->session;
    if (is_known(s, find_in(set, &k), e, k.print))
        return true;
    add(set, &k);
    return false;
}

bool repeats_knows(struct shard *s, const struct envelope *e)
{
    struct repeats_slot *slot = find(s, e);
    return slot && is_known(s, slot, e, print_of(e));
}

uint64_t repeats_settled(struct shard *s, const struct envelope *e)
{
    struct repeats_slot *slot = find(s, e);
    if (!slot)
        return e->session;
    slot->settled = true;
    return slot->asks;
}

uint64_t repeats_refused(struct shard *s, const struct envelope *e)
{
    struct repeats_slot *slot = find(s, e);
    if (!slot || slot->print != print_of(e))
        return e->session;
    slot->n_in = 0;
    return slot->asks;
}

void repeats_forget(struct shard *s, const struct envelope *e)
{
    struct repeats_slot *slot = find(s, e);
    if (slot)
        slot->n_in = 0;
}

void repeats_fini(struct shard *s)
{
    mem_free(s->repeats);
    s->repeats = NULL;
}
