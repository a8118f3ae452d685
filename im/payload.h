/* What a message carries, seen from its serialised payload without building a tree: the elements directly
 * inside the stanza. Any thread. */
#ifndef IM_PAYLOAD_H
#define IM_PAYLOAD_H

#include "im/envelope.h"

enum payload_mark {
    PAYLOAD_BODY = 1 << 0,
    PAYLOAD_PRIVATE = 1 << 1,    /* XEP-0280 §9 */
    PAYLOAD_NO_COPY = 1 << 2,    /* XEP-0334 §5 */
    PAYLOAD_CHAT_STATE = 1 << 3, /* XEP-0085 */
    PAYLOAD_RECEIPT = 1 << 4,    /* XEP-0184 */
    PAYLOAD_MARKER = 1 << 5,     /* XEP-0333 */
    PAYLOAD_MUC_USER = 1 << 6,   /* XEP-0045: from or to an occupant of a room */
    PAYLOAD_INVITE = 1 << 7,     /* XEP-0249, or mediated (XEP-0045 §7.8.2) */
    PAYLOAD_ENCRYPTED = 1 << 8,  /* XEP-0384, XEP-0380: a body that only the clients can read */
    PAYLOAD_EVENT = 1 << 9,      /* XEP-0060: a notification */
    PAYLOAD_CALL = 1 << 10,      /* XEP-0353 */
    PAYLOAD_CARBON = 1 << 11,    /* XEP-0280: a copy of ours */
    PAYLOAD_OTHER = 1 << 12,     /* anything else but a hint, a thread or an error */
};
unsigned payload_marks(const struct envelope *e);

/* The node of a notification (XEP-0060 §7.1.2.1) in the payload: its raw text and length; NULL: none. */
const char *payload_event_node(const struct envelope *e, size_t *n);
/* The text of the first <body/> as it stands in the payload (escaped), at most *n bytes of it; NULL: none. */
const char *payload_body(const struct envelope *e, size_t *n);

#endif
