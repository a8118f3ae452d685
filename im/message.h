/* Messages (RFC 6121 §8): which sessions get one, what is stored, and delivery of what was stored. Shard's
 * thread.
 *
 * A message goes to the sessions at once; with nobody there it is proposed as MessageStore. While stored
 * messages of a user are on their way, later ones queue behind them, so that order per sender holds. A
 * session that reads too slowly is "behind": its messages are stored too, and follow when it has caught up.
 */
#ifndef IM_MESSAGE_H
#define IM_MESSAGE_H

#include "im/envelope.h"
#include "im/session.h"
#include "im/shard.h"

/* A message for a user of this shard, which is its home. Takes E. */
void message_receive(struct shard *s, struct envelope *e);
/* Written to a session that ended before its client was given it: to the others, or stored. Takes E. */
void message_take_back(struct shard *s, struct envelope *e);
/* The session became available with a non-negative priority: stored messages go to it. */
void message_session_available(struct session *s);
/* The session's output ran low. */
void message_session_drained(struct session *s);
void message_session_ended(struct session *s);
/* TABLE_MESSAGE_INDEX of a user of this shard. */
/* A session has learned that its client was given more, outside a turn of its own output (a relayed stream).
 */
void message_output_moved(struct shard *s);
void message_on_feed(struct shard *s, const struct feed_event *event);
/* Users have come here, at log index SINCE or later. The feed tells of a message where its user is at home
 * (docs/adr/0037): what came while they moved, or while their home was dead (LOST), nobody was told of. Noted
 * in s->untold, for who tells others of what waits, such as XEP-0357. */
void message_untold(struct shard *s, uint64_t since, bool lost);
bool message_waits(struct shard *s, uint64_t uid); /* does the user have stored messages? */
/* The newest of them for which IS_IT says so, that no session was given, and not older than OLDEST_MS; NULL:
 * there is none, or it is far behind others. Of cursor.c. */
struct envelope *message_newest(struct shard *s, uint64_t uid, uint64_t oldest_ms,
                                bool (*is_it)(const struct envelope *e));

#endif
