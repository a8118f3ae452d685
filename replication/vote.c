#include "replication/vote.h"

#include "base/buf.h"
#include "base/htab.h"
#include "base/mem.h"
#include <string.h>

/* A slot: magic (4), CRC32C of what follows (4), sequence (8), term (8), vote (8). Slots lie in different
 * pages. */
enum { MAGIC = 0x45544f56, SLOT_BYTES = 32, SLOT_DISTANCE = 4096, N_SLOTS = 2 };

static const char file_name[] = "vote";

struct slot {
    uint64_t sequence, term, voted_for;
};

static bool parse_slot(struct slot *out, const uint8_t bytes[SLOT_BYTES])
{
    struct reader r;
    reader_init(&r, bytes, SLOT_BYTES);
    uint32_t magic = read_u32(&r), crc = read_u32(&r);
    out->sequence = read_u64(&r);
    out->term = read_u64(&r);
    out->voted_for = read_u64(&r);
    return magic == MAGIC && crc == crc32c(0, bytes + 8, SLOT_BYTES - 8);
}

int vote_open(struct vote *v, struct disk *disk, struct err_ctx *err)
{
    memset(v, 0, sizeof(*v));
    v->disk = disk;
    int rc = disk->ops->open(disk, file_name, false, &v->file);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc)
        return err_set(err, rc, "cannot open the file %s: %s", file_name, err_text(rc));
    /* A process that died alone may have written without a sync; what we read must not be lost afterwards. */
    rc = disk->ops->sync(v->file);
    if (!rc)
        rc = disk->ops->sync_names(disk);
    if (rc) {
        vote_close(v);
        return err_set(err, rc, "cannot sync the file %s: %s", file_name, err_text(rc));
    }
    bool is_written = false;
    for (unsigned i = 0; i < N_SLOTS; i++) {
        uint8_t bytes[SLOT_BYTES] = {0};
        size_t n;
        struct slot s;
        rc = disk->ops->read(v->file, (uint64_t)i * SLOT_DISTANCE, bytes, sizeof(bytes), &n);
        if (rc) {
            vote_close(v);
            return err_set(err, rc, "cannot read the file %s: %s", file_name, err_text(rc));
        }
        for (size_t k = 0; k < n; k++)
            is_written |= bytes[k] != 0;
        if (n == SLOT_BYTES && parse_slot(&s, bytes) && s.sequence > v->sequence) {
            v->sequence = s.sequence;
            v->term = s.term;
            v->voted_for = s.voted_for;
        }
    }
    /* Only the very first save can leave nothing valid behind, and it writes slot 1 of sequence 1: what it
     * was to save was then never answered to anybody. A second slot that was written says that there was
     * more. */
    if (v->sequence == 0 && is_written) {
        uint8_t first[SLOT_BYTES] = {0};
        size_t n = 0;
        disk->ops->read(v->file, 0, first, sizeof(first), &n);
        for (size_t k = 0; k < n; k++) {
            if (first[k] == 0)
                continue;
            vote_close(v);
            return err_set(err, ERR_CORRUPT,
                           "the vote file is damaged: this node could vote twice; "
                           "remove the node from the cluster and join it again");
        }
    }
    return 0;
}

int vote_save(struct vote *v, uint64_t term, uint64_t voted_for)
{
    struct buf b = {0};
    int rc = 0;
    bool is_new = v->sequence == 0;
    if (!v->file)
        rc = v->disk->ops->open(v->disk, file_name, true, &v->file);
    uint64_t sequence = v->sequence + 1;
    buf_add_u32(&b, MAGIC);
    buf_add_u32(&b, 0);
    buf_add_u64(&b, sequence);
    buf_add_u64(&b, term);
    buf_add_u64(&b, voted_for);
    uint32_t crc = crc32c(0, b.data + 8, b.n - 8);
    for (unsigned i = 0; i < 4; i++)
        b.data[4 + i] = (char)(crc >> (8 * i));
    if (!rc)
        rc = v->disk->ops->write(v->file, sequence % N_SLOTS * SLOT_DISTANCE, b.data, b.n);
    if (!rc)
        rc = v->disk->ops->sync(v->file);
    if (!rc && is_new)
        rc = v->disk->ops->sync_names(v->disk);
    buf_fini(&b);
    if (rc)
        return rc;
    v->sequence = sequence;
    v->term = term;
    v->voted_for = voted_for;
    return 0;
}

void vote_close(struct vote *v)
{
    if (v->file)
        v->disk->ops->close(v->file);
    v->file = NULL;
}
