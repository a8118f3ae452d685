/* Certificates for tests, made in memory: a CA of its own and leaves signed by it. PEM strings are the
 * caller's. */
#ifndef TESTS_TEST_CERTS_H
#define TESTS_TEST_CERTS_H

struct evp_pkey_st;
struct x509_st;

struct test_ca {
    struct evp_pkey_st *key;
    struct x509_st *cert;
    char *pem;
};
void test_ca_make(struct test_ca *ca, const char *name);
void test_ca_free(struct test_ca *ca);
/* SAN: as in openssl.cnf, "DNS:a.example,URI:urn:imp:node:1"; NULL for none. HASH: "SHA256", "SHA1", ... */
void test_cert_make(char **cert_pem, char **key_pem, const struct test_ca *ca, const char *common_name,
                    const char *san, const char *hash);

#endif
