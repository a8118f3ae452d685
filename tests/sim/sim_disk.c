#include "sim_disk.h"

#include "base/mem.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { SECTOR = 512, NAME_MAX_BYTES = 40 };

struct bytes {
    uint8_t *data;
    size_t n, cap;
};
struct sim_write {
    struct sim_write *next;
    size_t offset, n;
    uint8_t data[];
};
struct sim_inode {
    struct sim_inode *next;
    struct bytes now, durable;
    struct sim_write *unsynced, **tail;
};
struct sim_name {
    struct sim_name *next;
    char name[NAME_MAX_BYTES];
    struct sim_inode *inode;
};
/* from "" is a create, to "" a removal. */
struct sim_name_op {
    struct sim_name_op *next;
    char from[NAME_MAX_BYTES], to[NAME_MAX_BYTES];
    struct sim_inode *inode;
};
struct disk_file {
    struct sim_disk *d;
    struct sim_inode *inode;
};

static uint64_t draw(struct sim_disk *d, uint64_t n)
{
    d->random ^= d->random << 13;
    d->random ^= d->random >> 7;
    d->random ^= d->random << 17;
    return (d->random >> 11) % n;
}

static struct sim_disk *disk_of(struct disk *d)
{
    return container_of(d, struct sim_disk, disk);
}

static bool fails(struct sim_disk *d)
{
    d->n_operations++;
    if (d->has_failed)
        return true;
    if (d->fail_after < 0 || d->fail_after-- > 0)
        return false;
    d->has_failed = true;
    return true;
}

/* ---- bytes ---- */

static void put(struct bytes *b, size_t offset, const uint8_t *data, size_t n)
{
    if (offset + n > b->cap) {
        b->cap = offset + n > 2 * b->cap ? offset + n : 2 * b->cap;
        b->data = mem_realloc(b->data, b->cap);
    }
    if (offset > b->n)
        memset(b->data + b->n, 0, offset - b->n);
    memcpy(b->data + offset, data, n);
    if (offset + n > b->n)
        b->n = offset + n;
}

static void copy(struct bytes *to, const struct bytes *from)
{
    to->n = 0;
    if (from->n)
        put(to, 0, from->data, from->n);
}

static void forget_writes(struct sim_inode *i)
{
    while (i->unsynced) {
        struct sim_write *w = i->unsynced;
        i->unsynced = w->next;
        mem_free(w);
    }
    i->tail = &i->unsynced;
}

/* ---- names ---- */

static struct sim_name *find(struct sim_name *list, const char *name)
{
    for (; list; list = list->next)
        if (strcmp(list->name, name) == 0)
            return list;
    return NULL;
}

static void drop(struct sim_name **list, const char *name)
{
    for (; *list; list = &(*list)->next)
        if (strcmp((*list)->name, name) == 0) {
            struct sim_name *n = *list;
            *list = n->next;
            mem_free(n);
            return;
        }
}

static void set(struct sim_name **list, const char *name, struct sim_inode *inode)
{
    drop(list, name);
    struct sim_name *n = mem_new(struct sim_name);
    snprintf(n->name, sizeof(n->name), "%s", name);
    n->inode = inode;
    n->next = *list;
    *list = n;
}

static void apply_op(struct sim_name **list, const struct sim_name_op *op)
{
    if (op->from[0])
        drop(list, op->from);
    if (op->to[0])
        set(list, op->to, op->inode);
}

static void do_op(struct sim_disk *d, const char *from, const char *to, struct sim_inode *inode)
{
    struct sim_name_op *op = mem_new(struct sim_name_op);
    snprintf(op->from, sizeof(op->from), "%s", from);
    snprintf(op->to, sizeof(op->to), "%s", to);
    op->inode = inode;
    *d->ops_tail = op;
    d->ops_tail = &op->next;
    apply_op(&d->names, op);
}

/* The first n unsynced operations become durable, the others never were. */
static void settle_names(struct sim_disk *d, size_t n)
{
    while (d->ops) {
        struct sim_name_op *op = d->ops;
        d->ops = op->next;
        if (n > 0) {
            apply_op(&d->durable_names, op);
            n--;
        }
        mem_free(op);
    }
    d->ops_tail = &d->ops;
}

/* ---- operations ---- */

static int file_open(struct disk *disk, const char *name, bool create, struct disk_file **out)
{
    struct sim_disk *d = disk_of(disk);
    struct sim_name *n = find(d->names, name);
    struct sim_inode *inode = n ? n->inode : NULL;
    if (!inode) {
        if (!create)
            return ERR_NOTFOUND;
        if (fails(d))
            return d->fail_code;
        inode = mem_new(struct sim_inode);
        inode->tail = &inode->unsynced;
        inode->next = d->inodes;
        d->inodes = inode;
        do_op(d, "", name, inode);
    }
    *out = mem_new(struct disk_file);
    (*out)->d = d;
    (*out)->inode = inode;
    return 0;
}

static void file_close(struct disk_file *f)
{
    mem_free(f);
}

static void record_write(struct disk_file *f, uint64_t offset, const void *data, size_t n)
{
    put(&f->inode->now, offset, data, n);
    struct sim_write *w = mem_alloc(sizeof(*w) + n);
    w->next = NULL;
    w->offset = offset;
    w->n = n;
    memcpy(w->data, data, n);
    *f->inode->tail = w;
    f->inode->tail = &w->next;
}

