/* The control interface: HTTP with JSON. Under the simulator's lock. */
#ifndef UCMSIM_CONTROL_H
#define UCMSIM_CONTROL_H

#include "base/buf.h"
#include "sim.h"

/* The text of --help about it. */
extern const char control_help[];

/* PATH without the query. Writes JSON to OUT and returns the HTTP status. */
unsigned control_handle(struct sim *sim, const char *method, const char *path, const char *like,
                        const char *body, size_t n_bytes, struct buf *out);

#endif
