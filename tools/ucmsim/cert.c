#include "cert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static void add_name(struct buf *names, const char *host)
{
    unsigned char address[16];
    bool is_address = inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
    if (host[0] && !strchr(host, ','))
        buf_addf(names, "%s%s:%s", names->n ? "," : "", is_address ? "IP" : "DNS", host);
}

static int add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    int ok = extension && X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
    return ok;
}

static int fill(X509 *cert, EVP_PKEY *key, const char *common_name, const char *names)
{
    uint64_t serial = random_u64() >> 2;
    X509_NAME *name = X509_get_subject_name(cert);
    return X509_set_version(cert, 2) && ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial) &&
           X509_gmtime_adj(X509_getm_notBefore(cert), -3600) &&
           X509_gmtime_adj(X509_getm_notAfter(cert), 366L * 86400) && X509_set_pubkey(cert, key) &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1,
                                      0) &&
           X509_set_issuer_name(cert, name) &&
           add_extension(cert, NID_basic_constraints, "critical,CA:TRUE") &&
           add_extension(cert, NID_subject_key_identifier, "hash") &&
           add_extension(cert, NID_subject_alt_name, names) && X509_sign(cert, key, EVP_sha256()) > 0;
}

static char *bio_text(BIO *bio)
{
    char *data;
    long n = BIO_get_mem_data(bio, &data);
    return mem_strndup(data, (size_t)n);
}

int cert_make(char **out_cert, char **out_key, const char *host, struct err_ctx *err)
{
    char hostname[256] = "";
    struct buf names = {0};
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    BIO *cert_bio = BIO_new(BIO_s_mem()), *key_bio = BIO_new(BIO_s_mem());
    int code = 0;
    gethostname(hostname, sizeof hostname - 1);
    add_name(&names, host);
    add_name(&names, hostname);
    add_name(&names, "localhost");
    add_name(&names, "127.0.0.1");
    add_name(&names, "::1");
    if (key && cert && cert_bio && key_bio && fill(cert, key, "ucmsim", names.data) &&
        PEM_write_bio_X509(cert_bio, cert) &&
        PEM_write_bio_PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL)) {
        *out_cert = bio_text(cert_bio);
        *out_key = bio_text(key_bio);
    } else {
        code = err_set(err, ERR_TLS, "cannot make a certificate");
    }
    BIO_free(cert_bio);
    BIO_free(key_bio);
    X509_free(cert);
    EVP_PKEY_free(key);
    buf_fini(&names);
    return code;
}
