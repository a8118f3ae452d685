#include "cluster/datadir.h"
#include "base/clock.h"
#include "base/mem.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char lock_name[] = "lock";

static int path_of(const struct datadir *d, const char *name, char *out, size_t n, struct err_ctx *err)
{
    if ((size_t)snprintf(out, n, "%s/%s", d->path, name) >= n)
        return err_set(err, ERR_LIMIT, "the path of the data directory is too long");
    return 0;
}

/* What a disk does may pass; what a person has to set right (a missing file, a permission) is ERR_SYSTEM. */
static int code_of(int number)
{
    switch (number) {
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPACE;
    case EROFS:
        return ERR_READONLY;
    case EIO:
    case ENODEV:
    case ENXIO:
    case ESTALE:
    case ETIMEDOUT:
        return ERR_IO;
    default:
        return ERR_SYSTEM;
    }
}

/* Of a file that is open already: nobody's mistake. */
static int write_code(int number)
{
    int code = code_of(number);
    return code == ERR_SYSTEM ? ERR_IO : code;
}

static int sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

static int take_lock(struct datadir *d, unsigned wait_ms, struct err_ctx *err)
{
    char path[DATADIR_PATH_MAX + 64];
    int rc = path_of(d, lock_name, path, sizeof(path), err);
    if (rc)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, code_of(errno), "cannot open %s: %s", path, strerror(errno));
    uint64_t until = clock_monotonic_ms() + wait_ms;
    while (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            rc = err_set(err, code_of(errno), "cannot lock %s: %s", path, strerror(errno));
            close(fd);
            return rc;
        }
        if (clock_monotonic_ms() >= until) {
            close(fd);
            return err_set(err, ERR_CONFLICT, "another impnode process uses %s: stop it first", d->path);
        }
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    }
    d->lock_fd = fd;
    return 0;
}

static int set_path(struct datadir *d, const char *path, struct err_ctx *err)
{
    d->lock_fd = -1;
    if (!*path || strlen(path) >= sizeof(d->path) - 64)
        return err_set(err, ERR_INVALID, "'%s' cannot be a data directory", path);
    char *real = realpath(path, NULL);
    if (!real)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : code_of(errno), "%s: %s", path, strerror(errno));
    int fits = (size_t)snprintf(d->path, sizeof(d->path), "%s", real) < sizeof(d->path) - 64;
    free(real);
    return fits ? 0 : err_set(err, ERR_INVALID, "'%s': the path is too long", path);
}

static bool is_allowed(const char *name, const char *const *allowed)
{
    if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, lock_name))
        return true;
    for (; allowed && *allowed; allowed++)
        if (!strcmp(name, *allowed))
            return true;
    return false;
}

static int check_content(const char *path, const char *const *allowed, struct err_ctx *err)
{
    DIR *dir = opendir(path);
    if (!dir)
        return err_set(err, code_of(errno), "%s: %s", path, strerror(errno));
    int rc = 0;
    for (struct dirent *e; !rc && (e = readdir(dir));)
        if (!is_allowed(e->d_name, allowed))
            rc = err_set(err, ERR_EXISTS, "%s is not empty ('%s' is in it): choose an empty directory", path,
                         e->d_name);
    closedir(dir);
    return rc;
}

int datadir_create(struct datadir *d, const char *path, const char *const *allowed, struct err_ctx *err)
{
    d->lock_fd = -1;
    if (mkdir(path, 0700) && errno != EEXIST)
        return err_set(err, code_of(errno), "cannot make %s: %s", path, strerror(errno));
    int rc = check_content(path, allowed, err);
    if (rc || (rc = set_path(d, path, err)))
        return rc;
    if (chmod(d->path, 0700))
        return err_set(err, code_of(errno), "cannot set the mode of %s: %s", d->path, strerror(errno));
    return take_lock(d, 0, err);
}

