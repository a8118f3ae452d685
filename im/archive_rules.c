/* What a message is worth, by its type and by what it carries. */
#include "im/archive.h"
#include "im/payload.h"

unsigned archive_class(enum stanza_type type, unsigned worth)
{
    bool is_talk = type == MESSAGE_CHAT || type == MESSAGE_NORMAL;
    unsigned out = 0;
    /* XEP-0334 §5: hints of an error are not its own. A room has its own archive. */
    if ((!is_talk && type != MESSAGE_HEADLINE) || worth & PAYLOAD_NO_STORE)
        return 0;
    if (worth & PAYLOAD_STORE)
        out |= CLASS_ARCHIVE | (is_talk ? CLASS_OFFLINE : 0);
    if (is_talk && worth & PAYLOAD_KEEP)
        out |= CLASS_ARCHIVE | CLASS_OFFLINE;
    if (is_talk && worth & PAYLOAD_UNKNOWN)
        out |= CLASS_OFFLINE;
    if (worth & PAYLOAD_NO_ARCHIVE)
        out &= ~(unsigned)CLASS_ARCHIVE;
    if (out && worth & PAYLOAD_RETRACT)
        out |= CLASS_RETRACT;
    return out;
}
