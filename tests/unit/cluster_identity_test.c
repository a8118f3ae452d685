/* Data directory, sealing, tokens, keys and certificates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cluster/datadir.h"
#include "cluster/identity.h"
#include "cluster/seal.h"
#include "cluster/token.h"
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *make_dir(void)
{
    char *dir = mem_strdup("/tmp/imp-datadir-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static void remove_dir(char *dir)
{
    char command[1200];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    mem_free(dir);
}

static void test_create_refuses_content(void **state)
{
    (void)state;
    char *dir = make_dir();
    struct datadir d;
    struct err_ctx err = {0};
    assert_int_equal(datadir_create(&d, dir, NULL, &err), 0);
    assert_int_equal(datadir_write(&d, "keys/node.key", "x", 1, 0600, &err), 0);
    datadir_close(&d);
    assert_int_equal(datadir_create(&d, dir, NULL, &err), ERR_EXISTS);
    assert_non_null(strstr(err.text, "'keys'"));
    assert_int_equal(datadir_create(&d, dir, (const char *const[]){"keys", NULL}, &err), 0);
    struct stat st;
    char path[1200];
    snprintf(path, sizeof(path), "%s/keys/node.key", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    datadir_close(&d);
    remove_dir(dir);
}

static void test_lock(void **state)
{
    (void)state;
    char *dir = make_dir();
    struct datadir d, other;
    struct err_ctx err = {0};
    assert_int_equal(datadir_open(&d, dir, 0, &err), 0);
    uint64_t before = clock_monotonic_ms();
    assert_int_equal(datadir_open(&other, dir, 100, &err), ERR_CONFLICT);
    assert_true(clock_monotonic_ms() - before >= 90);
    datadir_close(&d);
    assert_int_equal(datadir_open(&other, dir, 0, &err), 0);
    datadir_close(&other);
    assert_int_equal(chmod(dir, 0750), 0);
    assert_int_equal(datadir_open(&other, dir, 0, &err), ERR_DENIED);
    remove_dir(dir);
}

static void test_identity_refuses_copies(void **state)
{
    (void)state;
    char *dir = make_dir(), *copy = make_dir(), command[2400];
    struct datadir d;
    struct err_ctx err = {0};
    struct datadir_identity id = {.node = 3, .name = "n3", .cluster_id = {1, 2, 3}}, read = {0};
    assert_int_equal(datadir_open(&d, dir, 0, &err), 0);
    assert_int_equal(datadir_read_identity(&d, &read, &err), ERR_NOTFOUND);
    assert_int_equal(datadir_write_identity(&d, &id, &err), 0);
    assert_int_equal(datadir_read_identity(&d, &read, &err), 0);
    assert_int_equal(read.node, 3);
    assert_string_equal(read.name, "n3");
    assert_memory_equal(read.cluster_id, id.cluster_id, 16);
    datadir_close(&d);

    snprintf(command, sizeof(command), "cp -a %s/. %s/", dir, copy);
    assert_int_equal(system(command), 0);
    assert_int_equal(datadir_open(&d, copy, 0, &err), 0);
    assert_int_equal(datadir_read_identity(&d, &read, &err), ERR_CONFLICT);
    assert_non_null(strstr(err.text, "impcli node remove n3"));
    datadir_close(&d);

    /* Restored in place: the directory is the same, the file is not. */
    snprintf(command, sizeof(command),
             "cd %s && cp -a identity keep && rm identity && touch x && mv keep identity", dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(datadir_open(&d, dir, 0, &err), 0);
    assert_int_equal(datadir_read_identity(&d, &read, &err), ERR_CONFLICT);
    assert_int_equal(datadir_write(&d, "identity", "cluster: zz\n", 12, 0600, &err), 0);
    assert_int_equal(datadir_read_identity(&d, &read, &err), ERR_CORRUPT);
    datadir_close(&d);
    remove_dir(dir);
    remove_dir(copy);
}