int datadir_open(struct datadir *d, const char *path, unsigned wait_ms, struct err_ctx *err)
{
    int rc = set_path(d, path, err);
    if (rc == ERR_NOTFOUND)
        return err_set(err, rc,
                       "there is no directory %s; make a node in it with 'impnode init' or 'impnode join'",
                       path);
    if (rc)
        return rc;
    struct stat st;
    if (stat(d->path, &st))
        return err_set(err, code_of(errno), "%s: %s", d->path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is not a directory", d->path);
    if (st.st_mode & 0067) /* group imp-admin may pass through, to the admin socket */
        return err_set(err, ERR_DENIED, "%s holds keys but others may enter it; remedy: chmod 700 %s",
                       d->path, d->path);
    return take_lock(d, wait_ms, err);
}

void datadir_close(struct datadir *d)
{
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    d->lock_fd = -1;
}

int datadir_read(const struct datadir *d, const char *name, struct buf *out, size_t max_bytes,
                 struct err_ctx *err)
{
    char path[DATADIR_PATH_MAX + 64];
    int rc = path_of(d, name, path, sizeof(path), err);
    if (rc)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : code_of(errno), "%s: %s", path, strerror(errno));
    size_t total = 0;
    for (;;) {
        char chunk[4096];
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        if (n > 0 && (total += (size_t)n) > max_bytes)
            rc = err_set(err, ERR_LIMIT, "%s is larger than %zu bytes", path, max_bytes);
        if (n > 0 && !rc)
            buf_add(out, chunk, (size_t)n);
        mem_wipe(chunk, sizeof(chunk));
        if (n <= 0 || rc)
            break;
    }
    close(fd);
    return rc;
}

static int write_all(int fd, const char *data, size_t n)
{
    while (n) {
        ssize_t done = write(fd, data, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -1;
        data += done;
        n -= (size_t)done;
    }
    return 0;
}

/* Puts what is in FD (the file TMP) in the place of PATH, durably. */
static int settle(const struct datadir *d, int fd, const char *tmp, const char *path, struct err_ctx *err)
{
    int rc = 0;
    if (fsync(fd) || rename(tmp, path))
        rc = err_set(err, write_code(errno), "cannot write %s: %s", path, strerror(errno));
    char parent[DATADIR_PATH_MAX + 64];
    snprintf(parent, sizeof(parent), "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash)
        *slash = '\0';
    if (!rc && (sync_dir(parent) || sync_dir(d->path)))
        rc = err_set(err, ERR_IO, "cannot sync %s: %s", parent, strerror(errno));
    return rc;
}

static int open_tmp(const struct datadir *d, const char *name, unsigned mode, char *path, char *tmp, size_t n,
                    struct err_ctx *err)
{
    int rc = path_of(d, name, path, n, err);
    if (rc)
        return rc;
    if ((size_t)snprintf(tmp, n, "%s.tmp", path) >= n)
        return err_set(err, ERR_LIMIT, "the path of the data directory is too long");
    char *slash = strchr(name, '/') ? strrchr(path, '/') : NULL;
    if (slash) {
        *slash = '\0';
        if (mkdir(path, 0700) && errno != EEXIST)
            return err_set(err, code_of(errno), "cannot make %s: %s", path, strerror(errno));
        *slash = '/';
    }
    unlink(tmp);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)mode);
    if (fd < 0)
        return err_set(err, code_of(errno), "cannot write %s: %s", tmp, strerror(errno));
    return fd;
}

int datadir_write(const struct datadir *d, const char *name, const void *data, size_t n_bytes, unsigned mode,
                  struct err_ctx *err)
{
    char path[DATADIR_PATH_MAX + 64], tmp[DATADIR_PATH_MAX + 64];
    int fd = open_tmp(d, name, mode, path, tmp, sizeof(path), err);
    if (fd < 0)
        return fd;
    int rc;
    if (fchmod(fd, (mode_t)mode) || write_all(fd, data, n_bytes))
        rc = err_set(err, write_code(errno), "cannot write %s: %s", tmp, strerror(errno));
    else
        rc = settle(d, fd, tmp, path, err);
    close(fd);
    if (rc)
        unlink(tmp);
    return rc;
}

