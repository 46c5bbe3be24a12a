// Threads: the caller and `threads - 1` helpers that spin for some 50 microseconds after a job, then sleep.
// Plain pthreads, so that no C++ standard library is needed. One job at a time; helpers end with the process.
#pragma once
#include <pthread.h>
#include <sched.h>
#include <stdint.h>

namespace {

struct Pool {
  typedef void (*Task)(const void* context, int64_t i);
  static constexpr int MAX_THREADS = 1024, SPINS = 4000;

  pthread_mutex_t busy, sleeping;
  pthread_cond_t wake;
  int started;  // helpers
  Task task;
  const void* context;
  int64_t count;
  int64_t next;    // task to take
  int64_t left;    // helpers still at work
  int64_t asleep;  // helpers
  uint64_t epoch;  // number of the job and, in the low 16 bits, how many helpers take part

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  void take() {
    for (int64_t i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < count;) task(context, i);
  }
  uint64_t awaited(uint64_t seen) {  // the epoch that follows `seen`
    for (int spins = 0; spins < SPINS; spins++) {
      const uint64_t now = __atomic_load_n(&epoch, __ATOMIC_ACQUIRE);
      if (now != seen) return now;
      pause();
    }
    pthread_mutex_lock(&sleeping);
    __atomic_fetch_add(&asleep, 1, __ATOMIC_SEQ_CST);
    uint64_t now;
    while ((now = __atomic_load_n(&epoch, __ATOMIC_SEQ_CST)) == seen) pthread_cond_wait(&wake, &sleeping);
    __atomic_fetch_sub(&asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&sleeping);
    return now;
  }
  void help(int index) {
    for (uint64_t seen = 0;;) {
      seen = awaited(seen);
      if (index >= static_cast<int>(seen & 0xFFFF)) continue;
      take();
      __atomic_fetch_sub(&left, 1, __ATOMIC_ACQ_REL);
    }
  }
  void start();
  void run(int64_t tasks, Task f, const void* with, int wanted) {
    if (tasks <= 1 || wanted == 0) {
      for (int64_t i = 0; i < tasks; i++) f(with, i);
      return;
    }
    pthread_mutex_lock(&busy);  // MindSpore may launch two operators at once
    while (started < wanted && started < MAX_THREADS) {
      const int before = started;
      start();
      if (started == before) break;  // the system allows no more threads
    }
    const int helpers = wanted < started ? wanted : started;
    task = f, context = with, count = tasks;
    __atomic_store_n(&next, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&left, helpers, __ATOMIC_RELAXED);
    __atomic_store_n(&epoch, ((epoch >> 16) + 1) << 16 | static_cast<uint64_t>(helpers), __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&asleep, __ATOMIC_SEQ_CST)) {
      pthread_mutex_lock(&sleeping);
      pthread_cond_broadcast(&wake);
      pthread_mutex_unlock(&sleeping);
    }
    take();
    for (int spins = 0; __atomic_load_n(&left, __ATOMIC_ACQUIRE); spins++) {
      pause();
      if (spins > 5 * SPINS) sched_yield();
    }
    pthread_mutex_unlock(&busy);
  }
};

Pool pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, nullptr, nullptr,
             0, 0, 0, 0, 0};

void* helper(void* index) {
  pool.help(static_cast<int>(reinterpret_cast<intptr_t>(index)));
  return nullptr;
}

void forked() {  // a child has no helpers: it starts its own
  pthread_mutex_init(&pool.busy, nullptr);
  pthread_mutex_init(&pool.sleeping, nullptr);
  pthread_cond_init(&pool.wake, nullptr);
  pool.started = 0, pool.asleep = 0, pool.epoch = 0;
}

void Pool::start() {
  static bool watched = false;
  if (!watched) pthread_atfork(nullptr, nullptr, forked), watched = true;
  pthread_t thread;
  if (pthread_create(&thread, nullptr, helper, reinterpret_cast<void*>(static_cast<intptr_t>(started)))) return;
  pthread_detach(thread);
  started++;
}

// Helpers of the operator that this thread runs: each engine has its own number. `usual`: of those without an engine.
int usual = 0;
thread_local int helpers = 0;

inline int helpers_of(int64_t threads) {
  return static_cast<int>(threads < 1 ? 0 : threads > Pool::MAX_THREADS ? Pool::MAX_THREADS - 1 : threads - 1);
}

constexpr int64_t WORTHWHILE = 1 << 17;  // multiplications for which other threads are woken

// f(i) for i in [0, count), each taken by the next free thread; `work`: how many multiplications that is in all
template <class Function>
void parallel(int64_t count, int64_t work, const Function& f) {
  if (work < WORTHWHILE)
    for (int64_t i = 0; i < count; i++) f(i);
  else
    pool.run(count, [](const void* with, int64_t i) { (*static_cast<const Function*>(with))(i); }, &f, helpers);
}

}  // namespace
