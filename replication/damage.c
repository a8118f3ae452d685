#include "replication/damage.h"

#include "base/err.h"
#include "base/mem.h"
#include "replication/copy_files.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char *path_of(const char *dir, const char *file)
{
    return mem_printf("%s/%s", dir, file);
}

int damage_mark_raw(const char *path, const char *text, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? 0 : ERR_IO;
    int code = write(fd, text, n) == (ssize_t)n && fsync(fd) == 0 ? 0 : ERR_IO;
    close(fd);
    return code;
}

int damage_mark(const char *dir, const char *text)
{
    char *path = path_of(dir, DAMAGE_FILE);
    size_t n = strlen(text);
    int code = damage_mark_raw(path, text, n < DAMAGE_TEXT_MAX ? n : DAMAGE_TEXT_MAX - 1);
    if (code == 0)
        code = copy_sync_path(dir);
    mem_free(path);
    return code;
}

/* An empty file counts too: a crash may have kept its text from the disk. */
bool damage_read(const char *dir, const char *file, char text[DAMAGE_TEXT_MAX])
{
    char *path = path_of(dir, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    mem_free(path);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, DAMAGE_TEXT_MAX - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
    if (!*text)
        snprintf(text, DAMAGE_TEXT_MAX, "the reason was not written down");
    return true;
}

int damage_mended(const char *dir)
{
    char *from = path_of(dir, DAMAGE_FILE), *to = path_of(dir, DAMAGE_REPAIRED_FILE);
    int code = rename(from, to) == 0 ? copy_sync_path(dir) : errno == ENOENT ? 0 : ERR_IO;
    mem_free(from);
    mem_free(to);
    return code;
}

void damage_forget(const char *dir)
{
    char *path = path_of(dir, DAMAGE_REPAIRED_FILE);
    unlink(path);
    mem_free(path);
}
