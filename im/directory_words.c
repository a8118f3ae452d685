#include "im/directory_words.h"
#include <stdbool.h>
#include <string.h>
#include <unicode/uchar.h>
#include <unicode/ustring.h>
#include <unicode/utf8.h>

enum { FOLDED_UNITS = 1024 }; /* UTF-16 units looked at in one text */

struct word {
    char bytes[DIRECTORY_WORD_BYTES + 4];
    int n;
    bool is_full;
};

static bool has_word(char *const *words, unsigned n, const char *word)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(words[i], word) == 0)
            return true;
    return false;
}

static void word_end(struct word *w, char **out, unsigned *n, struct arena *a)
{
    w->bytes[w->n] = 0;
    if (w->n && *n < DIRECTORY_WORDS_MAX && !has_word(out, *n, w->bytes))
        out[(*n)++] = arena_strndup(a, w->bytes, (size_t)w->n);
    w->n = 0;
    w->is_full = false;
}

static void word_add(struct word *w, UChar32 c)
{
    UBool failed = false;
    int n = w->n;
    if (w->is_full)
        return;
    U8_APPEND((uint8_t *)w->bytes, n, DIRECTORY_WORD_BYTES, c, failed);
    if (failed)
        w->is_full = true;
    else
        w->n = n;
}

static void add_text(const char *text, char **out, unsigned *n, struct arena *a)
{
    UChar raw[FOLDED_UNITS], folded[FOLDED_UNITS];
    int32_t n_raw = 0, n_folded;
    UErrorCode status = U_ZERO_ERROR;
    struct word word = {.n = 0};
    u_strFromUTF8WithSub(raw, FOLDED_UNITS / 2, &n_raw, text, -1, 0xfffd, NULL, &status);
    if (status == U_BUFFER_OVERFLOW_ERROR)
        n_raw = FOLDED_UNITS / 2; /* a longer text is searched by its beginning */
    else if (U_FAILURE(status))
        return;
    status = U_ZERO_ERROR;
    n_folded = u_strFoldCase(folded, FOLDED_UNITS, raw, n_raw, U_FOLD_CASE_DEFAULT, &status);
    if (U_FAILURE(status))
        return;
    for (int32_t i = 0; i < n_folded;) {
        UChar32 c;
        U16_NEXT(folded, i, n_folded, c);
        if (u_isalnum(c) || u_charType(c) == U_NON_SPACING_MARK)
            word_add(&word, c);
        else
            word_end(&word, out, n, a);
    }
    word_end(&word, out, n, a);
}

unsigned directory_words(char *out[DIRECTORY_WORDS_MAX], struct arena *a, const char *const *texts)
{
    unsigned n = 0;
    for (; *texts; texts++)
        add_text(*texts, out, &n, a);
    return n;
}
