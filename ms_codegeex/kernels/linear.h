// y = activation(x wᵀ + bias + what adapters add) + residual for a matrix w of n rows and k columns.
#pragma once
#include "adapters.h"
#include "integers.h"
#include "matrix.h"

namespace {

// x [m, width]
bool whole(const Matrix& w, const float* x, int64_t m, const float* residual, float* y) {
  if (w.activation_bits < 32) return rounded_product(w, x, m, residual, y);
  return with_numbers(w, [&](const auto& numbers) { return product(numbers, w, x, m, residual, y); });
}

// x [m, k], residual [m, n] or null -> y [m, n]; false if memory is out or the rows are wrong
bool linear(const Matrix& w, const Adapters& adapters, const float* x, int64_t m, const float* residual, float* y) {
  if (w.width != w.k) {
    float* padded = room(1, m * w.width);
    if (!padded) return false;
    for (int64_t i = 0; i < m; i++) {
      memcpy(padded + i * w.width, x + i * w.k, w.k * sizeof(float));
      memset(padded + i * w.width + w.k, 0, (w.width - w.k) * sizeof(float));
    }
    x = padded;
  }
  if (!adapters.used()) return whole(w, x, m, residual, y);
  if (!right_rows(adapters, m)) return false;
  Matrix plain = w;
  plain.activation = NONE;
  if (!whole(plain, x, m, nullptr, y)) return false;
  adapt_rows(adapters, w, x, m, residual, y);
  return true;
}

}  // namespace
