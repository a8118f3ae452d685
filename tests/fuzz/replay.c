/* Gives every file of the named directories to the fuzz target once: the corpus as an ordinary test. */
#include "fuzz.h"

#include <dirent.h>
#include <string.h>

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return -1;
    }
    enum { MAX = 1 << 20 };
    uint8_t *data = malloc(MAX);
    size_t n = data ? fread(data, 1, MAX, f) : 0;
    /* Exactly as large as the input, so that AddressSanitizer sees a read past its end. */
    uint8_t *exact = malloc(n ? n : 1);
    if (exact && data) {
        memcpy(exact, data, n);
        LLVMFuzzerTestOneInput(exact, n);
    }
    free(exact);
    free(data);
    fclose(f);
    return 0;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            perror(argv[i]);
            return 1;
        }
        struct dirent *e;
        while ((e = readdir(dir))) {
            char path[4096];
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
            if (replay_file(path) != 0) {
                closedir(dir);
                return 1;
            }
            n++;
        }
        closedir(dir);
    }
    printf("%d inputs\n", n);
    return n > 0 ? 0 : 1;
}
