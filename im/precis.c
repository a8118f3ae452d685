#include "im/precis.h"

#include <stdbool.h>
#include <string.h>
#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/uscript.h>
#include <unicode/ustring.h>

enum {
    MAX_UNITS = 4 * PRECIS_MAX_BYTES, /* UTF-16; mapping may lengthen before NFC shortens */
    MAX_ROUNDS = 4,                   /* RFC 8264 §7: give up if it does not get stable */
};

struct string {
    UChar u[MAX_UNITS];
    int32_t n;
};

enum property { P_VALID, P_FREE, P_CONTEXT, P_DISALLOWED, P_UNASSIGNED };

/* ---- code points: RFC 8264 §8 and §9 ---- */

/* §9.6; P_UNASSIGNED: no exception. */
static enum property exception_of(UChar32 c)
{
    switch (c) {
    case 0x00df:
    case 0x03c2:
    case 0x06fd:
    case 0x06fe:
    case 0x0f0b:
    case 0x3007:
        return P_VALID;
    case 0x00b7:
    case 0x0375:
    case 0x05f3:
    case 0x05f4:
    case 0x30fb:
        return P_CONTEXT;
    case 0x0640:
    case 0x07fa:
    case 0x302e:
    case 0x302f:
    case 0x303b:
        return P_DISALLOWED;
    default:
        if ((c >= 0x0660 && c <= 0x0669) || (c >= 0x06f0 && c <= 0x06f9))
            return P_CONTEXT;
        return c >= 0x3031 && c <= 0x3035 ? P_DISALLOWED : P_UNASSIGNED;
    }
}

static bool is_old_hangul_jamo(UChar32 c)
{
    int32_t type = u_getIntPropertyValue(c, UCHAR_HANGUL_SYLLABLE_TYPE);
    return type == U_HST_LEADING_JAMO || type == U_HST_VOWEL_JAMO || type == U_HST_TRAILING_JAMO;
}

/* NFKC of the code point differs from it. */
static bool has_compat(UChar32 c)
{
    UErrorCode status = U_ZERO_ERROR;
    const UNormalizer2 *nfkc = unorm2_getNFKCInstance(&status);
    UChar in[2], out[32];
    int32_t n = 0;
    U16_APPEND_UNSAFE(in, n, c);
    int32_t n_out = unorm2_normalize(nfkc, in, n, out, 32, &status);
    return U_FAILURE(status) || n_out != n || memcmp(in, out, (size_t)n * sizeof(UChar)) != 0;
}

static enum property property_of(UChar32 c)
{
    enum property exception = exception_of(c);
    if (exception != P_UNASSIGNED)
        return exception;
    uint32_t category = U_GET_GC_MASK(c);
    if ((category & U_GC_CN_MASK) && !u_hasBinaryProperty(c, UCHAR_NONCHARACTER_CODE_POINT))
        return P_UNASSIGNED;
    if (c >= 0x21 && c <= 0x7e)
        return P_VALID;
    if (c == 0x200c || c == 0x200d)
        return P_CONTEXT;
    if (is_old_hangul_jamo(c) || u_hasBinaryProperty(c, UCHAR_DEFAULT_IGNORABLE_CODE_POINT) ||
        u_hasBinaryProperty(c, UCHAR_NONCHARACTER_CODE_POINT) || (category & U_GC_CC_MASK))
        return P_DISALLOWED;
    if (has_compat(c))
        return P_FREE;
    if (category & (U_GC_LL_MASK | U_GC_LU_MASK | U_GC_LO_MASK | U_GC_ND_MASK | U_GC_LM_MASK | U_GC_MN_MASK |
                    U_GC_MC_MASK))
        return P_VALID;
    if (category & (U_GC_LT_MASK | U_GC_NL_MASK | U_GC_NO_MASK | U_GC_ME_MASK | U_GC_ZS_MASK | U_GC_S_MASK |
                    U_GC_P_MASK))
        return P_FREE;
    return P_DISALLOWED;
}

/* ---- context: RFC 5892 appendix A ---- */

static bool before_is(const struct string *s, int32_t at, UChar32 *c)
{
    if (at == 0)
        return false;
    U16_PREV(s->u, 0, at, *c);
    return true;
}

static bool after_is(const struct string *s, int32_t at, UChar32 *c)
{
    U16_FWD_1(s->u, at, s->n);
    if (at >= s->n)
        return false;
    U16_NEXT(s->u, at, s->n, *c);
    return true;
}

static bool has_script(UChar32 c, UScriptCode script)
{
    UErrorCode status = U_ZERO_ERROR;
    return uscript_getScript(c, &status) == script;
}

