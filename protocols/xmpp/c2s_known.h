/* Passwords that were right a moment ago, so that the next log-in of the same account with the same password
 * costs one HMAC and not a key derivation of milliseconds.
 *
 * What is kept is a MAC under a random key of this process over the account, its stored key and the password:
 * a changed password changes the stored key and with it the MAC, nothing of it is ever written down, and a
 * wrong password always takes the slow way. Bounded; the account that was not used for longest goes first.
 * Any thread (a mutex; used at log-in, never per stanza). */
#ifndef XMPP_C2S_KNOWN_H
#define XMPP_C2S_KNOWN_H

#include "im/credential.h"

struct c2s_known;

enum { C2S_KNOWN_MAC = 32 };

struct c2s_known *c2s_known_new(unsigned max_accounts);
void c2s_known_free(struct c2s_known *k); /* wipes; may be NULL */

/* The MAC of PASSWORD (as received) for UID with the stored keys C. */
void c2s_known_mac(const struct c2s_known *k, uint64_t uid, const struct credential *c, const char *password,
                   size_t n_bytes, uint8_t out[C2S_KNOWN_MAC]);
/* Is MAC the one added last for UID? */
bool c2s_known_has(struct c2s_known *k, uint64_t uid, const uint8_t mac[C2S_KNOWN_MAC]);
/* The password of MAC was right. */
void c2s_known_add(struct c2s_known *k, uint64_t uid, const uint8_t mac[C2S_KNOWN_MAC]);

#endif
