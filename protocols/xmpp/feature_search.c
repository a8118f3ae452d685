/* XEP-0055: directory search, with the form of XEP-0004 and the four old fields. All words that were given
 * must begin words of the name, the user id or the mail address. */
#include "im/directory_words.h"
#include "protocols/xmpp/feature.h"
#include <string.h>

#define NS_SEARCH "jabber:iq:search"
#define NS_DATA "jabber:x:data"

enum { RESULTS_MAX = 100, SCAN_MAX = 20000, TEXTS_MAX = 16 };

static const struct {
    const char *name, *label;
} fields[] = {{"first", "Given name"}, {"last", "Family name"}, {"nick", "User id"}, {"email", "E-mail"}};

static void handle_get(struct xmpp_iq *iq)
{
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='" NS_SEARCH "'><instructions>Fill in one or more fields.</instructions>");
    for (size_t i = 0; i < n_elements(fields); i++)
        buf_addf(&out, "<%s/>", fields[i].name);
    buf_adds(&out, "<x xmlns='" NS_DATA "' type='form'><title>Directory search</title>"
                   "<instructions>Fill in one or more fields.</instructions>"
                   "<field type='hidden' var='FORM_TYPE'><value>" NS_SEARCH "</value></field>");
    for (size_t i = 0; i < n_elements(fields); i++)
        buf_addf(&out, "<field type='text-single' var='%s' label='%s'/>", fields[i].name, fields[i].label);
    buf_adds(&out, "</x></query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* What was filled in, from the form or from the old fields. */
static bool read_query(struct xmpp_iq *iq, const char *texts[TEXTS_MAX + 1])
{
    size_t n = 0;
    const struct xml *form = xml_child(iq->payload, "x", NS_DATA);
    const struct xml *parent = form ? form : iq->payload;
    for (struct xml *x = xml_first_element(parent); x && n < TEXTS_MAX; x = xml_next_element(x)) {
        const char *text;
        if (form) {
            const char *var = xml_attr(x, "var");
            if (!xml_is(x, "field", NS_DATA) || (var && strcmp(var, "FORM_TYPE") == 0))
                continue;
            text = xml_child_text(x, "value", NS_DATA, iq->arena);
        } else {
            text = strcmp(x->ns, NS_SEARCH) == 0 ? xml_text(x, iq->arena) : NULL;
        }
        if (text && *text)
            texts[n++] = text;
    }
    texts[n] = NULL;
    return form != NULL;
}

static bool has_word(const Imp__UserRow *row, const char *begin)
{
    size_t n = strlen(begin);
    for (size_t i = 0; i < row->n_words; i++)
        if (strncmp(row->words[i], begin, n) == 0)
            return true;
    return false;
}

static const char *value_of(const Imp__UserRow *row, size_t field)
{
    const char *values[] = {row->first_name, row->last_name, row->localpart, row->mail};
    return values[field] ? values[field] : "";
}

static void add_item(struct xmpp_iq *iq, struct buf *out, const Imp__UserRow *row, bool form)
{
    const char *jid = shard_user_jid(iq->shard, row->uid, iq->arena);
    if (!jid)
        return;
    if (form) {
        buf_adds(out, "<item><field var='jid'><value>");
        iq_escape(out, jid);
        buf_adds(out, "</value></field>");
        for (size_t i = 0; i < n_elements(fields); i++) {
            buf_addf(out, "<field var='%s'><value>", fields[i].name);
            iq_escape(out, value_of(row, i));
            buf_adds(out, "</value></field>");
        }
    } else {
        buf_adds(out, "<item jid='");
        iq_escape(out, jid);
        buf_adds(out, "'>");
        for (size_t i = 0; i < n_elements(fields); i++) {
            buf_addf(out, "<%s>", fields[i].name);
            iq_escape(out, value_of(row, i));
            buf_addf(out, "</%s>", fields[i].name);
        }
    }
    buf_adds(out, "</item>");
}

/* A user has several words that begin alike: each is told once, under the first of them in the index. */
static bool is_first_match(const Imp__UserRow *row, const char *begin, const char *word)
{
    size_t n = strlen(begin);
    for (size_t i = 0; i < row->n_words; i++)
        if (strncmp(row->words[i], begin, n) == 0 && strcmp(row->words[i], word) < 0)
            return false;
    return true;
}

static void search(struct xmpp_iq *iq, char **words, unsigned n_words, bool form, struct buf *out)
{
    unsigned longest = 0; /* the one that leaves the fewest */
    for (unsigned i = 1; i < n_words; i++)
        if (strlen(words[i]) > strlen(words[longest]))
            longest = i;
    struct key prefix;
    key_init(&prefix);
    key_u32(&prefix, iq->shard->default_domain);
    key_str_prefix(&prefix, words[longest]);
    struct store_iter it;
    store_iter_init(&it, shard_txn(iq->shard), TABLE_USER_BY_WORD, &prefix);
    unsigned n_found = 0, n_scanned = 0;
    struct arena a;
    arena_init(&a);
    while (n_found < RESULTS_MAX && n_scanned++ < SCAN_MAX && store_iter_next(&it)) {
        struct key_reader k;
        key_read(&k, it.key, it.n_key);
        key_read_u32(&k);
        const char *word = key_read_str(&k, &a);
        uint64_t uid = key_read_u64(&k);
        Imp__UserRow *row = k.failed ? NULL : shard_user_row(iq->shard, uid, &a);
        bool all = row && is_first_match(row, words[longest], word);
        for (unsigned i = 0; all && i < n_words; i++)
            all = has_word(row, words[i]);
        if (all) {
            add_item(iq, out, row, form);
            n_found++;
        }
        arena_reset(&a);
    }
    arena_fini(&a);
    store_iter_fini(&it);
}

static void handle_set(struct xmpp_iq *iq)
{
    const char *texts[TEXTS_MAX + 1];
    bool form = read_query(iq, texts);
    char *words[DIRECTORY_WORDS_MAX];
    unsigned n_words = directory_words(words, iq->arena, texts);
    if (!n_words) {
        iq_error(iq, STANZA_NOT_ACCEPTABLE, "fill in at least one field");
        return;
    }
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='" NS_SEARCH "'>");
    if (form) {
        buf_adds(&out,
                 "<x xmlns='" NS_DATA "' type='result'><field type='hidden' var='FORM_TYPE'><value>" NS_SEARCH
                 "</value></field><reported><field var='jid' label='Address' type='jid-single'/>");
        for (size_t i = 0; i < n_elements(fields); i++)
            buf_addf(&out, "<field var='%s' label='%s' type='text-single'/>", fields[i].name,
                     fields[i].label);
        buf_adds(&out, "</reported>");
    }
    search(iq, words, n_words, form, &out);
    buf_adds(&out, form ? "</x></query>" : "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void handle(struct xmpp_iq *iq)
{
    if (iq->envelope->type == IQ_GET)
        handle_get(iq);
    else
        handle_set(iq);
}

static bool is_on(struct shard *s)
{
    return s->settings.directory;
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_SEARCH, "query", IQ_SERVER, .get = true, .set = true, .handle = handle},
    {0},
};
static const char *const features[] = {NS_SEARCH, NULL};
const struct xmpp_feature feature_search = {
    .name = "search",
    .xep = "XEP-0055 1.3",
    .server_features = features,
    .is_on = is_on,
    .handlers = handlers,
};
