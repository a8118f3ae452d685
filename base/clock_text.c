/* Times and random values as text: no clock is read here, and no randomness drawn but through clock.c. */
#include "base/clock.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

static char *put_digits(char *out, unsigned v, int n)
{
    for (int i = n - 1; i >= 0; i--, v /= 10)
        out[i] = (char)('0' + v % 10);
    return out + n;
}

void clock_format_utc(char out[32], uint64_t wall_ms, int with_ms)
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm;
    /* Four digits of year are all that XEP-0082 has; a time beyond them is shown as the last instant. */
    if (!gmtime_r(&seconds, &tm) || tm.tm_year > 9999 - 1900) {
        snprintf(out, 32, "9999-12-31T23:59:59%sZ", with_ms ? ".999" : "");
        return;
    }
    char *p = put_digits(out, (unsigned)tm.tm_year + 1900, 4);
    *p++ = '-';
    p = put_digits(p, (unsigned)tm.tm_mon + 1, 2);
    *p++ = '-';
    p = put_digits(p, (unsigned)tm.tm_mday, 2);
    *p++ = 'T';
    p = put_digits(p, (unsigned)tm.tm_hour, 2);
    *p++ = ':';
    p = put_digits(p, (unsigned)tm.tm_min, 2);
    *p++ = ':';
    p = put_digits(p, (unsigned)tm.tm_sec, 2);
    if (with_ms) {
        *p++ = '.';
        p = put_digits(p, (unsigned)(wall_ms % 1000), 3);
    }
    *p++ = 'Z';
    *p = '\0';
}

/* Exactly N digits. */
static bool take_digits(const char **p, int n, int *out)
{
    for (*out = 0; n > 0; n--, ++*p) {
        if (**p < '0' || **p > '9')
            return false;
        *out = *out * 10 + (**p - '0');
    }
    return true;
}

static bool take(const char **p, char c)
{
    return *(*p)++ == c;
}

/* ".123456" */
static bool take_fraction(const char **p, int *ms)
{
    *ms = 0;
    if (**p != '.')
        return true;
    int unit = 100, n = 0;
    for (++*p; **p >= '0' && **p <= '9'; ++*p, unit /= 10, n++)
        *ms += (**p - '0') * unit;
    return n > 0;
}

static bool take_zone(const char **p, int *minutes)
{
    int hour, minute, sign = **p == '-' ? -1 : 1;
    *minutes = 0;
    if (**p == 'Z')
        return !*++*p;
    if (**p != '+' && **p != '-')
        return false;
    ++*p;
    if (!take_digits(p, 2, &hour) || !take(p, ':') || !take_digits(p, 2, &minute) || hour > 23 || minute > 59)
        return false;
    *minutes = sign * (hour * 60 + minute);
    return !**p;
}

int clock_parse_utc(const char *text, uint64_t *wall_ms)
{
    const char *p = text;
    struct tm tm = {0};
    int ms, zone;
    if (!take_digits(&p, 4, &tm.tm_year) || !take(&p, '-') || !take_digits(&p, 2, &tm.tm_mon) ||
        !take(&p, '-') || !take_digits(&p, 2, &tm.tm_mday) || !take(&p, 'T') ||
        !take_digits(&p, 2, &tm.tm_hour) || !take(&p, ':') || !take_digits(&p, 2, &tm.tm_min) ||
        !take(&p, ':') || !take_digits(&p, 2, &tm.tm_sec) || !take_fraction(&p, &ms) || !take_zone(&p, &zone))
        return ERR_INVALID;
    tm.tm_year -= 1900;
    tm.tm_mon--;
    struct tm asked = tm;
    time_t t =
        timegm(&tm); /* which moves a 31st of February into March; a leap second may become the next minute */
    if (tm.tm_mday != asked.tm_mday && asked.tm_hour < 24 && asked.tm_sec < 60)
        return ERR_INVALID;
    if (asked.tm_mon < 0 || asked.tm_mon > 11 || asked.tm_hour > 23 || asked.tm_min > 59 || asked.tm_sec > 60)
        return ERR_INVALID;
    int64_t seconds = (int64_t)t - zone * 60;
    if (seconds < 0)
        return ERR_INVALID;
    *wall_ms = (uint64_t)seconds * 1000 + (uint64_t)ms;
    return 0;
}

uint64_t random_u64(void)
{
    uint64_t v;
    random_bytes(&v, sizeof(v));
    return v;
}

void random_hex(char *out, size_t n_bytes)
{
    static const char digits[] = "0123456789abcdef";
    /* The random bytes go to the upper half, so that writing the digits upwards never overtakes the reading.
     */
    uint8_t *raw = (uint8_t *)out + n_bytes;
    random_bytes(raw, n_bytes);
    for (size_t i = 0; i < n_bytes; i++) {
        uint8_t byte = raw[i];
        out[2 * i] = digits[byte >> 4];
        out[2 * i + 1] = digits[byte & 15];
    }
    out[2 * n_bytes] = '\0';
}
