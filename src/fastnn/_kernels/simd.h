/* One source, three instruction sets: the loader picks the clone that the processor can run.

   FASTNN_SIMD goes on a function that holds a loop. What that function calls inside the loop must be inlined
   (FASTNN_INLINE), or it stays at the baseline. Where the compiler or libc has no ifunc clones (gcc before 12, clang on macOS,
   musl, MSVC, Arm), and in a build for one given level (FASTNN_MARCH, see setup.py), there is a single version of everything. */
#ifndef FASTNN_SIMD_H
#define FASTNN_SIMD_H

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 \
    && !defined(FASTNN_ONE_LEVEL)
#define FASTNN_CLONES 1
#define FASTNN_SIMD __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FASTNN_CLONES 0
#define FASTNN_SIMD
#endif

#if defined(__GNUC__)
#define FASTNN_INLINE static inline __attribute__((always_inline))
#else
#define FASTNN_INLINE static inline
#endif

/* Ask for memory that will soon be read. */
#if defined(__GNUC__)
#define FASTNN_PREFETCH(p) __builtin_prefetch(p)
#else
#define FASTNN_PREFETCH(p) ((void)(p))
#endif

/* The level in use, in words. */
FASTNN_INLINE const char *fastnn_simd_level(void)
{
#if FASTNN_CLONES
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
    if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2, FMA)";
    return "x86-64 (SSE2)";
#elif defined(__AVX512F__) && defined(__AVX512VL__)
    return "x86-64-v4 (AVX-512), fixed when built";
#elif defined(__AVX2__) && defined(__FMA__)
    return "x86-64-v3 (AVX2, FMA), fixed when built";
#elif defined(__x86_64__) || defined(_M_X64)
    return "x86-64 (SSE2), fixed when built";
#elif defined(__aarch64__) || defined(_M_ARM64)
    return "aarch64 (NEON)";
#else
    return "the compiler's baseline";
#endif
}

#endif
