#include "replication/message.h"

#include "base/err.h"
#include <assert.h>
#include <string.h>

enum { VERSION = 1, ENTRY_HEAD_BYTES = 8 + 1 + 4 };
/* Terms and indexes count up from 1: none gets here, and sums of two do not overflow. */
static const uint64_t COUNT_MAX = UINT64_MAX / 4;
enum vote_flag { VOTE_DISRUPT = 1, VOTE_PRE = 2, VOTE_GRANTED = 4 };

static void encode_append(struct buf *out, const struct raft_msg *m)
{
    buf_add_u64(out, m->append.prev_index);
    buf_add_u64(out, m->append.prev_term);
    buf_add_u64(out, m->append.commit);
    buf_add_u32(out, m->append.n_entries);
    for (unsigned i = 0; i < m->append.n_entries; i++) {
        const struct rlog_entry *e = &m->append.entries[i];
        buf_add_u64(out, e->term);
        buf_add_u8(out, (uint8_t)e->type);
        buf_add_u32(out, e->payload->n);
        buf_add(out, e->payload->data, e->payload->n);
    }
}

static void encode_install(struct buf *out, const struct raft_msg *m)
{
    struct buf conf = {0};
    buf_add_u64(out, m->install.last_index);
    buf_add_u64(out, m->install.last_term);
    buf_add_u64(out, m->install.conf_index);
    configuration_encode(&conf, m->install.conf);
    buf_add_u32(out, (uint32_t)conf.n);
    buf_add(out, conf.data, conf.n);
    buf_fini(&conf);
    assert(m->install.data->n <= RAFT_MSG_MAX_SNAPSHOT);
    buf_add_u32(out, m->install.data->n);
    buf_add(out, m->install.data->data, m->install.data->n);
}

void raft_msg_encode(struct buf *out, const struct raft_msg *m)
{
    buf_add_u8(out, (uint8_t)m->type);
    buf_add_u8(out, VERSION);
    buf_add_u64(out, m->term);
    switch (m->type) {
    case RAFT_MSG_APPEND:
        encode_append(out, m);
        break;
    case RAFT_MSG_APPEND_RESULT:
        buf_add_u64(out, m->append_result.rejected);
        buf_add_u64(out, m->append_result.last_index);
        break;
    case RAFT_MSG_VOTE:
        buf_add_u64(out, m->vote.candidate);
        buf_add_u64(out, m->vote.last_index);
        buf_add_u64(out, m->vote.last_term);
        buf_add_u8(out, (m->vote.disrupt ? VOTE_DISRUPT : 0) | (m->vote.pre_vote ? VOTE_PRE : 0));
        break;
    case RAFT_MSG_VOTE_RESULT:
        buf_add_u8(out,
                   (m->vote_result.granted ? VOTE_GRANTED : 0) | (m->vote_result.pre_vote ? VOTE_PRE : 0));
        break;
    case RAFT_MSG_INSTALL:
        encode_install(out, m);
        break;
    case RAFT_MSG_TIMEOUT_NOW:
        buf_add_u64(out, m->timeout_now.last_index);
        buf_add_u64(out, m->timeout_now.last_term);
        break;
    }
}

/* The terms of a log never fall, and none is above the sender's own (Raft §5.3). */
static int decode_entry(struct rlog_entry *out, struct reader *r, uint64_t least_term, uint64_t most_term)
{
    out->term = read_u64(r);
    out->type = read_u8(r);
    uint32_t n = read_u32(r);
    if (r->failed || out->term < least_term || out->term > most_term || out->term == 0)
        return ERR_MALFORMED;
    if (out->type < RLOG_COMMAND || out->type > RLOG_CHANGE || n == 0)
        return ERR_MALFORMED;
    if (n > RLOG_MAX_ENTRY)
        return ERR_LIMIT;
    const void *p = read_bytes(r, n);
    struct configuration conf;
    if (!p || (out->type == RLOG_CHANGE && configuration_decode(&conf, p, n)))
        return ERR_MALFORMED;
    out->payload = blob_new(p, n);
    return out->payload ? 0 : ERR_NOMEM;
}

static int decode_append(struct raft_msg *m, struct reader *r)
{
    m->append.prev_index = read_u64(r);
    m->append.prev_term = read_u64(r);
    m->append.commit = read_u64(r);
    uint32_t n = read_u32(r);
    m->append.entries = NULL;
    m->append.n_entries = 0;
    if (r->failed || (m->append.prev_index == 0) != (m->append.prev_term == 0) ||
        m->append.prev_term > m->term || m->append.prev_index > COUNT_MAX)
        return ERR_MALFORMED;
    if (n > RAFT_MSG_MAX_ENTRIES)
        return ERR_LIMIT;
    if (n > reader_left(r) / ENTRY_HEAD_BYTES)
        return ERR_MALFORMED;
    if (n == 0)
        return 0;
    m->append.entries = mem_try_alloc(n * sizeof(*m->append.entries));
    if (!m->append.entries)
        return ERR_NOMEM;
    uint64_t term = m->append.prev_term;
    for (uint32_t i = 0; i < n; i++) {
        int rc = decode_entry(&m->append.entries[i], r, term, m->term);
        if (rc)
            return rc;
        term = m->append.entries[i].term;
        m->append.n_entries++;
    }
    return 0;
}

