/* What peers may send on the cluster port, and files that a person may spoil: frames in pieces, the messages
 * of plane.proto, certificate requests, tokens, sealed blobs, impnode.yaml. The first byte chooses. */
#include "fuzz.h"

#include "base/mem.h"
#include "cluster/frame.h"
#include "cluster/identity.h"
#include "cluster/seal.h"
#include "cluster/token.h"
#include "plane.pb-c.h"
#include <stdbool.h>
#include <string.h>

static bool on_frame(void *user, const uint8_t *body, size_t n_bytes)
{
    uint64_t *sum = user;
    for (size_t i = 0; i < n_bytes; i++)
        *sum += body[i];
    Imp__LinkHello *hello = imp__link_hello__unpack(NULL, n_bytes, body);
    if (hello)
        imp__link_hello__free_unpacked(hello, NULL);
    Imp__LinkCall *call = imp__link_call__unpack(NULL, n_bytes, body);
    if (call)
        imp__link_call__free_unpacked(call, NULL);
    Imp__JoinRequest *request = imp__join_request__unpack(NULL, n_bytes, body);
    uint8_t hash[32];
    if (request) {
        identity_check_request(request->request.data, request->request.len, hash, NULL);
        imp__join_request__free_unpacked(request, NULL);
    }
    Imp__JoinAnswer *answer = imp__join_answer__unpack(NULL, n_bytes, body);
    if (answer)
        imp__join_answer__free_unpacked(answer, NULL);
    return *sum != 7;
}

/* The same frames whole and in pieces give the same sum. */
static void fuzz_frames(const uint8_t *data, size_t n_bytes)
{
    uint64_t whole = 0, pieces = 0;
    struct frame_reader r;
    frame_reader_init(&r, 4096);
    int rc = frame_reader_feed(&r, data, n_bytes, on_frame, &whole), rc2 = 0;
    frame_reader_fini(&r);
    frame_reader_init(&r, 4096);
    for (size_t at = 0, n = 1; at < n_bytes && !rc2; at += n, n = n % 7 + 1)
        rc2 = frame_reader_feed(&r, data + at, n_bytes - at < n ? n_bytes - at : n, on_frame, &pieces);
    frame_reader_fini(&r);
    if (whole != pieces || (!rc && rc2))
        abort();
}

static void fuzz_text(const uint8_t *data, size_t n_bytes)
{
    char *text = mem_strndup((const char *)data, n_bytes);
    struct token t;
    if (!token_parse(&t, text)) {
        char again[TOKEN_TEXT_MAX];
        token_write(&t, again);
        if (!strstr(text, again))
            abort(); /* one token, one spelling */
    }
    struct identity_cert cert;
    identity_read_cert(&cert, text, NULL);
    mem_free(text);
}

static void fuzz_seal(const uint8_t *data, size_t n_bytes)
{
    struct seal_ring ring = {.n = 2, .key = {{1}, {2}}};
    struct buf out = {0};
    if (!seal_open(&ring, "ca", data, n_bytes, &out, NULL))
        abort(); /* that would be a forgery */
    seal_buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (!n_bytes)
        return 0;
    if (data[0] % 3 == 0)
        fuzz_frames(data + 1, n_bytes - 1);
    else if (data[0] % 3 == 1)
        fuzz_text(data + 1, n_bytes - 1);
    else
        fuzz_seal(data + 1, n_bytes - 1);
    return 0;
}
