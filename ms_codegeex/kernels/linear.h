// y = activation(x wᵀ + bias + what adapters add) + residual for matrices w of n rows and k columns.
#pragma once
#include "adapters.h"
#include "integers.h"
#include "matrix.h"

namespace {

constexpr int TOGETHER = 5;  // products of the same rows: query, key, value, gate, up

// Whether products with both matrices read the same form of x
inline bool alike(const Matrix& a, const Matrix& b) {
  const bool whole = a.activation_bits == 32 && b.activation_bits == 32;
  const bool rounded = a.activation_bits == b.activation_bits && a.kind == b.kind && a.group == b.group;
  return a.k == b.k && a.width == b.width && (whole || rounded);
}

// x [m, k], of matrices that are alike
bool linear_alike(const Product* all, int count, const float* x, int64_t m) {
  const Matrix& first = *all->w;
  if (first.width != first.k) {
    float* padded = room(1, m * first.width);
    if (!padded) return false;
    for (int64_t i = 0; i < m; i++) {
      memcpy(padded + i * first.width, x + i * first.k, first.k * sizeof(float));
      memset(padded + i * first.width + first.k, 0, (first.width - first.k) * sizeof(float));
    }
    x = padded;
  }
  Matrix plain[TOGETHER];
  Product products[TOGETHER];
  for (int i = 0; i < count; i++) {
    products[i] = all[i];
    if (!all[i].adapters->used()) continue;
    if (!right_rows(*all[i].adapters, m)) return false;
    plain[i] = *all[i].w, plain[i].activation = NONE;
    products[i].w = &plain[i], products[i].residual = nullptr;
  }
  const bool done = first.activation_bits < 32 ? rounded_products(products, count, x, m) : plain_products(products, count, x, m);
  if (!done) return false;
  for (int i = 0; i < count; i++)
    if (all[i].adapters->used()) adapt_rows(*all[i].adapters, *all[i].w, x, m, all[i].residual, all[i].y);
  return true;
}

// Up to TOGETHER products of x [m, k]; false if memory is out or an adapter's rows are wrong
bool linear(const Product* all, int count, const float* x, int64_t m) {
  for (int begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && alike(*all[begin].w, *all[end].w);) end++;
    if (!linear_alike(all + begin, end - begin, x, m)) return false;
  }
  return true;
}

}  // namespace
