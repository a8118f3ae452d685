/* What the tests of storage/ share: a directory of their own, keys, random rows. */
#ifndef UNIT_STORE_TEST_H
#define UNIT_STORE_TEST_H

#include "storage/store.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static inline uint64_t rnd(uint64_t *state, uint64_t n)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % n;
}

/* DIR/NAME of a directory made by mkdtemp; test_dir_remove takes it away again, one level deep. */
static inline char *test_dir(void)
{
    char path[] = "/tmp/imp-store-XXXXXX";
    assert_non_null(mkdtemp(path));
    return strdup(path);
}

static inline void test_dir_remove(char *dir)
{
    char path[600];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (unlink(path))
            test_dir_remove(strdup(path));
    }
    if (d)
        closedir(d);
    rmdir(dir);
    free(dir);
}

struct fatal_record {
    int n, code;
    char detail[256];
};

static inline void record_fatal(void *user, int code, const char *detail)
{
    struct fatal_record *f = user;
    f->n++;
    f->code = code;
    snprintf(f->detail, sizeof f->detail, "%s", detail);
}

static inline struct store *test_open(const char *dir, struct fatal_record *fatal)
{
    struct store_options o = {.dir = dir, .map_bytes = 1ull << 32, .manual_points = true};
    if (fatal)
        o.on_fatal = record_fatal, o.user = fatal;
    struct err_ctx err = {0};
    struct store *s = NULL;
    if (store_open(&s, &o, &err))
        fail_msg("store_open: %s", err.text);
    return s;
}

static inline void test_commit(struct store_txn *t)
{
    struct err_ctx err = {0};
    if (store_commit(t, &err))
        fail_msg("store_commit: %s", err.text);
}

static inline struct key key_of_u64(uint64_t v)
{
    struct key k;
    key_init(&k);
    key_u64(&k, v);
    return k;
}

static inline struct key key_of_str(const char *v)
{
    struct key k;
    key_init(&k);
    key_str(&k, v);
    return k;
}

#endif