static int file_write(struct disk_file *f, uint64_t offset, const void *data, size_t n)
{
    if (!fails(f->d)) {
        record_write(f, offset, data, n);
        return 0;
    }
    if (f->d->fail_code == ERR_NOSPACE && n / 2) /* a short write before the disk was full */
        record_write(f, offset, data, n / 2);
    return f->d->fail_code;
}

static int file_read(struct disk_file *f, uint64_t offset, void *data, size_t n, size_t *n_read)
{
    const struct bytes *b = &f->inode->now;
    *n_read = offset >= b->n ? 0 : b->n - offset < n ? b->n - offset : n;
    if (*n_read)
        memcpy(data, b->data + offset, *n_read);
    return 0;
}

static int file_sync(struct disk_file *f)
{
    if (fails(f->d))
        return f->d->fail_code;
    f->d->n_syncs++;
    if (f->d->ignores_syncs)
        return 0;
    for (struct sim_write *w = f->inode->unsynced; w; w = w->next)
        put(&f->inode->durable, w->offset, w->data, w->n);
    forget_writes(f->inode);
    return 0;
}

static int disk_rename(struct disk *disk, const char *from, const char *to)
{
    struct sim_disk *d = disk_of(disk);
    struct sim_name *n = find(d->names, from);
    if (!n)
        return ERR_NOTFOUND;
    if (fails(d))
        return d->fail_code;
    do_op(d, from, to, n->inode);
    return 0;
}

static int disk_unlink(struct disk *disk, const char *name)
{
    struct sim_disk *d = disk_of(disk);
    if (!find(d->names, name))
        return ERR_NOTFOUND;
    do_op(d, name, "", NULL);
    return 0;
}

static int disk_sync_names(struct disk *disk)
{
    struct sim_disk *d = disk_of(disk);
    if (fails(d))
        return d->fail_code;
    settle_names(d, SIZE_MAX);
    return 0;
}

static int disk_list(struct disk *disk, void (*each)(void *ctx, const char *name), void *ctx)
{
    for (struct sim_name *n = disk_of(disk)->names; n; n = n->next)
        each(ctx, n->name);
    return 0;
}

static uint64_t disk_free_bytes(struct disk *disk)
{
    return disk_of(disk)->free_bytes;
}

static const struct disk_ops sim_ops = {
    .open = file_open,
    .close = file_close,
    .write = file_write,
    .read = file_read,
    .sync = file_sync,
    .rename = disk_rename,
    .unlink = disk_unlink,
    .sync_names = disk_sync_names,
    .list = disk_list,
    .free_bytes = disk_free_bytes,
};

/* ---- the whole disk ---- */

void sim_disk_init(struct sim_disk *d, uint64_t seed)
{
    memset(d, 0, sizeof(*d));
    d->disk.ops = &sim_ops;
    d->ops_tail = &d->ops;
    d->random = seed * 0x9e3779b97f4a7c15u + 88172645463325252u;
    d->free_bytes = (uint64_t)1 << 40;
    d->fail_after = -1;
    d->fail_code = ERR_IO;
}

void sim_disk_fini(struct sim_disk *d)
{
    settle_names(d, 0);
    while (d->names)
        drop(&d->names, d->names->name);
    while (d->durable_names)
        drop(&d->durable_names, d->durable_names->name);
    while (d->inodes) {
        struct sim_inode *i = d->inodes;
        d->inodes = i->next;
        forget_writes(i);
        mem_free(i->now.data);
        mem_free(i->durable.data);
        mem_free(i);
    }
}

/* One unsynced write at a power loss: each sector of it new, old, or new up to somewhere. */
static void lose_write(struct sim_disk *d, struct sim_inode *i, const struct sim_write *w,
                       unsigned keep_percent)
{
    for (size_t at = 0; at < w->n;) {
        size_t n = SECTOR - (w->offset + at) % SECTOR;
        if (n > w->n - at)
            n = w->n - at;
        if (draw(d, 100) < keep_percent)
            put(&i->durable, w->offset + at, w->data + at, draw(d, 16) ? n : draw(d, n));
        at += n;
    }
}

void sim_disk_lose_power(struct sim_disk *d)
{
    static const unsigned keep[] = {0, 50, 90, 100};
    for (struct sim_inode *i = d->inodes; i; i = i->next) {
        unsigned keep_percent = keep[draw(d, 4)];
        for (struct sim_write *w = i->unsynced; w; w = w->next)
            lose_write(d, i, w, keep_percent);
        forget_writes(i);
        copy(&i->now, &i->durable);
    }
    size_t n = 0;
    for (struct sim_name_op *op = d->ops; op; op = op->next)
        n++;
    settle_names(d, draw(d, n + 1));
    while (d->names)
        drop(&d->names, d->names->name);
    for (struct sim_name *name = d->durable_names; name; name = name->next)
        set(&d->names, name->name, name->inode);
    d->has_failed = false;
    d->fail_after = -1;
}

uint8_t *sim_disk_bytes(struct sim_disk *d, const char *name, size_t *n_bytes)
{
    struct sim_name *n = find(d->names, name);
    if (!n)
        return NULL;
    *n_bytes = n->inode->now.n;
    return n->inode->now.data;
}

void sim_disk_truncate(struct sim_disk *d, const char *name, size_t n_bytes)
{
    struct sim_name *n = find(d->names, name);
    assert(n && n_bytes <= n->inode->now.n);
    n->inode->now.n = n_bytes;
}
