// A matrix's numbers: float32, two kinds of 16 bits, int8 or 4 bits, and how vectors of them become float32.
#pragma once
#include "vector.h"

namespace {

enum Activation { NONE, GELU, FAST_GELU, SILU };
enum Kind { FLOAT, HALF, BRAIN, EIGHT, FOUR };

// Rows and columns are padded with zeros: `rows` divides by CHUNK, `width` by 16, or by 64 for EIGHT and 128 for FOUR.
// FLOAT, HALF, BRAIN, EIGHT: [rows, width], EIGHT with a scale for each row. FOUR: int32 [rows, width / 8] with a scale
// [rows, width / group]; number i of a row plus 8 is in word 16 * (i / 128) + i % 16, whose bits from 8 * (B % 4) +
// 4 * (B / 4) on it is, B being i % 128 / 16. For rounded activations BLOCK rows of FOUR lie side by side: int32
// [rows / BLOCK, width / 8, BLOCK], scales [rows / BLOCK, width / group, BLOCK]; of number i plus 8, B is i % 8. So do
// those of EIGHT if the CPU wants that (integers.h): [rows / BLOCK, width / 4, BLOCK, 4].
constexpr int64_t BLOCK = 16;
struct Matrix {
  const void* data;
  const float *scales, *bias;  // bias [rows] or null
  int64_t n, k, rows, width, kind, group, activation;
  int64_t activation_bits;  // 32, or for EIGHT and FOUR 16 or 8: activations are rounded
};

// Memory is far: several pages ahead of what is being read, which the hardware's own prefetch does not cross.
inline void ahead(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + 16384); }

// A row's numbers are had in steps of STEP: `enter(i)` at the beginning of each, `scaled(i + j)` at every 32 of them, then
// `get(i, j)` for the vector at i + j.
template <class T>
struct Plain {
  static constexpr int STEP = L;
  const T* w;
  const float* scales;  // null, or one for each row, applied to the sums
  int64_t width;
  struct Row {
    const T* p;
    inline void enter(int64_t i, bool first) {
      if (first && i * sizeof(T) % 64 == 0) ahead(p + i);
    }
    inline void scaled(int64_t) {}
    inline F get(int64_t i, int j) const { return widen(p + i + j); }
  };
  inline Row row(int64_t r) const { return {w + r * width}; }
  inline float scale(int64_t r) const { return scales ? scales[r] : 1.0f; }
};

struct Four {  // its numbers times their scales are what Plain<float> holds after unpacking, bit by bit
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
      const F steps = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
      scale = steps * all(scales[i / group]);
#else
      scale = all(scales[i / group]);
#endif
    }
    inline F get(int64_t, int j) const {
      const int shift = 8 * (j / 16 % 4) + 4 * (j / 64);
#if defined(__AVX512F__)
      return (F)_mm512_permutexvar_ps(_mm512_srli_epi32((__m512i)words[0], shift), (__m512)scale);
#else
      return __builtin_convertvector(((words[j % 16 / L] >> shift) & 15) - 8, F) * scale;
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

// f(the matrix's numbers, as one of the above)
template <class Function>
inline auto with_numbers(const Matrix& w, const Function& f) {
  switch (w.kind) {
    case HALF: return f(Plain<Half>{static_cast<const Half*>(w.data), nullptr, w.width});
    case BRAIN: return f(Plain<Brain>{static_cast<const Brain*>(w.data), nullptr, w.width});
    case EIGHT: return f(Plain<int8_t>{static_cast<const int8_t*>(w.data), w.scales, w.width});
    case FOUR: return f(Four{static_cast<const int32_t*>(w.data), w.scales, w.width, w.group});
  }
  return f(Plain<float>{static_cast<const float*>(w.data), nullptr, w.width});
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

// Row `index` of the matrix as float32 [k]; false if there is none, if activations are rounded, or if memory is out
bool lookup(const Matrix& w, int64_t index, float* out) {
  if (index < 0 || index >= w.n || w.activation_bits < 32) return false;
  float* row = room(1, w.width);
  if (!row) return false;
  return with_numbers(w, [&](const auto& numbers) {
    unpack(numbers, index, w.width, row);
    for (int64_t i = 0; i < w.k; i++) out[i] = w.kind == EIGHT ? row[i] * w.scales[index] : row[i];
    return true;
  });
}

}  // namespace
