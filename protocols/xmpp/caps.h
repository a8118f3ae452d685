/* XEP-0115: verification strings, and what is known of them. */
#ifndef XMPP_CAPS_H
#define XMPP_CAPS_H

#include "base/htab.h"
#include "base/list.h"
#include "base/xml.h"
#include "im/events.h"

enum { CAPS_VER_MAX = 128, CAPS_CACHE_MAX = 1000 };

/* §5.1: the verification string of a disco#info result. OUT has room for CAPS_VER_MAX. ERR_INVALID:
 * ill-formed (§5.4), also what could be read as another list of features with the same string.
 * ERR_UNSUPPORTED: the hash function is not known. */
int caps_verification(const struct xml *query, const char *hash, char out[CAPS_VER_MAX]);
/* The nodes of which it wants events: features that end in "+notify". NULL: none. */
struct event_nodes *caps_wanted(const struct xml *query);

/* What a client has shown of itself in presence: one allocation. */
#define NS_CAPS "http://jabber.org/protocol/caps"
struct caps_shown {
    const char *hash, *ver, *node; /* hash "": none, as in old releases of the XEP */
    char text[];
};
struct caps_shown *caps_shown_read(const struct xml *presence); /* NULL: nothing */
struct caps_shown *caps_shown_copy(const struct caps_shown *s);
bool caps_shown_same(const struct caps_shown *a, const struct caps_shown *b); /* may be NULL */
/* The disco#info request about it. */
void caps_question(struct buf *out, const struct caps_shown *s);

/* Results that were verified, by hash function and string; the least recently used goes. One shard's. */
struct caps_cache;
struct caps_cache *caps_cache_new(void);
void caps_cache_free(struct caps_cache *c); /* may be NULL */
/* False: not known. *NODES: borrowed, may be NULL. */
bool caps_cache_find(struct caps_cache *c, const char *hash, const char *ver, struct event_nodes **nodes);
void caps_cache_add(struct caps_cache *c, const char *hash, const char *ver, struct event_nodes *nodes);
/* The answer to the question about S: what it wants, which the caller owns; kept for others if its hash is
 * right. */
struct event_nodes *caps_learn(struct caps_cache *c, const struct caps_shown *s, const struct xml *query);
struct shard;
struct caps_cache *caps_cache_of(struct shard *s);

#endif
