/* Times and random values as text: no clock is read here, and no randomness drawn but through clock.c. */
#include "base/clock.h"
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
