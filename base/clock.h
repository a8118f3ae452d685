/* Clocks. Code that runs in the simulation takes its time as a parameter and does not call these. Any thread. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

uint64_t clock_monotonic_ms(void); /* CLOCK_MONOTONIC */
uint64_t clock_monotonic_us(void);
uint64_t clock_boot_ms(void); /* CLOCK_BOOTTIME: goes on while the machine is suspended; for leases */
uint64_t clock_wall_ms(void); /* Unix time */
/* "2026-01-31T12:00:00Z" / with ".123Z" (XEP-0082); out has room for 32 bytes. */
void clock_format_utc(char out[32], uint64_t wall_ms, int with_ms);
/* A DateTime of XEP-0082 §3.2; fractions beyond milliseconds are cut. ERR_INVALID: it is none, or before 1970. */
int clock_parse_utc(const char *text, uint64_t *wall_ms);
void random_bytes(void *out, size_t n_bytes); /* getrandom; aborts if the kernel gives none */
uint64_t random_u64(void);
void random_hex(char *out, size_t n_bytes);   /* 2 * n_bytes digits and a NUL */

#endif