bool datadir_has(const struct datadir *d, const char *name)
{
    char path[DATADIR_PATH_MAX + 64];
    struct stat st;
    return !path_of(d, name, path, sizeof(path), NULL) && !stat(path, &st);
}

int datadir_remove(const struct datadir *d, const char *name)
{
    char path[DATADIR_PATH_MAX + 64];
    int rc = path_of(d, name, path, sizeof(path), NULL);
    if (rc)
        return rc;
    return !unlink(path) || errno == ENOENT ? 0 : ERR_SYSTEM;
}

/* ---- identity ---- */

/* The machine: systemd's id; the boot-independent host id of the kernel is not enough. "none" where there is
 * no such file (a minimal container); then the inodes alone tell a copy. */
static void read_machine(char out[65])
{
    snprintf(out, 65, "none");
    FILE *f = fopen("/etc/machine-id", "re");
    if (!f)
        return;
    char line[65] = "";
    if (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (*line && strspn(line, "0123456789abcdef") == strlen(line))
            snprintf(out, 65, "%s", line);
    }
    fclose(f);
}

int datadir_write_identity(const struct datadir *d, const struct datadir_identity *id, struct err_ctx *err)
{
    char path[DATADIR_PATH_MAX + 64], tmp[DATADIR_PATH_MAX + 64];
    int fd = open_tmp(d, "identity", 0600, path, tmp, sizeof(path), err);
    if (fd < 0)
        return fd;
    struct stat file, dir;
    int rc = 0;
    if (fstat(fd, &file) || stat(d->path, &dir)) {
        rc = err_set(err, code_of(errno), "%s: %s", d->path, strerror(errno));
    } else {
        char machine[65], hex[33];
        read_machine(machine);
        datadir_hex(hex, id->cluster_id, sizeof(id->cluster_id));
        struct buf b = {0};
        buf_addf(&b, "# Do not edit, and do not copy this directory: a copy of a node is refused.\n");
        buf_addf(&b, "cluster: %s\nnode: %u\nname: %s\nmachine: %s\n", hex, id->node, id->name, machine);
        buf_addf(&b, "directory-inode: %" PRIu64 "\nfile-inode: %" PRIu64 "\n", (uint64_t)dir.st_ino,
                 (uint64_t)file.st_ino);
        rc = write_all(fd, b.data, b.n) ? err_set(err, ERR_IO, "cannot write %s: %s", tmp, strerror(errno))
                                        : settle(d, fd, tmp, path, err);
        buf_fini(&b);
    }
    close(fd);
    if (rc)
        unlink(tmp);
    return rc;
}

struct identity_file {
    struct datadir_identity id;
    char machine[65];
    uint64_t dir_inode, file_inode;
    unsigned seen; /* bit per field */
};

static int parse_identity_line(struct identity_file *f, const char *key, const char *value)
{
    char *end;
    if (!strcmp(key, "cluster")) {
        f->seen |= 1;
        return datadir_unhex(f->id.cluster_id, sizeof(f->id.cluster_id), value);
    }
    if (!strcmp(key, "node")) {
        f->seen |= 2;
        unsigned long v = strtoul(value, &end, 10);
        f->id.node = (uint32_t)v;
        return *end || !v || v > UINT32_MAX ? ERR_INVALID : 0;
    }
    if (!strcmp(key, "name")) {
        f->seen |= 4;
        snprintf(f->id.name, sizeof(f->id.name), "%s", value);
        return datadir_is_name(value) ? 0 : ERR_INVALID;
    }
    if (!strcmp(key, "machine")) {
        f->seen |= 8;
        return (size_t)snprintf(f->machine, sizeof(f->machine), "%s", value) < sizeof(f->machine)
                   ? 0
                   : ERR_INVALID;
    }
    uint64_t *inode = !strcmp(key, "directory-inode") ? &f->dir_inode
                      : !strcmp(key, "file-inode")    ? &f->file_inode
                                                      : NULL;
    if (!inode)
        return ERR_INVALID;
    f->seen |= inode == &f->dir_inode ? 16 : 32;
    *inode = strtoull(value, &end, 10);
    return *end ? ERR_INVALID : 0;
}

