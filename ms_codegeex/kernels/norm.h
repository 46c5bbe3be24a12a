// LayerNorm and RMSNorm over rows, forward and backward.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

constexpr int64_t ROWS_AT_ONCE = 64;  // by one thread; sums over rows add up those of each part, in order

struct Norm {
  const float *weight, *bias;  // [h]; no bias: RMSNorm
  int64_t h;
  double epsilon;
};

// of f(i) over [0, h): whole vectors first, then the rest in order
template <class Vector, class Scalar>
inline float total(int64_t h, const Vector& vector, const Scalar& scalar) {
  F acc = F{};
  int64_t i = 0;
  for (; i + L <= h; i += L) acc += vector(i);
  float rest = sum(acc);
  for (; i < h; i++) rest += scalar(i);
  return rest;
}

// `kept`: mean and inverse deviation for the backward pass, or null
inline void norm_row(const Norm& norm, const float* x, float* y, float* kept) {
  const int64_t h = norm.h;
  float mean = 0.0f;
  if (norm.bias)
    mean = total(h, [&](int64_t i) { return load<F>(x + i); }, [&](int64_t i) { return x[i]; }) / static_cast<float>(h);
  const float squares = total(
      h, [&](int64_t i) { const F d = load<F>(x + i) - all(mean); return d * d; },
      [&](int64_t i) { const float d = x[i] - mean; return d * d; });
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(h) + static_cast<float>(norm.epsilon));
  for (int64_t i = 0; i < h; i++) {
    const float v = (x[i] - mean) * inverse * norm.weight[i];
    y[i] = norm.bias ? v + norm.bias[i] : v;
  }
  if (kept) kept[0] = mean, kept[1] = inverse;
}

// x [m, h] -> y [m, h]; kept [m, 2] or null
void norm_rows(const Norm& norm, const float* x, int64_t m, float* y, float* kept = nullptr) {
  parallel((m + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, m * norm.h, [&](int64_t part) {
    const int64_t begin = part * ROWS_AT_ONCE, end = begin + ROWS_AT_ONCE < m ? begin + ROWS_AT_ONCE : m;
    for (int64_t i = begin; i < end; i++)
      norm_row(norm, x + i * norm.h, y + i * norm.h, kept ? kept + 2 * i : nullptr);
  });
}

// sums [n] = those of the columns of parts [count][n], in order
inline void add_up(const float* parts, int64_t count, int64_t n, float* sums) {
  memset(sums, 0, n * sizeof(float));
  for (int64_t part = 0; part < count; part++)
    for (int64_t i = 0; i < n; i++) sums[i] += parts[part * n + i];
}

// One row; adds to the gradients of weight and bias
inline void norm_row_back(const Norm& norm, const float* x, const float* kept, const float* to_y, float* to_x,
                          float* to_weight, float* to_bias) {
  const int64_t h = norm.h;
  const float mean = kept[0], inverse = kept[1], *w = norm.weight;
  float shift = 0.0f;
  if (to_bias)
    shift = total(
        h, [&](int64_t i) { return load<F>(to_y + i) * load<F>(w + i); }, [&](int64_t i) { return to_y[i] * w[i]; });
  const float slope = total(
      h, [&](int64_t i) { return load<F>(to_y + i) * load<F>(w + i) * (load<F>(x + i) - all(mean)); },
      [&](int64_t i) { return to_y[i] * w[i] * (x[i] - mean); });
  const float a = shift / static_cast<float>(h), b = slope * inverse * inverse / static_cast<float>(h);
  for (int64_t i = 0; i < h; i++) {
    const float centred = x[i] - mean;
    to_x[i] = inverse * (to_y[i] * w[i] - a - centred * b);
    to_weight[i] += to_y[i] * centred * inverse;
  }
  if (to_bias)
    for (int64_t i = 0; i < h; i++) to_bias[i] += to_y[i];
}

// x, to_y, to_x [m, h], kept [m, 2], to_weight and to_bias (or null) [h]; false if memory is out
bool norm_rows_back(const Norm& norm, const float* x, const float* kept, const float* to_y, int64_t m, float* to_x,
                    float* to_weight, float* to_bias) {
  const int64_t parts = (m + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, h = norm.h;
  float* sums = room(7, 2 * parts * h);
  if (!sums) return false;
  memset(sums, 0, 2 * parts * h * sizeof(float));
  parallel(parts, 4 * m * h, [&](int64_t part) {
    const int64_t begin = part * ROWS_AT_ONCE, end = begin + ROWS_AT_ONCE < m ? begin + ROWS_AT_ONCE : m;
    for (int64_t i = begin; i < end; i++)
      norm_row_back(norm, x + i * h, kept + 2 * i, to_y + i * h, to_x + i * h, sums + part * h,
                    to_bias ? sums + (parts + part) * h : nullptr);
  });
  add_up(sums, parts, h, to_weight);
  if (to_bias) add_up(sums + parts * h, parts, h, to_bias);
  return true;
}

}  // namespace
