/* Between tls.c and stream_tls.c, the two files that know OpenSSL's connection types. */
#ifndef BASE_TLS_IMPL_H
#define BASE_TLS_IMPL_H

#include "base/tls.h"
#include <openssl/bio.h>
#include <openssl/ssl.h>

struct tls_ctx {
    _Atomic unsigned refs;
    SSL_CTX *ssl;
    BIO_METHOD
        *bio; /* of streams; made per context, so that nothing is global. An SSL's owner keeps the context */
    bool server, verifies_peer, checks_name;
    unsigned char *alpn; /* as on the wire: each name behind its length */
    unsigned n_alpn;
};

/* The context for a server name, the default one if there is none of its own. Borrowed. */
struct tls_ctx *tls_sni_find(const struct tls_sni *sni, const char *name);
struct tls_ctx *tls_sni_fallback(const struct tls_sni *sni);
/* The reason of the oldest error in OpenSSL's queue of this thread; empties the queue. */
void tls_error_text(char *out, size_t n_bytes, const char *otherwise);

/* Of stream_tls.c. */
BIO_METHOD *stream_tls_bio_method(void);
/* Verification callback of judged contexts: takes note, and goes on. */
int tls_take_any(int ok, X509_STORE_CTX *store);
int stream_tls_on_server_name(SSL *ssl, int *alert, void *arg);

#endif
