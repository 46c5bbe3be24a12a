// y = activation(x wᵀ + bias) + residual for a matrix w of n rows and k columns.
#pragma once
#include "integers.h"
#include "matrix.h"

namespace {

// x [m, k], residual [m, n] or null -> y [m, n]; false if memory is out
bool linear(const Matrix& w, const float* x, int64_t m, const float* residual, float* y) {
  if (w.width != w.k) {
    float* padded = room(1, m * w.width);
    if (!padded) return false;
    for (int64_t i = 0; i < m; i++) {
      memcpy(padded + i * w.width, x + i * w.k, w.k * sizeof(float));
      memset(padded + i * w.width + w.k, 0, (w.width - w.k) * sizeof(float));
    }
    x = padded;
  }
  if (w.sums) return rounded_product(w, x, m, residual, y);
  return with_numbers(w, [&](const auto& numbers) { return product(numbers, w, x, m, residual, y); });
}

}  // namespace
