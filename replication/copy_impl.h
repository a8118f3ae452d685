/* Between copy_server.c, which makes a copy of the store, and copy_session.c, which gives it to one member.
 */
#ifndef REPLICATION_COPY_IMPL_H
#define REPLICATION_COPY_IMPL_H

#include "replication/copy_files.h"
#include "replication/replica_impl.h"

enum { COPY_BATCH = 16 }; /* ranges read at once */

enum file_state { FILE_OPENING, FILE_GROWING, FILE_WHOLE, FILE_FAILED };

/* The file of one copy. The maker and every session hold a reference, since their work may outlive the
 * server. */
struct copy_file {
    atomic_uint n_refs;
    _Atomic(enum file_state) state;
    int fd; /* for reading; valid from FILE_GROWING on */
    struct copy_info info;
    char *dir, *path;
    int code; /* of FILE_FAILED */
    struct err_ctx err;
};

struct copy_server {
    struct replica *r;
    char *snap_dir;
    struct copy_file *file; /* NULL: none */
    bool is_making, is_removing, ending;
    uint64_t made_ms, used_ms, told_ms;
    struct list sessions;
    unsigned n_sessions;
    struct work work;
};

struct copy_asked {
    uint64_t offset;
    uint32_t length;
};

/* Ranges one behind the other, read by one piece of work: a busy machine makes every change of threads wait.
 */
struct copy_batch {
    struct copy_session *x;
    struct work work;
    struct copy_asked asked[COPY_BATCH];
    unsigned n;
    uint8_t *bytes; /* COPY_BATCH times COPY_CHUNK */
    size_t n_read[COPY_BATCH];
    uint32_t crc[COPY_BATCH];
    bool is_last[COPY_BATCH];
    unsigned n_done;
    int code; /* why not all of them were read */
};

struct copy_session {
    struct list link;
    struct copy_server *s; /* NULL once the server has ended */
    struct conn *conn;     /* NULL once closed; then only the read keeps this alive */
    uint64_t wanted;
    bool is_waiting;        /* for a copy to be there */
    bool is_asking;         /* its own tables are damaged: somebody decides whether it may */
    struct copy_file *file; /* that it was told of */
    /* Ranges asked for, answered one after the other: who asks bounds what is queued. */
    struct copy_asked asked[COPY_AHEAD + COPY_BATCH];
    unsigned n_asked;
    /* One batch is read while the other is sent, a range a turn: the loop has others to serve. */
    struct copy_batch batches[2];
    struct copy_batch *reading, *ready, *sending; /* NULL: none */
    unsigned n_sent;                              /* of sending */
    struct timer turn;
};

struct copy_file *copy_file_ref(struct copy_file *f);
void copy_file_unref(struct copy_file *f); /* F may be NULL */
/* X wants a copy of log index WANTED or later: told of the one that is there, or waits for the next. */
void copy_server_open(struct copy_session *x, uint64_t wanted);

/* Of the member behind C, which asks for a copy. Ends with C. */
void copy_session_new(struct copy_server *s, struct conn *c);
/* It is told of the server's file. */
void copy_session_tell(struct copy_session *x);
/* One step of reading and sending; goes on in the next turn while there is something to send. */
void copy_session_pump(struct copy_session *x);
void copy_refuse(struct conn *c, int code, const char *text);

#endif
