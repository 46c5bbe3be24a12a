// Cross entropy of the next tokens over a table, with its gradients, some rows of logits at a time.
#pragma once
#include "products.h"

namespace {

constexpr int64_t LOGITS = int64_t{1} << 19;  // that are held at once, but at least FEWEST rows
constexpr int64_t FEWEST = 64;

struct Entropy {
  const float *hidden, *table, *bias;  // [rows, h], [v, h], [v] or null
  const int32_t* labels;               // [rows], in [0, v)
  const float* mask;                   // [rows]
  int64_t rows, h, v;
  float z_loss;
};

// A row of logits -> mask times the gradient of its nll + z_loss log² Z; the latter. What is not finite stays so.
inline double to_logits(const Entropy& e, int64_t row, float* logits) {
  const int64_t label = e.labels[row];
  F tops = all(-INFINITY), wrong = F{};
  over_row(e.v, [&](int64_t j, int64_t count) {
    F x = some(logits + j, count);
    wrong += x - x;
    for (int64_t i = count; i < L; i++) x[i] = -INFINITY;
    tops = larger(x, tops);
  });
  const float top = largest(tops), chosen = logits[label];
  F sums = F{};
  over_row(e.v, [&](int64_t j, int64_t count) {
    F x = exponential(some(logits + j, count) - all(top));
    for (int64_t i = count; i < L; i++) x[i] = 0.0f;
    sums += x, keep_some(logits + j, x, count);
  });
  const float total = sum(sums), log_z = logf(total) + top + sum(wrong), mask = e.mask[row];
  const F share = all(mask * (1.0f + 2.0f * e.z_loss * log_z) / total);
  over_row(e.v, [&](int64_t j, int64_t count) { keep_some(logits + j, some(logits + j, count) * share, count); });
  logits[label] -= mask;
  // the difference of large logits comes first: their sum with a logarithm would be rounded
  const double nll = logf(total) + sum(wrong) + (static_cast<double>(top) - chosen);
  return mask * (nll + e.z_loss * static_cast<double>(log_z) * log_z);
}

// The sum over all rows, and the gradients of hidden, table and bias (if there is one); false if memory is out
bool entropy_and_gradients(const Entropy& e, float* loss, float* to_hidden, float* to_table, float* to_bias) {
  const int64_t most = LOGITS / e.v / FEWEST * FEWEST, part = least(e.rows, most < FEWEST ? FEWEST : most);
  auto* losses = static_cast<double*>(malloc(e.rows * sizeof(double)));
  float* logits = room(8, part * e.v + e.v);
  bool right = losses && logits;
  float* columns = right ? logits + part * e.v : nullptr;
  if (e.bias) memset(to_bias, 0, e.v * sizeof(float));
  for (int64_t top = 0; right && top < e.rows; top += part) {
    const int64_t count = least(part, e.rows - top);
    const float* hidden = e.hidden + top * e.h;
    right = multiply({hidden, e.h, 1}, {e.table, 1, e.h}, count, e.v, e.h, e.bias, logits);
    const auto of_row = [&](int64_t i) { losses[top + i] = to_logits(e, top + i, logits + i * e.v); };
    if (right) parallel(count, 16 * count * e.v, of_row);
    right = right && multiply({logits, e.v, 1}, {e.table, e.h, 1}, count, e.h, e.v, nullptr, to_hidden + top * e.h) &&
            multiply({logits, 1, e.v}, {hidden, e.h, 1}, e.v, e.h, count, nullptr, to_table, top > 0);
    if (right && e.bias) {
      right = column_sums(logits, count, e.v, columns);
      for (int64_t j = 0; right && j < e.v; j++) to_bias[j] += columns[j];
    }
  }
  double total = 0.0;
  for (int64_t i = 0; right && i < e.rows; i++) total += losses[i];
  *loss = static_cast<float>(total);
  free(losses);
  return right;
}

}  // namespace
