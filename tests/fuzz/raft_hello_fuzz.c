/* What a peer of imp-raft/1 says beside Raft's own messages: the hello, and the offer of a copy. */
#include "fuzz.h"

#include "replication/conn.h"
#include "replication/copy_files.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    if (data[0] & 1) {
        struct conn_hello hello;
        if (conn_decode_hello(&hello, data + 1, n_bytes - 1) == 0) {
            assert(strlen(hello.release) < sizeof(hello.release) &&
                   strlen(hello.address) < sizeof(hello.address));
            assert(hello.purpose == CONN_MESSAGES || hello.purpose == CONN_COPY);
        }
    } else {
        struct copy_info info;
        if (copy_info_decode(&info, data + 1, n_bytes - 1) == 0) {
            struct buf again = {0};
            copy_info_encode(&again, &info);
            assert(again.n <= n_bytes - 1 && memcmp(again.data, data + 1, again.n) == 0);
            buf_fini(&again);
        }
    }
    return 0;
}
