/* The register tiles of the matrix product, one set for each instruction set, and the choice among them. */
#ifndef FASTNN_GEMM_H
#define FASTNN_GEMM_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"
#include "threads.h"

#if defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#define FASTNN_APART static __attribute__((noinline))
#else
#define UNROLL
#define FASTNN_APART static
#endif
/* terms of a sum that are added up in one accumulator; 128 costs a percent of the time, and an error like that of OpenBLAS */
#define FASTNN_RUN 128
#define FASTNN_PASTE_(a, b) a##_##b
#define FASTNN_PASTE(a, b) FASTNN_PASTE_(a, b)

#define FASTNN_TILE_TYPE(name, T) \
    typedef struct { \
        int lanes, rows; \
        void (*panel)(ptrdiff_t m, ptrdiff_t columns, int vectors, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, \
                      int gathered, const T *b, ptrdiff_t b_row, int more, const T *bias, T *c, ptrdiff_t c_row); \
        void (*pack)(ptrdiff_t k, ptrdiff_t n, ptrdiff_t width, const T *b, ptrdiff_t b_row, ptrdiff_t b_col, T *panel); \
        void (*dots)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const T *a, ptrdiff_t a_row, const T *b, ptrdiff_t b_col, \
                     const T *bias, T *c, ptrdiff_t c_row); \
        void (*gather)(ptrdiff_t m, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, T *strips); \
    } name;
FASTNN_TILE_TYPE(fastnn_tile_f32, float)
FASTNN_TILE_TYPE(fastnn_tile_f64, double)

/* One level: its suffix, the bytes of a vector register and the rows of the tile. */
#define FASTNN_LEVEL_F32(name) FASTNN_PASTE(name##_f32, FASTNN_LEVEL)
#define FASTNN_LEVEL_F64(name) FASTNN_PASTE(name##_f64, FASTNN_LEVEL)

#if FASTNN_CLONES
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define FASTNN_LEVEL v4
#define FASTNN_VECTOR_BYTES 64
#define ROWS 12
#include "gemm_level.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define FASTNN_LEVEL v3
#define FASTNN_VECTOR_BYTES 32
#define ROWS 6
#include "gemm_level.h"
#pragma GCC pop_options
#endif

#define FASTNN_LEVEL base
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FASTNN_VECTORS 1
#endif
#endif
#if !defined(FASTNN_VECTORS)
#define FASTNN_VECTOR_BYTES 0
#define ROWS 4
#elif defined(__AVX512F__)
#define FASTNN_VECTOR_BYTES 64
#define ROWS 12
#elif defined(__AVX2__)
#define FASTNN_VECTOR_BYTES 32
#define ROWS 6
#elif defined(__aarch64__)
#define FASTNN_VECTOR_BYTES 16
#define ROWS 12
#else
#define FASTNN_VECTOR_BYTES 16
#define ROWS 6
#endif
#include "gemm_level.h"

#if FASTNN_CLONES
#define FASTNN_BEST(name) \
    (__builtin_cpu_supports("x86-64-v4") ? name##_v4 : __builtin_cpu_supports("x86-64-v3") ? name##_v3 : name##_base)
#else
#define FASTNN_BEST(name) name##_base
#endif

/* What a thread keeps for itself: copies of blocks of A, which fit the second-level cache, and of B; and a block of results
   for those who use them up at once. Behind each there is room for a vector. */
enum { FASTNN_STRIPS_BYTES = 288 * 1024, FASTNN_PANELS_BYTES = 1024 * 1024, FASTNN_BLOCK_BYTES = 256 * 1024 };

#if defined(__SANITIZE_ADDRESS__)
/* on the heap, where the sanitizer sees what lies before and behind it */
#define FASTNN_MEMORY(name, bytes) \
    static FASTNN_THREAD_LOCAL char *name##_memory; \
    static char *name(void) { return name##_memory ? name##_memory : (name##_memory = aligned_alloc(64, bytes + 64)); }
#else
#define FASTNN_MEMORY(name, bytes) \
    static FASTNN_THREAD_LOCAL char name##_memory[bytes + 128]; \
    static char *name(void) { return name##_memory + (64 - (size_t)name##_memory % 64); }
#endif
FASTNN_MEMORY(fastnn_gemm_strips, FASTNN_STRIPS_BYTES)
FASTNN_MEMORY(fastnn_gemm_panels, FASTNN_PANELS_BYTES)
FASTNN_MEMORY(fastnn_gemm_block, FASTNN_BLOCK_BYTES)

/* Whether the calling thread can have this memory, which it has from then on. The loader allocates it at the first touch, and
   ends the process where it cannot; so ask for as much beforehand. */
static int fastnn_gemm_memory(void)
{
    void *volatile as_much = malloc(FASTNN_STRIPS_BYTES + FASTNN_PANELS_BYTES + FASTNN_BLOCK_BYTES + 64 * 1024);
    if (!as_much)
        return 0;
    free(as_much);
    *(volatile char *)fastnn_gemm_strips() = 0;
    return 1;
}

static fastnn_tile_f32 fastnn_best_tile_f32(void) { return FASTNN_BEST(fastnn_tile_f32); }
static fastnn_tile_f64 fastnn_best_tile_f64(void) { return FASTNN_BEST(fastnn_tile_f64); }

#endif
