// Products of rows with a matrix of 8-bit or 4-bit numbers, the rows rounded to 8 bits with a scale for each: the sums
// are of integers, so exact in any order.
#pragma once
#include "matrix.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr int OFFSET = 128;  // added to rounded numbers, which that CPU's products with EIGHT take without a sign
#else
constexpr int OFFSET = 0;
#endif
typedef uint32_t U __attribute__((vector_size(4 * L)));

// sum + the products of each lane's four bytes. SMALL: those of x are 0 to 15 and those of w have a sign.
// Otherwise x is rounded numbers plus OFFSET, and w from -127 to 127.
template <bool SMALL>
inline I dot(I sum, I x, I w) {
#if defined(__AVX512VNNI__)
  return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#elif defined(__AVX512BW__)
  __m512i size = (__m512i)x, other = (__m512i)w;
  if constexpr (!SMALL) {
    other = _mm512_mask_sub_epi8(other, _mm512_movepi8_mask(size), _mm512_setzero_si512(), other);
    size = _mm512_abs_epi8(size);
  }
  const __m512i pairs = _mm512_maddubs_epi16(size, other);  // at most 2 * 127 * 127: no saturation
  return sum + (I)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  __m256i size = (__m256i)x, other = (__m256i)w;
  if constexpr (!SMALL) other = _mm256_sign_epi8(other, size), size = _mm256_abs_epi8(size);
  return sum + (I)_mm256_madd_epi16(_mm256_maddubs_epi16(size, other), _mm256_set1_epi16(1));
#else
  for (int b = 0; b < 4; b++) sum += (x << (24 - 8 * b) >> 24) * (w << (24 - 8 * b) >> 24);
  return sum;
#endif
}

// of four vectors, the sums
inline void wholes(const I* v, int32_t* out) {
#if defined(__AVX512F__)
  const __m512i a = (__m512i)v[0], b = (__m512i)v[1], c = (__m512i)v[2], d = (__m512i)v[3];
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i four = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
#else
  for (int i = 0; i < 4; i++) {
    out[i] = 0;
    for (int j = 0; j < L; j++) out[i] += v[i][j];
  }
#endif
}

// Rows of x as the products read them. With EIGHT: `width` bytes a row. With FOUR: for 128 numbers, `parts` times 64
// bytes, lane t having numbers t, 16 + t, 32 + t and 48 + t of 64 (those of other groups are zeros), and in `offsets`
// for each lane what takes 8 off each number of w.
struct Rounded {
  int8_t* q;
  int32_t* offsets;
  float* scales;
  int64_t stride, parts;
};

// The scale of a row [width], and in `inverse` its reciprocal: 0 for a row of zeros or one that is not finite
inline float row_scale(const float* x, int64_t width, float* inverse) {
  I top = I{};
  for (int64_t i = 0; i < width; i += L) {
    const I size = load<I>(x + i) & 0x7FFFFFFF;  // in the order of the magnitudes, those that are no numbers last
    top = size > top ? size : top;
  }
  int32_t bits = top[0];
  for (int i = 1; i < L; i++) bits = top[i] > bits ? top[i] : bits;
  float largest;
  memcpy(&largest, &bits, sizeof largest);
  const bool finite = bits < 0x7F800000, nothing = finite && largest < 1e-30f;
  *inverse = finite && !nothing ? 127.0f / largest : 0.0f;
  return nothing ? 0.0f : finite ? largest / 127.0f : largest - largest;
}

inline I nearest(const float* x, float inverse) {
  const F moved = load<F>(x) * all(inverse) + all(12582912.0f);
  return as_integers(moved) - 0x4B400000;
}

inline void round_eight(const float* x, int64_t width, float inverse, int8_t* q) {
  for (int64_t i = 0; i < width; i += L) {
    const I v = nearest(x + i, inverse) + OFFSET;
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtepi32_epi8((__m512i)v));
#else
    for (int j = 0; j < L; j++) q[i + j] = static_cast<int8_t>(v[j]);
#endif
  }
}

