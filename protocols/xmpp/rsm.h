/* XEP-0059: result set management. What a request asks for, a page out of a list in memory, and what the
 * answer says of it. Any thread. */
#ifndef XMPP_RSM_H
#define XMPP_RSM_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/xml.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NS_RSM "http://jabber.org/protocol/rsm"

struct rsm {
    bool is_asked;      /* the request has a <set/> */
    size_t max;         /* items in a page; 0: only the count is asked for (§2.7) */
    const char *after;  /* NULL: not given */
    const char *before; /* "": the last page (§2.5) */
    bool has_index;
    uint64_t index; /* of the first item (§2.6) */
};

/* Reads the <set/> inside PARENT; MAX: of a page, also where the request names none. ERR_INVALID (answer
 * bad-request): a number that is none, or an index together with a neighbour. What after and before mean
 * together nobody has defined; here it is the last page between the two. Strings are the arena's. */
int rsm_read(struct rsm *out, const struct xml *parent, size_t max, struct arena *a);

struct rsm_page {
    size_t first, n; /* items [first, first + n) */
    size_t total;
};
/* The place of the item with the id in the whole list; below 0: there is none. */
typedef long rsm_find_fn(void *user, const char *id);
/* The page of a list of TOTAL items in memory. ERR_NOTFOUND (answer item-not-found): the item that the page
 * is to follow or to precede is not there (§2.4). */
int rsm_pick(const struct rsm *r, size_t total, rsm_find_fn *find, void *user, struct rsm_page *out);

/* Appends <set/>. FIRST and LAST: the ids of the page's ends, NULL when it is empty; INDEX, COUNT: below 0
 * when they are not known. */
void rsm_write(struct buf *out, const char *first, const char *last, int64_t index, int64_t count);

#endif
