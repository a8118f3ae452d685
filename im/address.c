#include "im/address.h"
#include "im/precis.h"

#include <arpa/inet.h>
#include <idn2.h>
#include <string.h>
#include <strings.h>

_Static_assert((int)JID_PART_MAX == (int)PRECIS_MAX_BYTES, "one limit");

/* RFC 7622 §3.3.1; the same characters, and the space, are what XEP-0106 escapes. */
static const char excluded[] = "\"&'/:<>@";

int address_prep_local(char *out, const char *text, size_t n_bytes, struct err_ctx *err)
{
    int code = precis_enforce(out, PRECIS_USERNAME_CASE_MAPPED, text, n_bytes, err);
    if (code != 0)
        return err_prefix(err, code, "localpart");
    size_t at = strcspn(out, excluded); /* after mapping: a full-width '@' is one, too */
    if (out[at])
        return err_set(err, ERR_MALFORMED, "localpart: character '%c' is not allowed here", out[at]);
    return 0;
}

int address_prep_resource(char *out, const char *text, size_t n_bytes, struct err_ctx *err)
{
    int code = precis_enforce(out, PRECIS_OPAQUE_STRING, text, n_bytes, err);
    if (code != 0)
        return err_prefix(err, code, "resourcepart");
    if (out[0] == ' ') /* RFC 7622 §3.5, example 18 */
        return err_set(err, ERR_MALFORMED, "resourcepart: begins with a space");
    return 0;
}

int address_prep_password(char *out, const char *text, size_t n_bytes, struct err_ctx *err)
{
    int code = precis_enforce(out, PRECIS_OPAQUE_STRING, text, n_bytes, err);
    return code == 0 ? 0 : err_prefix(err, code, "password");
}

/* ---- domains ---- */

/* Letters, digits and hyphens of NR-LDH labels, put to lower case; false: needs libidn2 to decide. */
static bool prep_ldh(char *out, const char *text, size_t n_bytes)
{
    size_t n_label = 0;
    for (size_t i = 0; i <= n_bytes; i++) {
        char c = i < n_bytes ? text[i] : '.';
        if (c >= 'A' && c <= 'Z')
            c = (char)(c + ('a' - 'A'));
        if (c == '.') {
            if (n_label == 0 || n_label > 63 || out[i - 1] == '-')
                return false;
            n_label = 0;
        } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            n_label++;
        } else if (c == '-' && n_label > 0 && n_label != 3) { /* "--" in third and fourth place is reserved */
            n_label++;
        } else {
            return false;
        }
        out[i] = c;
    }
    out[n_bytes] = '\0';
    return n_bytes <= 253;
}

static int prep_ipv6(char *out, const char *text, size_t n_bytes, struct err_ctx *err)
{
    char literal[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (n_bytes < 2 || text[n_bytes - 1] != ']' || n_bytes - 2 >= sizeof(literal))
        return err_set(err, ERR_MALFORMED, "domainpart: bad IPv6 address");
    memcpy(literal, text + 1, n_bytes - 2);
    literal[n_bytes - 2] = '\0';
    if (strlen(literal) != n_bytes - 2 || inet_pton(AF_INET6, literal, &address) != 1)
        return err_set(err, ERR_MALFORMED, "domainpart: bad IPv6 address");
    inet_ntop(AF_INET6, &address, literal, sizeof(literal));
    out[0] = '[';
    strcpy(out + 1, literal);
    strcat(out, "]");
    return 0;
}

/* libidn2's mapping leaves some of these out in silence: here they are errors. */
static bool has_bad_ascii(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool ldh = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                   c == '.';
        if (c < 0x80 && !ldh)
            return true;
    }
    return false;
}

/* Via A-labels (which checks all of IDNA2008) to U-labels. An A-label that comes in as such is checked by its way back:
 * one that is not what its U-label makes (RFC 5890 §2.3.2.1) is no name. */
static int prep_idna(char *out, const char *text, struct err_ctx *err)
{
    enum { FLAGS = IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL };
    char *ascii = NULL, *unicode = NULL, *again = NULL;
    int rc = idn2_to_ascii_8z(text, &ascii, FLAGS);
    if (rc == IDN2_OK)
        rc = idn2_to_unicode_8z8z(ascii, &unicode, 0);
    if (rc == IDN2_OK)
        rc = idn2_to_ascii_8z(unicode, &again, FLAGS);
    if (rc == IDN2_OK && strcasecmp(ascii, again) != 0)
        rc = IDN2_UALABEL_MISMATCH;
    int code = 0;
    if (rc != IDN2_OK) {
        code = err_set(err, ERR_MALFORMED, "domainpart: %s", idn2_strerror(rc));
    } else {
        size_t n = strlen(unicode);
        if (n == 0 || n > JID_PART_MAX || unicode[0] == '.' || unicode[n - 1] == '.' ||
            strstr(unicode, "..") || has_bad_ascii(unicode, n))
            code = err_set(err, ERR_MALFORMED, "domainpart: not a domain name");
        else
            memcpy(out, unicode, n + 1);
    }
    idn2_free(ascii);
    idn2_free(unicode);
    idn2_free(again);
    return code;
}

