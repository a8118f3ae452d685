/* What travels between sessions, shards and nodes: one stanza, addressed and stamped.
 *
 * An envelope is one allocation with a single owner: the session that makes it, then the router, then the
 * shard that delivers it. The payload (the inner XML, written for default namespace "jabber:client") is
 * immutable and shared by all copies. Addresses are prepared JIDs as strings (RFC 7622); "" stands for none.
 */
#ifndef IM_ENVELOPE_H
#define IM_ENVELOPE_H

#include "base/buf.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/mem.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stanza_kind { STANZA_MESSAGE, STANZA_PRESENCE, STANZA_IQ, N_STANZA_KINDS };

/* X(ID, kind, text of the type attribute; NULL: no attribute). Order is part of the frames between nodes. */
#define STANZA_TYPES(X)                                                                                      \
    X(MESSAGE_NORMAL, MESSAGE, NULL)                                                                         \
    X(MESSAGE_CHAT, MESSAGE, "chat")                                                                         \
    X(MESSAGE_GROUPCHAT, MESSAGE, "groupchat")                                                               \
    X(MESSAGE_HEADLINE, MESSAGE, "headline")                                                                 \
    X(MESSAGE_ERROR, MESSAGE, "error")                                                                       \
    X(PRESENCE_AVAILABLE, PRESENCE, NULL)                                                                    \
    X(PRESENCE_UNAVAILABLE, PRESENCE, "unavailable")                                                         \
    X(PRESENCE_SUBSCRIBE, PRESENCE, "subscribe")                                                             \
    X(PRESENCE_SUBSCRIBED, PRESENCE, "subscribed")                                                           \
    X(PRESENCE_UNSUBSCRIBE, PRESENCE, "unsubscribe")                                                         \
    X(PRESENCE_UNSUBSCRIBED, PRESENCE, "unsubscribed")                                                       \
    X(PRESENCE_PROBE, PRESENCE, "probe")                                                                     \
    X(PRESENCE_ERROR, PRESENCE, "error")                                                                     \
    X(IQ_GET, IQ, "get")                                                                                     \
    X(IQ_SET, IQ, "set")                                                                                     \
    X(IQ_RESULT, IQ, "result")                                                                               \
    X(IQ_ERROR, IQ, "error")
enum stanza_type {
#define X(id, kind, text) id,
    STANZA_TYPES(X)
#undef X
        N_STANZA_TYPES
};
const char *stanza_kind_name(enum stanza_kind kind);
enum stanza_kind stanza_type_kind(enum stanza_type type);
const char *stanza_type_text(enum stanza_type type); /* NULL: the attribute is left out */
/* TEXT NULL: no attribute. ERR_INVALID for an unknown type of a presence or iq; a message's becomes normal
 * (RFC 6121 §5.2.2). */
int stanza_type_parse(enum stanza_kind kind, const char *text);
bool stanza_type_is_error(enum stanza_type type);

enum envelope_flag {
    ENVELOPE_BROADCAST = 1, /* a presence for all subscribers of the sender at the receiving node */
    ENVELOPE_NO_BOUNCE = 2, /* undeliverable: drop it, never answer */
    ENVELOPE_THROTTLE =
        4, /* not a stanza: the session it is addressed to feeds a slow reader; read it slower */
    ENVELOPE_PROBE_BACK = 8, /* answer to a probe: goes to one session */
    ENVELOPE_HOP = 16,       /* one hop: went on from a node that is no longer the home, ... */
    ENVELOPE_HOPS = 0x70,    /* ... at most seven times */
    ENVELOPE_EVENT = 0x400,  /* for those sessions that want it; lang: the node's name (im/events.h), ... */
    ENVELOPE_SUBSCRIBED = 0x800, /* ... or, when none does, for all: it has subscribed by itself */
    ENVELOPE_COUNTED =
        0x80, /* the sender's client is told when it is safe (XEP-0198): n_in, row, row_place */
    ENVELOPE_SETTLED = 0x100, /* not a stanza: n_in of the session it is addressed to is safe */
    ENVELOPE_REFUSED =
        0x2000, /* an error, of the stanza n_in of the session it is addressed to (docs/adr/0046) */
    ENVELOPE_FENCE = 0x1000, /* not a stanza: answered with SETTLED when all before it has arrived */
};

/* Who was given a message beside the session that answers for it: of the sessions whose ids are not above
 * LAST_ID those with these slots (im/session.h). */
struct given {
    uint64_t slots, last_id;
};

