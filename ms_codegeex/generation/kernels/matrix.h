// y = activation(x wᵀ + bias) + residual for a matrix w of n rows and k columns, as float32, int8 or 4-bit numbers.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

enum Activation { NONE, GELU, FAST_GELU, SILU };

// Rows and columns are padded with zeros: `rows` divides by CHUNK, `width` by 16, or by 128 for four bits.
// bits 32: float32 [rows, width]. 8: int8 [rows, width], a scale for each row. 4: int32 [rows, width / 8] with a scale
// [rows, width / group]; number i of a row is nibble i % 128 / 16 of word 16 * (i / 128) + i % 16.
struct Matrix {
  const void* data;
  const float *scales, *bias;  // bias [rows] or null
  int64_t n, k, rows, width, bits, group, activation;
};

constexpr int64_t CHUNK = 32;    // rows that a thread takes at once
constexpr int64_t PIECE = 1024;  // columns whose products are summed in registers
constexpr int64_t FEW = 16;      // with more rows of x, a chunk is unpacked first
#if defined(__AVX512F__)
constexpr int WIDE = 8;  // rows of x in registers
#else
constexpr int WIDE = 4;
#endif

// Memory is far: several pages ahead of what is being read, which the hardware's own prefetch does not cross.
inline void ahead(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + 16384); }

// A row's numbers are had in steps of STEP: `enter(i)` at the beginning of each, `scaled(i + j)` at every 32 of them, then
// `get(i, j)` for the vector at i + j.
struct Full {
  static constexpr int STEP = L;
  const float *w, *scales;  // scales: null, or one for each row, applied to the sums
  int64_t width;
  struct Row {
    const float* p;
    inline void enter(int64_t i, bool first) {
      if (first && i % 16 == 0) ahead(p + i);
    }
    inline void scaled(int64_t) {}
    inline F get(int64_t i, int j) const { return load<F>(p + i + j); }
  };
  inline Row row(int64_t r) const { return {w + r * width}; }
  inline float scale(int64_t r) const { return scales ? scales[r] : 1.0f; }
};

struct Eight {
  static constexpr int STEP = L;
  const int8_t* w;
  const float* scales;
  int64_t width;
  struct Row {
    const int8_t* p;
    inline void enter(int64_t i, bool first) {
      if (first && i % 64 == 0) ahead(p + i);
    }
    inline void scaled(int64_t) {}
    inline F get(int64_t i, int j) const { return widen(p + i + j); }
  };
  inline Row row(int64_t r) const { return {w + r * width}; }
  inline float scale(int64_t r) const { return scales[r]; }
};

struct Four {  // its numbers times their scales are what Full holds after unpacking, bit by bit
  static constexpr int STEP = 128;
  const int32_t* w;
  const float* scales;
  int64_t width, group;
  struct Row {
    const int32_t* p;
    const float* scales;
    int64_t group;
    I words[16 / L];
    F scale;
    inline void enter(int64_t i, bool first) {
      for (int h = 0; h < 16 / L; h++) words[h] = load<I>(p + i / 8 + h * L);
      if (first) ahead(p + i / 8);
    }
    inline void scaled(int64_t i) {
      if (i % group) return;
#if defined(__AVX512F__)
      const F steps = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
      scale = steps * all(scales[i / group]);
#else
      scale = all(scales[i / group]);
#endif
    }
    inline F get(int64_t, int j) const {
#if defined(__AVX512F__)
      return (F)_mm512_permutexvar_ps(_mm512_srli_epi32((__m512i)words[0], 4 * (j / 16)), (__m512)scale);
#else
      return __builtin_convertvector((words[j % 16 / L] << (28 - 4 * (j / 16))) >> 28, F) * scale;
#endif
    }
  };
  inline Row row(int64_t r) const {
    Row row;
    row.p = w + r * (width / 8), row.scales = scales + r * (width / group), row.group = group;
    return row;
  }
  inline float scale(int64_t) const { return 1.0f; }
};