/* A.1: (L|D) T* ZWNJ T* (R|D) by joining type. */
static bool joins_around(const struct string *s, int32_t at)
{
    int32_t i = at, type = U_JT_TRANSPARENT;
    UChar32 c;
    while (i > 0 && type == U_JT_TRANSPARENT) {
        U16_PREV(s->u, 0, i, c);
        type = u_getIntPropertyValue(c, UCHAR_JOINING_TYPE);
    }
    if (type != U_JT_LEFT_JOINING && type != U_JT_DUAL_JOINING)
        return false;
    i = at;
    U16_FWD_1(s->u, i, s->n);
    type = U_JT_TRANSPARENT;
    while (i < s->n && type == U_JT_TRANSPARENT) {
        U16_NEXT(s->u, i, s->n, c);
        type = u_getIntPropertyValue(c, UCHAR_JOINING_TYPE);
    }
    return type == U_JT_RIGHT_JOINING || type == U_JT_DUAL_JOINING;
}

static bool has_between(const struct string *s, UChar32 low, UChar32 high)
{
    UChar32 c;
    for (int32_t i = 0; i < s->n;) {
        U16_NEXT(s->u, i, s->n, c);
        if (c >= low && c <= high)
            return true;
    }
    return false;
}

static bool has_japanese(const struct string *s)
{
    UChar32 c;
    for (int32_t i = 0; i < s->n;) {
        U16_NEXT(s->u, i, s->n, c);
        if (has_script(c, USCRIPT_HIRAGANA) || has_script(c, USCRIPT_KATAKANA) || has_script(c, USCRIPT_HAN))
            return true;
    }
    return false;
}

static bool is_context_ok(const struct string *s, int32_t at, UChar32 c)
{
    enum { VIRAMA = 9 };
    UChar32 other;
    switch (c) {
    case 0x200c:
        return (before_is(s, at, &other) && u_getCombiningClass(other) == VIRAMA) || joins_around(s, at);
    case 0x200d:
        return before_is(s, at, &other) && u_getCombiningClass(other) == VIRAMA;
    case 0x00b7:
        return before_is(s, at, &other) && other == 'l' && after_is(s, at, &other) && other == 'l';
    case 0x0375:
        return after_is(s, at, &other) && has_script(other, USCRIPT_GREEK);
    case 0x05f3:
    case 0x05f4:
        return before_is(s, at, &other) && has_script(other, USCRIPT_HEBREW);
    case 0x30fb:
        return has_japanese(s);
    default:
        return c < 0x06f0 ? !has_between(s, 0x06f0, 0x06f9) : !has_between(s, 0x0660, 0x0669);
    }
}

/* ---- direction: RFC 5893 §2 ---- */

static bool is_bidi_ok(const struct string *s)
{
    enum { B = 1 };
#define BIT(direction) ((uint32_t)B << (direction))
    const uint32_t rtl = BIT(U_RIGHT_TO_LEFT) | BIT(U_RIGHT_TO_LEFT_ARABIC);
    const uint32_t neutral = BIT(U_EUROPEAN_NUMBER) | BIT(U_EUROPEAN_NUMBER_SEPARATOR) |
                             BIT(U_COMMON_NUMBER_SEPARATOR) | BIT(U_EUROPEAN_NUMBER_TERMINATOR) |
                             BIT(U_OTHER_NEUTRAL) | BIT(U_BOUNDARY_NEUTRAL) | BIT(U_DIR_NON_SPACING_MARK);
    uint32_t all = 0, first = 0, last = 0;
    UChar32 c;
    for (int32_t i = 0; i < s->n;) {
        U16_NEXT(s->u, i, s->n, c);
        uint32_t direction = BIT(u_charDirection(c));
        all |= direction;
        if (!first)
            first = direction;
        if (direction != BIT(U_DIR_NON_SPACING_MARK))
            last = direction;
    }
    if (!(all & (rtl | BIT(U_ARABIC_NUMBER))))
        return true;
    if (first & rtl) {
        if (all & ~(rtl | BIT(U_ARABIC_NUMBER) | neutral))
            return false;
        if (!(last & (rtl | BIT(U_EUROPEAN_NUMBER) | BIT(U_ARABIC_NUMBER))))
            return false;
        return !((all & BIT(U_EUROPEAN_NUMBER)) && (all & BIT(U_ARABIC_NUMBER)));
    }
    return false; /* right-to-left characters, but the first is not one: against conditions 1 or 5 */
#undef BIT
}

/* ---- mapping ---- */

static bool append(struct string *s, UChar32 c)
{
    if (s->n + 2 > MAX_UNITS)
        return false;
    U16_APPEND_UNSAFE(s->u, s->n, c);
    return true;
}

/* Fullwidth and halfwidth code points to their decomposition (RFC 8264 §5.2.1). */
static bool append_width_mapped(struct string *s, UChar32 c)
{
    int32_t type = c < 0x3000 ? U_DT_NONE : u_getIntPropertyValue(c, UCHAR_DECOMPOSITION_TYPE);
    if (type != U_DT_WIDE && type != U_DT_NARROW)
        return append(s, c);
    UErrorCode status = U_ZERO_ERROR;
    UChar out[16];
    int32_t n = unorm2_getRawDecomposition(unorm2_getNFKCInstance(&status), c, out, 16, &status);
    if (U_FAILURE(status) || n <= 0 || s->n + n > MAX_UNITS)
        return false;
    memcpy(s->u + s->n, out, (size_t)n * sizeof(UChar));
    s->n += n;
    return true;
}

