/* Answers of a call manager: byte 0 picks the operation, byte 1 the HTTP status, the rest is the body. */
#include "fuzz.h"

#include "base/mem.h"
#include "protocols/axl/axl_message.h"
#include <string.h>

static void check_users(const struct axl_result *r)
{
    for (size_t i = 0; i < r->n_users; i++) {
        const struct axl_user *u = &r->users[i];
        FUZZ_ASSERT(strlen(u->uuid) == AXL_UUID_TEXT &&
                    strspn(u->uuid, "0123456789abcdef-") == AXL_UUID_TEXT);
        FUZZ_ASSERT(u->userid[0]);
        FUZZ_ASSERT(u->first_name && u->last_name && u->mailid && u->directory_uri && u->display_name);
    }
    FUZZ_ASSERT(r->n_users <= r->n_rows);
}

static void check_text(const char *text)
{
    char again[256];
    axl_copy_text(again, sizeof again, text);
    FUZZ_ASSERT(!strcmp(again, text)); /* what was tamed stays as it is */
    for (; *text; text++)
        FUZZ_ASSERT((unsigned char)*text >= ' ' && *text != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const int statuses[] = {200, 500, 401, 403, 503, 599, 404, 502};
    struct axl_result result;
    struct arena arena;
    unsigned tried = 0;
    if (n_bytes < 2)
        return 0;
    enum axl_operation op = (enum axl_operation)(data[0] % (AXL_OP_AUTHENTICATE + 1));
    char *body = mem_alloc(n_bytes - 1); /* terminated, as the HTTP client gives it; zeros inside are possible */
    memcpy(body, data + 2, n_bytes - 2);
    body[n_bytes - 2] = 0;
    arena_init(&arena);
    axl_read_answer(&result, &arena, op, statuses[data[1] % n_elements(statuses)], body, n_bytes - 2);
    check_text(result.error.text);
    if (result.error.outcome == AXL_OK) {
        check_users(&result);
        FUZZ_ASSERT(op != AXL_OP_GET_USER || result.n_users == 1);
        for (size_t i = 0; i < result.n_changes; i++)
            FUZZ_ASSERT(strlen(result.changes[i].uuid) == AXL_UUID_TEXT);
    }
    const char *version = "14.0";
    for (int i = 0; version; i++) {
        FUZZ_ASSERT(i < 8); /* the choice ends */
        version = axl_next_version(body, version, &tried);
    }
    arena_fini(&arena);
    mem_free(body);
    return 0;
}