// raw [M][CHUNK] = M rows of x times rows [row, row + CHUNK) of w
template <class W, int M, int R>
void chunk(const W& w, int64_t row, const float* x, bool first, float* raw) {
  constexpr int N = (M * R + 3) / 4 * 4;
  for (int64_t i = 0; i < M * CHUNK; i++) raw[i] = 0.0f;
  for (int64_t from = 0; from < w.width; from += PIECE) {
    const int64_t to = from + PIECE < w.width ? from + PIECE : w.width;
    for (int64_t r0 = 0; r0 < CHUNK; r0 += R) {
      F acc[N];
      for (int j = 0; j < N; j++) acc[j] = F{};
      decltype(w.row(0)) rows[R];
      for (int r = 0; r < R; r++) rows[r] = w.row(row + r0 + r);
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
        for (int r = 0; r < R; r++) raw[m * CHUNK + r0 + r] += out[m * R + r];
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

template <class W>
void rows_of(const W& w, const Matrix& matrix, int64_t row, int64_t base, const float* x, int64_t m,
             const float* residual, float* y) {
  float raw[WIDE * CHUNK];
  for (int64_t i = 0; i < m; i += WIDE) {
    const int64_t count = m - i < WIDE ? m - i : WIDE;
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
      case 7: chunk<W, 7, 2>(w, base, from, first, raw); break;
      case 8: chunk<W, 8, 2>(w, base, from, first, raw); break;
#endif
    }
    for (int64_t j = 0; j < count; j++) {
      const int64_t at = (i + j) * matrix.n;
      finish(matrix, row, raw + j * CHUNK, residual ? residual + at : nullptr, y + at);
    }
  }
}

// `count` numbers of row r, without the scale that is applied to sums
template <class W>
void unpack(const W& w, int64_t r, int64_t count, float* out) {
  auto row = w.row(r);
  for (int64_t i = 0; i < count; i += W::STEP) {
    row.enter(i, false);
#pragma GCC unroll 16
    for (int j = 0; j < W::STEP; j += L) {
      if (j % 32 == 0) row.scaled(i + j);
      store(out + i + j, row.get(i, j));
    }
  }
}

// x [m, width]; false if memory is out
template <class W>
bool product(const W& w, const Matrix& matrix, const float* x, int64_t m, const float* residual, float* y) {
  const int64_t chunks = matrix.rows / CHUNK, tasks = 4 * (pool.wanted + 1);
  const int64_t each = m > FEW ? 1 : (chunks + tasks - 1) / tasks;  // long stretches suit memory
  bool failed = false;
  parallel((chunks + each - 1) / each, m * matrix.rows * matrix.width, [&](int64_t t) {
    for (int64_t c = t * each; c < (t + 1) * each && c < chunks; c++) {
      const int64_t row = c * CHUNK;
      if (m <= FEW || matrix.bits == 32) {
        rows_of(w, matrix, row, row, x, m, residual, y);
        continue;
      }
      float* plain = room(0, CHUNK * w.width);
      if (!plain) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      for (int64_t r = 0; r < CHUNK; r++) unpack(w, row + r, w.width, plain + r * w.width);
      const Full full{plain, matrix.bits == 8 ? matrix.scales + row : nullptr, w.width};
      rows_of(full, matrix, row, 0, x, m, residual, y);
    }
  });
  return !failed;
}

// x [m, k], residual [m, n] or null -> y [m, n]
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
  if (w.bits == 8) return product(Eight{static_cast<const int8_t*>(w.data), w.scales, w.width}, w, x, m, residual, y);
  if (w.bits == 4)
    return product(Four{static_cast<const int32_t*>(w.data), w.scales, w.width, w.group}, w, x, m, residual, y);
  return product(Full{static_cast<const float*>(w.data), nullptr, w.width}, w, x, m, residual, y);
}

// Row `index` of the matrix as float32 [k]; false if there is none or memory is out
bool lookup(const Matrix& w, int64_t index, float* out) {
  if (index < 0 || index >= w.n) return false;
  float* row = room(1, w.width);
  if (!row) return false;
  if (w.bits == 8) {
    unpack(Eight{static_cast<const int8_t*>(w.data), w.scales, w.width}, index, w.width, row);
    for (int64_t i = 0; i < w.k; i++) row[i] *= w.scales[index];
  } else if (w.bits == 4) {
    unpack(Four{static_cast<const int32_t*>(w.data), w.scales, w.width, w.group}, index, w.width, row);
  } else {
    memcpy(row, static_cast<const float*>(w.data) + index * w.width, w.k * sizeof(float));
  }
  memcpy(out, row, w.k * sizeof(float));
  return true;
}

}  // namespace
