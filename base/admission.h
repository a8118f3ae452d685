/* How fast connections of one address may come. A token bucket for each address that has come lately, in a
 * table of fixed size: what a flood costs is a look into it, for whoever opens connections, from however many
 * addresses. IPv6 addresses count by /64. Any thread (a mutex, taken once a connection). */
#ifndef BASE_ADMISSION_H
#define BASE_ADMISSION_H

#include "base/log.h"
#include "base/metrics.h"
#include <stdbool.h>
#include <stdint.h>

/* A bucket holds so many seconds of what its address may open: they may come at once. */
enum { ADMISSION_BURST_S = 10 };

struct admission;

/* Lets everybody in until admission_set. METRICS may be NULL. */
struct admission *admission_new(const struct log *log, struct metrics *metrics);
void admission_free(struct admission *a); /* may be NULL */
/* PER_SECOND connections of an address, 0: any number. EXEMPT: an address_list of those that are not counted.
 */
void admission_set(struct admission *a, unsigned per_second, const char *exempt);
/* A connection of ADDRESS (numeric) came; NOW_MS of a clock that nobody sets. False: close it; counted, and
 * logged once a minute. A may be NULL: true. */
bool admission_take(struct admission *a, const char *address, uint64_t now_ms);

/* Is ADDRESS one of LIST: addresses and networks ("10.0.0.0/8 2001:db8::1"), with blanks or commas between?
 * An IPv4 address within IPv6 (::ffff:192.0.2.1) is that IPv4 address. */
bool address_is_in_list(const char *list, const char *address);

#endif
