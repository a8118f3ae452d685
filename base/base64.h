/* Base64 (RFC 4648 §4), strict: no white space, padding as it must be, unused bits zero. Any thread. */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

#define BASE64_LENGTH(n_bytes) (((n_bytes) + 2) / 3 * 4) /* without the NUL */

/* OUT has room for BASE64_LENGTH(n_bytes) + 1; returns the length. */
size_t base64_encode(char *out, const void *data, size_t n_bytes);
/* OUT has room for 3 bytes per 4 characters. The number of bytes, or ERR_MALFORMED. */
long base64_decode(uint8_t *out, const char *text, size_t n_chars);

#endif
