/* A store with a cluster in it, and commands applied to it one after the other. */
#ifndef UNIT_FSM_FIXTURE_H
#define UNIT_FSM_FIXTURE_H

#include "replication/fsm.h"
#include "store_test.h"

struct world {
    char *dir;
    struct store *store;
    struct arena arena; /* rows that tests look at */
    struct store_reader *reader;
    uint64_t index, term, time_ms;
    uint32_t proposer; /* 0: outside of any session */
};

void world_open(struct world *w); /* node 1 "n1", domain example.com */
void world_close(struct world *w);
struct fsm_result world_apply(struct world *w, Imp__Command *command);
/* As node W's proposer in its session; what fsm_execute says goes to *executed. */
struct fsm_result world_execute(struct world *w, uint32_t node, uint64_t epoch, uint64_t seq,
                                Imp__Command *command, bool *executed);
struct store_hash world_hash(struct world *w);
struct store_txn *world_read(struct world *w); /* a fresh snapshot */
/* Rows as they are now, in the world's arena; NULL: none. */
Imp__ClusterRow *world_cluster(struct world *w);
Imp__NodeRow *world_node(struct world *w, uint32_t node);
Imp__UserRow *world_user(struct world *w, uint64_t uid);
Imp__RosterRow *world_roster(struct world *w, uint64_t uid, const char *contact);
uint64_t world_count(struct world *w, enum table table, uint32_t node);
uint64_t world_rows(struct world *w, enum table table);
void world_check_homes(struct world *w); /* counts and indexes agree with the users */

/* Commands with the usual fields. */
uint32_t world_join(struct world *w, const char *name, bool witness); /* token, join, seen; the node id */
uint64_t world_register(struct world *w, uint32_t node);              /* the epoch */
void world_up(struct world *w, uint32_t node);                        /* registers and is up */
uint64_t world_add_user(struct world *w, const char *localpart);
struct fsm_result world_sync_user(struct world *w, const char *uuid, const char *localpart, uint64_t run);
void world_raise_to(struct world *w, unsigned level); /* node 1 registers anew, knowing it */
void world_tick(struct world *w, uint64_t ms); /* lets time pass */
struct fsm_result world_try_set(struct world *w, const char *key, const char *value);
void world_set(struct world *w, const char *key, const char *value);

#define APPLY(w, CASE, member_, body)                                                                        \
    ({                                                                                                       \
        Imp__Command command_ = IMP__COMMAND__INIT;                                                          \
        command_.body_case = IMP__COMMAND__BODY_##CASE;                                                      \
        command_.member_ = (body);                                                                           \
        world_apply((w), &command_);                                                                         \
    })
#define BYTES(p, n) ((ProtobufCBinaryData){(n), (uint8_t *)(p)})
/* Asserts the code, and that a refusal says why and leaves the store alone but for FSM time and session. */
#define REFUSED(w, code_, call)                                                                              \
    do {                                                                                                     \
        struct store_hash before_ = world_hash(w);                                                           \
        struct fsm_result result_ = (call);                                                                  \
        struct store_hash after_ = world_hash(w);                                                            \
        assert_int_equal(result_.code, (code_));                                                             \
        assert_true(result_.text[0] != 0);                                                                   \
        assert_memory_equal(&before_, &after_, sizeof before_);                                              \
    } while (0)
#define DONE(call)                                                                                           \
    ({                                                                                                       \
        struct fsm_result done_ = (call);                                                                    \
        if (done_.code)                                                                                      \
            fail_msg("line %d: %s", __LINE__, done_.text);                                                   \
        done_;                                                                                               \
    })

#endif