static void test_names(void **state)
{
    (void)state;
    assert_true(datadir_is_name("n1"));
    assert_true(datadir_is_name("imp-3_x"));
    assert_false(datadir_is_name("imp.example"));
    assert_false(datadir_is_name(""));
    assert_false(datadir_is_name("-n"));
    assert_false(datadir_is_name("a b"));
    assert_false(datadir_is_name("a/b"));
}

/* One more, which seals from now on. */
static void take_key(struct seal_ring *ring, const uint8_t key[SEAL_KEY_BYTES])
{
    uint8_t id[SEAL_KEY_ID_BYTES];
    unsigned n = ring->n;
    seal_key_id(id, key);
    assert_int_equal(seal_ring_find(ring, id), -1);
    seal_ring_add(ring, key);
    assert_int_equal(seal_ring_find(ring, id), n < SEAL_MAX_KEYS ? (int)n : SEAL_MAX_KEYS - 1);
    assert_true(seal_ring_prefer(ring, id));
    assert_false(seal_ring_prefer(ring, id));
    assert_memory_equal(ring->key[0], key, SEAL_KEY_BYTES);
}

static void test_seal(void **state)
{
    (void)state;
    struct seal_ring ring, other;
    seal_ring_init_random(&ring);
    seal_ring_init_random(&other);
    struct buf blob = {0}, plain = {0};
    assert_int_equal(seal(&ring, "setting:axl.password", "secret", 6, &blob, NULL), 0);
    assert_int_equal(blob.n, 6 + SEAL_OVERHEAD);
    assert_int_equal(seal_open(&ring, "setting:axl.password", blob.data, blob.n, &plain, NULL), 0);
    assert_string_equal(plain.data, "secret");
    assert_int_equal(seal_open(&ring, "ca", blob.data, blob.n, &plain, NULL), ERR_AUTH);
    assert_int_equal(seal_open(&other, "setting:axl.password", blob.data, blob.n, &plain, NULL),
                     ERR_NOTFOUND);
    for (size_t i = 0; i < blob.n; i++) {
        blob.data[i] ^= 1;
        assert_int_not_equal(seal_open(&ring, "setting:axl.password", blob.data, blob.n, &plain, NULL), 0);
        blob.data[i] ^= 1;
    }
    for (size_t n = 0; n < blob.n; n++)
        assert_int_not_equal(seal_open(&ring, "setting:axl.password", blob.data, n, &plain, NULL), 0);
    /* The old key still opens after a rotation. */
    take_key(&ring, other.key[0]);
    buf_reset(&plain);
    assert_int_equal(seal_open(&ring, "setting:axl.password", blob.data, blob.n, &plain, NULL), 0);
    assert_string_equal(plain.data, "secret");
    seal_buf_fini(&blob);
    seal_buf_fini(&plain);
}

/* After a change of the key every secret is sealed anew, under another nonce. */
static void test_seal_again(void **state)
{
    (void)state;
    static const uint8_t fresh[SEAL_KEY_BYTES] = {1, 2, 3};
    struct seal_ring ring;
    struct buf blob = {0}, again = {0}, plain = {0};
    seal_ring_init_random(&ring);
    assert_int_equal(seal(&ring, "ca", "secret", 6, &blob, NULL), 0);
    take_key(&ring, fresh);
    assert_int_equal(seal_again(&ring, &ring, "ca", blob.data, blob.n, &again, NULL), 0);
    assert_int_equal(again.n, blob.n);
    assert_memory_not_equal(again.data, blob.data, SEAL_HEAD_BYTES);
    assert_true(seal_ring_forget_others(&ring));
    assert_int_equal(seal_open(&ring, "ca", again.data, again.n, &plain, NULL), 0);
    assert_memory_equal(plain.data, "secret", 6);
    assert_int_equal(seal_again(&ring, &ring, "ca", blob.data, blob.n, &again, NULL), ERR_NOTFOUND);
    seal_buf_fini(&plain);
    buf_fini(&blob);
    buf_fini(&again);
}

