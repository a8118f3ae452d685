/* Features as data: one file and one descriptor each, listed in features.def. Disco (XEP-0030) and stream
 * features are derived from the descriptors. */
#ifndef XMPP_FEATURE_H
#define XMPP_FEATURE_H

#include "im/hooks.h"
#include "protocols/xmpp/home.h"
#include "protocols/xmpp/hooks.h"

/* Whom an iq is addressed to. */
enum iq_scope {
    IQ_SERVER = 1,  /* the domain */
    IQ_SELF = 2,    /* no 'to', or the user's own bare JID */
    IQ_ACCOUNT = 4, /* another user's bare JID */
};

struct xmpp_iq {
    struct c2s_home *home; /* NULL: iq_from_outside */
    struct shard *shard;
    const struct envelope *envelope; /* from, to, id, type */
    struct xml *payload;             /* the one child */
    struct arena *arena;
    enum iq_scope scope;
    uint64_t uid; /* of the account it is about: own or other; 0 for the server */
};

struct xmpp_iq_handler {
    const char *ns, *name;
    unsigned scopes; /* enum iq_scope */
    bool get, set;
    void (*handle)(struct xmpp_iq *iq);
    bool outside; /* also for requests that no session makes: iq->home is NULL then, the scope not IQ_SELF */
};

/* An element of a client's stream that is no stanza, such as <active/> of XEP-0352. */
struct xmpp_element_handler {
    const char *ns, *name;
    bool unbound,
        bound; /* before, after resource binding; elsewhere: unsupported-stanza-type or not-authorized */
    void (*handle)(struct c2s_home *h, struct xml_stanza *element);
};

/* What a client may ask for within its log-in: inside <authenticate/> of SASL2 (XEP-0388 §2.6.1) or inside
 * <bind/> of Bind 2 (XEP-0386 §4). Handled in the order of features.def, on the home's shard, before
 * <success/> is written: what is written to the session meanwhile follows behind it. */
struct xmpp_inline {
    const char *ns, *name; /* of the request; name NULL: called for every Bind 2, asked for or not */
    /* SASL2: XML in <inline/>. Bind 2: the var of <feature/> in <bind><inline/>; the same one twice is shown
     * once. NULL: not announced. */
    const char *announced;
    /* SASL2: H is not bound yet, ANSWER becomes a child of <success/>. Bind 2: h->session is open, ANSWER
     * becomes a child of <bound/>. REQUEST lives until written() (NULL when name is). */
    enum inline_result (*handle)(struct c2s_home *h, const struct xml *request, struct buf *answer);
    /* After <success/> and the stream features were written, for those that were handled; may be NULL. */
    void (*written)(struct c2s_home *h);
};

struct xmpp_feature {
    const char *name, *xep;
    const char *const *server_features;  /* disco features of the domain, NULL-terminated; may be NULL */
    const char *const *account_features; /* of an account */
    const char *stream_feature;          /* XML in <stream:features/>, or NULL */
    /* Is that of use to H now? NULL: always. */
    bool (*stream_feature_is_on)(const struct c2s_home *h, enum stream_stage stage);
    const struct xmpp_iq_handler *handlers;      /* ended by one without a namespace */
    const struct xmpp_element_handler *elements; /* the same */
    struct xmpp_hooks hooks;                     /* hooks.h; each may be NULL */
    struct {
        unsigned from_client, to_client; /* enum hook_kind: on for every session from its beginning */
    } always;
    const struct im_hook *user_hook; /* im/hooks.h; registered with the node's im; may be NULL */
    unsigned level;                  /* of the cluster, from which it is offered; 0: always */
    bool (*is_on)(struct shard *s);  /* by the settings; NULL: always */
    /* Disco beside the lists of features (XEP-0030, XEP-0128); each may be NULL. IQ says of whom: scope, uid.
     * Identities come first, then what is added behind the features, such as forms. */
    const char *server_identity, *account_identity; /* XML */
    void (*disco_info)(struct xmpp_iq *iq, struct buf *out);
    void (*disco_items)(struct xmpp_iq *iq, struct buf *out);
    bool disco_outside; /* the three also for who has no session here: iq->home is NULL then */
    /* A request about NODE, for items or for info; true: it was this feature's to answer, and is answered. */
    bool (*disco_node)(struct xmpp_iq *iq, const char *node, bool items);
    const struct xmpp_inline *inline_sasl2; /* ended by one without a handler; may be NULL */
    const struct xmpp_inline *inline_bind2; /* the same */
};
extern const struct xmpp_feature *const xmpp_features[]; /* NULL at the end */
bool feature_is_on(const struct xmpp_feature *f, struct shard *s);

/* Exactly one answer per request. INNER: the result's content as XML, or NULL. */
void iq_result(struct xmpp_iq *iq, const char *inner, size_t n_bytes);
void iq_error(struct xmpp_iq *iq, enum stanza_error error, const char *text);
void iq_error_xml(struct xmpp_iq *iq, const char *error, size_t n_bytes); /* <error> with more in it */
/* EXTRA: a condition of the application (RFC 6120 §8.3.4), as XML. */
void iq_error_with(struct xmpp_iq *iq, enum stanza_error error, const char *text, const char *extra);
/* A request to the server or to an account from somebody who has no session here, such as a component:
 * answered by the handlers that say so, as a stanza. Takes E. */
void iq_from_outside(struct shard *s, struct envelope *e);
/* An answer that comes later: keep, then answer exactly once; SESSION is looked up again. */
struct iq_later;
struct iq_later *iq_keep(struct xmpp_iq *iq);
void iq_later_result(struct iq_later *l, struct session *s, const char *inner, size_t n_bytes);
void iq_later_error(struct iq_later *l, struct session *s, enum stanza_error error, const char *text);
void iq_later_error_with(struct iq_later *l, struct session *s, enum stanza_error error, const char *text,
                         const char *extra);
/* A proposal that answers the iq: empty result, or the error that fits the refusal. */
void iq_submit(struct xmpp_iq *iq, Imp__Command *command);
/* xml_escape of a whole string. */
void iq_escape(struct buf *out, const char *s);
void iq_add_attr(struct buf *out, const char *name, const char *value); /* VALUE NULL: none */

#endif
