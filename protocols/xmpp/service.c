#include "protocols/xmpp/service.h"
#include "base/clock.h"
#include "im/address.h"
#include "im/envelope.h"
#include "protocols/xmpp/feature.h"
#include "replication/settings.h"
#include <string.h>

void service_init(struct xmpp_shard *xs)
{
    struct service *sv = mem_new(struct service);
    sv->shard = xs->shard;
    sv->started_ms = clock_monotonic_ms();
    list_init(&sv->left);
    xs->service = sv;
    sv->taken.since = UINT64_MAX;
    push_init(sv);
}

static void wipe(char *secret)
{
    if (secret)
        mem_wipe(secret, strlen(secret));
    mem_free(secret);
}

void service_fini(struct xmpp_shard *xs)
{
    struct service *sv = xs->service;
    if (!sv)
        return;
    push_fini(sv);
    last_fini(sv);
    for (int i = 0; i < N_XMPP_SECRETS; i++)
        wipe(sv->secrets[i]);
    mem_free(sv->motd.text);
    mem_free(sv->welcome.text);
    mem_free(sv);
    xs->service = NULL;
}

/* ---- settings ---- */

static void read_text(struct shard *s, struct service_text *out, enum setting id)
{
    struct arena a;
    arena_init(&a);
    struct key k;
    key_init(&k);
    key_str(&k, setting_defs[id].key);
    const Imp__SettingRow *row = store_find_row(shard_txn(s), TABLE_SETTING, &k, &a);
    bool is_set = row && *row->value && s->settings.level >= setting_defs[id].level;
    mem_free(out->text);
    out->text = is_set ? mem_strdup(row->value) : NULL;
    out->set_ms = is_set ? row->changed_ms : 0;
    arena_fini(&a);
}

void service_on_settings(struct xmpp_shard *xs)
{
    read_text(xs->shard, &xs->service->motd, SETTING_XMPP_MOTD);
    read_text(xs->shard, &xs->service->welcome, SETTING_XMPP_WELCOME);
}

void service_tick(struct xmpp_shard *xs)
{
    last_tick(xs->service);
    push_tick(xs->service);
    push_taken_tick(xs->service);
}

struct new_secret {
    enum xmpp_secret which;
    char *text;
};

static void take_secret(void *arg, struct shard *s)
{
    struct new_secret *n = arg;
    struct service *sv = service_of(s);
    wipe(sv->secrets[n->which]);
    sv->secrets[n->which] = n->text;
    mem_free(n);
}

void xmpp_set_secret(struct xmpp *x, enum xmpp_secret which, const char *text)
{
    struct im *im = xmpp_im(x);
    for (unsigned i = 0; i < im_n_shards(im); i++) {
        struct new_secret *n = mem_new(struct new_secret);
        n->which = which;
        n->text = text && *text ? mem_strdup(text) : NULL;
        shard_call(im_shard(im, i), take_secret, n);
    }
}

bool service_next_word(const char **at, struct arena *a, char **word)
{
    static const char blanks[] = " \t\r\n";
    *at += strspn(*at, blanks);
    size_t n = strcspn(*at, blanks);
    if (!n)
        return false;
    *word = arena_strndup(a, *at, n);
    *at += n;
    return true;
}

bool service_is_admin(struct shard *s, const char *jid)
{
    bool found = false;
    struct arena a;
    arena_init(&a);
    const char *at = setting_string(shard_txn(s), NULL, SETTING_XMPP_ADMINS, &a);
    for (char *word; !found && service_next_word(&at, &a, &word);) {
        char prepared[JID_MAX + 1];
        found = jid_prepare(prepared, word, strlen(word), NULL) == 0 && strchr(prepared, '@') &&
                !*jid_resource(prepared) && jid_same_bare(prepared, jid);
    }
    arena_fini(&a);
    return found;
}

/* ---- messages ---- */

struct envelope *service_message(struct shard *s, const char *to, const char *subject, const char *body)
{
    struct buf inner = {0};
    if (subject) {
        buf_adds(&inner, "<subject>");
        iq_escape(&inner, subject);
        buf_adds(&inner, "</subject>");
    }
    buf_adds(&inner, "<body>");
    iq_escape(&inner, body);
    buf_adds(&inner, "</body>");
    struct blob *payload = blob_new(inner.data, inner.n);
    buf_fini(&inner);
    /* Not stored for who is not there: RFC 6121 §8.5.2.2.1. */
    struct envelope *e = envelope_new(
        &(struct envelope_parts){.type = MESSAGE_HEADLINE, .from = s->domain, .to = to, .payload = payload});
    e->flags = ENVELOPE_NO_BOUNCE;
    blob_unref(payload);
    return e;
}
