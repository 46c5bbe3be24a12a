// All parameters of a step: the squared norm of their gradients, and Adam with decoupled weight decay in one pass.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

struct AdamW {
  float rate, beta1, beta2, epsilon, decay, scale;  // `scale`: of the gradient
};

constexpr int64_t PIECE_OF_PARAMETER = 1 << 14;

inline int64_t pieces(int64_t n) { return (n + PIECE_OF_PARAMETER - 1) / PIECE_OF_PARAMETER; }

// f(tensor, its first element, how many, number of the piece) for all pieces of `count` tensors with `sizes` elements
template <class Function>
void over_pieces(const int64_t* sizes, int64_t count, int64_t cost, const Function& f) {
  int64_t total = 0, elements = 0;
  for (int64_t i = 0; i < count; i++) total += pieces(sizes[i]), elements += sizes[i];
  parallel(total, cost * elements, [&](int64_t number) {
    int64_t tensor = 0, piece = number;
    while (piece >= pieces(sizes[tensor])) piece -= pieces(sizes[tensor++]);
    const int64_t at = piece * PIECE_OF_PARAMETER, left = sizes[tensor] - at;
    f(tensor, at, left < PIECE_OF_PARAMETER ? left : PIECE_OF_PARAMETER, number);
  });
}

void adamw_piece(const AdamW& a, int64_t n, float* __restrict w, float* __restrict m, float* __restrict v,
                 const float* __restrict gradient) {
  const float one = 1.0f - a.beta1, two = 1.0f - a.beta2;
  for (int64_t i = 0; i < n; i++) {
    const float g = gradient[i] * a.scale, first = a.beta1 * m[i] + one * g, second = a.beta2 * v[i] + two * (g * g);
    m[i] = first, v[i] = second;
    w[i] -= a.rate * (first / (sqrtf(second) + a.epsilon) + a.decay * w[i]);
  }
}

inline float squares_piece(const float* x, int64_t n) {
  F acc = F{};
  int64_t i = 0;
  for (; i + L <= n; i += L) acc = fma(load<F>(x + i), load<F>(x + i), acc);
  float rest = sum(acc);
  for (; i < n; i++) rest += x[i] * x[i];
  return rest;
}

}  // namespace
