/* Counts of connections, log-in attempts and failures, by address and by account, over all shards of a node:
 * bounded memory, any thread (a mutex; used at log-in, never per stanza). IPv6 addresses count by /64. */
#ifndef XMPP_C2S_THROTTLE_H
#define XMPP_C2S_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

struct c2s_throttle;

struct c2s_throttle *c2s_throttle_new(unsigned max_entries);
void c2s_throttle_free(struct c2s_throttle *t);

/* False: ADDRESS has MAX connections already; otherwise c2s_throttle_disconnect follows. */
bool c2s_throttle_connect(struct c2s_throttle *t, const char *address, unsigned max, uint64_t now_ms);
void c2s_throttle_disconnect(struct c2s_throttle *t, const char *address);
/* One more attempt of ADDRESS: false when there were more than PER_MINUTE (0: no limit). */
bool c2s_throttle_attempt(struct c2s_throttle *t, const char *address, unsigned per_minute, uint64_t now_ms);
/* An attempt failed. ACCOUNT: bare JID, NULL if it is to count for the address alone. */
void c2s_throttle_failed(struct c2s_throttle *t, const char *address, const char *account,
                         unsigned per_minute, uint64_t now_ms);
/* One more account made from ADDRESS: false when there were more than PER_MINUTE. */
bool c2s_throttle_register(struct c2s_throttle *t, const char *address, unsigned per_minute, uint64_t now_ms);
/* Milliseconds until another attempt may be decided; 0: now. */
unsigned c2s_throttle_wait_ms(struct c2s_throttle *t, const char *address, const char *account,
                              unsigned per_minute, uint64_t now_ms);

#endif