/* toLowerCase without regard to what is around, so that a capital sigma always becomes U+03C3 (RFC 7622
 * §3.5). */
static bool append_lower(struct string *s, UChar32 c)
{
    if (c == 0x0130)
        return append(s, 'i') && append(s, 0x0307);
    return append(s, u_tolower(c));
}

static bool map_username(struct string *out, const struct string *in)
{
    struct string wide = {.n = 0};
    UChar32 c;
    for (int32_t i = 0; i < in->n;) {
        U16_NEXT(in->u, i, in->n, c);
        if (!append_width_mapped(&wide, c))
            return false;
    }
    out->n = 0;
    for (int32_t i = 0; i < wide.n;) {
        U16_NEXT(wide.u, i, wide.n, c);
        if (!append_lower(out, c))
            return false;
    }
    return true;
}

static bool map_opaque(struct string *out, const struct string *in)
{
    UChar32 c;
    out->n = 0;
    for (int32_t i = 0; i < in->n;) {
        U16_NEXT(in->u, i, in->n, c);
        if (!append(out, u_charType(c) == U_SPACE_SEPARATOR ? ' ' : c))
            return false;
    }
    return true;
}

/* ---- profiles ---- */

static int check_class(const struct string *s, enum precis_profile profile, struct err_ctx *err)
{
    UChar32 c;
    for (int32_t i = 0; i < s->n;) {
        int32_t at = i;
        U16_NEXT(s->u, i, s->n, c);
        enum property p = property_of(c);
        bool ok = p == P_VALID || (p == P_FREE && profile == PRECIS_OPAQUE_STRING) ||
                  (p == P_CONTEXT && is_context_ok(s, at, c));
        if (!ok)
            return err_set(err, ERR_MALFORMED, "character U+%04X is not allowed here", (unsigned)c);
    }
    return 0;
}

/* One application of the rules, in the order of RFC 8264 §7. */
static int apply(struct string *s, enum precis_profile profile, struct err_ctx *err)
{
    UErrorCode status = U_ZERO_ERROR;
    struct string mapped;
    bool ok = profile == PRECIS_USERNAME_CASE_MAPPED ? map_username(&mapped, s) : map_opaque(&mapped, s);
    if (ok)
        s->n = unorm2_normalize(unorm2_getNFCInstance(&status), mapped.u, mapped.n, s->u, MAX_UNITS, &status);
    if (!ok || U_FAILURE(status))
        return err_set(err, ERR_MALFORMED, "too long");
    if (profile == PRECIS_USERNAME_CASE_MAPPED && !is_bidi_ok(s))
        return err_set(err, ERR_MALFORMED, "mixes writing directions (RFC 5893)");
    return check_class(s, profile, err);
}

static int apply_until_stable(struct string *s, enum precis_profile profile, struct err_ctx *err)
{
    for (int round = 0; round < MAX_ROUNDS; round++) {
        struct string before = *s;
        int code = apply(s, profile, err);
        if (code != 0)
            return code;
        if (s->n == before.n && memcmp(s->u, before.u, (size_t)s->n * sizeof(UChar)) == 0)
            return 0;
    }
    return err_set(err, ERR_MALFORMED, "has no stable form");
}

/* Printable ASCII needs no table: all of it is allowed, apart from the space in a user name. */
static bool enforce_ascii(char *out, enum precis_profile profile, const char *text, size_t n_bytes)
{
    bool username = profile == PRECIS_USERNAME_CASE_MAPPED;
    char lowest = username ? 0x21 : 0x20;
    for (size_t i = 0; i < n_bytes; i++) {
        char c = text[i];
        if (c < lowest || c > 0x7e)
            return false;
        out[i] = username && c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
    }
    out[n_bytes] = '\0';
    return true;
}

int precis_enforce(char *out, enum precis_profile profile, const char *text, size_t n_bytes,
                   struct err_ctx *err)
{
    if (n_bytes == 0)
        return err_set(err, ERR_MALFORMED, "empty");
    if (n_bytes > PRECIS_MAX_BYTES)
        return err_set(err, ERR_MALFORMED, "longer than %d bytes", PRECIS_MAX_BYTES);
    if (enforce_ascii(out, profile, text, n_bytes))
        return 0;

    UErrorCode status = U_ZERO_ERROR;
    struct string s;
    u_strFromUTF8(s.u, MAX_UNITS, &s.n, text, (int32_t)n_bytes, &status);
    if (U_FAILURE(status))
        return err_set(err, ERR_MALFORMED, "not UTF-8");
    int code = apply_until_stable(&s, profile, err);
    if (code != 0)
        return code;
    if (s.n == 0)
        return err_set(err, ERR_MALFORMED, "empty");
    int32_t n_out;
    u_strToUTF8(out, PRECIS_MAX_BYTES + 1, &n_out, s.u, s.n, &status);
    if (U_FAILURE(status) || status == U_STRING_NOT_TERMINATED_WARNING || n_out > PRECIS_MAX_BYTES)
        return err_set(err, ERR_MALFORMED, "longer than %d bytes", PRECIS_MAX_BYTES);
    return 0;
}
