/* What the features of the service itself keep per shard: messages of the day, last activity, secrets that
 * are shared with others. Shard's thread, but for what says otherwise. */
#ifndef XMPP_SERVICE_H
#define XMPP_SERVICE_H

#include "base/list.h"
#include "im/shard.h"
#include "protocols/xmpp/shard.h"
#include "protocols/xmpp/xmpp.h"

/* A text for users who log in, and since when it is set (wall clock, as the state machine knows it). */
struct service_text {
    char *text; /* NULL: none */
    uint64_t set_ms;
};

struct service {
    struct shard *shard;
    uint64_t started_ms; /* CLOCK_MONOTONIC, of the node */
    struct service_text motd, welcome;
    char *secrets[N_XMPP_SECRETS]; /* NULL: not set */
    struct list left;              /* users whose last session has ended, not proposed yet (feature_last.c) */
    unsigned n_left;
    bool is_writing;
    struct push *push;   /* feature_push.c */
    struct untold taken; /* push_taken.c: who is looked at now, */
    uint64_t next_taken; /* from this uid on */
};

void service_init(struct xmpp_shard *xs);
void service_fini(struct xmpp_shard *xs);
void service_on_settings(struct xmpp_shard *xs);
void service_tick(struct xmpp_shard *xs);

static inline struct service *service_of(const struct shard *s)
{
    return s->xmpp->service;
}

/* Is the bare part of JID one of xmpp.admins? */
bool service_is_admin(struct shard *s, const char *jid);
/* One more word of a list separated by spaces: *word in the arena; false at the end. */
bool service_next_word(const char **at, struct arena *a, char **word);
/* A message of the server to TO (prepared; NULL: as addressed by the caller). */
struct envelope *service_message(struct shard *s, const char *to, const char *subject, const char *body);

/* feature_last.c */
void last_tick(struct service *sv);
void last_fini(struct service *sv);
/* feature_push.c */
void push_init(struct service *sv);
void push_tick(struct service *sv);
void push_fini(struct service *sv);
/* What waits for UID, whose home this node is, since OLDEST_MS (wall clock): its push services hear of it. */
void push_waiting(struct shard *s, uint64_t uid, uint64_t oldest_ms);
/* push_taken.c */
void push_taken_tick(struct service *sv);

#endif
