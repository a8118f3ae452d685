/* Where features look at what passes (hooks.def lists the points). Shard's thread.
 *
 * A session knows for each stanza kind which features look at it: one word each, so that a stanza that nobody
 * asked for costs one test. A feature is on from the bind for the kinds in its descriptor's `always`, for
 * others when it says so (hooks_set). A stanza from the client comes with its tree, which the parser has
 * made; on the way out there is none: who needs one asks for it (stanza_tree in im/stored.h). */
#ifndef XMPP_HOOKS_H
#define XMPP_HOOKS_H

#include "base/xml.h"
#include "im/envelope.h"

struct c2s_home;
struct xmpp_shard;

enum feature_id {
#define X(name) FEATURE_##name,
#include "protocols/xmpp/features.def"
#undef X
    N_FEATURES
};
_Static_assert(N_FEATURES <= 64, "a word has a bit for each feature");

enum hook_verdict { HOOK_GO_ON, HOOK_HANDLED };
enum hook_output { HOOK_WRITE, HOOK_HOLD, HOOK_DROP };

struct xmpp_hooks {
#define X(ID, member, result, arguments) result(*member) arguments;
#include "protocols/xmpp/hooks.def"
#undef X
};
enum hook_point {
#define X(ID, member, result, arguments) HOOK_##ID,
#include "protocols/xmpp/hooks.def"
#undef X
    N_HOOK_POINTS
};

/* Stanza kinds as bits. */
enum hook_kind {
    ON_MESSAGE = 1 << STANZA_MESSAGE,
    ON_PRESENCE = 1 << STANZA_PRESENCE,
    ON_IQ = 1 << STANZA_IQ,
    ON_STANZA = ON_MESSAGE | ON_PRESENCE | ON_IQ,
};

/* Of a session: bits by feature_id. */
struct session_hooks {
    uint64_t from_client[N_STANZA_KINDS], to_client[N_STANZA_KINDS];
    struct feature_state *states; /* hooks_state */
};

/* At the bind and at the end. */
void hooks_open(struct c2s_home *h);
void hooks_close(struct c2s_home *h);
/* POINT is HOOK_FROM_CLIENT or HOOK_TO_CLIENT: the feature's handler is called for KINDS of this session, or
 * no more. */
void hooks_set(struct c2s_home *h, enum feature_id feature, enum hook_point point, unsigned kinds, bool on);

/* State of a feature in a session: N_BYTES of zeros made at the first call, freed after session_ended.
 * N_BYTES 0: NULL when there is none. */
void *hooks_state(struct c2s_home *h, enum feature_id feature, size_t n_bytes);

enum hook_verdict hooks_run_from_client(struct c2s_home *h, uint64_t features, struct envelope *e,
                                        struct xml_stanza *stanza);
enum hook_output hooks_run_to_client(struct c2s_home *h, uint64_t features, const struct envelope *e,
                                     const char *extra_xml);
void hooks_run_presence(struct c2s_home *h, const struct envelope *e, const struct xml *root, bool was);

#endif
