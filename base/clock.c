#include "base/clock.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static uint64_t read_clock(clockid_t id, uint64_t per_second)
{
    struct timespec ts;
    if (clock_gettime(id, &ts) != 0)
        abort();
    return (uint64_t)ts.tv_sec * per_second + (uint64_t)ts.tv_nsec / (1000000000 / per_second);
}

uint64_t clock_monotonic_ms(void)
{
    return read_clock(CLOCK_MONOTONIC, 1000);
}

uint64_t clock_monotonic_us(void)
{
    return read_clock(CLOCK_MONOTONIC, 1000000);
}

uint64_t clock_boot_ms(void)
{
    return read_clock(CLOCK_BOOTTIME, 1000);
}

uint64_t clock_wall_ms(void)
{
    return read_clock(CLOCK_REALTIME, 1000);
}

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

void random_bytes(void *out, size_t n_bytes)
{
    uint8_t *p = out;
    while (n_bytes) {
        ssize_t n = getrandom(p, n_bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            abort();
        p += n;
        n_bytes -= (size_t)n;
    }
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
