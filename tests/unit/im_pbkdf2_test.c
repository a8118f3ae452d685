/* The same as OpenSSL's PBKDF2, for every hash, length of the password and of the salt. */
#include "im/pbkdf2.h"

#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_as_openssl(void **state)
{
    (void)state;
    const EVP_MD *md[N_CREDENTIAL_HASHES] = {EVP_sha1(), EVP_sha256(), EVP_sha512()};
    char password[300];
    uint8_t salt[64];
    for (size_t i = 0; i < sizeof(password); i++)
        password[i] = (char)(i * 7 + 1);
    for (size_t i = 0; i < sizeof(salt); i++)
        salt[i] = (uint8_t)(i * 5 + 3);
    for (int hash = 0; hash < N_CREDENTIAL_HASHES; hash++)
        for (size_t n = 0; n <= sizeof(password); n++) {
            uint8_t expected[CREDENTIAL_MAX_KEY], out[CREDENTIAL_MAX_KEY];
            size_t n_salt = 1 + n % sizeof(salt), n_key = credential_key_bytes((enum credential_hash)hash);
            unsigned iterations = 1 + (unsigned)n % 5;
            assert_int_equal(PKCS5_PBKDF2_HMAC(password, (int)n, salt, (int)n_salt, (int)iterations, md[hash],
                                               (int)n_key, expected),
                             1);
            pbkdf2(out, (enum credential_hash)hash, password, n, salt, n_salt, iterations);
            assert_memory_equal(out, expected, n_key);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_openssl)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
