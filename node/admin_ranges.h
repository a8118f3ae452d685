/* impcli dbreplication status --table: the rows of one table, read on every node at one index and compared by
 * key range, until those that differ are found. Control loop; rows are read on the loop's pool. */
#ifndef NODE_ADMIN_RANGES_H
#define NODE_ADMIN_RANGES_H

#include "node/admin.h"

/* Goes on from the comparison of hashes at INDEX (a HashPoint with the table): adds to O ("ranges",
 * "rows_differ", and "match" where it does not) and TEXT what it finds, and answers the call with them. */
void admin_ranges_begin(struct admin_call *call, uint64_t index, enum table table, json_t *o,
                        struct buf *text);

#endif