static int parse_identity(struct identity_file *f, char *text)
{
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (*line == '#')
            continue;
        char *colon = strstr(line, ": ");
        if (!colon)
            return ERR_INVALID;
        *colon = '\0';
        if (parse_identity_line(f, line, colon + 2))
            return ERR_INVALID;
    }
    return f->seen == 63 ? 0 : ERR_INVALID;
}

static int read_identity_file(const struct datadir *d, struct identity_file *out, struct err_ctx *err)
{
    struct buf b = {0};
    int rc = datadir_read(d, "identity", &b, 4096, err);
    if (rc == ERR_NOTFOUND)
        rc = err_set(err, ERR_NOTFOUND,
                     "there is no node in %s; make one with 'impnode init' or 'impnode join'", d->path);
    memset(out, 0, sizeof(*out));
    if (!rc && (!b.n || parse_identity(out, b.data)))
        rc = err_set(err, ERR_CORRUPT, "%s/identity is damaged; restore this node by joining anew", d->path);
    buf_fini(&b);
    return rc;
}

int datadir_read_identity_of_copy(const struct datadir *d, struct datadir_identity *id, struct err_ctx *err)
{
    struct identity_file f;
    int rc = read_identity_file(d, &f, err);
    if (!rc)
        *id = f.id;
    return rc;
}

int datadir_read_identity(const struct datadir *d, struct datadir_identity *id, struct err_ctx *err)
{
    struct identity_file f;
    int rc = read_identity_file(d, &f, err);
    if (rc)
        return rc;
    char path[DATADIR_PATH_MAX + 64], machine[65];
    struct stat file, dir;
    if ((rc = path_of(d, "identity", path, sizeof(path), err)))
        return rc;
    if (stat(path, &file) || stat(d->path, &dir))
        return err_set(err, code_of(errno), "%s: %s", path, strerror(errno));
    read_machine(machine);
    const char *what = strcmp(machine, f.machine)              ? "was made on another machine"
                       : (uint64_t)dir.st_ino != f.dir_inode   ? "is a copy or was restored"
                       : (uint64_t)file.st_ino != f.file_inode ? "was restored"
                                                               : NULL;
    if (what)
        return err_set(
            err, ERR_CONFLICT,
            "the data directory %s of node %s %s: two copies of a node would forge votes. "
            "Remedy: on another member 'impcli node remove %s', then 'impnode join' into an empty "
            "directory; if no other member is left, 'impnode recover --data %s --force-new-cluster'",
            d->path, f.id.name, what, f.id.name, d->path);
    *id = f.id;
    return 0;
}

/* ---- small helpers ---- */

void datadir_hex(char *out, const uint8_t *data, size_t n_bytes)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n_bytes; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * n_bytes] = '\0';
}

int datadir_unhex(uint8_t *out, size_t n_bytes, const char *hex)
{
    if (strlen(hex) != 2 * n_bytes || strspn(hex, "0123456789abcdefABCDEF") != 2 * n_bytes)
        return ERR_INVALID;
    for (size_t i = 0; i < n_bytes; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return 0;
}

bool datadir_is_name(const char *name)
{
    size_t n = strlen(name);
    if (!n || n > NODE_NAME_MAX || !isalnum((unsigned char)name[0]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_", name[i]))
            return false;
    return true;
}
