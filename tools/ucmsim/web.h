/* The two web servers, on libmicrohttpd: AXL (HTTPS or plain) and control (plain). One thread per connection,
 * so that a delayed answer holds up nobody else; everything shared is under sim->lock. */
#ifndef UCMSIM_WEB_H
#define UCMSIM_WEB_H

#include "base/err.h"
#include "sim.h"

struct web;

/* HOST "" = any address; PORT 0 = a free one. CERT and KEY are PEM and must outlive the server; NULL: plain
 * HTTP. */
int web_open_axl(struct web **out, struct sim *sim, const char *host, unsigned port, const char *cert,
                 const char *key, struct err_ctx *err);
int web_open_control(struct web **out, struct sim *sim, const char *host, unsigned port, struct err_ctx *err);
unsigned web_port(const struct web *w);
/* Ends delayed answers early, waits for the threads. May be NULL. */
void web_close(struct web *w);

#endif
