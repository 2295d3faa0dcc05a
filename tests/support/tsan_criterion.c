/* SPDX-License-Identifier: MIT */
/*
 * Only in the ThreadSanitizer build. Criterion gives each test's process a piece of memory that it maps at
 * an address drawn with rand_r(), somewhere in 64 TiB; ThreadSanitizer keeps almost all of that for itself,
 * and the run dies before the first test. This rand_r() draws from the range that belongs to the program.
 */
#include <stdlib.h>

__attribute__((visibility("default"))) int rand_r(unsigned int *seed)
{
    *seed = *seed * 1103515245u + 12345u;
    /* Criterion: 0x200000000000 + (n & 0x3fffff) * 16 MiB; the program's range begins at 0x550000000000. */
    return (int)(0x350000u + ((*seed >> 12) & 0x7fffu));
}
