#include "base/clock.h"
#include <errno.h>
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
