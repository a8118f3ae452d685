/* Frames of a length and a body on a byte stream, put together again from pieces. */
#ifndef CLUSTER_FRAME_H
#define CLUSTER_FRAME_H

#include "base/buf.h"
#include <stdbool.h>

struct frame_reader {
    struct buf held; /* an incomplete frame */
    size_t max_bytes;
    bool is_secret; /* what was held is wiped; set after init */
};
void frame_reader_init(struct frame_reader *r, size_t max_bytes);
void frame_reader_fini(struct frame_reader *r);
/* Calls on_frame(user, body, n) for every complete frame: u32 length (little-endian) and body. on_frame
 * returns false to stop (its owner is closing or gone: the reader is not touched again). 0, ERR_MALFORMED for
 * an empty frame, ERR_LIMIT for one above max_bytes, ERR_CANCELED when stopped. */
int frame_reader_feed(struct frame_reader *r, const uint8_t *data, size_t n_bytes,
                      bool (*on_frame)(void *user, const uint8_t *body, size_t n_bytes), void *user);

#endif
