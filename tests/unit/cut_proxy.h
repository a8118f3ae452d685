/* Stands before a port and cuts each connection, both ways, after so many bytes. On a loop; ends with it. */
#ifndef TESTS_CUT_PROXY_H
#define TESTS_CUT_PROXY_H

#include "base/loop.h"
#include <stddef.h>

struct cut_proxy;
struct cut_proxy *cut_proxy_new(struct loop *l, unsigned port, size_t cut_after);
unsigned cut_proxy_port(const struct cut_proxy *p);
unsigned cut_proxy_n_cut(const struct cut_proxy *p); /* any thread */
void cut_proxy_close(struct cut_proxy *p);           /* on the loop: listens no more; connections are cut */
void cut_proxy_free(struct cut_proxy *p);            /* after the loop was freed */

#endif
