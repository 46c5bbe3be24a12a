// Sum and concatenation over the processes that share a model, through shared memory.
#pragma once
#include <time.h>

#include "pool.h"

namespace {

// The memory holds `ranks` lines, then two buffers that are used in turn, each with `ranks` parts of `room` floats. A
// rank that writes in turn t + 2 has seen that all ranks wrote in turn t + 1, so all have finished reading turn t.
struct Line {
  uint64_t turn;     // the last turn that this rank has written
  int64_t count[2];  // number of floats in its part, for each buffer
  char padding[64 - 3 * 8];
};

struct Exchange {
  char* memory;
  int64_t rank, ranks, room;
  uint64_t turn;
};

inline Line* line_of(const Exchange& e, int64_t rank) { return reinterpret_cast<Line*>(e.memory) + rank; }

inline float* part_of(const Exchange& e, int64_t rank) {
  float* parts = reinterpret_cast<float*>(e.memory + e.ranks * sizeof(Line));
  return parts + ((e.turn & 1) * e.ranks + rank) * e.room;
}

// Waits until a rank has written the present turn. A process that waits for long yields its core. The program that
// started the ranks ends all of them when one ends, so no rank waits forever.
inline void await(const Exchange& e, int64_t rank) {
  const Line* line = line_of(e, rank);
  for (int spins = 0; __atomic_load_n(&line->turn, __ATOMIC_ACQUIRE) < e.turn; spins++) {
    if (spins < Pool::SPINS) {
      Pool::pause();
    } else if (spins < 2 * Pool::SPINS) {
      sched_yield();
    } else {
      const timespec moment{0, 100000};
      nanosleep(&moment, nullptr);
    }
  }
}

// Writes this rank's part with `write`, publishes it, and waits for the parts of all ranks.
template <class Function>
void meet(Exchange& e, int64_t count, const Function& write) {
  e.turn++;
  write(part_of(e, e.rank));
  Line* line = line_of(e, e.rank);
  line->count[e.turn & 1] = count;
  __atomic_store_n(&line->turn, e.turn, __ATOMIC_RELEASE);
  for (int64_t rank = 0; rank < e.ranks; rank++) await(e, rank);
}

inline int64_t count_of(const Exchange& e, int64_t rank) { return line_of(e, rank)->count[e.turn & 1]; }

// y = residual + the sum of x over all ranks. It is added up in the order of the ranks, so every rank gets the same
// result to the bit. `residual` may be null. Returns false if the ranks disagree about `count`.
bool sum_ranks(Exchange& e, const float* x, int64_t count, const float* residual, float* y) {
  constexpr int64_t STRETCH = 1 << 14;
  for (int64_t from = 0; from < count; from += e.room) {
    const int64_t most = count - from < e.room ? count - from : e.room;
    meet(e, count, [&](float* part) { memcpy(part, x + from, most * sizeof(float)); });
    for (int64_t rank = 0; rank < e.ranks; rank++)
      if (count_of(e, rank) != count) return false;
    parallel((most + STRETCH - 1) / STRETCH, most * e.ranks, [&](int64_t stretch) {
      const int64_t end = (stretch + 1) * STRETCH < most ? (stretch + 1) * STRETCH : most;
      for (int64_t i = stretch * STRETCH; i < end; i++) {
        float sum = part_of(e, 0)[i];
        for (int64_t rank = 1; rank < e.ranks; rank++) sum += part_of(e, rank)[i];
        y[from + i] = residual ? residual[from + i] + sum : sum;
      }
    });
  }
  return true;
}

// y [m, whole] = the columns of x [m, n] of all ranks, concatenated. Returns false if there are not `whole` of them.
bool gather_ranks(Exchange& e, const float* x, int64_t m, int64_t n, int64_t whole, float* y) {
  const int64_t each = e.room / whole;  // rows at a time
  if (each < 1 || n > whole) return false;
  for (int64_t from = 0; from < m; from += each) {
    const int64_t rows = m - from < each ? m - from : each;
    meet(e, rows * n, [&](float* part) { memcpy(part, x + from * n, rows * n * sizeof(float)); });
    int64_t total = 0;
    for (int64_t rank = 0; rank < e.ranks; rank++) total += count_of(e, rank);
    if (total != rows * whole) return false;
    int64_t begin = 0;
    for (int64_t rank = 0; rank < e.ranks; rank++) {
      const int64_t columns = count_of(e, rank) / rows;
      for (int64_t i = 0; i < rows; i++)
        memcpy(y + (from + i) * whole + begin, part_of(e, rank) + i * columns, columns * sizeof(float));
      begin += columns;
    }
  }
  return true;
}

}  // namespace
