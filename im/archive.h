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
    ARCHIVE_FROM = 1,    /* in the archive of the user that sent it */
    ARCHIVE_TO = 2, /* in the archive of the user that it is for */
    ARCHIVE_OFFLINE = 4,   /* it waits for a recipient who is away */
    ARCHIVE_RETRACTS = 8,  /* it takes another message back (XEP-0424): archive_retract once it is stored */
};
/* Both of from_uid and to_uid count as far as they are set. 0: nothing of it is ever stored. Does not touch
 * the store unless one of the two has preferences that ask for the roster. */
unsigned archive_wants(struct shard *s, const struct envelope *e);
/* ARCHIVE_OFFLINE of it, without asking who the users are (XEP-0160 §3). */
bool archive_is_worth_storing(const struct envelope *e);

/* What a message is by its type and content alone, whoever the users are: found in the bytes, no tree is
 * made. EXTRA: further attributes of its start tag (struct envelope); both may be NULL. */
enum archive_class {
    CLASS_ARCHIVE = 1, /* part of a conversation */
    CLASS_OFFLINE = 2, /* of use later */
    CLASS_RETRACT = 4, /* one of the above, and takes a message back */
};
unsigned archive_class(enum stanza_type type, const char *extra, const void *payload, size_t n_bytes);

/* ---- preferences (XEP-0441) ---- */

enum { ARCHIVE_LIST_MAX = 256 }; /* JIDs in each list */
/* Whether the archive of UID takes messages to or from PEER (a full or bare JID). */
bool archive_is_on(struct shard *s, uint64_t uid, const char *peer);
/* The mode of users without preferences of their own. */
Imp__ArchiveMode archive_mode(struct shard *s);
/* As stored, in the arena; NULL: the user has none. */
Imp__ArchivePrefsRow *archive_prefs(struct shard *s, uint64_t uid, struct arena *a);

/* For shard.c. */
void archive_shard_init(struct shard *s);
void archive_shard_fini(struct shard *s);
void archive_on_feed(struct shard *s, const struct feed_event *event); /* TABLE_ARCHIVE_PREFS, of any user */
void archive_forget(struct shard *s);                                  /* everything cached; settings too */

#endif
