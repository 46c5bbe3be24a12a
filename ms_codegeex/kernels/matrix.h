// Products of rows with a matrix, y = activation(x wᵀ + bias) + residual, in float32 arithmetic.
#pragma once
#include "numbers.h"
#include "pool.h"

namespace {

constexpr int64_t CHUNK = 32;    // rows that a thread takes at once
constexpr int64_t PIECE = 1024;  // columns whose products are summed in registers
constexpr int64_t FEW = 16;      // with more rows of x, a chunk is unpacked first
#if defined(__AVX512F__)
constexpr int WIDE = 6;  // rows of x in registers: six times four sums need ten loads
#else
constexpr int WIDE = 4;
#endif

// raw [M][CHUNK] = M rows of x times rows [row, row + CHUNK) of w. Rows that are read together lie far apart: each is a
// long stretch of memory with the rows after it, which the hardware's prefetch follows twice as fast.
template <class W, int M, int R>
void chunk(const W& w, int64_t row, const float* x, bool first, float* raw) {
  constexpr int N = (M * R + 3) / 4 * 4;
  for (int64_t i = 0; i < M * CHUNK; i++) raw[i] = 0.0f;
  for (int64_t from = 0; from < w.width; from += PIECE) {
    const int64_t to = from + PIECE < w.width ? from + PIECE : w.width;
    for (int64_t r0 = 0; r0 < CHUNK / R; r0++) {
      F acc[N];
      for (int j = 0; j < N; j++) acc[j] = F{};
      decltype(w.row(0)) rows[R];
      for (int r = 0; r < R; r++) rows[r] = w.row(row + r * (CHUNK / R) + r0);
      for (int64_t i = from; i < to; i += W::STEP) {
        for (int r = 0; r < R; r++) rows[r].enter(i, first);
#pragma GCC unroll 16
        for (int j = 0; j < W::STEP; j += L) {
          F q[R];
          for (int r = 0; r < R; r++) {
            if (j % 32 == 0) rows[r].scaled(i + j);
            q[r] = rows[r].get(i, j);
          }
          for (int m = 0; m < M; m++) {
            const F xs = load<F>(x + m * w.width + i + j);
            for (int r = 0; r < R; r++) acc[m * R + r] = fma(q[r], xs, acc[m * R + r]);
          }
        }
      }
      float out[N];
      for (int j = 0; j < N; j += 4) sums(acc + j, out + j);
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) raw[m * CHUNK + r * (CHUNK / R) + r0] += out[m * R + r];
    }
  }
  for (int m = 0; m < M; m++)
    for (int r = 0; r < CHUNK; r++) raw[m * CHUNK + r] *= w.scale(row + r);
}

inline F activated(F v, int64_t activation) {
  if (activation == NONE) return v;
  F slope = v;  // SILU
  if (activation == GELU) slope = all(1.5957691216057308f) * (v + all(0.044715f) * v * v * v);  // tanh formula
  if (activation == FAST_GELU) slope = all(1.702f) * v;
  return v / (all(1.0f) + exponential(-slope));
}

// What follows the products of one row of x: raw [CHUNK] -> y[row ...], as many as there are
inline void finish(const Matrix& w, int64_t row, float* raw, const float* residual, float* y) {
  for (int64_t j = 0; j < CHUNK; j += L) {
    F v = load<F>(raw + j);
    if (w.bias) v += load<F>(w.bias + row + j);
    store(raw + j, activated(v, w.activation));
  }
  const int64_t count = w.n - row < CHUNK ? w.n - row : CHUNK;
  for (int64_t j = 0; j < count; j++) y[row + j] = residual ? residual[row + j] + raw[j] : raw[j];
}

// How many of m rows are taken at once, at most `wide`: equal shares
inline int64_t share(int64_t m, int64_t wide = WIDE) {
  const int64_t shares = (m + wide - 1) / wide;
  return (m + shares - 1) / shares;
}

template <class W>
void rows_of(const W& w, const Matrix& matrix, int64_t row, int64_t base, const float* x, int64_t m,
             const float* residual, float* y) {
  float raw[WIDE * CHUNK];
  const int64_t most = share(m);
  for (int64_t i = 0; i < m; i += most) {
    const int64_t count = m - i < most ? m - i : most;
    const float* from = x + i * w.width;
    const bool first = i == 0;
    switch (count) {
      case 1: chunk<W, 1, 4>(w, base, from, first, raw); break;
      case 2: chunk<W, 2, 4>(w, base, from, first, raw); break;
      case 3: chunk<W, 3, 4>(w, base, from, first, raw); break;
      case 4: chunk<W, 4, L == 16 ? 4 : 2>(w, base, from, first, raw); break;
#if defined(__AVX512F__)
      case 5: chunk<W, 5, 4>(w, base, from, first, raw); break;
      case 6: chunk<W, 6, 4>(w, base, from, first, raw); break;
#endif
    }
    for (int64_t j = 0; j < count; j++) {
      const int64_t at = (i + j) * matrix.n;
      finish(matrix, row, raw + j * CHUNK, residual ? residual + at : nullptr, y + at);
    }
  }
}

struct Adapters;

// y [m, n] = activation(x wᵀ + bias + what adapters add) + residual [m, n], which may be null
struct Product {
  const Matrix* w;
  const Adapters* adapters;
  const float* residual;
  float* y;
};

// f(product, row) for the first row of each chunk of all matrices; threads take long stretches for few rows of x, which
// suits memory
template <class Function>
void over_chunks(const Product* all, int count, int64_t m, const Function& f) {
  int64_t chunks = 0, numbers = 0;
  for (int i = 0; i < count; i++) chunks += all[i].w->rows / CHUNK, numbers += all[i].w->rows * all[i].w->width;
  const int64_t tasks = 4 * (helpers + 1), each = m > FEW ? 1 : (chunks + tasks - 1) / tasks;
  parallel((chunks + each - 1) / each, m * numbers, [&](int64_t t) {
    for (int64_t c = t * each; c < (t + 1) * each && c < chunks; c++) {
      const Product* product = all;
      int64_t chunk = c;
      for (; chunk >= product->w->rows / CHUNK; product++) chunk -= product->w->rows / CHUNK;
      f(*product, chunk * CHUNK);
    }
  });
}

// Products of x [m, width] with matrices of one width; false if memory is out
bool plain_products(const Product* all, int count, const float* x, int64_t m) {
  bool failed = false;
  over_chunks(all, count, m, [&](const Product& product, int64_t row) {
    const Matrix& matrix = *product.w;
    with_numbers(matrix, [&](const auto& w) {
      if (m <= FEW || matrix.kind == FLOAT) return rows_of(w, matrix, row, row, x, m, product.residual, product.y);
      float* plain = room(0, CHUNK * w.width);
      if (!plain) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      for (int64_t r = 0; r < CHUNK; r++) unpack(w, row + r, w.width, plain + r * w.width);
      const Plain<float> whole{plain, matrix.kind == EIGHT ? matrix.scales + row : nullptr, w.width};
      rows_of(whole, matrix, row, 0, x, m, product.residual, product.y);
    });
  });
  return !failed;
}

}  // namespace
