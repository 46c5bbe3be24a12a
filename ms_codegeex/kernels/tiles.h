// Products of small matrices, a tile of the result at a time, whose sums stay in registers.
#pragma once
#include "vector.h"

namespace {

#if defined(__AVX512F__)
constexpr int TALL = 8;
#else
constexpr int TALL = 4;
#endif

// c [M][N vectors] (+)= a b for `a` with strides `down` and `along`, b [count][...]
template <int M, int N>
inline void small_product(int64_t count, const float* a, int64_t down, int64_t along, const float* b, int64_t ldb,
                          float* c, int64_t ldc, bool more) {
  F acc[M][N];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) acc[i][j] = more ? load<F>(c + i * ldc + j * L) : F{};
  for (int64_t p = 0; p < count; p++) {
    F row[N];
    for (int j = 0; j < N; j++) row[j] = load<F>(b + p * ldb + j * L);
    for (int i = 0; i < M; i++) {
      const F one = all(a[i * down + p * along]);
      for (int j = 0; j < N; j++) acc[i][j] = fma(row[j], one, acc[i][j]);
    }
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) store(c + i * ldc + j * L, acc[i][j]);
}

// c [rows][columns] (+)= a b; `rows` divides by TALL, `columns` by L
inline void small_products(int64_t rows, int64_t columns, int64_t count, const float* a, int64_t down, int64_t along,
                           const float* b, int64_t ldb, float* c, int64_t ldc, bool more) {
  int64_t j = 0;
  for (; j + 2 * L <= columns; j += 2 * L)
    for (int64_t i = 0; i < rows; i += TALL)
      small_product<TALL, 2>(count, a + i * down, down, along, b + j, ldb, c + i * ldc + j, ldc, more);
  for (; j < columns; j += L)
    for (int64_t i = 0; i < rows; i += TALL)
      small_product<TALL, 1>(count, a + i * down, down, along, b + j, ldb, c + i * ldc + j, ldc, more);
}

}  // namespace
