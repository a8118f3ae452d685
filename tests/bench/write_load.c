/* Replicated writes as a client sees them: N connections, each with one write outstanding, for some seconds.
 *
 *   write_load disk FILE SECONDS              4 KiB append + fdatasync, one after the other
 *   write_load imp HOST PORT N SECONDS        XMPP over TCP: users user0 ... (password "secret", domain
 * localhost) set their vCards, 256 bytes write_load etcd HOST PORT N SECONDS       etcd's v3 API over
 * HTTP/1.1: puts of 256 bytes
 *
 * Prints one line of JSON: writes, seconds, rate, and p50, p99 and max of the latency in microseconds. */
#include "base/clock.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_MAX = 1024, IN_MAX = 64 * 1024, VALUE = 256, SAMPLES_MAX = 4 * 1000 * 1000, GIVE_UP_MS = 20000 };

struct client {
    int fd;
    unsigned number;
    uint64_t seq, sent_us;
    size_t n_in;
    char in[IN_MAX];
};

struct samples {
    uint32_t *us;
    size_t n;
};

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("write_load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void note(struct samples *s, uint64_t us)
{
    if (s->n < SAMPLES_MAX)
        s->us[s->n++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void print(struct samples *s, double seconds)
{
    if (!s->n)
        fail("nothing was written");
    qsort(s->us, s->n, sizeof(*s->us), by_value);
    printf("{\"writes\":%zu,\"seconds\":%.3f,\"rate\":%.1f,\"p50_us\":%u,\"p99_us\":%u,\"max_us\":%u}\n",
           s->n, seconds, (double)s->n / seconds, s->us[s->n / 2], s->us[s->n * 99 / 100], s->us[s->n - 1]);
}

/* ---- the disk ---- */

static void run_disk(const char *path, double seconds)
{
    struct samples s = {mem_alloc(SAMPLES_MAX * sizeof(uint32_t)), 0};
    char block[4096];
    memset(block, 'x', sizeof(block));
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        fail("%s: %s", path, strerror(errno));
    uint64_t begin = clock_monotonic_us(), end = begin + (uint64_t)(seconds * 1e6), at = begin;
    while (at < end) {
        if (write(fd, block, sizeof(block)) != sizeof(block) || fdatasync(fd))
            fail("%s: %s", path, strerror(errno));
        uint64_t now = clock_monotonic_us();
        note(&s, now - at);
        at = now;
    }
    close(fd);
    unlink(path);
    print(&s, (double)(at - begin) / 1e6);
    mem_free(s.us);
}

/* ---- connections ---- */

static void connect_to(struct client *c, const char *host, unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        fail("%s is no IPv4 address", host);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)))
        fail("%s:%u: %s", host, port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void send_all(struct client *c, const char *data, size_t n)
{
    while (n) {
        ssize_t k = send(c->fd, data, n, MSG_NOSIGNAL);
        if (k <= 0)
            fail("client %u: send: %s", c->number, strerror(errno));
        data += k;
        n -= (size_t)k;
    }
}

static void receive(struct client *c)
{
    if (c->n_in == IN_MAX - 1)
        fail("client %u: the answer is too long", c->number);
    ssize_t k = recv(c->fd, c->in + c->n_in, IN_MAX - 1 - c->n_in, 0);
    if (k <= 0)
        fail("client %u: the server closed the connection after: %.300s", c->number, c->in);
    c->n_in += (size_t)k;
    c->in[c->n_in] = 0;
}

static void ask(struct client *c, const char *request, const char *until)
{
    c->n_in = 0;
    c->in[0] = 0;
    send_all(c, request, strlen(request));
    while (!strstr(c->in, until))
        receive(c);
}

/* ---- the two protocols ---- */

struct protocol {
    void (*log_in)(struct client *c);
    void (*write)(struct client *c);
    /* True: the answer to the last write is complete; it is taken out. */
    bool (*is_answered)(struct client *c);
};

static void fill(struct client *c, char value[VALUE + 1])
{
    memset(value, 'v', VALUE);
    int n = snprintf(value, VALUE, "%u.%llu.", c->number, (unsigned long long)c->seq);
    value[n] = 'v';
    value[VALUE] = 0;
}

static void base64(char *out, const char *in, size_t n)
{
    EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)in, (int)n);
}

static const char stream_header[] =
    "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "to='localhost' version='1.0'>";

static void imp_log_in(struct client *c)
{
    char plain[64], coded[128], request[256];
    int n = snprintf(plain, sizeof(plain), "%cuser%u%csecret", 0, c->number, 0);
    base64(coded, plain, (size_t)n);
    ask(c, stream_header, "</stream:features>");
    snprintf(request, sizeof(request),
             "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>", coded);
    ask(c, request, ">");
    if (!strstr(c->in, "<success"))
        fail("user%u cannot log in: %s", c->number, c->in);
    ask(c, stream_header, "</stream:features>");
    ask(c, "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", "</iq>");
}

