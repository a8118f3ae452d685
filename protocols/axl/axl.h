/* AXL client: the call manager's SOAP interface, as far as imp needs it. Builds and parses messages of
 * schema 14.0 (11.5, 12.5 and 15.0 alike, as far as used) over protocols/http.
 *
 * Owner: whoever opened it; all functions on the loop's thread. Each call ends exactly once by its on_done,
 * never from inside the function that began it; results are borrowed for that call. Passwords are never
 * logged. The session cookie and connections are kept. A client whose schema version the server does not
 * serve (HTTP 599) steps down by itself and repeats the request. */
#ifndef PROTOCOLS_AXL_AXL_H
#define PROTOCOLS_AXL_AXL_H

#include "base/err.h"
#include "base/loop.h"
#include <stddef.h>
#include <stdint.h>

struct axl;
struct axl_call;

enum { AXL_UUID_TEXT = 36, AXL_MAX_PAGE = 5000 };

/* What went wrong, by what the caller should do. */
enum axl_outcome {
    AXL_OK,
    AXL_FAULT,     /* the server refused this request: see axl_code; repeating it is no use */
    AXL_NOT_FOUND, /* fault 5007: no such item */
    AXL_TOO_LARGE, /* too many rows asked for: see suggested_rows */
    AXL_RETRY,     /* not reachable, timed out, cut off, or a server error: repeat after a while */
    AXL_THROTTLED, /* 503: repeat after a longer while */
    AXL_AUTH,      /* 401: wrong user or password. Do not repeat: accounts get locked */
    AXL_DENIED,    /* 403: the account has no AXL role */
    AXL_TLS,       /* the server's certificate is not the one to trust, or the handshake failed */
    AXL_VERSION,   /* 599: no schema version in common */
    AXL_MALFORMED, /* an answer that is not AXL */
    AXL_CANCELED,
};
const char *axl_outcome_text(enum axl_outcome outcome);
/* Copies what a peer has said in words: cut to ROOM at a character's end, always UTF-8, without control
 * characters, so that it forges no line of a log, steers no terminal and breaks no JSON. */
void axl_copy_text(char *out, size_t room, const char *text);

struct axl_error {
    enum axl_outcome outcome;
    int http_status;         /* 0 without an answer */
    int axl_code;            /* of a fault */
    unsigned suggested_rows; /* AXL_TOO_LARGE: ask for fewer than that; 0: not said */
    unsigned retry_after_s;  /* 0: not said */
    char text[256];          /* for a person; "" when AXL_OK */
};

/* A user as the call manager has it. Strings are never NULL. */
struct axl_user {
    char uuid[AXL_UUID_TEXT + 1]; /* lower case, no braces */
    const char *userid, *first_name, *last_name, *mailid, *directory_uri;
    const char *display_name; /* axl_get_user only, else "" */
    bool im_and_presence, home_cluster;
    int status; /* 1: active; 0 when not given */
};

enum axl_change_action { AXL_CHANGE_ADD = 'a', AXL_CHANGE_UPDATE = 'u', AXL_CHANGE_REMOVE = 'r' };
struct axl_change {
    uint64_t id;
    char uuid[AXL_UUID_TEXT + 1];
    enum axl_change_action action;
    bool do_get;   /* the record does not say what changed */
    bool relevant; /* do_get, or one of the fields of axl_user is among the changed tags */
};

struct axl_queue {
    char queue_id[64];
    uint64_t first_change, last_change, next_change;
};

struct axl_result {
    struct axl_error error;       /* the rest is set only when AXL_OK */
    const char *version;          /* axl_get_version: release of the call manager; axl_authenticate: "" */
    const struct axl_user *users; /* axl_list_users, axl_get_user (one) */
    size_t n_users;
    size_t n_rows; /* axl_list_users: rows that came, those without a usable uuid or userid included */
    struct axl_queue queue;           /* axl_list_changes */
    const struct axl_change *changes; /* of users, in order */
    size_t n_changes;
    bool is_authenticated; /* axl_authenticate */
    int auth_code;         /* the server's reason, 0: none */
};
typedef void axl_done_fn(void *user, const struct axl_result *result);

struct axl_options {
    const char *url; /* "https://ucm.example.com:8443/axl/"; without a path, /axl/ is added */
    const char *user, *password;
    const char *ca_pem;  /* NULL or "": the system's trust store */
    const char *version; /* first schema version to try; NULL or "": 14.0 */
    unsigned timeout_ms; /* of a request; 0: 60 s */
    /* After a 401 or 403, calls begun within that time end the same way without being sent, so that many users who log
     * in do not lock the AXL account. 0: every call is sent. */
    unsigned refused_hold_ms;
};
int axl_open(struct axl **out, struct loop *l, const struct axl_options *options, struct err_ctx *err);
/* Ends all calls with AXL_CANCELED, then on_closed (may be NULL), exactly once and later. Idempotent. */
void axl_close(struct axl *axl, void (*on_closed)(void *user), void *user);
/* The schema version in use now, "14.0". */
const char *axl_schema_version(const struct axl *axl);

/* The handles are valid until on_done. */
struct axl_call *axl_get_version(struct axl *axl, axl_done_fn *on_done, void *user);
/* All users in the server's order, FIRST rows (1 .. AXL_MAX_PAGE) from row SKIP on. */
struct axl_call *axl_list_users(struct axl *axl, size_t skip, size_t first, axl_done_fn *on_done, void *user);
/* UUID: lower case, no braces. */
struct axl_call *axl_get_user(struct axl *axl, const char *uuid, axl_done_fn *on_done, void *user);
/* QUEUE_ID NULL: where the queue stands. Otherwise the changes from NEXT_CHANGE on. */
struct axl_call *axl_list_changes(struct axl *axl, const char *queue_id, uint64_t next_change,
                                  axl_done_fn *on_done, void *user);
/* Is PASSWORD the one of USERID? The answer "no" is AXL_OK with is_authenticated false. */
struct axl_call *axl_authenticate(struct axl *axl, const char *userid, const char *password,
                                  axl_done_fn *on_done, void *user);
void axl_call_cancel(struct axl_call *call); /* on_done follows with AXL_CANCELED */

#endif
