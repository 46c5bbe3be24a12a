// What adapters (LoRA) add to a product of rows: B (A x), where a row has one.
#pragma once
#include "matrix.h"

namespace {

constexpr int64_t MAX_RANK = 1024;

// A [rank, width] and B transposed [rank, rows], padded with zeros as the matrix is. B is scaled already. Rank 0: the
// adapter leaves this matrix alone.
struct Adapter {
  const float *a, *b;
  int64_t rank;
};

// The adapters of a matrix, and those of the rows of a pass: `chosen` [1 + most] counts the rows that have one, then
// gives the number of each row's: 0 is none, 1 the first of `count`.
struct Adapters {
  const Adapter* all;
  int64_t count;
  const int32_t* chosen;
  int64_t most;

  bool used() const { return count && chosen[0]; }
};

// y [n] += B (A x), x [width]
inline void adapt(const Adapter& adapter, const Matrix& w, const float* x, float* y) {
  float low[MAX_RANK + 3];
  for (int64_t r = 0; r < adapter.rank; r += 4) {
    F acc[4] = {F{}, F{}, F{}, F{}};
    const int64_t count = adapter.rank - r < 4 ? adapter.rank - r : 4;
    for (int64_t i = 0; i < w.width; i += L) {
      const F v = load<F>(x + i);
      for (int64_t j = 0; j < count; j++) acc[j] = fma(load<F>(adapter.a + (r + j) * w.width + i), v, acc[j]);
    }
    sums(acc, low + r);
  }
  for (int64_t j = 0; j < w.rows; j += L) {
    F v = F{};
    for (int64_t r = 0; r < adapter.rank; r++) v = fma(all(low[r]), load<F>(adapter.b + r * w.rows + j), v);
    float out[L];
    store(out, v);
    for (int64_t i = 0; i < L && j + i < w.n; i++) y[j + i] += out[i];
  }
}

// y [n] = activation(y) + residual
inline void finish_row(const Matrix& w, const float* residual, float* y) {
  for (int64_t j = 0; j < w.n; j += L) {
    const int64_t count = w.n - j < L ? w.n - j : L;
    float out[L] = {};
    memcpy(out, y + j, count * sizeof(float));
    store(out, activated(load<F>(out), w.activation));
    for (int64_t i = 0; i < count; i++) y[j + i] = residual ? residual[j + i] + out[i] : out[i];
  }
}

// y [m, n], the product without activation and residual -> with what the adapters add and with them
inline void adapt_rows(const Adapters& adapters, const Matrix& w, const float* x, int64_t m, const float* residual,
                       float* y) {
  parallel(m, adapters.chosen[0] * 16 * (w.width + w.rows), [&](int64_t i) {
    const int32_t which = adapters.chosen[1 + i];
    if (which) adapt(adapters.all[which - 1], w, x + i * w.width, y + i * w.n);
    finish_row(w, residual ? residual + i * w.n : nullptr, y + i * w.n);
  });
}

// Whether the rows of a pass name adapters that there are
inline bool right_rows(const Adapters& adapters, int64_t m) {
  if (m > adapters.most) return false;
  for (int64_t i = 0; i < m; i++)
    if (adapters.chosen[1 + i] < 0 || adapters.chosen[1 + i] > adapters.count) return false;
  return true;
}

}  // namespace
