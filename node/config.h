/* impnode.yaml: the choices of init and join, in small strict lines "key: value". Anything unknown or bad is
 * refused with file, line and key. Any thread. */
#ifndef NODE_CONFIG_H
#define NODE_CONFIG_H

#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>

enum { CONFIG_TEXT_MAX = 255 };
struct config_listen {
    bool off;
    char address[64]; /* numeric; "": as --bind says */
    unsigned port;
};
typedef char config_TEXT[CONFIG_TEXT_MAX + 1];
enum { CONFIG_LONG_MAX = 2047 };
typedef char config_LONG[CONFIG_LONG_MAX + 1];
typedef char config_CHOICE[16];
typedef bool config_BOOL;
typedef unsigned config_NUMBER;
typedef struct config_listen config_LISTEN;
struct config {
#define X(field, type, key, def, help) config_##type field;
#include "node/config.def"
#undef X
};

void config_init(struct config *c); /* the defaults */
/* ERR_NOTFOUND: no such key; ERR_INVALID with text: a bad value. */
int config_set(struct config *c, const char *key, const char *value, struct err_ctx *err);
/* TEXT is changed while it is read; FILE is for messages. */
int config_parse(struct config *c, const char *file, char *text, struct err_ctx *err);
void config_write(const struct config *c, struct buf *out); /* what differs from the defaults */
/* Name and address are there and fit together. */
int config_check(const struct config *c, struct err_ctx *err);
/* For --help: one line per key. */
void config_write_help(struct buf *out);
bool config_is_flag(const char *key); /* a BOOL: its option takes no value */

/* The numeric address to listen on for L: its own, --bind, --address where that is an address of this
 * machine, or "" for all. OUT has room for 64 bytes. */
void config_listen_address(const struct config *c, const struct config_listen *l, char out[64]);
void config_election(const struct config *c, unsigned *election_ms, unsigned *heartbeat_ms);

#endif