inline void round_four(const float* x, int64_t width, float inverse, int64_t parts, int8_t* q, int32_t* offsets) {
  for (int64_t i = 0; i < width; i += 64) {
    for (int t = 0; t < 16; t += L) {
      I words[2] = {I{}, I{}}, sums[2] = {I{}, I{}};  // of the first and the second 32 numbers
      for (int b = 0; b < 4; b++) {
        const I v = nearest(x + i + 16 * b + t, inverse);
        words[b / 2] |= (I)((U)(v & 255) << (8 * b));
        sums[b / 2] -= 8 * v;
      }
      for (int part = 0; part < parts / 2; part++) {
        const int64_t at = (i / 64 * (parts / 2) + part) * 16 + t;
        const I word = parts == 4 ? words[part] : words[0] | words[1];
        const I sum = parts == 4 ? sums[part] : sums[0] + sums[1];
        memcpy(q + 4 * at, &word, sizeof word);
        memcpy(offsets + at, &sum, sizeof sum);
      }
    }
  }
}

inline void round_row(const float* x, int64_t i, int64_t width, const Rounded& rounded) {
  float inverse;
  const float* row = x + i * width;
  int8_t* q = rounded.q + i * rounded.stride;
  int32_t* offsets = rounded.offsets + i * (rounded.stride / 4);
  rounded.scales[i] = row_scale(row, width, &inverse);
  if (inverse == 0.0f) {
    memset(q, rounded.parts ? 0 : OFFSET, rounded.stride);
    if (rounded.parts) memset(offsets, 0, rounded.stride);
  } else if (rounded.parts) {
    round_four(row, width, inverse, rounded.parts, q, offsets);
  } else {
    round_eight(row, width, inverse, q);
  }
}

// raw [M][CHUNK] = rows [at, at + M) of x times rows [row, row + CHUNK) of w
struct WithEight {
  template <int M, int R>
  static void chunk(const Matrix& w, int64_t row, const Rounded& x, int64_t at, bool first, float* raw) {
    constexpr int N = (M * R + 3) / 4 * 4;
    constexpr int64_t APART = CHUNK / R;
    for (int64_t r0 = 0; r0 < APART; r0++) {
      const auto* p = static_cast<const int8_t*>(w.data) + (row + r0) * w.width;
      I acc[N];
      for (int j = 0; j < N; j++) acc[j] = I{};
      for (int64_t i = 0; i < w.width; i += 4 * L) {
        I q[R];
        for (int r = 0; r < R; r++) {
          q[r] = load<I>(p + r * APART * w.width + i);
          if (first && i % 64 == 0) ahead(p + r * APART * w.width + i);
        }
        for (int m = 0; m < M; m++) {
          const I v = load<I>(x.q + (at + m) * x.stride + i);
          for (int r = 0; r < R; r++) acc[m * R + r] = dot<false>(acc[m * R + r], v, q[r]);
        }
      }
      int32_t out[N];
      for (int j = 0; j < N; j += 4) wholes(acc + j, out + j);
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) {
          const int64_t n = row + r * APART + r0;
          raw[m * CHUNK + r * APART + r0] = static_cast<float>(out[m * R + r] - OFFSET * w.sums[n]) * w.scales[n];
        }
    }
  }
};

