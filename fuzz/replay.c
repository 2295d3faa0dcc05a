/* SPDX-License-Identifier: MIT */
/* replay.c - main() of a fuzz target without libFuzzer: run the files, or the files in the directories, given. */
#include <dirent.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

static unsigned count;

static void run_file(const char *path, size_t size)
{
    uint8_t *data = malloc(size + (size == 0)); /* no longer than the input, as libFuzzer has it */
    FILE *f = fopen(path, "rb");

    if (!data || !f || fread(data, 1, size, f) != size)
        err(2, "%s", path);
    fclose(f);
    fprintf(stderr, "%s\n", path); /* the last one printed is the one that failed */
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    count++;
}

static void run(const char *path)
{
    struct dirent *entry;
    struct stat st;
    DIR *dir;

    if (stat(path, &st) < 0)
        err(2, "%s", path);
    if (!S_ISDIR(st.st_mode)) {
        run_file(path, (size_t)st.st_size);
        return;
    }
    dir = opendir(path);
    if (!dir)
        err(2, "%s", path);
    while ((entry = readdir(dir)) != NULL) {
        char below[4096];

        if (entry->d_name[0] == '.')
            continue;
        snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
        run(below);
    }
    closedir(dir);
}

int main(int argc, char **argv)
{
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        run(argv[i]);
    if (count == 0)
        errx(2, "usage: %s FILE|DIRECTORY... (there was no input)", argv[0]);
    printf("%u inputs\n", count);
    return 0;
}
