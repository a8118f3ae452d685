/* Heap memory. Small fixed allocations abort on failure; sizes that a peer chooses are bounded by the caller first
 * and taken with mem_try_alloc. Any thread. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

void *mem_alloc(size_t n_bytes);                  /* never NULL, not cleared */
void *mem_zalloc(size_t n_bytes);                 /* never NULL, cleared */
void *mem_calloc(size_t n, size_t n_bytes);       /* never NULL, cleared, overflow checked */
void *mem_realloc(void *p, size_t n_bytes);       /* never NULL */
void *mem_try_alloc(size_t n_bytes);              /* NULL on failure */
void mem_free(void *p);                           /* p may be NULL */
void *mem_dup(const void *p, size_t n_bytes);
char *mem_strdup(const char *s);                  /* NULL stays NULL */
char *mem_strndup(const char *s, size_t n_bytes); /* always terminated */
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void mem_wipe(void *p, size_t n_bytes);           /* not optimised away; for secrets */
/* Tells on stderr what nothing points to any more, if the program is built with LeakSanitizer. For programs that end
 * by _exit: true if there was something. */
bool mem_has_leaks(void);

#define mem_new(type) ((type *)mem_zalloc(sizeof(type)))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define n_elements(array) (sizeof(array) / sizeof((array)[0]))

/* Immutable shared bytes (a stanza's payload, a row): the only thing that is reference counted. */
struct blob {
    _Atomic unsigned refs;
    unsigned n;
    char data[];
};
struct blob *blob_new(const void *data, size_t n_bytes); /* data may be NULL: fill it before sharing; one reference */
struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob *b); /* b may be NULL */

#endif
