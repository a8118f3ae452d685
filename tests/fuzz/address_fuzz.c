/* JIDs: what is taken is stable, within the limits, and has no separator where none may be. */
#include "fuzz.h"
#include "im/address.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct jid a, b;
    struct err_ctx err = {0};
    char text[JID_MAX + 1], again[JID_MAX + 1];
    if (jid_parse(&a, (const char *)data, n_bytes, &err) == 0) {
        size_t n = jid_format(text, &a);
        FUZZ_ASSERT(n == strlen(text) && n <= JID_MAX);
        FUZZ_ASSERT(a.domain[0] && !strpbrk(a.domain, "@/ ") && !strpbrk(a.local, "@/ \"&'<>:"));
        FUZZ_ASSERT(jid_parse(&b, text, n, &err) == 0);
        FUZZ_ASSERT(jid_equal(&a, &b));
        jid_format(again, &b);
        FUZZ_ASSERT(strcmp(text, again) == 0);
    } else {
        FUZZ_ASSERT(err.code == ERR_MALFORMED && err.text[0]);
    }
    if (address_prep_userid(text, (const char *)data, n_bytes, NULL) == 0) {
        FUZZ_ASSERT(strlen(text) <= JID_PART_MAX && !strpbrk(text, "@/ \"&'<>:"));
        FUZZ_ASSERT(address_prep_local(again, text, strlen(text), NULL) == 0 && strcmp(text, again) == 0);
    }
    return 0;
}