template <int PARTS>
struct WithFour {
  template <int M, int R>
  static void chunk(const Matrix& w, int64_t row, const Rounded& x, int64_t at, bool first, float* raw) {
    constexpr int N = (M * R + 3) / 4 * 4, HALVES = 16 / L;
    const int64_t groups = w.width / w.group;
    constexpr int64_t APART = CHUNK / R;
    for (int64_t r0 = 0; r0 < APART; r0++) {
      const auto* p = static_cast<const int32_t*>(w.data) + (row + r0) * (w.width / 8);
      const float* scales = w.scales + (row + r0) * groups;
      F acc[N];
      for (int j = 0; j < N; j++) acc[j] = F{};
      for (int64_t i = 0; i < w.width; i += 128) {
        I words[R][HALVES];
        for (int r = 0; r < R; r++) {
          for (int h = 0; h < HALVES; h++) words[r][h] = load<I>(p + r * APART * (w.width / 8) + i / 8 + h * L);
          if (first) ahead(p + r * APART * (w.width / 8) + i / 8);
        }
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++)
          for (int h = 0; h < HALVES; h++) {
            I q[R];
            F s[R];
            for (int r = 0; r < R; r++) {
              q[r] = words[r][h] >> (4 * (part / (PARTS / 2))) & 0x0F0F0F0F;
              s[r] = all(scales[r * APART * groups + (i + 128 / PARTS * part) / w.group]);
            }
            for (int m = 0; m < M; m++) {
              const int64_t lane = (at + m) * (x.stride / 4) + (i / 128 * PARTS + part) * 16 + h * L;
              const I v = load<I>(x.q + 4 * lane), less = load<I>(x.offsets + lane);
              for (int r = 0; r < R; r++)
                acc[m * R + r] = fma(__builtin_convertvector(dot<true>(less, q[r], v), F), s[r], acc[m * R + r]);
            }
          }
      }
      float out[N];
      for (int j = 0; j < N; j += 4) sums(acc + j, out + j);
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) raw[m * CHUNK + r * APART + r0] = out[m * R + r];
    }
  }
};

template <class With>
void rounded_rows(const Matrix& w, int64_t row, const Rounded& x, int64_t m, const float* residual, float* y) {
  float raw[WIDE * CHUNK];
  const int64_t most = share(m);
  for (int64_t i = 0; i < m; i += most) {
    const int64_t count = m - i < most ? m - i : most;
    const bool first = i == 0;
    switch (count) {
      case 1: With::template chunk<1, 4>(w, row, x, i, first, raw); break;
      case 2: With::template chunk<2, 4>(w, row, x, i, first, raw); break;
      case 3: With::template chunk<3, 4>(w, row, x, i, first, raw); break;
      case 4: With::template chunk<4, L == 16 ? 4 : 2>(w, row, x, i, first, raw); break;
#if defined(__AVX512F__)
      case 5: With::template chunk<5, 4>(w, row, x, i, first, raw); break;
      case 6: With::template chunk<6, 4>(w, row, x, i, first, raw); break;
#endif
    }
    for (int64_t j = 0; j < count; j++) {
      const int64_t at = (i + j) * w.n;
      for (int64_t r = 0; r < CHUNK; r++) raw[j * CHUNK + r] *= x.scales[i + j];
      finish(w, row, raw + j * CHUNK, residual ? residual + at : nullptr, y + at);
    }
  }
}

// x [m, width]; false if memory is out
bool rounded_product(const Matrix& w, const float* x, int64_t m, const float* residual, float* y) {
  const int64_t parts = w.kind == EIGHT ? 0 : w.group == 32 ? 4 : 2, stride = parts ? w.width / 2 * parts : w.width;
  float* kept = room(4, m * (stride / 4) * (parts ? 2 : 1) + m);
  if (!kept) return false;
  float* after = kept + m * (stride / 4);
  const Rounded rounded{reinterpret_cast<int8_t*>(kept), reinterpret_cast<int32_t*>(after),
                        after + (parts ? m * (stride / 4) : 0), stride, parts};
  parallel(m, m * w.width * 8, [&](int64_t i) { round_row(x, i, w.width, rounded); });
  over_chunks(w, m, [&](int64_t row) {
    if (!parts) return rounded_rows<WithEight>(w, row, rounded, m, residual, y);
    parts == 2 ? rounded_rows<WithFour<2>>(w, row, rounded, m, residual, y)
               : rounded_rows<WithFour<4>>(w, row, rounded, m, residual, y);
  });
  return true;
}

// sums [rows] of an EIGHT
void sum_rows(const Matrix& w, int32_t* sums) {
  const auto* data = static_cast<const int8_t*>(w.data);
  for (int64_t r = 0; r < w.rows; r++) {
    int32_t total = 0;
    for (int64_t i = 0; i < w.width; i++) total += data[r * w.width + i];
    sums[r] = total;
  }
}

}  // namespace
