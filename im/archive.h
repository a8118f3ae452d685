/* The archive: what is kept of messages and for whom (XEP-0313 §5, XEP-0160 §3, XEP-0334), and how it is
 * read.
 *
 * Whatever reads messages of a user goes through the iterator below; only what stands behind it knows tables.
 * Shard's thread, but for archive_class, which is a function of its arguments. */
#ifndef IM_ARCHIVE_H
#define IM_ARCHIVE_H

#include "im/envelope.h"
#include "im/shard.h"

/* ---- what is kept ---- */

enum archive_keep {
    ARCHIVE_FROM = 1,     /* in the archive of the user that sent it */
    ARCHIVE_TO = 2,       /* in the archive of the user that it is for */
    ARCHIVE_RETRACTS = 8, /* it takes another message back (XEP-0424): archive_retract once it is stored */
};
/* Both of from_uid and to_uid count as far as they are set. 0: nothing of it is ever stored. Does not touch
 * the store unless one of the two has preferences that ask for the roster. */
unsigned archive_wants(struct shard *s, const struct envelope *e);
/* Of use later: it may wait for a recipient who is away (XEP-0160 §3). */
bool archive_is_worth_storing(const struct envelope *e);

/* What a message is by its type and content alone (WORTH: payload_worth), whoever the users are. */
enum archive_class {
    CLASS_ARCHIVE = 1, /* part of a conversation */
    CLASS_OFFLINE = 2, /* of use later */
    CLASS_RETRACT = 4, /* one of the above, and takes a message back */
};
unsigned archive_class(enum stanza_type type, unsigned worth);

/* ---- preferences (XEP-0441) ---- */

enum { ARCHIVE_LIST_MAX = 256 }; /* JIDs in each list */
/* Whether the archive of UID takes messages to or from PEER (a full or bare JID). */
bool archive_is_on(struct shard *s, uint64_t uid, const char *peer);
/* The mode of users without preferences of their own. */
Imp__ArchiveMode archive_mode(struct shard *s);
/* As stored, in the arena; NULL: the user has none. */
Imp__ArchivePrefsRow *archive_prefs(struct shard *s, uint64_t uid, struct arena *a);

/* ---- reading ---- */

/* A message of an archive; text for clients: stored_id_write and stored_id_parse of im/stored.h. In order of
 * time. */
struct archive_id {
    uint64_t index;
    uint32_t place;
};
extern const struct archive_id archive_first, archive_last; /* before and behind all there are */
int archive_id_compare(struct archive_id a, struct archive_id b);

struct archive_filter {
    const char *with;                /* a prepared bare or full JID; NULL: any */
    bool pending;                    /* not the archive, but what waits for delivery, */
    bool archived_too;               /* as far as it is in the archive, too */
    struct archive_id after, before; /* exclusive: archive_first, archive_last: no limit */
};
/* Goes over the messages of a user that a filter lets through, in as many steps as it takes: an object of its
 * own, valid over turns of the loop. The filter is the caller's. */
struct archive_walk {
    struct shard *shard;
    uint64_t uid;
    const struct archive_filter *filter;
    struct archive_id at; /* the row last looked at */
    bool descending, started, ended;
};
void archive_walk_init(struct archive_walk *w, struct shard *s, uint64_t uid, const struct archive_filter *f,
                       bool descending);
/* At most MAX further ones, looking at no more than *BUDGET rows, which are taken off it. Less than MAX: W
 * has ended, or the budget is spent. */
size_t archive_walk(struct archive_walk *w, struct archive_id *out, size_t max, unsigned *budget);

struct archive_item {
    struct archive_id id;
    uint64_t time_ms;
    bool outgoing, archived, pending;
    const char *from, *to;
    const char *stanza; /* as in the store (im/stored.h): without the addresses */
    size_t n_bytes;
};
/* Both false: not there (any more). What OUT points to is borrowed from ARENA and shard_txn. */
bool archive_read(struct shard *s, uint64_t uid, struct archive_id id, struct archive_item *out,
                  struct arena *a);
bool archive_ends(struct shard *s, uint64_t uid, struct archive_item *first, struct archive_item *last,
                  struct arena *a);
/* What waits for delivery, without looking at all that lies before it. */
struct archive_filter archive_pending(struct shard *s, uint64_t uid);
bool archive_has(struct shard *s, uint64_t uid, struct archive_id id);
bool archive_matches(struct shard *s, uint64_t uid, struct archive_id id, const struct archive_filter *f);
/* The first message that came at or after that moment, whether it is archived or waits; archive_last: none.
 */
struct archive_id archive_at_time(struct shard *s, uint64_t uid, uint64_t ms);

/* ---- what was taken back ---- */

/* E, which has ARCHIVE_RETRACTS, is stored: the message that it takes back becomes a tombstone, soon, if it
 * is among the last few thousand. from_uid and to_uid as for archive_wants. */
void archive_retract(struct shard *s, const struct envelope *e);
struct archive_retractions *archive_retractions_new(void);
void archive_retractions_free(struct archive_retractions *all);
struct archive_retractions *archive_retractions(struct shard *s);

/* For shard.c. */
void archive_shard_init(struct shard *s);
void archive_shard_fini(struct shard *s);
void archive_on_feed(struct shard *s, const struct feed_event *event); /* TABLE_ARCHIVE_PREFS, of any user */
void archive_forget(struct shard *s);                                  /* everything cached; settings too */

#endif
