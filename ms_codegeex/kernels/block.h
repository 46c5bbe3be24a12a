// A decoder block of rows: attention and feed-forward part with their norms and residuals.
#pragma once
#include "attention.h"
#include "exchange.h"
#include "linear.h"
#include "norm.h"

namespace {

// A matrix with its adapters, or none
struct Linear {
  const Matrix* matrix;
  const Adapters* adapters;
};

// Without `feed_forward_norm`, the feed-forward part reads what the attention reads. A `gate`, which is activated, is
// multiplied with `up`. With an `exchange`, the matrices are this process's shares.
struct Block {
  const Norm *attention_norm, *feed_forward_norm;
  const Attention* attention;
  Exchange* exchange;
  Linear query, key, value, output, gate, up, down;

  int64_t hidden() const { return attention_norm->h; }
  // whether the parts fit together
  bool fits() const {
    const int64_t h = hidden(), wide = attention->heads * attention->size, narrow = attention->groups * attention->size;
    const auto is = [](const Linear& part, int64_t n, int64_t k) { return part.matrix->n == n && part.matrix->k == k; };
    const int64_t inner = up.matrix->n;
    return (!feed_forward_norm || feed_forward_norm->h == h) && is(query, wide, h) && is(key, narrow, h) &&
           is(value, narrow, h) && is(output, h, wide) && (!gate.matrix || is(gate, inner, h)) && is(up, inner, h) &&
           is(down, h, inner);
  }
};

// y [m, h] = residual + x wᵀ, summed over all processes; `part` [m, h] is scratch
bool add_product(const Block& block, const Linear& w, const float* x, int64_t m, const float* residual, float* part,
                 float* y) {
  if (!block.exchange) {
    const Product product{w.matrix, w.adapters, residual, y};
    return linear(&product, 1, x, m);
  }
  const Product product{w.matrix, w.adapters, nullptr, part};
  return linear(&product, 1, x, m) && sum_ranks(*block.exchange, part, m * block.hidden(), residual, y);
}

// x [m, h], which may be y; the rows of the attention's query (null: those of x, normalised); slots and positions [m] ->
// y [m, h]. False if memory is out or rows are wrong.
bool run(const Block& block, const float* x, const float* asked, const int32_t* slots, const int32_t* positions,
         int64_t m, float* y) {
  const int64_t h = block.hidden(), wide = block.query.matrix->n, narrow = block.key.matrix->n;
  const int64_t inner = block.up.matrix->n;
  float* scratch = room(8, m * (3 * h + 2 * wide + 2 * narrow + 2 * inner));
  if (!scratch) return false;
  const auto take = [&](int64_t width) { return (scratch += m * width) - m * width; };
  float *normal = take(h), *middle = take(h), *part = take(h), *query = take(wide), *attended = take(wide);
  float *key = take(narrow), *value = take(narrow), *gate = take(inner), *up = take(inner);

  Product products[TOGETHER];
  int count = 0;
  const auto also = [&](const Linear& w, float* to) {
    if (w.matrix) products[count++] = {w.matrix, w.adapters, nullptr, to};
  };
  const auto multiply = [&](const float* rows) {
    const int all = count;
    return count = 0, linear(products, all, rows, m);
  };
  norm_rows(*block.attention_norm, x, m, normal);
  also(block.query, query);
  if (asked && !multiply(asked)) return false;
  also(block.key, key), also(block.value, value);
  if (!block.feed_forward_norm) also(block.gate, gate), also(block.up, up);
  if (!multiply(normal)) return false;
  if (!attend(*block.attention, {query, key, value, slots, positions, m}, attended)) return false;
  if (!add_product(block, block.output, attended, m, x, part, middle)) return false;
  if (block.feed_forward_norm) {
    norm_rows(*block.feed_forward_norm, middle, m, normal);
    also(block.gate, gate), also(block.up, up);
    if (!multiply(normal)) return false;
  }
  if (block.gate.matrix)
    for (int64_t i = 0; i < m * inner; i++) up[i] *= gate[i];
  return add_product(block, block.down, up, m, middle, part, y);
}

}  // namespace
