#include "replication/pack.h"

#include "base/buf.h"
#include "replication/fsm.h"
#include <string.h>

/* An Entry of command.proto is a sequence of field 1 (Proposal), so proposals are simply put behind one
 * another. */
struct pack_entry {
    struct pack_entry *next;
    struct blob *blob; /* made when it is first looked at; then the entry is closed */
    struct buf bytes;
    unsigned n_commands;
};

enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

void pack_init(struct pack *p)
{
    memset(p, 0, sizeof(*p));
}

void pack_fini(struct pack *p)
{
    pack_clear(p);
}

static void put_varint(struct buf *out, uint64_t v)
{
    while (v >= 0x80) {
        buf_add_u8(out, (uint8_t)(v | 0x80));
        v >>= 7;
    }
    buf_add_u8(out, (uint8_t)v);
}

static unsigned varint_size(uint64_t v)
{
    unsigned n = 1;
    for (; v >= 0x80; v >>= 7)
        n++;
    return n;
}

static void put_field(struct buf *out, unsigned field, uint64_t v)
{
    if (v == 0)
        return;
    put_varint(out, field << 3 | WIRE_VARINT);
    put_varint(out, v);
}

static unsigned field_size(uint64_t v)
{
    return v ? 1 + varint_size(v) : 0;
}

/* The bytes it takes; 0: there is none. */
static size_t get_varint(const uint8_t *p, size_t n_bytes, uint64_t *v)
{
    *v = 0;
    for (size_t i = 0; i < n_bytes && i < 10; i++) {
        *v |= (uint64_t)(p[i] & 0x7f) << 7 * i;
        if (!(p[i] & 0x80))
            return i + 1;
    }
    return 0;
}

/* Command.time_ms is field 1, which every encoder writes first. The bytes it takes; 0: not there. */
static size_t get_time(const uint8_t *p, size_t n_bytes, uint64_t *v)
{
    *v = 0;
    size_t n = n_bytes && p[0] == (1 << 3 | WIRE_VARINT) ? get_varint(p + 1, n_bytes - 1, v) : 0;
    return n ? n + 1 : 0;
}

static uint64_t command_time(const uint8_t *p, size_t n_bytes)
{
    uint64_t v;
    return get_time(p, n_bytes, &v) ? v : 0;
}

/* The body follows the time, where no administrator has to be named. */
bool pack_is_patient(const void *command, size_t n_bytes)
{
    const uint8_t *p = command;
    uint64_t time, tag;
    size_t n = get_time(p, n_bytes, &time);
    return get_varint(p + n, n_bytes - n, &tag) &&
           (tag == (IMP__COMMAND__BODY_MESSAGE_STORE << 3 | WIRE_BYTES) ||
            tag == (IMP__COMMAND__BODY_SESSION_MARK << 3 | WIRE_BYTES));
}

static struct pack_entry *open_entry(struct pack *p, size_t n_more)
{
    struct pack_entry *e = p->last;
    if (e && !e->blob && e->n_commands < PACK_COMMANDS && e->bytes.n + n_more <= PACK_BYTES)
        return e;
    e = mem_new(struct pack_entry);
    if (p->last)
        p->last->next = e;
    else
        p->first = e;
    p->last = e;
    p->n_entries++;
    return e;
}

bool pack_add(struct pack *p, uint64_t wall_ms, uint32_t node, uint64_t epoch, uint64_t seq,
              const void *command, size_t n_bytes)
{
    /* A later value of a field replaces an earlier one, so a new time goes behind the command. */
    uint64_t time = command_time(command, n_bytes), instead = 0;
    if (time + PACK_CLOCK_MS < wall_ms || time > wall_ms + PACK_CLOCK_MS)
        instead = wall_ms;
    size_t n_command = n_bytes + field_size(instead);
    size_t n_proposal =
        field_size(node) + field_size(epoch) + field_size(seq) + 1 + varint_size(n_command) + n_command;
    size_t n_total = 1 + varint_size(n_proposal) + n_proposal;
    if (p->n_bytes + n_total > PACK_MAX_BYTES)
        return false;
    struct pack_entry *e = open_entry(p, n_total);
    put_varint(&e->bytes, 1 << 3 | WIRE_BYTES);
    put_varint(&e->bytes, n_proposal);
    put_field(&e->bytes, 1, node);
    put_field(&e->bytes, 2, epoch);
    put_field(&e->bytes, 3, seq);
    put_varint(&e->bytes, 4 << 3 | WIRE_BYTES);
    put_varint(&e->bytes, n_command);
    buf_add(&e->bytes, command, n_bytes);
    put_field(&e->bytes, 1, instead);
    e->n_commands++;
    p->n_commands++;
    p->n_bytes += n_total;
    p->is_urgent |= !pack_is_patient(command, n_bytes);
    return true;
}

unsigned pack_peek(const struct pack *p, struct blob **out, unsigned max)
{
    unsigned n = 0;
    for (struct pack_entry *e = p->first; e && n < max; e = e->next) {
        if (!e->blob) {
            e->blob = blob_new(e->bytes.data, e->bytes.n);
            buf_fini(&e->bytes);
        }
        out[n++] = e->blob;
    }
    return n;
}

void pack_drop(struct pack *p, unsigned n)
{
    while (n-- && p->first) {
        struct pack_entry *e = p->first;
        p->first = e->next;
        if (!p->first)
            p->last = NULL;
        p->n_bytes -= e->blob ? e->blob->n : e->bytes.n;
        p->n_entries--;
        p->n_commands -= e->n_commands;
        blob_unref(e->blob);
        buf_fini(&e->bytes);
        mem_free(e);
    }
    p->is_urgent &= p->first != NULL;
}

bool pack_is_empty(const struct pack *p)
{
    return !p->first;
}

void pack_clear(struct pack *p)
{
    pack_drop(p, p->n_entries);
}
