#include "protocols/xmpp/hooks.h"
#include "protocols/xmpp/feature.h"
#include <string.h>

struct feature_state {
    struct feature_state *next;
    enum feature_id feature;
    _Alignas(max_align_t) char bytes[];
};

void *hooks_state(struct c2s_home *h, enum feature_id feature, size_t n_bytes)
{
    struct feature_state *st = h->hooks.states;
    while (st && st->feature != feature)
        st = st->next;
    if (!st && n_bytes) {
        st = mem_zalloc(sizeof *st + n_bytes);
        st->feature = feature;
        st->next = h->hooks.states;
        h->hooks.states = st;
    }
    return st ? st->bytes : NULL;
}

void hooks_set(struct c2s_home *h, enum feature_id feature, enum hook_point point, unsigned kinds, bool on)
{
    uint64_t bit = UINT64_C(1) << feature;
    uint64_t *words = point == HOOK_FROM_CLIENT ? h->hooks.from_client : h->hooks.to_client;
    for (int kind = 0; kind < N_STANZA_KINDS; kind++) {
        if (kinds & 1U << kind)
            words[kind] = on ? words[kind] | bit : words[kind] & ~bit;
    }
}

void hooks_open(struct c2s_home *h)
{
    for (int i = 0; i < N_FEATURES; i++) {
        const struct xmpp_feature *f = xmpp_features[i];
        hooks_set(h, (enum feature_id)i, HOOK_FROM_CLIENT, f->always.from_client, true);
        hooks_set(h, (enum feature_id)i, HOOK_TO_CLIENT, f->always.to_client, true);
        if (f->hooks.session_bound)
            f->hooks.session_bound(h);
    }
}

void hooks_close(struct c2s_home *h)
{
    for (int i = 0; i < N_FEATURES; i++)
        if (xmpp_features[i]->hooks.session_ended)
            xmpp_features[i]->hooks.session_ended(h);
    for (struct feature_state *st = h->hooks.states, *next; st; st = next) {
        next = st->next;
        mem_free(st);
    }
    memset(&h->hooks, 0, sizeof h->hooks);
}

/* The lowest bit is the first feature; a handler may turn hooks of the session on and off. */
static int take_first(uint64_t *features)
{
    int i = __builtin_ctzll(*features);
    *features &= *features - 1;
    return i;
}

enum hook_verdict hooks_run_from_client(struct c2s_home *h, uint64_t features, struct envelope *e,
                                        struct xml_stanza *stanza)
{
    while (features) {
        if (xmpp_features[take_first(&features)]->hooks.from_client(h, e, stanza) == HOOK_HANDLED)
            return HOOK_HANDLED;
    }
    return HOOK_GO_ON;
}

enum hook_output hooks_run_to_client(struct c2s_home *h, uint64_t features, const struct envelope *e,
                                     const char *extra_xml)
{
    while (features) {
        enum hook_output what = xmpp_features[take_first(&features)]->hooks.to_client(h, e, extra_xml);
        if (what != HOOK_WRITE)
            return what;
    }
    return HOOK_WRITE;
}

void hooks_run_presence(struct c2s_home *h, const struct envelope *e, const struct xml *root, bool was)
{
    for (int i = 0; i < N_FEATURES; i++)
        if (xmpp_features[i]->hooks.session_presence)
            xmpp_features[i]->hooks.session_presence(h, e, root, was);
}
