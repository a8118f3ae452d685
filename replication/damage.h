/* DIR/damaged: this node's copy of the tables is known to be wrong, and why. It outlives restarts: as long as
 * it is there the store is not opened, and only a fresh copy of another member ends it
 * (replica_finish_install makes it DIR/repaired, which says what was mended until somebody has told it).
 * Blocking; any thread. */
#ifndef REPLICATION_DAMAGE_H
#define REPLICATION_DAMAGE_H

#include <stdbool.h>
#include <stddef.h>

enum { DAMAGE_TEXT_MAX = 300 };
#define DAMAGE_FILE "damaged"
#define DAMAGE_REPAIRED_FILE "repaired"

/* Durable on return; the first reason stays. Negative: it could not be written. */
int damage_mark(const char *dir, const char *text);
/* The same from a signal handler: PATH is DIR/damaged as made before. */
int damage_mark_raw(const char *path, const char *text, size_t n);
bool damage_read(const char *dir, const char *file, char text[DAMAGE_TEXT_MAX]);
int damage_mended(const char *dir);  /* damaged -> repaired, if it is there */
void damage_forget(const char *dir); /* what was repaired */

#endif
