#include "test_certs.h"
#include "base/mem.h"
#include <assert.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

static char *bio_text(BIO *bio)
{
    char *data;
    long n = BIO_get_mem_data(bio, &data);
    char *text = mem_strndup(data, (size_t)n);
    BIO_free(bio);
    return text;
}

static X509 *make(EVP_PKEY *key, const char *name)
{
    static long serial = 1;
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 24 * 3600);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1,
                               -1, 0);
    return x;
}

static void extend(X509 *x, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert(e);
    X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
}

static char *cert_text(X509 *x)
{
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, x);
    return bio_text(bio);
}

void test_ca_make(struct test_ca *ca, const char *name)
{
    ca->key = EVP_EC_gen("P-256");
    assert(ca->key);
    ca->cert = make(ca->key, name);
    X509_set_issuer_name(ca->cert, X509_get_subject_name(ca->cert));
    extend(ca->cert, NID_basic_constraints, "critical,CA:TRUE");
    extend(ca->cert, NID_key_usage, "critical,keyCertSign,cRLSign");
    X509_sign(ca->cert, ca->key, EVP_sha256());
    ca->pem = cert_text(ca->cert);
}

void test_ca_free(struct test_ca *ca)
{
    EVP_PKEY_free(ca->key);
    X509_free(ca->cert);
    mem_free(ca->pem);
}

void test_cert_make(char **cert_pem, char **key_pem, const struct test_ca *ca, const char *common_name,
                    const char *san, const char *hash)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = make(key, common_name);
    X509_set_issuer_name(x, X509_get_subject_name(ca->cert));
    if (san)
        extend(x, NID_subject_alt_name, san);
    X509_sign(x, ca->key, EVP_get_digestbyname(hash));
    *cert_pem = cert_text(x);
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    *key_pem = bio_text(bio);
    X509_free(x);
    EVP_PKEY_free(key);
}
