/* The whole simulator: what the web threads share, and its one lock. */
#ifndef UCMSIM_SIM_H
#define UCMSIM_SIM_H

#include "fault.h"
#include "model.h"
#include "soap.h"
#include <pthread.h>

struct sim {
    pthread_mutex_t lock;
    pthread_cond_t stopped; /* wakes answers that are delayed by a fault */
    bool is_stopping;
    struct ucm ucm;
    struct faults faults;
    struct soap soap;
    char axl_user[128], axl_password[128];
    char sessions[64][33]; /* JSESSIONID values given out, a ring */
    unsigned long n_sessions, n_session_hits, n_logins, n_refused_logins, n_connections;
};

#endif
