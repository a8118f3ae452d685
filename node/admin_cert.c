/* impcli cert ...: client-facing certificates per domain. The key is sealed before it leaves this node. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/tls.h"
#include "cluster/seal.h"
#include "node/admin_handlers.h"
#include <ctype.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

/* Unix ms of an ASN.1 time; 0 when it cannot be read. */
static uint64_t asn1_ms(const ASN1_TIME *t)
{
    struct tm tm;
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (uint64_t)timegm(&tm) * 1000 : 0;
}

static X509 *leaf_of(const char *pem, size_t n)
{
    BIO *bio = BIO_new_mem_buf(pem, (int)n);
    X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    ERR_clear_error();
    return x;
}

static json_t *cert_json(const char *domain, const Imp__CertRow *row)
{
    char subject[256] = "", issuer[256] = "", print[96] = "";
    unsigned char md[32];
    unsigned n = 0;
    uint64_t from = 0;
    X509 *x = leaf_of(row->chain_pem, strlen(row->chain_pem));
    if (x) {
        X509_NAME_oneline(X509_get_subject_name(x), subject, sizeof subject);
        X509_NAME_oneline(X509_get_issuer_name(x), issuer, sizeof issuer);
        from = asn1_ms(X509_get0_notBefore(x));
        X509_digest(x, EVP_sha256(), md, &n);
        for (unsigned i = 0; i < n; i++)
            snprintf(print + 2 * i, 3, "%02x", md[i]);
        X509_free(x);
    }
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:s}", "domain", domain, "subject", subject, "issuer", issuer,
                     "not_before", admin_json_time(from), "not_after", admin_json_time(row->not_after_ms),
                     "sha256", print);
}

void admin_cert_list(struct admin_call *call)
{
    static const struct admin_column columns[] = {
        {"domain", "DOMAIN"}, {"subject", "SUBJECT"}, {"issuer", "ISSUER"}, {"not_after", "VALID UNTIL"}};
    json_t *array = json_array();
    struct store_iter it;
    struct key prefix;
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_CERT, &prefix);
    while (store_iter_next(&it)) {
        struct key_reader r;
        key_read(&r, it.key, it.n_key);
        const char *domain = key_read_str(&r, &call->arena);
        Imp__CertRow *row = store_iter_row(&it, &call->arena);
        if (row && !r.failed)
            json_array_append_new(array, cert_json(domain, row));
    }
    admin_reply_table(call, array, columns, n_elements(columns));
}

void admin_cert_show(struct admin_call *call)
{
    struct key key;
    key_init(&key);
    key_str(&key, call->args[0]);
    Imp__CertRow *row = store_find_row(admin_read(call), TABLE_CERT, &key, &call->arena);
    if (!row) {
        admin_fail(call,
                   "no certificate was imported for %s: its clients see one that the cluster's CA signed",
                   call->args[0]);
        return;
    }
    json_t *o = cert_json(call->args[0], row);
    struct buf text = {0};
    const char *name;
    json_t *value;
    json_object_foreach(o, name, value)
        buf_addf(&text, "%-12s%s\n", name, json_is_string(value) ? json_string_value(value) : "-");
    admin_reply(call, o, &text);
}

/* Splits the joined input: the chain goes to CHAIN, the private key to KEY. False: the call has failed. */
static bool take_pem(struct admin_call *call, struct buf *chain, struct buf *key)
{
    BIO *in = BIO_new_mem_buf(call->input, (int)call->n_input), *out = BIO_new(BIO_s_secmem());
    char *name, *header, *data;
    unsigned char *body;
    long n;
    bool ok = true;
    while (PEM_read_bio(in, &name, &header, &body, &n) == 1) {
        bool is_key = strstr(name, "PRIVATE KEY") != NULL;
        if (strcmp(name, "ENCRYPTED PRIVATE KEY") == 0 || strstr(header, "ENCRYPTED"))
            ok = false;
        (void)BIO_reset(out);
        PEM_write_bio(out, name, header, body, n);
        long len = BIO_get_mem_data(out, &data);
        buf_add(is_key ? key : chain, data, (size_t)len);
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_clear_free(body, (size_t)n);
    }
    BIO_free(in);
    BIO_free(out);
    ERR_clear_error(); /* the end of the text counts as an error */
    if (!ok)
        admin_fail(call, "the key is encrypted: decrypt it first (openssl pkey -in KEY -out PLAINKEY)");
    else if (chain->n == 0 || key->n == 0)
        admin_fail(call, "no %s found in the files (PEM is expected)",
                   chain->n ? "private key" : "certificate");
    return ok && chain->n && key->n;
}

/* The key fits the certificate, which is valid now and for the domain. */
static bool check_cert(struct admin_call *call, const char *domain, const struct buf *chain,
                       const struct buf *key, uint64_t *not_after)
{
    struct err_ctx err = {0};
    struct tls_ctx *ctx;
    struct tls_options o = {.server = true, .cert_pem = chain->data, .key_pem = key->data};
    if (tls_ctx_new(&ctx, &o, &err)) {
        admin_fail(call, "certificate and key cannot be used: %s", err.text);
        return false;
    }
    tls_ctx_unref(ctx);
    X509 *x = leaf_of(chain->data, chain->n);
    bool matches = x && X509_check_host(x, domain, 0, 0, NULL) == 1;
    *not_after = x ? asn1_ms(X509_get0_notAfter(x)) : 0;
    X509_free(x);
    if (!matches)
        admin_fail(call, "the certificate is not for %s", domain);
    else if (*not_after <= clock_wall_ms())
        admin_fail(call, "the certificate has expired");
    else
        return true;
    return false;
}

static void on_cert_set(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "certificate of %s is in use for new connections on all nodes",
                   admin_option(call, "domain"));
}

void admin_cert_import(struct admin_call *call)
{
    struct buf chain = {0}, key = {0}, sealed = {0};
    struct err_ctx err = {0};
    const char *domain = admin_option(call, "domain");
    char purpose[300];
    uint64_t not_after = 0;
    if (!domain || !*domain || strlen(domain) > 255) {
        admin_fail(call, "say --domain DOMAIN");
        return;
    }
    char *lower = arena_strdup(&call->arena, domain); /* as clients ask for it */
    for (char *p = lower; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    domain = lower;
    snprintf(purpose, sizeof purpose, "cert:%s", domain);
    if (take_pem(call, &chain, &key) && check_cert(call, domain, &chain, &key, &not_after)) {
        if (seal(call->env->seal, purpose, key.data, key.n, &sealed, &err)) {
            admin_fail(call, "cannot seal the key: %s", err.text);
        } else {
            Imp__CertRow row = IMP__CERT_ROW__INIT;
            Imp__CertSet body = IMP__CERT_SET__INIT;
            Imp__Command command = IMP__COMMAND__INIT;
            row.chain_pem = chain.data;
            row.sealed_key = (ProtobufCBinaryData){sealed.n, (uint8_t *)sealed.data};
            row.not_after_ms = not_after;
            body.domain = (char *)domain;
            body.cert = &row;
            command.body_case = IMP__COMMAND__BODY_CERT_SET;
            command.cert_set = &body;
            admin_propose(call, &command, on_cert_set);
        }
    }
    buf_fini(&chain);
    seal_buf_fini(&key);
    buf_fini(&sealed);
}
