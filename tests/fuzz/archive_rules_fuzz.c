/* What a message is, found in its bytes, is what a tree of it says; ids and times as clients may write them.
 */
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/xml.h"
#include "fuzz.h"
#include "im/archive.h"
#include "im/payload.h"
#include "im/stored.h"
#include <string.h>

#define NS_HINTS "urn:xmpp:hints"
#define NS_CLIENT "jabber:client"

static void check_rules(const uint8_t *data, size_t n)
{
    struct buf whole = {0};
    struct arena a;
    struct xml *root;
    unsigned marks = payload_look(NULL, data, n), class = archive_class(MESSAGE_CHAT, marks);
    arena_init(&a);
    buf_adds(&whole, "<message xmlns='" NS_CLIENT "'>");
    buf_add(&whole, data, n);
    buf_adds(&whole, "</message>");
    if (xml_parse(&root, &a, whole.data, whole.n, &xml_limits_default, NULL) == 0) {
        bool never = xml_child(root, "no-store", NS_HINTS) || xml_child(root, "no-storage", NS_HINTS);
        bool talk = xml_child(root, "body", NS_CLIENT) || xml_child(root, "store", NS_HINTS);
        bool passing = xml_child(root, "no-permanent-store", NS_HINTS) ||
                       xml_child(root, "no-permanent-storage", NS_HINTS);
        FUZZ_ASSERT(!never || !class);
        FUZZ_ASSERT(never || !talk || class & CLASS_OFFLINE);
        FUZZ_ASSERT(never || passing || !talk || class & CLASS_ARCHIVE);
        FUZZ_ASSERT(xml_first_element(root) || !marks);
        FUZZ_ASSERT(!xml_child(root, "body", NS_CLIENT) == !(marks & PAYLOAD_BODY));
        FUZZ_ASSERT(!xml_child(root, "private", "urn:xmpp:carbons:2") == !(marks & PAYLOAD_PRIVATE));
        FUZZ_ASSERT(!xml_child(root, "received", "urn:xmpp:receipts") || marks & PAYLOAD_RECEIPT);
        FUZZ_ASSERT(!xml_child(root, "no-copy", NS_HINTS) == !(marks & PAYLOAD_NO_COPY));
    }
    arena_fini(&a);
    buf_fini(&whole);
}

static void check_texts(const char *text)
{
    uint64_t index, ms;
    uint32_t place;
    char out[STORED_ID_MAX];
    struct stored_ids *with_key = stored_ids_new("sixteen bytes !!", 16), *ids[] = {NULL, with_key};
    for (size_t i = 0; i < n_elements(ids); i++) {
        if (stored_id_parse(ids[i], text, &index, &place)) {
            stored_id_write(ids[i], out, index, place);
            FUZZ_ASSERT(strcmp(out, text) == 0); /* one id for each message */
        }
    }
    stored_ids_free(with_key);
    clock_parse_utc(text, &ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = mem_strndup((const char *)data, n);
    check_rules(data, n);
    check_texts(text);
    mem_free(text);
    return 0;
}
