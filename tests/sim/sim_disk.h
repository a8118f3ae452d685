/* A disk in memory that behaves as badly as a real one may. What was written and not synced can be there,
 * gone or torn after a power loss, per sector and in any order; names (creates, renames, removals) that were
 * not synced survive up to some point of their order. A crash of the process alone loses nothing. Everything
 * is drawn from one seed. */
#ifndef TESTS_SIM_DISK_H
#define TESTS_SIM_DISK_H

#include "replication/disk.h"

struct sim_disk {
    struct disk disk;
    struct sim_inode *inodes;
    struct sim_name *names;         /* as the process sees them */
    struct sim_name *durable_names; /* as after a power loss at this moment, at worst */
    struct sim_name_op *ops, **ops_tail;
    uint64_t random;
    uint64_t free_bytes;
    long fail_after; /* writes, syncs and name operations until one fails; below 0: never */
    int fail_code;
    bool has_failed;
    bool ignores_syncs; /* says that it has, and has not */
    unsigned long n_operations, n_syncs;
};

void sim_disk_init(struct sim_disk *d, uint64_t seed);
void sim_disk_fini(struct sim_disk *d);
/* All files are closed before either. */
void sim_disk_lose_power(struct sim_disk *d);

/* Direct access, for tests that damage something: the bytes of a file, as the process sees them. NULL: no
 * such file. */
uint8_t *sim_disk_bytes(struct sim_disk *d, const char *name, size_t *n_bytes);
void sim_disk_truncate(struct sim_disk *d, const char *name, size_t n_bytes);

#endif
