/* Between the files of PEP in the state machine. */
#ifndef REPLICATION_FSM_PEP_H
#define REPLICATION_FSM_PEP_H

#include "replication/fsm/fsm_internal.h"
#include "replication/pep.h"

Imp__PepUserRow *fsm_pep_user(struct fsm *f, uint64_t uid); /* a new one when there is none */
void fsm_pep_save(struct fsm *f, uint64_t uid, Imp__PepUserRow *user,
                  Imp__PepNodeRow *node); /* NODE may be NULL */
/* A node that is not there yet; not written. */
Imp__PepNodeRow *fsm_pep_create(struct fsm *f, Imp__PepUserRow *user, char *name, Imp__PepConfig *config);
void fsm_pep_trim(struct fsm *f, uint64_t uid, Imp__PepUserRow *user, Imp__PepNodeRow *node);
/* Is the proposer the home of ACTOR? *JID: its bare one, "" for the owner. Refused when not. */
bool fsm_pep_has_actor(struct fsm *f, uint64_t uid, uint64_t actor, const char **jid);
bool fsm_pep_is_config(const Imp__PepConfig *c);
/* Refused when the name is none, or there are too many with N_NEW more. */
bool fsm_pep_is_new_node(struct fsm *f, const Imp__PepUserRow *user, const char *name, unsigned n_new);

#endif