static int decode_install(struct raft_msg *m, struct reader *r)
{
    m->install.conf = NULL;
    m->install.data = NULL;
    m->install.last_index = read_u64(r);
    m->install.last_term = read_u64(r);
    m->install.conf_index = read_u64(r);
    uint32_t n_conf = read_u32(r);
    const void *conf = read_bytes(r, n_conf);
    uint32_t n_data = read_u32(r);
    const void *data = read_bytes(r, n_data);
    if (r->failed || m->install.last_index == 0 || m->install.last_index > COUNT_MAX ||
        m->install.last_term == 0 || m->install.last_term > m->term || m->install.conf_index == 0 ||
        m->install.conf_index > m->install.last_index)
        return ERR_MALFORMED;
    if (n_data > RAFT_MSG_MAX_SNAPSHOT)
        return ERR_LIMIT;
    m->install.conf = mem_new(struct configuration);
    if (configuration_decode(m->install.conf, conf, n_conf))
        return ERR_MALFORMED;
    m->install.data = blob_new(data, n_data);
    return m->install.data ? 0 : ERR_NOMEM;
}

static int decode_body(struct raft_msg *m, struct reader *r)
{
    uint8_t flags;
    switch (m->type) {
    case RAFT_MSG_APPEND:
        return decode_append(m, r);
    case RAFT_MSG_APPEND_RESULT:
        m->append_result.rejected = read_u64(r);
        m->append_result.last_index = read_u64(r);
        return m->append_result.last_index > COUNT_MAX || m->append_result.rejected > COUNT_MAX ? ERR_MALFORMED : 0;
    case RAFT_MSG_VOTE:
        m->vote.candidate = read_u64(r);
        m->vote.last_index = read_u64(r);
        m->vote.last_term = read_u64(r);
        flags = read_u8(r);
        m->vote.disrupt = flags & VOTE_DISRUPT;
        m->vote.pre_vote = flags & VOTE_PRE;
        return m->vote.candidate == 0 || m->vote.last_index > COUNT_MAX || flags > (VOTE_DISRUPT | VOTE_PRE) ? ERR_MALFORMED : 0;
    case RAFT_MSG_VOTE_RESULT:
        flags = read_u8(r);
        m->vote_result.granted = flags & VOTE_GRANTED;
        m->vote_result.pre_vote = flags & VOTE_PRE;
        return flags & ~(VOTE_GRANTED | VOTE_PRE) ? ERR_MALFORMED : 0;
    case RAFT_MSG_INSTALL:
        return decode_install(m, r);
    case RAFT_MSG_TIMEOUT_NOW:
        m->timeout_now.last_index = read_u64(r);
        m->timeout_now.last_term = read_u64(r);
        return 0;
    }
    return ERR_MALFORMED;
}

int raft_msg_decode(struct raft_msg *out, const void *data, size_t n_bytes)
{
    if (n_bytes > RAFT_MSG_MAX_BYTES)
        return ERR_LIMIT;
    struct reader r;
    struct raft_msg m;
    memset(&m, 0, sizeof(m));
    reader_init(&r, data, n_bytes);
    unsigned type = read_u8(&r), version = read_u8(&r);
    m.term = read_u64(&r);
    if (r.failed || version != VERSION || type < RAFT_MSG_APPEND || type > RAFT_MSG_TIMEOUT_NOW ||
        m.term == 0 || m.term > COUNT_MAX)
        return ERR_MALFORMED;
    m.type = (enum raft_msg_type)type;
    int rc = decode_body(&m, &r);
    if (!rc && (r.failed || reader_left(&r)))
        rc = ERR_MALFORMED;
    if (rc) {
        raft_msg_fini(&m);
        return rc;
    }
    *out = m;
    return 0;
}

void raft_msg_fini(struct raft_msg *m)
{
    if (m->type == RAFT_MSG_APPEND) {
        for (unsigned i = 0; i < m->append.n_entries; i++)
            blob_unref(m->append.entries[i].payload);
        mem_free(m->append.entries);
        m->append.entries = NULL;
        m->append.n_entries = 0;
    } else if (m->type == RAFT_MSG_INSTALL) {
        mem_free(m->install.conf);
        blob_unref(m->install.data);
        m->install.conf = NULL;
        m->install.data = NULL;
    }
}

void raft_msg_copy(struct raft_msg *out, const struct raft_msg *m)
{
    *out = *m;
    if (m->type == RAFT_MSG_APPEND) {
        unsigned n = m->append.n_entries;
        out->append.entries = n ? mem_dup(m->append.entries, n * sizeof(*m->append.entries)) : NULL;
        for (unsigned i = 0; i < n; i++)
            blob_ref(out->append.entries[i].payload);
    } else if (m->type == RAFT_MSG_INSTALL) {
        out->install.conf = mem_dup(m->install.conf, sizeof(*m->install.conf));
        out->install.data = blob_ref(m->install.data);
    }
}
