/* What a team of threads needs from the machine: atomic words, a pause while spinning, giving up the processor, a clock, and
   starting a thread that gets no signals. */
#ifndef FASTNN_THREADS_H
#define FASTNN_THREADS_H

#include <stdint.h>

/* Where each thread has a variable of its own. */
#if defined(_MSC_VER)
#define FASTNN_THREAD_LOCAL __declspec(thread)
#else
#define FASTNN_THREAD_LOCAL __thread
#endif

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
typedef volatile LONG64 fastnn_atomic;
#define fastnn_load(word) ((int64_t)InterlockedCompareExchange64(word, 0, 0))
#define fastnn_store(word, value) ((void)InterlockedExchange64(word, value))
#define fastnn_add(word, value) ((int64_t)InterlockedExchangeAdd64(word, value) + (value))
static int fastnn_swap(fastnn_atomic *word, int64_t expected, int64_t value)
{
    return InterlockedCompareExchange64(word, value, expected) == expected;
}
#define fastnn_pause() YieldProcessor()
#define fastnn_yield() ((void)SwitchToThread())
typedef int fastnn_signals;
#define fastnn_hold_signals(before) ((void)(before))
#define fastnn_let_signals(before) ((void)(before))
static double fastnn_seconds(void)
{
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    return (double)ticks.QuadPart / (double)rate.QuadPart;
}
#else
#include <sched.h>
#include <signal.h>
#include <time.h>
typedef int64_t fastnn_atomic;
#define fastnn_load(word) __atomic_load_n(word, __ATOMIC_SEQ_CST)
#define fastnn_store(word, value) __atomic_store_n(word, value, __ATOMIC_SEQ_CST)
#define fastnn_add(word, value) __atomic_add_fetch(word, value, __ATOMIC_SEQ_CST)
static int fastnn_swap(fastnn_atomic *word, int64_t expected, int64_t value)
{
    return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#if defined(__x86_64__) || defined(__i386__)
#define fastnn_pause() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define fastnn_pause() __asm__ volatile("yield")
#else
#define fastnn_pause() ((void)0)
#endif
#define fastnn_yield() ((void)sched_yield())
typedef sigset_t fastnn_signals;
/* all but those for what the thread itself does wrong */
static inline void fastnn_hold_signals(sigset_t *before)
{
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, before);
}
static inline void fastnn_let_signals(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}
static double fastnn_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif

#endif
