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

/* Results that were verified, by hash function and string; the least recently used goes. One shard's. */
struct caps_cache;
struct caps_cache *caps_cache_new(void);
void caps_cache_free(struct caps_cache *c); /* may be NULL */
/* False: not known. *NODES: borrowed, may be NULL. */
bool caps_cache_find(struct caps_cache *c, const char *hash, const char *ver, struct event_nodes **nodes);
void caps_cache_add(struct caps_cache *c, const char *hash, const char *ver, struct event_nodes *nodes);

#endif
