/* Stream management (XEP-0198) of a client's session at its home: what was written and not acknowledged, and
 * sessions that outlive their connection. Shard's thread; between the files of protocols/xmpp/ only.
 *
 *             enable                    connection lost                 time-out, ended
 *   (none) ------------> connected ---------------------> detached ---------------------> (none)
 *                            ^------------------------------'   resume
 *
 * Only a session that can be resumed is ever detached. Its home keeps every stanza that the client has not
 * acknowledged, and resumes exactly; messages that come meanwhile wait in the store. Another home begins from
 * the session's row, and writes again what the store has pending. */
#ifndef XMPP_SM_H
#define XMPP_SM_H

#include "im/sm_session.h"
#include "protocols/xmpp/home.h"

#define NS_SM "urn:xmpp:sm:3"

struct sm {
    struct c2s_home *home;
    struct list link;   /* in xs->detached */
    struct list asking; /* in xs->asking while home_check_acks has something to look at */
    struct buf unacked; /* stanzas from `at` on, one behind the other */
    size_t at;
    uint32_t *lengths; /* a ring */
    unsigned first, n, cap;
    bool resumable, keep_row; /* the row outlives this struct */
    bool asked;               /* <r/> was sent and not answered */
    uint64_t asked_ms;
    uint64_t n_asked, n_told; /* stanzas of the client: when it last asked, and what it was told */
    uint8_t id_hash[SM_HASH_BYTES];
    unsigned timeout_s;
    uint64_t until_ms; /* while detached */
};

/* Counting begins with what is written next. */
void sm_start(struct c2s_home *h);
/* The session will end here, and can be resumed elsewhere, or in this node's next life. */
void sm_moves_on(struct c2s_home *h);
/* The session ends: its row goes unless it is kept; iqs that were not acknowledged go back. */
void sm_stop(struct c2s_home *h);
/* Of home_write: a stanza was written. */
void sm_wrote(struct c2s_home *h, const void *data, size_t n_bytes);
bool sm_is_stanza(const void *data, size_t n_bytes);
/* Too much is not acknowledged to be given more messages. */
bool sm_is_full(const struct c2s_home *h);
bool sm_may_detach(const struct c2s_home *h);
/* The connection has gone, and h->conn is NULL. */
void sm_detach(struct c2s_home *h);
/* Of session_ops: more of what the client sent is safe. */
void sm_on_counted(struct session *s);
/* <a/> as things are. */
void sm_write_ack(struct c2s_home *h);
/* <a h=''/> of the client, and h of <resume/>; false: it was never sent so much. */
bool sm_take_ack(struct c2s_home *h, uint32_t n);
/* What the client has not acknowledged, once more. */
void sm_write_again(struct c2s_home *h);
void sm_ask(struct c2s_home *h);
void sm_await_ack(struct c2s_home *h); /* an acknowledgement is waited for: the tick looks after it */
/* sm_resume.c: elements and inline requests of feature_sm.c; */
void sm_handle_resume(struct c2s_home *h, struct xml_stanza *element);
enum inline_result sm_inline_resume(struct c2s_home *h, const struct xml *request, struct buf *answer);
void sm_inline_written(struct c2s_home *h);
/* what waited for the home to be ready. */
void sm_resume_again(struct c2s_home *h);
void sm_resume_free(struct c2s_home *h);
/* Once a second: time-outs, rows that nobody comes back to. */
void sm_shard_tick(struct xmpp_shard *xs);
void sm_shard_fini(struct xmpp_shard *xs);
void sm_forget_closing(struct xmpp_shard *xs);
void sm_close_row(struct shard *s, uint64_t uid, uint64_t row, uint32_t place, bool keep);
/* It will be gone in a moment: nothing can begin from it any more. */
bool sm_is_closing(const struct shard *s, uint64_t uid, uint64_t row, uint32_t place);
/* The location of this node for clients (§5), with a leading blank as an attribute; "" when there is none. */
void sm_location(struct shard *s, struct buf *out);

#endif