struct envelope {
    struct letter letter; /* while posted to another shard */
    struct list link;     /* while queued */
    struct shard *shard;  /* the receiving one, while posted */
    uint8_t kind, type;
    uint16_t flags;
    uint16_t sender;      /* of a broadcast from another node: its shard, */
    uint32_t generation;  /* and the full set it belongs to */
    uint64_t epoch;       /* of from_node, when a link brought this; 0: made here */
    uint64_t epoch_here;  /* this node's own when it was sent or came here; 0: none yet */
    uint32_t from_node;   /* node of the sender's home; 0: this one */
    uint64_t from_uid;    /* 0: not a user here (the server itself, a foreign JID) */
    uint64_t to_uid;      /* 0: not resolved */
    uint64_t session;     /* of the sender at its home; 0: none. Wakes and throttles refer to it */
    uint64_t after_index; /* not handed on before this log index is applied */
    /* What one sender sends goes up in these two, also when it has moved: the log index that its shard had
     * handled, and a count of that shard; 0, 0: not sent by anybody. */
    uint64_t order_index, order;
    uint64_t out_end;   /* place of its last byte in the session's output, until that is known to be sent */
    uint64_t queued_ms; /* CLOCK_MONOTONIC when a queue took it, or a session was given it */
    uint64_t keeper;    /* the session that was given it, and answers for it */
    struct given given;
    uint64_t n_in;   /* its number among the stanzas of its session; 0: they are not counted */
    uint64_t row;    /* log index and place of that session's row; 0: it has none */
    uint64_t stored; /* log index and place at which it is stored (im/stored.h); 0: it is not */
    uint32_t row_place, stored_place;
    uint8_t wants;     /* enum archive_keep, while it waits at the sender; 0: goes to the recipient */
    bool storing;      /* delivered, and a proposal to store it is in flight, which owns it; */
    bool is_left;      /* the session that had it has ended since, and nobody has it */
    bool is_back;      /* a session that ended had it: it is older than all that waits */
    bool is_looked_at; /* what the payload carries is in SEEN (im/payload.h) */
    uint32_t seen;
    const char *from, *to; /* full or bare; never NULL */
    const char *id, *lang; /* NULL when missing */
    const char *extra;     /* other attributes of the start tag as raw text with a leading space, or NULL */
    struct blob *payload;  /* NULL: empty element */
    size_t n_bytes;        /* what it counts for in queues */
};

struct envelope_parts {
    enum stanza_type type;
    const char *from, *to;
    const char *id, *lang, *extra;
    struct blob *payload; /* a reference is taken */
};
/* Strings are copied. */
struct envelope *envelope_new(const struct envelope_parts *parts);
void envelope_free(struct envelope *e); /* may be NULL */
/* A copy that shares the payload; addressed to TO when TO is not NULL. Not in any queue. */
struct envelope *envelope_copy(const struct envelope *e, const char *to);
/* The same stanza back to its sender as an error: inner XML kept (RFC 6120 §8.3.1), type error, from and to
 * swapped. NULL when it must not be answered: an error itself, an iq result, a NO_BOUNCE, a presence that is
 * not directed. */
enum stanza_error {
    STANZA_BAD_REQUEST,
    STANZA_CONFLICT,
    STANZA_FEATURE_NOT_IMPLEMENTED,
    STANZA_FORBIDDEN,
    STANZA_GONE,
    STANZA_INTERNAL_SERVER_ERROR,
    STANZA_ITEM_NOT_FOUND,
    STANZA_JID_MALFORMED,
    STANZA_NOT_ACCEPTABLE,
    STANZA_NOT_ALLOWED,
    STANZA_POLICY_VIOLATION,
    STANZA_RECIPIENT_UNAVAILABLE,
    STANZA_REMOTE_SERVER_NOT_FOUND,
    STANZA_REMOTE_SERVER_TIMEOUT,
    STANZA_RESOURCE_CONSTRAINT,
    STANZA_SERVICE_UNAVAILABLE,
    STANZA_UNEXPECTED_REQUEST,
    STANZA_NOT_AUTHORIZED,
    N_STANZA_ERRORS
};
/* "service-unavailable" and "cancel" (RFC 6120 §8.3.3). */
const char *stanza_error_name(enum stanza_error error);
const char *stanza_error_class(enum stanza_error error);
/* Appends <error .../>; TEXT may be NULL; GONE: TEXT is the new address, or NULL. */
void stanza_error_write(struct buf *out, enum stanza_error error, const char *text);
struct envelope *envelope_bounce(const struct envelope *e, enum stanza_error error, const char *text);
/* E back to its sender as an error, ERROR_XML (N_BYTES) behind its payload. */
struct envelope *envelope_error(const struct envelope *e, const void *error_xml, size_t n_bytes);

/* The stanza as XML for a client, default namespace "jabber:client". TO NULL: as addressed. EXTRA_XML (may be
 * NULL) goes before the end tag. */
void envelope_write(struct buf *out, const struct envelope *e, const char *to, const char *extra_xml);

/* Frames between nodes (LINK_ENVELOPE, LINK_PRESENCE). ERR_MALFORMED on bytes that are not one. */
void envelope_encode(struct buf *out, const struct envelope *e);
int envelope_decode(struct envelope **out, const uint8_t *data, size_t n_bytes);

/* Parts of a JID string without allocation. */
size_t jid_bare_length(const char *jid);          /* up to the '/' or the end */
const char *jid_resource(const char *jid);        /* after the '/', or "" */
bool jid_same_bare(const char *a, const char *b); /* compares up to the '/' */

#endif
