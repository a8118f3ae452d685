/* Reads every row of every table once per round, in a thread of its own and with little of one core, and says
 * what it found. Owner: whoever started it; stop it before the store is closed. */
#ifndef STORAGE_SCRUBBER_H
#define STORAGE_SCRUBBER_H

#include "storage/store.h"

struct scrubber;
/* On the scrubber's thread, at the end of each round: n_bad tables did not give their hash or have a damaged
 * row; TEXT says which the first was, "" when all are good. */
typedef void scrubber_round_fn(void *user, unsigned n_bad, const char *text);

/* ROUND_S: seconds from the begin of one round to the next, 0: none. The first begins after a tenth of that.
 */
int scrubber_start(struct scrubber **out, struct store *s, unsigned round_s, scrubber_round_fn *on_round,
                   void *user, struct err_ctx *err);
void scrubber_set_round(struct scrubber *c, unsigned round_s); /* any thread */
void scrubber_stop(struct scrubber *c); /* waits for its thread, some 20 ms; c may be NULL */

#endif
