/* Error codes and the detail text that goes with them.
 *
 * A function that can fail returns int: 0 or a negative ERR_ code. Detail goes to the caller's struct err_ctx and is
 * prefixed on the way up; it is logged once, by whoever decides what happens next. Library error codes (uv, LMDB,
 * raft, OpenSSL, LDAP, curl) never leave the file that wraps the library. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

enum err {
    ERR_OK = 0,
    ERR_BEFORE_FIRST = -1000,
#define X(name, text) ERR_RANK_##name,
#include "base/err.def"
#undef X
    ERR_AFTER_LAST,
};
/* -1, -2, ... in the order of err.def. */
#define X(name, text) enum { ERR_##name = -(ERR_RANK_##name - ERR_BEFORE_FIRST) };
#include "base/err.def"
#undef X

/* Owned by the caller, usually on its stack; initialise with {0}. */
struct err_ctx {
    int code;
    char text[384];
};

/* Both return CODE so that "return err_set(ctx, ERR_X, ...)" works; CTX may be NULL. err_prefix keeps the code and
 * puts "FORMAT: " before the text that is there. */
int err_set(struct err_ctx *ctx, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
int err_prefix(struct err_ctx *ctx, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* "NOTFOUND" and "not found"; never NULL. */
const char *err_name(int code);
const char *err_text(int code);

#endif
