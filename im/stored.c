#include "im/stored.h"
#include "base/xml.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_known(const char *name, size_t n)
{
    static const char *const known[] = {"from", "to", "id", "type", "xml:lang", "xmlns"};
    for (size_t i = 0; i < n_elements(known); i++)
        if (strlen(known[i]) == n && memcmp(known[i], name, n) == 0)
            return true;
    return false;
}

/* The bytes went through the XML parser, so only the shape name=quote..quote must be followed. */
void stanza_extra_attributes(struct buf *out, const char *tag, size_t n_bytes)
{
    const char *p = tag, *end = tag + n_bytes;
    while (p < end && !is_space(*p))
        p++; /* the element's name */
    for (;;) {
        while (p < end && (is_space(*p) || *p == '/'))
            p++;
        const char *name = p;
        while (p < end && *p != '=' && !is_space(*p))
            p++;
        size_t n_name = (size_t)(p - name);
        while (p < end && *p != '\'' && *p != '"')
            p++;
        if (p >= end || !n_name)
            return;
        const char *close = memchr(p + 1, *p, (size_t)(end - p - 1));
        if (!close)
            return;
        if (!is_known(name, n_name)) {
            buf_addc(out, ' ');
            buf_add(out, name, n_name);
            buf_addc(out, '=');
            buf_add(out, p, (size_t)(close + 1 - p));
        }
        p = close + 1;
    }
}

/* Where the start tag ends; '>' may stand inside of attribute values. */
static const char *find_tag_end(const char *p, const char *end)
{
    char quote = 0;
    for (; p < end; p++) {
        if (quote)
            quote = *p == quote ? 0 : quote;
        else if (*p == '\'' || *p == '"')
            quote = *p;
        else if (*p == '>')
            return p;
    }
    return NULL;
}

/* It was within the limits of its time when it came in; these only stop what is no stanza at all. */
static const struct xml_limits limits = {
    .stanza_bytes = 16 << 20, .depth = 1000, .attrs = 1000, .elements = 1000000};

struct envelope *stored_stanza(const void *data, size_t n_bytes, const char *from, const char *to)
{
    const char *raw = data, *end = raw + n_bytes;
    struct arena a;
    arena_init(&a);
    struct xml *root;
    struct envelope *e = NULL;
    const char *tag_end = find_tag_end(raw, end);
    if (!tag_end || xml_parse(&root, &a, data, n_bytes, &limits, NULL) < 0)
        goto out;
    int kind = 0;
    while (kind < N_STANZA_KINDS && strcmp(root->name, stanza_kind_name(kind)) != 0)
        kind++;
    int type = kind < N_STANZA_KINDS ? stanza_type_parse(kind, xml_attr(root, "type")) : ERR_INVALID;
    if (type < 0)
        goto out;
    struct buf extra = {0};
    stanza_extra_attributes(&extra, raw + 1, (size_t)(tag_end - raw - 1));
    struct blob *payload = NULL;
    const char *close = memrchr(raw, '<', n_bytes);
    if (tag_end[-1] != '/' && close > tag_end)
        payload = blob_new(tag_end + 1, (size_t)(close - tag_end - 1));
    e = envelope_new(&(struct envelope_parts){.type = type,
                                              .from = from,
                                              .to = to,
                                              .id = xml_attr(root, "id"),
                                              .lang = xml_attr_ns(root, "lang", XML_NS_XML),
                                              .extra = extra.n ? extra.data : NULL,
                                              .payload = payload});
    blob_unref(payload);
    buf_fini(&extra);
out:
    arena_fini(&a);
    return e;
}

struct xml *stanza_tree(const struct envelope *e, struct arena *arena)
{
    struct buf text = {0};
    const char *type = stanza_type_text((enum stanza_type)e->type);
    buf_addf(&text, "<%s xmlns='jabber:client'", stanza_kind_name((enum stanza_kind)e->kind));
    if (type)
        buf_addf(&text, " type='%s'", type);
    if (e->id) {
        buf_adds(&text, " id='");
        xml_escape(&text, e->id, strlen(e->id));
        buf_addc(&text, '\'');
    }
    if (e->extra)
        buf_adds(&text, e->extra);
    buf_addc(&text, '>');
    if (e->payload)
        buf_add(&text, e->payload->data, e->payload->n);
    buf_addf(&text, "</%s>", stanza_kind_name((enum stanza_kind)e->kind));
    struct xml *root = NULL;
    if (xml_parse(&root, arena, text.data, text.n, &limits, NULL) < 0)
        root = NULL;
    buf_fini(&text);
    return root;
}

/* ---- ids ---- */

/* AES-128 of one block: index, place and 4 bytes that are 0. */
enum { BLOCK_BYTES = 16, AT_PLACE = 8, AT_ZERO = 12 };
struct stored_ids {
    EVP_CIPHER_CTX *write, *read;
};

