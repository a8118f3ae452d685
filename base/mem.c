#include "base/mem.h"
#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Noreturn void out_of_memory(void)
{
    static const char text[] = "imp: out of memory\n";
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
        abort();
    abort();
}

static void *checked(void *p)
{
    if (__builtin_expect(!p, 0))
        out_of_memory();
    return p;
}

/* malloc(0) may be NULL by the standard, which would look like a failure. */
static size_t at_least_one(size_t n_bytes)
{
    return n_bytes ? n_bytes : 1;
}

void *mem_alloc(size_t n_bytes)
{
    return checked(malloc(at_least_one(n_bytes)));
}

void *mem_zalloc(size_t n_bytes)
{
    return checked(calloc(1, at_least_one(n_bytes)));
}

void *mem_calloc(size_t n, size_t n_bytes)
{
    return checked(calloc(at_least_one(n), at_least_one(n_bytes)));
}

void *mem_realloc(void *p, size_t n_bytes)
{
    return checked(realloc(p, at_least_one(n_bytes)));
}

void *mem_try_alloc(size_t n_bytes)
{
    return malloc(at_least_one(n_bytes));
}

void mem_free(void *p)
{
    free(p);
}

void *mem_dup(const void *p, size_t n_bytes)
{
    void *copy = mem_alloc(n_bytes);
    if (n_bytes)
        memcpy(copy, p, n_bytes);
    return copy;
}

char *mem_strdup(const char *s)
{
    return s ? mem_dup(s, strlen(s) + 1) : NULL;
}

char *mem_strndup(const char *s, size_t n_bytes)
{
    size_t n = strnlen(s, n_bytes);
    char *copy = mem_alloc(n + 1);
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

bool mem_has_leaks(void)
{
    return __lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check();
}

char *mem_printf(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        out_of_memory();
    return text;
}

void mem_wipe(void *p, size_t n_bytes)
{
    if (n_bytes)
        explicit_bzero(p, n_bytes);
}

struct blob *blob_new(const void *data, size_t n_bytes)
{
    assert(n_bytes <= UINT32_MAX);
    struct blob *b = mem_alloc(sizeof(*b) + n_bytes);
    atomic_init(&b->refs, 1);
    b->n = (unsigned)n_bytes;
    if (data && n_bytes)
        memcpy(b->data, data, n_bytes);
    return b;
}

struct blob *blob_ref(struct blob *b)
{
    unsigned before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    assert(before > 0);
    (void)before;
    return b;
}

void blob_unref(struct blob *b)
{
    if (!b)
        return;
    unsigned before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before == 1)
        mem_free(b);
}
