/* Raft's messages as a peer may send them: what is accepted is within the limits and encodes to the same
 * bytes. */
#include "fuzz.h"
#include "replication/message.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct raft_msg m;
    struct configuration conf;
    if (raft_msg_decode(&m, data, n_bytes) == 0) {
        struct buf b = {0};
        FUZZ_ASSERT(m.term > 0);
        if (m.type == RAFT_MSG_APPEND) {
            FUZZ_ASSERT(m.append.n_entries <= RAFT_MSG_MAX_ENTRIES);
            for (unsigned i = 0; i < m.append.n_entries; i++)
                FUZZ_ASSERT(m.append.entries[i].payload->n > 0 && m.append.entries[i].term <= m.term);
        }
        raft_msg_encode(&b, &m);
        /* The padding of an InstallSnapshot's configuration may have been left out. */
        FUZZ_ASSERT(m.type == RAFT_MSG_INSTALL || (b.n == n_bytes && memcmp(b.data, data, n_bytes) == 0));
        buf_fini(&b);
        raft_msg_fini(&m);
    }
    if (configuration_decode(&conf, data, n_bytes) == 0) {
        struct buf b = {0};
        struct configuration again;
        configuration_encode(&b, &conf);
        FUZZ_ASSERT(configuration_decode(&again, b.data, b.n) == 0 && again.n == conf.n);
        buf_fini(&b);
    }
    return 0;
}