int address_prep_domain(char *out, const char *text, size_t n_bytes, struct err_ctx *err)
{
    if (n_bytes > 0 && text[n_bytes - 1] == '.') /* RFC 7622 §3.2: dropped before anything else */
        n_bytes--;
    if (n_bytes == 0)
        return err_set(err, ERR_MALFORMED, "domainpart: empty");
    if (n_bytes > JID_PART_MAX)
        return err_set(err, ERR_MALFORMED, "domainpart: longer than %d bytes", JID_PART_MAX);
    if (text[0] == '[')
        return prep_ipv6(out, text, n_bytes, err);
    if (prep_ldh(out, text, n_bytes))
        return 0;
    char copy[JID_PART_MAX + 1];
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    if (has_bad_ascii(text, n_bytes))
        return err_set(err, ERR_MALFORMED, "domainpart: not letters, digits and hyphens");
    return prep_idna(out, copy, err);
}

/* ---- JIDs ---- */

int jid_parse(struct jid *out, const char *text, size_t n_bytes, struct err_ctx *err)
{
    /* The first '/' ends the bare JID, the first '@' before it ends the localpart (RFC 7622 §3.2). */
    const char *slash = memchr(text, '/', n_bytes);
    size_t n_bare = slash ? (size_t)(slash - text) : n_bytes;
    const char *at = memchr(text, '@', n_bare);
    const char *domain = at ? at + 1 : text;
    int code = 0;
    out->local[0] = out->resource[0] = '\0';
    if (at)
        code = address_prep_local(out->local, text, (size_t)(at - text), err);
    if (code == 0)
        code = address_prep_domain(out->domain, domain, n_bare - (size_t)(domain - text), err);
    if (code == 0 && slash)
        code = address_prep_resource(out->resource, slash + 1, n_bytes - n_bare - 1, err);
    return code;
}

int jid_prepare(char out[JID_MAX + 1], const char *text, size_t n_bytes, struct err_ctx *err)
{
    struct jid j;
    int code = jid_parse(&j, text, n_bytes, err);
    if (code == 0)
        jid_format(out, &j);
    return code;
}

static char *add(char *p, const char *s)
{
    size_t n = strlen(s);
    memcpy(p, s, n);
    return p + n;
}

size_t jid_format_bare(char out[JID_MAX + 1], const struct jid *j)
{
    char *p = out;
    if (j->local[0]) {
        p = add(p, j->local);
        *p++ = '@';
    }
    p = add(p, j->domain);
    *p = '\0';
    return (size_t)(p - out);
}

size_t jid_format(char out[JID_MAX + 1], const struct jid *j)
{
    char *p = out + jid_format_bare(out, j);
    if (j->resource[0]) {
        *p++ = '/';
        p = add(p, j->resource);
        *p = '\0';
    }
    return (size_t)(p - out);
}

bool jid_bare_equal(const struct jid *a, const struct jid *b)
{
    return strcmp(a->local, b->local) == 0 && strcmp(a->domain, b->domain) == 0;
}

bool jid_equal(const struct jid *a, const struct jid *b)
{
    return jid_bare_equal(a, b) && strcmp(a->resource, b->resource) == 0;
}

/* ---- user ids ---- */

/* XEP-0106 §4.2: a backslash is escaped only where it would read as an escape. */
static bool is_escape(const char *p, const char *end)
{
    static const char codes[] = "20 22 26 27 2f 3a 3c 3e 40 5c";
    if (end - p < 3)
        return false;
    char two[3] = {p[1], p[2], '\0'};
    for (int i = 1; i < 3; i++)
        if (two[i - 1] >= 'A' && two[i - 1] <= 'F')
            two[i - 1] = (char)(two[i - 1] + ('a' - 'A'));
    const char *found = strstr(codes, two);
    return found && (found - codes) % 3 == 0 && p[1] != ' ' && p[2] != ' ';
}

int address_prep_userid(char *out, const char *userid, size_t n_bytes, struct err_ctx *err)
{
    static const char digits[] = "0123456789abcdef";
    const char *p = userid, *end = userid + n_bytes;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    char escaped[JID_PART_MAX + 1];
    size_t n = 0;
    for (; p < end; p++) {
        bool escape = *p == ' ' || (*p && strchr(excluded, *p)) || (*p == '\\' && is_escape(p, end));
        if (n + (escape ? 3 : 1) > JID_PART_MAX)
            return err_set(err, ERR_MALFORMED, "user id: longer than %d bytes", JID_PART_MAX);
        if (escape) {
            escaped[n++] = '\\';
            escaped[n++] = digits[(unsigned char)*p >> 4];
            escaped[n++] = digits[*p & 15];
        } else {
            escaped[n++] = *p;
        }
    }
    int code = address_prep_local(out, escaped, n, err);
    return code == 0 ? 0 : err_prefix(err, code, "user id");
}
