/* What a message carries, seen from its serialised payload without building a tree: the elements directly
 * inside the stanza, looked at once. Whoever decides by the content of a message (archive, carbons, push,
 * client state) asks here. */
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
    PAYLOAD_MARKS = 0xffff
};
/* What makes it worth being kept, or not. */
enum payload_worth {
    PAYLOAD_KEEP = 1 << 16,       /* part of a conversation, although there may be no body */
    PAYLOAD_RETRACT = 1 << 17,    /* takes a message back (XEP-0424) */
    PAYLOAD_UNKNOWN = 1 << 18,    /* no conversation known here, but XEP-0160 §3 has it stored offline */
    PAYLOAD_STORE = 1 << 19,      /* XEP-0334 §4: kept whatever it is, */
    PAYLOAD_NO_ARCHIVE = 1 << 20, /* not permanently, */
    PAYLOAD_NO_STORE = 1 << 21,   /* not at all */
};

/* The envelope remembers: only the first call looks at the payload. On the envelope's thread. */
unsigned payload_marks(const struct envelope *e);
unsigned payload_worth(const struct envelope *e);
/* Marks and worth of bytes. EXTRA: further attributes of the stanza's start tag (struct envelope), or NULL.
 * Any thread. */
unsigned payload_look(const char *extra, const void *payload, size_t n_bytes);

/* The node of a notification (XEP-0060 §7.1.2.1) in the payload: its raw text and length; NULL: none. */
const char *payload_event_node(const struct envelope *e, size_t *n);
/* The text of the first <body/> as it stands in the payload (escaped), at most *n bytes of it; NULL: none. */
const char *payload_body(const struct envelope *e, size_t *n);

#endif
