/* Which node has to hear of a row of MESSAGE_INDEX: the one where its user is at home, and only when the row
 * is new. Elsewhere nobody does anything with it, and each row would wake a shard on every node. Apply
 * thread. */
#ifndef REPLICATION_MESSAGE_FEED_H
#define REPLICATION_MESSAGE_FEED_H

#include "storage/store.h"

struct message_feed {
    uint32_t node;
    bool is_known, all_serve; /* every node that is the home of somebody is up: its users are at home there */
};

/* TABLE was changed. */
void message_feed_note(struct message_feed *m, enum table table);
/* Is it to be told here that the row at K was changed by log entry INDEX? T: the transaction that changes it,
 * so that homes are as they are at that place of the log. */
bool message_feed_wants(struct message_feed *m, struct store_txn *t, uint64_t index, const struct key *k,
                        bool deleted);

#endif
