// One step of Adam with decoupled weight decay over a parameter, in one pass over its memory.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

struct AdamW {
  float rate, beta1, beta2, epsilon, decay, scale;  // `scale`: of the gradient
};

void adamw_part(const AdamW& a, int64_t n, float* __restrict w, float* __restrict m, float* __restrict v,
                const float* __restrict gradient) {
  const float one = 1.0f - a.beta1, two = 1.0f - a.beta2;
  for (int64_t i = 0; i < n; i++) {
    const float g = gradient[i] * a.scale, first = a.beta1 * m[i] + one * g, second = a.beta2 * v[i] + two * (g * g);
    m[i] = first, v[i] = second;
    w[i] -= a.rate * (first / (sqrtf(second) + a.epsilon) + a.decay * w[i]);
  }
}

// w, m, v, gradient [n]
void adamw_update(const AdamW& a, int64_t n, float* w, float* m, float* v, const float* gradient) {
  constexpr int64_t PART = 1 << 14;
  parallel((n + PART - 1) / PART, 8 * n, [&](int64_t part) {
    const int64_t at = part * PART;
    adamw_part(a, n - at < PART ? n - at : PART, w + at, m + at, v + at, gradient + at);
  });
}

}  // namespace