static void test_seal_ring_file(void **state)
{
    (void)state;
    char *dir = make_dir();
    struct datadir d;
    struct seal_ring ring, read;
    seal_ring_init_random(&ring);
    take_key(&ring, (const uint8_t[32]){7});
    assert_int_equal(datadir_open(&d, dir, 0, NULL), 0);
    assert_int_equal(seal_ring_store(&ring, &d, NULL), 0);
    assert_int_equal(seal_ring_load(&read, &d, NULL), 0);
    assert_int_equal(read.n, 2);
    assert_memory_equal(read.key, ring.key, 64);
    uint8_t file[2 * SEAL_KEY_BYTES] = {1}; /* one key, and not its sum */
    assert_int_equal(datadir_write(&d, "keys/cluster.keys", file, sizeof(file), 0600, NULL), 0);
    assert_int_equal(seal_ring_load(&read, &d, NULL), ERR_CORRUPT);
    assert_int_equal(datadir_write(&d, "keys/cluster.keys", "short", 5, 0600, NULL), 0);
    assert_int_equal(seal_ring_load(&read, &d, NULL), ERR_CORRUPT);
    datadir_close(&d);
    remove_dir(dir);
}

static void test_token(void **state)
{
    (void)state;
    struct token t, read;
    uint8_t fingerprint[32], hash[32], again[32];
    random_bytes(fingerprint, 32);
    token_init(&t, fingerprint, 1900000000123ull);
    char text[TOKEN_TEXT_MAX], padded[TOKEN_TEXT_MAX + 8];
    token_write(&t, text);
    snprintf(padded, sizeof(padded), " %s\n", text);
    assert_int_equal(token_parse(&read, padded), 0);
    assert_memory_equal(read.secret, t.secret, 16);
    assert_memory_equal(read.ca_fingerprint, fingerprint, 32);
    assert_int_equal(read.expires_ms, 1900000000000ull);
    token_hash(hash, t.secret);
    token_hash(again, read.secret);
    assert_memory_equal(hash, again, 32);
    assert_memory_not_equal(hash, t.secret, 16);
    /* Every changed, dropped or added character is noticed. */
    for (size_t i = 0; text[i]; i++) {
        char bad[TOKEN_TEXT_MAX];
        snprintf(bad, sizeof(bad), "%s", text);
        bad[i] = bad[i] == 'A' ? 'B' : 'A';
        assert_int_equal(token_parse(&read, bad), ERR_MALFORMED);
        bad[i] = '\0';
        assert_int_equal(token_parse(&read, bad), ERR_MALFORMED);
    }
    strcat(text, "A");
    assert_int_equal(token_parse(&read, text), ERR_MALFORMED);
    assert_int_equal(token_parse(&read, ""), ERR_MALFORMED);
}

static const uint8_t cluster_id[16] = {0xab, 1, 2, 3};

