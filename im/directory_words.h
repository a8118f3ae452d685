/* The words by which a user is found in the directory: case-folded (Unicode), split at everything that is neither
 * letter nor digit. Made where text comes in (sync, admin) and for queries, never by the FSM. Any thread. */
#ifndef IM_DIRECTORY_WORDS_H
#define IM_DIRECTORY_WORDS_H

#include "base/arena.h"

enum {
    DIRECTORY_WORDS_MAX = 16,  /* of one user */
    DIRECTORY_WORD_BYTES = 64, /* longer words are cut, at a character */
};

/* TEXTS ends with NULL. Fills OUT with different words, in the order found; returns how many. */
unsigned directory_words(char *out[DIRECTORY_WORDS_MAX], struct arena *a, const char *const *texts);

#endif
