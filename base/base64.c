#include "base/base64.h"
#include "base/err.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_encode(char *out, const void *data, size_t n_bytes)
{
    const uint8_t *p = data;
    char *q = out;
    for (; n_bytes >= 3; n_bytes -= 3, p += 3) {
        *q++ = digits[p[0] >> 2];
        *q++ = digits[(p[0] & 3) << 4 | p[1] >> 4];
        *q++ = digits[(p[1] & 15) << 2 | p[2] >> 6];
        *q++ = digits[p[2] & 63];
    }
    if (n_bytes > 0) {
        unsigned second = n_bytes == 2 ? p[1] : 0;
        *q++ = digits[p[0] >> 2];
        *q++ = digits[(p[0] & 3) << 4 | second >> 4];
        *q++ = n_bytes == 2 ? digits[(second & 15) << 2] : '=';
        *q++ = '=';
    }
    *q = '\0';
    return (size_t)(q - out);
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

long base64_decode(uint8_t *out, const char *text, size_t n_chars)
{
    if (n_chars % 4 != 0)
        return ERR_MALFORMED;
    size_t n_padding = 0;
    while (n_padding < 2 && n_padding < n_chars && text[n_chars - 1 - n_padding] == '=')
        n_padding++;
    uint32_t bits = 0;
    unsigned n_bits = 0;
    uint8_t *q = out;
    for (size_t i = 0; i < n_chars - n_padding; i++) {
        int v = value_of(text[i]);
        if (v < 0)
            return ERR_MALFORMED;
        bits = bits << 6 | (uint32_t)v;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            *q++ = (uint8_t)(bits >> n_bits);
        }
    }
    if (bits & ((1u << n_bits) - 1)) /* two texts for the same bytes */
        return ERR_MALFORMED;
    return q - out;
}
