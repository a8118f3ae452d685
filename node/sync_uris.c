/* Directory URIs seen in a full run, to find those that two users share: calls to such a URI reach either of
 * them. */
#include "base/clock.h"
#include "base/mem.h"
#include "node/sync_internal.h"
#include <ctype.h>
#include <string.h>

/* A hash of the URI stands for it (SipHash with a random key: 64 bits are enough for SYNC_MAX_USERS); 0 is
 * free. */
struct uri_slot {
    uint64_t hash;
    char uuid[SYNC_UUID_TEXT + 1];
};

/* Where HASH is or belongs; open addressing, at most half full. */
static struct uri_slot *find_slot(const struct sync_uris *u, uint64_t hash)
{
    size_t at = (size_t)hash & (u->n_slots - 1);
    while (u->slots[at].hash && u->slots[at].hash != hash)
        at = (at + 1) & (u->n_slots - 1);
    return &u->slots[at];
}

static void grow(struct sync_uris *u)
{
    struct uri_slot *old = u->slots;
    size_t n_old = u->n_slots;
    u->n_slots = n_old ? n_old * 2 : 1024;
    u->slots = mem_calloc(u->n_slots, sizeof *u->slots);
    for (size_t i = 0; i < n_old; i++)
        if (old[i].hash)
            *find_slot(u, old[i].hash) = old[i];
    mem_free(old);
    if (!n_old)
        random_bytes(u->seed, sizeof u->seed);
}

/* A URI's host is compared without regard to case (RFC 3261 §19.1.4); call managers do so for the whole URI.
 */
static uint64_t hash_uri(const struct sync_uris *u, const char *uri)
{
    char lower[1024];
    size_t n = 0;
    for (; n < sizeof lower && uri[n]; n++)
        lower[n] = (char)tolower((unsigned char)uri[n]);
    uint64_t hash = hash_siphash(u->seed, lower, n);
    return hash ? hash : 1;
}

bool sync_uris_add(struct sync_uris *u, const char *uri, const char *uuid)
{
    if (!uri[0])
        return true;
    if (u->n * 2 >= u->n_slots)
        grow(u);
    uint64_t hash = hash_uri(u, uri);
    struct uri_slot *slot = find_slot(u, hash);
    /* Listed twice, because the pages shifted meanwhile, is not a duplicate. */
    if (slot->hash)
        return !strcmp(slot->uuid, uuid);
    slot->hash = hash;
    memcpy(slot->uuid, uuid, sizeof slot->uuid);
    u->n++;
    return true;
}

void sync_uris_fini(struct sync_uris *u)
{
    mem_free(u->slots);
    *u = (struct sync_uris){.n = 0};
}
