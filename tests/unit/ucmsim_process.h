/* A ucmsim of one's own for a test: started, steered, stopped. Fails the test (cmocka) when something is
 * wrong. */
#ifndef TESTS_UNIT_UCMSIM_PROCESS_H
#define TESTS_UNIT_UCMSIM_PROCESS_H

#include <sys/types.h>

struct ucmsim {
    pid_t pid;
    char url[128];
    unsigned control_port;
    char *ca_pem; /* NULL with --http */
    char cert_path[64];
};

/* EXTRA: further arguments, NULL-terminated; may be NULL. Ports are picked by the kernel. */
void ucmsim_start(struct ucmsim *u, const char *const *extra);
void ucmsim_stop(struct ucmsim *u); /* SIGTERM; it must end with 0 */
/* Blocks. BODY may be NULL. Returns the answer for mem_free; the status must be 2xx. */
char *ucmsim_control(const struct ucmsim *u, const char *method, const char *path, const char *body);
void ucmsim_order(const struct ucmsim *u, const char *method, const char *path,
                  const char *body); /* no answer */
/* A number of GET /stats, by its key. */
long ucmsim_stat(const struct ucmsim *u, const char *key);

#endif
