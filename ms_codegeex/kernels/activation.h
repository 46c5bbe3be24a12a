// Bias and activation between two products, forward and backward, for training.
#pragma once
#include "matrix.h"
#include "norm.h"

namespace {

// The derivative of `activated`
inline F activated_slope(F v, int64_t activation) {
  if (activation == NONE) return all(1.0f);
  F inner = v, slope = all(1.0f);  // SILU: v sigmoid(inner(v))
  if (activation == GELU) {
    inner = all(1.5957691216057308f) * (v + all(0.044715f) * v * v * v);
    slope = all(1.5957691216057308f) * (all(1.0f) + all(3.0f * 0.044715f) * v * v);
  }
  if (activation == FAST_GELU) inner = all(1.702f) * v, slope = all(1.702f);
  const F s = all(1.0f) / (all(1.0f) + exponential(-inner));
  return s + v * slope * s * (all(1.0f) - s);
}

// f(vector at i, how many numbers of it count) for i in [0, n)
template <class Function>
inline void over_row(int64_t n, const Function& f) {
  int64_t i = 0;
  for (; i + L <= n; i += L) f(i, L);
  if (i < n) f(i, n - i);
}

inline F some(const float* p, int64_t count) {
  if (count == L) return load<F>(p);
  F v = F{};
  memcpy(&v, p, count * sizeof(float));
  return v;
}
inline void keep_some(float* p, F v, int64_t count) { memcpy(p, &v, count * sizeof(float)); }

// y = activation(x + bias), x [m, n]
void activate_rows(const float* x, const float* bias, int64_t activation, int64_t m, int64_t n, float* y) {
  parallel((m + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, 8 * m * n, [&](int64_t part) {
    for (int64_t i = part * ROWS_AT_ONCE; i < (part + 1) * ROWS_AT_ONCE && i < m; i++)
      over_row(n, [&](int64_t j, int64_t count) {
        const F v = some(x + i * n + j, count) + some(bias + j, count);
        keep_some(y + i * n + j, activated(v, activation), count);
      });
  });
}

// The gradients of x [m, n] and bias [n] from that of y; false if memory is out
bool activate_rows_back(const float* x, const float* bias, int64_t activation, const float* to_y, int64_t m, int64_t n,
                        float* to_x, float* to_bias) {
  const int64_t parts = (m + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  float* sums = room(7, parts * n);
  if (!sums) return false;
  memset(sums, 0, parts * n * sizeof(float));
  parallel(parts, 8 * m * n, [&](int64_t part) {
    float* own = sums + part * n;
    for (int64_t i = part * ROWS_AT_ONCE; i < (part + 1) * ROWS_AT_ONCE && i < m; i++)
      over_row(n, [&](int64_t j, int64_t count) {
        const F v = some(x + i * n + j, count) + some(bias + j, count);
        const F slope = some(to_y + i * n + j, count) * activated_slope(v, activation);
        keep_some(to_x + i * n + j, slope, count);
        keep_some(own + j, some(own + j, count) + slope, count);
      });
  });
  add_up(sums, parts, n, to_bias);
  return true;
}

}  // namespace