static void imp_write(struct client *c)
{
    char value[VALUE + 1], request[VALUE + 256];
    fill(c, value);
    c->n_in = 0;
    c->in[0] = 0;
    int n = snprintf(request, sizeof(request),
                     "<iq type='set' id='w%llu'><vCard xmlns='vcard-temp'><NOTE>%s</NOTE></vCard></iq>",
                     (unsigned long long)c->seq, value);
    send_all(c, request, (size_t)n);
}

static bool imp_is_answered(struct client *c)
{
    char id[40];
    snprintf(id, sizeof(id), "id='w%llu'", (unsigned long long)c->seq);
    const char *at = strstr(c->in, id);
    if (!at || !strchr(at, '>'))
        return false;
    if (!strstr(c->in, "type='result'"))
        fail("user%u: %s", c->number, c->in);
    return true;
}

static void etcd_log_in(struct client *c)
{
    (void)c;
}

static void etcd_write(struct client *c)
{
    char value[VALUE + 1], key[40], coded_value[2 * VALUE], coded_key[80], request[2 * VALUE + 400],
        body[2 * VALUE + 200];
    fill(c, value);
    c->n_in = 0;
    c->in[0] = 0;
    int n = snprintf(key, sizeof(key), "user%u", c->number);
    base64(coded_key, key, (size_t)n);
    base64(coded_value, value, VALUE);
    n = snprintf(body, sizeof(body), "{\"key\":\"%s\",\"value\":\"%s\"}", coded_key, coded_value);
    n = snprintf(request, sizeof(request),
                 "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Type: "
                 "application/json\r\nContent-Length: %d\r\n\r\n%s",
                 n, body);
    send_all(c, request, (size_t)n);
}

static bool etcd_is_answered(struct client *c)
{
    const char *body = strstr(c->in, "\r\n\r\n"), *length = strstr(c->in, "Content-Length: ");
    if (!body)
        return false;
    if (strncmp(c->in, "HTTP/1.1 200", 12) || !length)
        fail("etcd: %s", c->in);
    return strlen(body + 4) >= strtoul(length + 16, NULL, 10);
}

static const struct protocol imp = {imp_log_in, imp_write, imp_is_answered};
static const struct protocol etcd = {etcd_log_in, etcd_write, etcd_is_answered};

/* ---- the load ---- */

static void write_one(const struct protocol *p, struct client *c)
{
    c->seq++;
    c->sent_us = clock_monotonic_us();
    p->write(c);
}

static void run_clients(const struct protocol *p, const char *host, unsigned port, unsigned n, double seconds)
{
    struct client *clients = mem_calloc(n, sizeof(*clients));
    struct pollfd *polls = mem_calloc(n, sizeof(*polls));
    struct samples s = {mem_alloc(SAMPLES_MAX * sizeof(uint32_t)), 0};
    for (unsigned i = 0; i < n; i++) {
        clients[i].number = i;
        connect_to(&clients[i], host, port);
        p->log_in(&clients[i]);
        polls[i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
    }
    uint64_t begin = clock_monotonic_us(), end = begin + (uint64_t)(seconds * 1e6);
    unsigned n_left = n;
    for (unsigned i = 0; i < n; i++)
        write_one(p, &clients[i]);
    while (n_left) {
        if (poll(polls, n, GIVE_UP_MS) <= 0)
            fail("no answer for %d s", GIVE_UP_MS / 1000);
        for (unsigned i = 0; i < n; i++) {
            if (!polls[i].revents)
                continue;
            receive(&clients[i]);
            if (!p->is_answered(&clients[i]))
                continue;
            uint64_t now = clock_monotonic_us();
            note(&s, now - clients[i].sent_us);
            if (now < end) {
                write_one(p, &clients[i]);
            } else {
                polls[i].fd = -1;
                n_left--;
            }
        }
    }
    print(&s, (double)(clock_monotonic_us() - begin) / 1e6);
    for (unsigned i = 0; i < n; i++)
        close(clients[i].fd);
    mem_free(clients);
    mem_free(polls);
    mem_free(s.us);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "disk")) {
        run_disk(argv[2], atof(argv[3]));
        return 0;
    }
    const struct protocol *p = argc != 6                  ? NULL
                               : !strcmp(argv[1], "imp")  ? &imp
                               : !strcmp(argv[1], "etcd") ? &etcd
                                                          : NULL;
    unsigned n = p ? (unsigned)atoi(argv[4]) : 0;
    if (!p || n < 1 || n > N_MAX) {
        fputs("usage: write_load disk FILE SECONDS | imp|etcd HOST PORT N SECONDS\n", stderr);
        return 2;
    }
    run_clients(p, argv[2], (unsigned)atoi(argv[3]), n, atof(argv[5]));
    return 0;
}