static void test_certificates(void **state)
{
    (void)state;
    struct err_ctx err = {0};
    uint64_t now = clock_wall_ms();
    char *ca_key, *ca_cert, *key, *cert;
    assert_int_equal(identity_new_key(&ca_key, &err), 0);
    assert_int_equal(identity_new_ca(&ca_cert, ca_key, cluster_id, 1, now, &err), 0);
    assert_int_equal(identity_new_key(&key, &err), 0);
    struct buf req = {0};
    uint8_t hash[32], key_hash[32];
    assert_int_equal(identity_new_request(&req, key, &err), 0);
    assert_int_equal(identity_check_request(req.data, req.n, hash, &err), 0);
    assert_int_equal(identity_key_hash(key_hash, key, &err), 0);
    assert_memory_equal(hash, key_hash, 32);
    struct identity_ca ca = {.cert_pem = ca_cert, .key_pem = ca_key};
    assert_int_equal(identity_sign_node(&cert, &ca, req.data, req.n, cluster_id, 7, now, &err), 0);

    struct identity_cert info;
    assert_int_equal(identity_read_cert(&info, cert, &err), 0);
    assert_int_equal(info.node, 7);
    assert_memory_equal(info.cluster_id, cluster_id, 16);
    assert_memory_equal(info.key_hash, key_hash, 32);
    assert_false(identity_needs_renewal(&info, now + 200ull * 86400 * 1000));
    assert_true(identity_needs_renewal(&info, now + 250ull * 86400 * 1000));
    assert_int_equal(identity_check_signed(cert, ca_cert, now, &err), 0);
    assert_int_equal(identity_check_signed(cert, ca_cert, now + 400ull * 86400 * 1000, &err), ERR_AUTH);
    uint64_t until;
    assert_int_equal(identity_check_chain(cert, key, &until, &err), 0);
    assert_int_equal(until, info.not_after_ms);
    assert_int_equal(identity_check_chain(cert, ca_key, &until, &err), ERR_INVALID);

    /* Another cluster's CA with the same names. */
    char *false_key, *false_ca;
    assert_int_equal(identity_new_key(&false_key, &err), 0);
    assert_int_equal(identity_new_ca(&false_ca, false_key, cluster_id, 1, now, &err), 0);
    assert_int_equal(identity_check_signed(cert, false_ca, now, &err), ERR_AUTH);
    /* A request whose signature is broken, or cut. */
    req.data[req.n - 1] ^= 1;
    assert_int_equal(identity_check_request(req.data, req.n, hash, &err), ERR_MALFORMED);
    for (size_t n = 0; n < req.n; n += 7)
        assert_int_equal(identity_check_request(req.data, n, hash, &err), ERR_MALFORMED);
    buf_fini(&req);
    mem_free(cert);

    assert_int_equal(identity_sign_domain(&cert, &ca, key, "example.com", now, &err), 0);
    assert_int_equal(identity_read_cert(&info, cert, &err), 0);
    assert_int_equal(info.node, 0);
    mem_free(cert);
    assert_int_equal(identity_sign_domain(&cert, &ca, key, "a.b,URI:imp:node:1", now, &err), ERR_INVALID);
    mem_free(ca_cert);
    mem_free(false_ca);
    identity_free_key(ca_key);
    identity_free_key(key);
    identity_free_key(false_key);
}

static const uint8_t *same_key(void *user, uint32_t node)
{
    assert_int_equal(node, 7);
    return user;
}

static void test_peer(void **state)
{
    (void)state;
    struct tls_peer p = {.common_name = "7", .has_cert = true, .verified = true};
    uint32_t node = 0;
    snprintf(p.uris[0], sizeof(p.uris[0]), "imp:cluster:ab010203%024d", 0);
    snprintf(p.uris[1], sizeof(p.uris[1]), "imp:node:7");
    assert_int_equal(identity_of_peer(&node, &p, cluster_id, NULL, NULL, NULL), 0);
    assert_int_equal(node, 7);
    p.verified = false;
    assert_int_equal(identity_of_peer(&node, &p, cluster_id, NULL, NULL, NULL), ERR_AUTH);
    p.verified = true;
    snprintf(p.common_name, sizeof(p.common_name), "8");
    assert_int_equal(identity_of_peer(&node, &p, cluster_id, NULL, NULL, NULL), ERR_AUTH);
    snprintf(p.common_name, sizeof(p.common_name), "7");
    assert_int_equal(identity_of_peer(&node, &p, (const uint8_t[16]){9}, NULL, NULL, NULL), ERR_AUTH);

    /* A member is known by its key, whoever signed; nobody else is believed to be it, whoever signed. */
    uint8_t key[32] = {1};
    memcpy(p.key_hash, key, 32);
    p.verified = false;
    assert_int_equal(identity_of_peer(&node, &p, cluster_id, same_key, key, NULL), 0);
    key[31]++;
    p.verified = true;
    assert_int_equal(identity_of_peer(&node, &p, cluster_id, same_key, key, NULL), ERR_AUTH);
    p.has_cert = false;
    assert_int_equal(identity_claimed_by_peer(&node, &p, cluster_id, NULL), ERR_AUTH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_refuses_content),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_identity_refuses_copies),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_seal),
        cmocka_unit_test(test_seal_again),
        cmocka_unit_test(test_seal_ring_file),
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_certificates),
        cmocka_unit_test(test_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
