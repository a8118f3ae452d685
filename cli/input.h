/* What a command takes besides its words: files, standard input, secrets typed at a terminal. Blocking. */
#ifndef CLI_INPUT_H
#define CLI_INPUT_H

#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>

/* Like buf_add, but no copy of the bytes is left in memory that was given back. */
void input_add(struct buf *out, const void *data, size_t n_bytes);
void input_fini(struct buf *b); /* wipes it */

/* Appends the whole file ("-": standard input) to OUT, MAX bytes at most in OUT. ERR_IO or ERR_LIMIT with a
 * sentence. */
int input_read_file(struct buf *out, const char *name, size_t max, struct err_ctx *err);
/* Standard input up to its end, without the newlines at the end. */
int input_read_value(struct buf *out, size_t max, struct err_ctx *err);
/* One line from standard input. At a terminal: after the question WHAT, without echo, asked for twice when
 * TWICE. A signal that ends the program while it is typed gives the terminal its echo back first.
 * ERR_INVALID, ERR_LIMIT, ERR_IO. */
int input_read_secret(struct buf *out, const char *what, bool twice, struct err_ctx *err);
bool input_is_terminal(void);

#endif
