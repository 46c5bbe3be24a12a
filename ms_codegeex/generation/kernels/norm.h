// LayerNorm and RMSNorm over rows.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

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

inline void norm_row(const Norm& norm, const float* x, float* y) {
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
}

void norm_rows(const Norm& norm, const float* x, int64_t m, float* y) {
  auto one = [&](int64_t i) { norm_row(norm, x + i * norm.h, y + i * norm.h); };
  parallel(m, m * norm.h, one);
}

}  // namespace
