/* Rows that a user has by JIDs (TABLE_ROSTER, TABLE_BLOCK), as of shard_txn. Shard's thread. */
#ifndef IM_JID_ROWS_H
#define IM_JID_ROWS_H

#include "base/arena.h"
#include "im/shard.h"

/* The row of the first N bytes of JID, in the arena; NULL: there is none. */
void *jid_row(struct shard *s, enum table table, uint64_t uid, const char *jid, size_t n, struct arena *a);
/* The same of its bare JID. */
void *jid_row_bare(struct shard *s, enum table table, uint64_t uid, const char *jid, struct arena *a);

/* All of them, by JID:
 *     struct jid_rows rows;
 *     jid_rows_init(&rows, s, TABLE_ROSTER, uid);
 *     while (jid_rows_next(&rows)) ...
 *     jid_rows_fini(&rows); */
struct jid_rows {
    struct store_iter it;
    struct arena arena; /* for one row: ROW and JID are gone with the next */
    const char *jid;
};
void jid_rows_init(struct jid_rows *r, struct shard *s, enum table table, uint64_t uid);
bool jid_rows_next(struct jid_rows *r);
void *jid_rows_row(struct jid_rows *r); /* NULL: it is damaged */
void jid_rows_fini(struct jid_rows *r);

#endif