static EVP_CIPHER_CTX *new_cipher(const void *key, int encrypts)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (!c || EVP_CipherInit_ex(c, EVP_aes_128_ecb(), NULL, key, NULL, encrypts) != 1)
        abort(); /* there is no OpenSSL without it */
    EVP_CIPHER_CTX_set_padding(c, 0);
    return c;
}

struct stored_ids *stored_ids_new(const void *key, size_t n_bytes)
{
    if (n_bytes != BLOCK_BYTES)
        return NULL;
    struct stored_ids *ids = mem_new(struct stored_ids);
    ids->write = new_cipher(key, 1);
    ids->read = new_cipher(key, 0);
    return ids;
}

void stored_ids_free(struct stored_ids *ids)
{
    if (!ids)
        return;
    EVP_CIPHER_CTX_free(ids->write);
    EVP_CIPHER_CTX_free(ids->read);
    mem_free(ids);
}

static bool cipher(EVP_CIPHER_CTX *c, uint8_t out[BLOCK_BYTES], const uint8_t in[BLOCK_BYTES])
{
    int n = 0;
    return EVP_CipherUpdate(c, out, &n, in, BLOCK_BYTES) == 1 && n == BLOCK_BYTES;
}

static void put_number(uint8_t *out, unsigned n_bytes, uint64_t v)
{
    for (unsigned i = 0; i < n_bytes; i++)
        out[i] = (uint8_t)(v >> 8 * (n_bytes - 1 - i));
}

static uint64_t get_number(const uint8_t *in, unsigned n_bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n_bytes; i++)
        v = v << 8 | in[i];
    return v;
}

void stored_id_write(struct stored_ids *ids, char out[STORED_ID_MAX], uint64_t index, uint32_t place)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t plain[BLOCK_BYTES] = {0}, block[BLOCK_BYTES];
    if (!ids) {
        snprintf(out, STORED_ID_MAX, "%llx-%x", (unsigned long long)index, place);
        return;
    }
    put_number(plain, AT_PLACE, index);
    put_number(plain + AT_PLACE, AT_ZERO - AT_PLACE, place);
    if (!cipher(ids->write, block, plain))
        abort();
    for (unsigned i = 0; i < BLOCK_BYTES; i++) {
        out[2 * i] = digits[block[i] >> 4];
        out[2 * i + 1] = digits[block[i] & 15];
    }
    out[BLOCK_BYTES * 2] = '\0';
}

static bool read_hex(const char **at, unsigned n_digits, uint64_t *out)
{
    const char *p = *at;
    uint64_t v = 0;
    for (; *p && (size_t)(p - *at) < n_digits && strchr("0123456789abcdef", *p); p++)
        v = v << 4 | (uint64_t)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
    bool ok = p > *at;
    *at = p;
    *out = v;
    return ok;
}

static bool parse_plain(const char *id, uint64_t *index, uint32_t *place)
{
    uint64_t in_entry;
    const char *second;
    if ((*id == '0' && id[1] != '-') || !read_hex(&id, 16, index) || *id++ != '-')
        return false;
    second = id;
    if (!read_hex(&id, 8, &in_entry) || *id || (*second == '0' && second[1]))
        return false;
    *place = (uint32_t)in_entry;
    return true;
}

/* Only what stored_id_write makes: one message has one id. */
bool stored_id_parse(struct stored_ids *ids, const char *id, uint64_t *index, uint32_t *place)
{
    uint8_t block[BLOCK_BYTES], plain[BLOCK_BYTES];
    uint64_t v;
    if (!ids)
        return parse_plain(id, index, place);
    if (strlen(id) != sizeof block * 2)
        return false;
    for (unsigned i = 0; i < sizeof block; i++) {
        const char *end = id + 2;
        if (!read_hex(&id, 2, &v) || id != end)
            return false;
        block[i] = (uint8_t)v;
    }
    if (!cipher(ids->read, plain, block) || get_number(plain + AT_ZERO, BLOCK_BYTES - AT_ZERO))
        return false;
    *index = get_number(plain, AT_PLACE);
    *place = (uint32_t)get_number(plain + AT_PLACE, AT_ZERO - AT_PLACE);
    return true;
}

void stored_id_element(struct stored_ids *ids, struct buf *out, const struct envelope *e, const char *by)
{
    char id[STORED_ID_MAX];
    if (!e->stored)
        return;
    stored_id_write(ids, id, e->stored, e->stored_place);
    buf_addf(out, "<stanza-id xmlns='urn:xmpp:sid:0' id='%s' by='", id);
    xml_escape(out, by, strlen(by));
    buf_adds(out, "'/>");
}
