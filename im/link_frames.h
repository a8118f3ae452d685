/* LINK_PRESENCE frames: u8 kind, u16 shard of the sending node, u32 generation of its full set, then for a
 * resource the encoded envelope. A set has no beginning of its own: whatever carries another generation when
 * END comes is gone. */
#ifndef IM_LINK_FRAMES_H
#define IM_LINK_FRAMES_H

#include "base/buf.h"
#include <stdint.h>

enum presence_frame { PRESENCE_FRAME_RESOURCE = 1, PRESENCE_FRAME_END = 2 };

static inline void presence_frame_begin(struct buf *out, enum presence_frame kind, uint16_t sender,
                                        uint32_t generation)
{
    buf_add_u8(out, (uint8_t)kind);
    buf_add_u16(out, sender);
    buf_add_u32(out, generation);
}

#endif
