/* One BOSH session (XEP-0124 1.11, XEP-0206): which request is taken when, and which is answered with what.
 * Time is handed in, requests are opaque handles, so that it runs without HTTP and without a clock.
 *
 * A request is *held* from its turn (the order of rid) until it is answered; one that came too early is
 * *kept* with its payload until its turn. The last answers are kept for repeats. All of it is bounded by the
 * number of requests that the client may have open. */
#ifndef XMPP_BOSH_H
#define XMPP_BOSH_H

#include "base/buf.h"
#include <stdbool.h>
#include <stdint.h>

#define NS_BOSH "http://jabber.org/protocol/httpbind"
#define NS_XBOSH "urn:xmpp:xbosh"

enum {
    BOSH_MAX_HOLD = 4,
    BOSH_MAX_REQUESTS = BOSH_MAX_HOLD + 1,
    BOSH_POLLING_S = 2, /* shortest time between two empty requests of a client that polls */
    BOSH_MAX_PAUSE_S = 120,
    BOSH_MAX_REPEATS = 8, /* of one rid */
    BOSH_KEY_CHARS = 40,
};
#define BOSH_MAX_RID UINT64_C(9007199254740991) /* §14.1 */

/* What a <body/> says. Borrowed for the call. */
struct bosh_request {
    uint64_t rid;
    const char *key, *newkey; /* §15; NULL: none */
    bool terminate, restart, has_pause;
    unsigned pause_s;
    const char *payload; /* its elements, for the shard */
    size_t n_payload;
    const char *header; /* of a restart: the new stream header */
};

struct bosh_events {
    /* HANDLE is done with. STATUS: 200, or what a client without 'ver' gets (§17.1). */
    void (*answer)(void *user, void *handle, int status, const char *body, size_t n_bytes);
    void (*on_payload)(void *user, const char *data, size_t n_bytes); /* to the shard */
    void (*on_restart)(void *user, const char *header);
    /* Output of this weight has been given to the client's requests. */
    void (*on_taken)(void *user, size_t weight);
    /* The session is over (terminated by the client: IN_ORDER; by an error or silence: not). Everything is
     * answered; bosh_fini may be called when the function of bosh.h that led here has returned. */
    void (*on_end)(void *user, bool in_order);
};

struct bosh_held {
    uint64_t rid, since_ms;
    void *handle; /* NULL: its connection is gone; the client may repeat it */
};
struct bosh_kept {
    struct bosh_request request; /* with copies of what it points to */
    void *handle;
};
struct bosh_answer {
    uint64_t rid;
    unsigned n_repeats;
    struct buf body;
};

struct bosh_options {
    const char *sid;
    unsigned wait_s, hold, inactivity_s;
    bool legacy; /* no 'ver' in the creation request: HTTP errors instead of terminal conditions */
    bool acks;   /* §9.1 */
    /* Attributes of the first answer, " name='value'"; copied. */
    const char *first_attributes;
};

struct bosh {
    const struct bosh_events *events;
    void *user;
    struct bosh_options o;
    unsigned requests;
    uint64_t rid;                 /* of the last request whose turn came */
    uint64_t idle_ms;             /* since when nothing is held */
    unsigned pause_s;             /* instead of the inactivity; 0: none */
    char key[BOSH_KEY_CHARS + 1]; /* the next key's hash must be this; "": no keys */
    struct bosh_held held[BOSH_MAX_REQUESTS + 2];
    unsigned n_held;
    struct bosh_kept kept[BOSH_MAX_REQUESTS + 1];
    unsigned n_kept;
    struct bosh_answer answers[BOSH_MAX_REQUESTS + 1]; /* a ring */
    unsigned next_answer;
    uint64_t empty_ms; /* when the last request came, if that was empty */
    bool was_empty, last_answer_empty;
    struct buf out; /* elements for the client */
    size_t out_weight;
    bool out_stream;     /* they use the prefix stream */
    char *first;         /* attributes of the first answer, until it is given */
    char *end_condition; /* the shard has ended the stream; "": in order; NULL: not yet */
    char *end_content;   /* elements of the last answer */
    bool ended;
};

/* The session that the first request REQUEST has asked for; it is answered when there is output. */
void bosh_init_session(struct bosh *b, const struct bosh_options *o, const struct bosh_events *events,
                       void *user, const struct bosh_request *request, void *handle, uint64_t now_ms);
void bosh_fini_session(struct bosh *b); /* answers nothing */
/* Any further request. HANDLE is answered, now or later, or taken back by bosh_gone. */
void bosh_request(struct bosh *b, const struct bosh_request *request, void *handle, uint64_t now_ms);
void bosh_gone(struct bosh *b, void *handle); /* its connection is gone */
/* An element for the client, which goes out with bosh_flush. */
void bosh_output(struct bosh *b, const char *element, size_t n_bytes, size_t weight, bool stream_prefix);
void bosh_flush(struct bosh *b, uint64_t now_ms);
/* The shard has ended the stream. CONDITION: "" in order, else a terminal binding condition (§17.2); CONTENT:
 * further elements; may be NULL. */
void bosh_close(struct bosh *b, const char *condition, const char *content, uint64_t now_ms);
uint64_t bosh_due_ms(const struct bosh *b); /* when bosh_tick is wanted; UINT64_MAX: not at all */
void bosh_tick(struct bosh *b, uint64_t now_ms);

/* <body type='terminate' condition=.../> outside of any session. */
void bosh_write_refusal(struct buf *out, const char *condition);
int bosh_legacy_status(const char *condition);

#endif
