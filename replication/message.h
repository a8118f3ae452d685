/* The messages of Raft, in a form of our own: transport, simulation and driver exchange these and never see
 * libraft's.
 *
 * Frame: type (1), version (1), term (8), fixed fields by type, then for AppendEntries per entry {term, type,
 * length, bytes}; all little-endian. The length of the frame and the peer's identity are the transport's
 * business: the sender is known from its certificate, never from the frame. */
#ifndef REPLICATION_MESSAGE_H
#define REPLICATION_MESSAGE_H

#include "replication/rlog.h"

enum {
    RAFT_MSG_MAX_BYTES = 4 << 20,
    RAFT_MSG_MAX_ENTRIES = 4096,
    RAFT_MSG_MAX_SNAPSHOT =
        1024, /* bytes of InstallSnapshot's data: it is a pointer to a snapshot, not one */
    /* What the driver puts into one AppendEntries at most (one larger entry still travels alone). */
    RAFT_MSG_SPLIT_BYTES = 1 << 20,
    RAFT_MSG_SPLIT_ENTRIES = 1024,
};

enum raft_msg_type {
    RAFT_MSG_APPEND = 1,
    RAFT_MSG_APPEND_RESULT = 2,
    RAFT_MSG_VOTE = 3,
    RAFT_MSG_VOTE_RESULT = 4,
    RAFT_MSG_INSTALL = 5,
    RAFT_MSG_TIMEOUT_NOW = 6,
};

struct raft_msg {
    enum raft_msg_type type;
    uint64_t peer; /* to whom, or from whom; not in the frame */
    uint64_t term;
    union {
        struct {
            uint64_t prev_index, prev_term, commit;
            unsigned n_entries;
            struct rlog_entry *entries; /* heap; each payload is a reference */
        } append;
        struct {
            uint64_t rejected; /* 0: accepted */
            uint64_t last_index;
        } append_result;
        struct {
            uint64_t candidate, last_index, last_term;
            bool disrupt, pre_vote;
        } vote;
        struct {
            bool granted, pre_vote;
        } vote_result;
        struct {
            uint64_t last_index, last_term, conf_index;
            struct configuration *conf; /* heap */
            struct blob *data;
        } install;
        struct {
            uint64_t last_index, last_term;
        } timeout_now;
    };
};

void raft_msg_encode(struct buf *out, const struct raft_msg *m); /* appends */
/* Bounds are checked before anything is allocated; configurations and entry types are validated.
 * ERR_MALFORMED, ERR_LIMIT, ERR_NOMEM. On failure nothing needs to be released. `peer` is left 0. */
int raft_msg_decode(struct raft_msg *out, const void *data, size_t n_bytes);
void raft_msg_fini(struct raft_msg *m);
/* Shares the payloads. */
void raft_msg_copy(struct raft_msg *out, const struct raft_msg *m);

#endif
