/* A disk that is nearly full: no new proposals, no lease, leadership handed over; and all of it back when
 * there is room again. On a file system of its own, in a mount namespace; skipped where that is not
 * permitted. */
#include "replica_fixture.h"

#include "base/mem.h"
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

static bool is_low(struct tnode *n)
{
    struct replica_status s;
    replica_get_status(n->r, &s);
    return s.is_disk_low;
}

static bool mount_small(const char *dir)
{
    return mount("none", dir, "tmpfs", 0, "size=256m,mode=0700") == 0;
}

static void fill(const char *dir, unsigned mib)
{
    char *path = mem_printf("%s/filler", dir);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(posix_fallocate(fd, 0, (off_t)mib << 20), 0);
    close(fd);
    mem_free(path);
}

static void empty(const char *dir)
{
    char *path = mem_printf("%s/filler", dir);
    assert_int_equal(unlink(path), 0);
    mem_free(path);
}

static int propose_hash_point(struct tnode *n)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__HashPoint point = IMP__HASH_POINT__INIT;
    command.body_case = IMP__COMMAND__BODY_HASH_POINT;
    command.hash_point = &point;
    return propose(n, &command).code;
}

static void test_disk_low(void **state)
{
    struct cluster *c = cluster_new();
    struct tnode *n = &c->nodes[3];
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        !mount_small(n->dir)) {
        cluster_free(c);
        skip();
    }
    node_start(c, 1);
    cluster_grow(c, 3);
    await(cluster_leader(c) == n || transfer(cluster_leader(c), 3) == 0, "leadership of node 3");
    propose_alarm_until_done(n, "room");
    fill(n->dir, 140);
    /* It is noticed with a write. */
    await((propose_alarm(&c->nodes[1], "x"), is_low(n)), "the disk to be seen low");
    assert_int_equal(propose_hash_point(n), ERR_UNAVAILABLE);
    propose_alarm_until_done(n, "no room"); /* this it may say */
    await(cluster_leader(c) != n, "another leader");
    propose_alarm_until_done(&c->nodes[1], "the others go on");
    empty(n->dir);
    await(!is_low(n), "room again");
    propose_alarm_until_done(n, "back");
    await_equal(c);
    node_stop(n);
    umount(n->dir);
    cluster_free(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_disk_low)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
