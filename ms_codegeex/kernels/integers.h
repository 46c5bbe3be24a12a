// Products of rows with a matrix of 8-bit or 4-bit numbers, the rows rounded to 16 or 8 bits with a scale for each. All
// sums that share scales are of integers, so exact in any order; the others have one order. So a result is the same for
// every CPU level, whatever the number of rows, and NumPy can compute it.
#pragma once
#include "matrix.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr bool EIGHT_IN_BLOCKS = true;  // that CPU's products need no wider numbers
#else
constexpr bool EIGHT_IN_BLOCKS = false;
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int64_t PAIRED = 3;  // from so many rows on, FOUR is multiplied in pairs of 16 bits, not byte by byte
#else
constexpr int64_t PAIRED = INT64_MAX;
#endif
constexpr int64_t SPAN = 4096;   // columns of EIGHT: in each of 8 lanes, 512 products of 16 and 8 bits fit into 32 bits
constexpr int64_t SUMMED = 512;  // columns of EIGHT in blocks, in one lane
constexpr float LARGEST[2] = {127.0f, 32639.0f};  // rounded to 8 and to 16 bits: 127 * 256 + 127, two bytes with signs

// Rows of x as the products read them, `stride` bytes each.
//
// With EIGHT row after row: bytes or int16. With blocks: for 8 numbers, 8 bytes; or of 16 bits, 8 upper and 8 lower bytes
// with signs, or if `paired` int16 in the order of PAIRS. Without AVX2, float32. And in `offsets`, for each group of columns what takes 8 off each number of FOUR, or
// 128 off each of EIGHT.
struct Rounded {
  char* q;
  int32_t* offsets;
  float* scales;
  int64_t stride, groups;
  bool paired;
};

constexpr int PAIRS[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // of the numbers in a word: each two are 16 bits apart

// ---------------------------------------------------------------- rounding
// The scale of a row [width], and in `inverse` its reciprocal: 0 for a row of zeros or one that is not finite
inline float row_scale(const float* x, int64_t width, float limit, float* inverse) {
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
  *inverse = finite && !nothing ? limit / largest : 0.0f;
  return nothing ? 0.0f : finite ? largest / limit : largest - largest;
}

// L numbers over the scale, to the nearest whole one; zeros in a row whose `inverse` is 0
inline I nearest(const float* x, float inverse) {
  if (inverse == 0.0f) return I{};
  const F moved = load<F>(x) * all(inverse) + all(12582912.0f);
  return as_integers(moved) - 0x4B400000;
}

// The low bytes of L numbers; `count` at a time, `apart` bytes from each other
inline void store_bytes(char* q, I v, int count = L, int apart = 0) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)v);
  if (count == L) return _mm_storeu_si128(reinterpret_cast<__m128i*>(q), bytes);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(q), bytes);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(q + apart), _mm_unpackhi_epi64(bytes, bytes));
#elif defined(__AVX2__)
  static_assert(L == 8, "count is 8");
  const __m256i low = _mm256_shuffle_epi8((__m256i)v, _mm256_set1_epi32(0x0C080400));
  const __m128i bytes = _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(q), bytes);
#else
  for (int j = 0; j < L; j++) q[j / count * apart + j % count] = static_cast<char>(v[j]);
#endif
}

template <int PLANES>
void round_plain(const float* x, int64_t width, float inverse, char* q) {
  for (int64_t i = 0; i < width; i += L) {
    const I v = nearest(x + i, inverse);
    if (PLANES == 1) {
      store_bytes(q + i, v);
    } else {
      int16_t narrow[L];
      for (int j = 0; j < L; j++) narrow[j] = static_cast<int16_t>(v[j]);
      memcpy(q + 2 * i, narrow, sizeof narrow);
    }
  }
}

template <int PLANES>
void round_blocks(const float* x, int64_t width, int64_t group, int32_t less, float inverse, bool paired, char* q,
                  int32_t* offsets) {
  for (int64_t from = 0; from < width; from += group) {
    const int64_t to = from + group < width ? from + group : width;
    I total = I{};
    for (int64_t i = from; i < to; i += L) {
      const I v = nearest(x + i, inverse);
      total += v;
#if defined(__AVX2__)
      if (PLANES == 1) store_bytes(q + i, v);
      if (paired) {
        int16_t narrow[L];
        for (int j = 0; j < L; j++) narrow[j] = static_cast<int16_t>(v[j / 8 * 8 + PAIRS[j % 8]]);
        memcpy(q + 2 * i, narrow, sizeof narrow);
      } else if (PLANES == 2) {
        store_bytes(q + 2 * i, (v - (v << 24 >> 24)) >> 8, 8, 16);
        store_bytes(q + 2 * i + 8, v, 8, 16);
      }
#else
      const F exact = __builtin_convertvector(v, F);
      memcpy(q + 4 * i, &exact, sizeof exact);
#endif
    }
    int32_t sum = 0;
    for (int j = 0; j < L; j++) sum += total[j];
    offsets[from / group] = -less * sum;
  }
}

template <int PLANES>
void round_row(const Matrix& w, const float* x, int64_t i, const Rounded& rounded) {
  float inverse;
  const float* row = x + i * w.width;
  char* q = rounded.q + i * rounded.stride;
  rounded.scales[i] = row_scale(row, w.width, LARGEST[PLANES - 1], &inverse);
  if (!rounded.groups) return round_plain<PLANES>(row, w.width, inverse, q);
  const bool eight = w.kind == EIGHT;
  int32_t* offsets = rounded.offsets + i * rounded.groups;
  round_blocks<PLANES>(row, w.width, eight ? SUMMED : w.group, eight ? 128 : 8, inverse, rounded.paired, q, offsets);
}

// ---------------------------------------------------------------- EIGHT, row after row
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
#elif defined(__AVX2__)
  const __m256i ab = _mm256_hadd_epi32((__m256i)v[0], (__m256i)v[1]);
  const __m256i four = _mm256_hadd_epi32(ab, _mm256_hadd_epi32((__m256i)v[2], (__m256i)v[3]));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1)));
#else
  for (int i = 0; i < 4; i++) {
    out[i] = 0;
    for (int j = 0; j < L; j++) out[i] += v[i][j];
  }
#endif
}

// 4 L bytes of w, or 2 L as int16
template <int PLANES>
inline I numbers_of(const int8_t* p) {
  if constexpr (PLANES == 1) return load<I>(p);
#if defined(__AVX512BW__)
  return (I)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (I)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  int16_t wide[2 * L];
  for (int j = 0; j < 2 * L; j++) wide[j] = p[j];
  return load<I>(wide);
#endif
}

// sum + the products of each lane's numbers
template <int PLANES>
inline I dot(I sum, I x, I w) {
#if defined(__AVX512BW__)
  if constexpr (PLANES == 2) return sum + (I)_mm512_madd_epi16((__m512i)x, (__m512i)w);
  const __m512i size = _mm512_abs_epi8((__m512i)x);
  const __m512i other =
      _mm512_mask_sub_epi8((__m512i)w, _mm512_movepi8_mask((__m512i)x), _mm512_setzero_si512(), (__m512i)w);
  const __m512i pairs = _mm512_maddubs_epi16(size, other);  // at most 2 * 127 * 127: no saturation
  return sum + (I)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  if constexpr (PLANES == 2) return sum + (I)_mm256_madd_epi16((__m256i)x, (__m256i)w);
  const __m256i size = _mm256_abs_epi8((__m256i)x), other = _mm256_sign_epi8((__m256i)w, (__m256i)x);
  return sum + (I)_mm256_madd_epi16(_mm256_maddubs_epi16(size, other), _mm256_set1_epi16(1));
#else
  constexpr int COUNT = 4 / PLANES, BITS = 32 / COUNT;
  for (int b = 1; b <= COUNT; b++)
    sum += (x << (32 - BITS * b) >> (32 - BITS)) * (w << (32 - BITS * b) >> (32 - BITS));
  return sum;
#endif
}

// out += the sums of four vectors; those of products with 16 bits need more than 32, so their halves are summed apart
template <int PLANES>
inline void add_wholes(const I* v, int64_t* out) {
  int32_t low[4], high[4] = {0, 0, 0, 0};
  I lower[4], upper[4];
  for (int i = 0; i < 4; i++) lower[i] = PLANES == 1 ? v[i] : v[i] & 0xFFFF, upper[i] = v[i] >> 16;
  wholes(lower, low);
  if (PLANES == 2) wholes(upper, high);
  for (int i = 0; i < 4; i++) out[i] += 65536 * static_cast<int64_t>(high[i]) + low[i];
}

// raw [M][CHUNK] = rows [at, at + M) of x times rows [row, row + CHUNK) of w
template <int PLANES>
struct WithEight {
  static constexpr int MOST = WIDE;
  static constexpr int together(int m) { return m <= 3 || L == 16 ? 4 : 2; }

  template <int M>
  static void chunk(const Matrix& w, int64_t row, const Rounded& x, int64_t at, bool first, float* raw) {
    constexpr int R = together(M), N = (M * R + 3) / 4 * 4;
    constexpr int64_t APART = CHUNK / R;
    for (int64_t r0 = 0; r0 < APART; r0++) {
      const auto* p = static_cast<const int8_t*>(w.data) + (row + r0) * w.width;
      int64_t out[N] = {};
      for (int64_t from = 0; from < w.width; from += SPAN) {
        const int64_t to = from + SPAN < w.width ? from + SPAN : w.width;
        I acc[N];
        for (int j = 0; j < N; j++) acc[j] = I{};
        for (int64_t i = from; i < to; i += 4 / PLANES * L) {
          I q[R];
          for (int r = 0; r < R; r++) {
            q[r] = numbers_of<PLANES>(p + r * APART * w.width + i);
            if (first && i % 64 == 0) ahead(p + r * APART * w.width + i);
          }
          for (int m = 0; m < M; m++) {
            const I v = load<I>(x.q + (at + m) * x.stride + PLANES * i);
            for (int r = 0; r < R; r++) acc[m * R + r] = dot<PLANES>(acc[m * R + r], v, q[r]);
          }
        }
        for (int j = 0; j < N; j += 4) add_wholes<PLANES>(acc + j, out + j);
      }
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) {
          const int64_t n = row + r * APART + r0;
          raw[m * CHUNK + r * APART + r0] = static_cast<float>(out[m * R + r]) * w.scales[n];
        }
    }
  }
};

// ---------------------------------------------------------------- blocks: a lane for each row
typedef double D __attribute__((vector_size(8 * L)));
typedef uint32_t U __attribute__((vector_size(4 * L)));

#if defined(__AVX2__)
// The sums of one group, or of as many columns as their lanes can hold
template <int PLANES>
struct Sums {
#if defined(__AVX512VNNI__)
  static constexpr int64_t COLUMNS = SUMMED;  // of 32 bits
#else
  static constexpr int64_t COLUMNS = 32;  // 16 products of 15 and 128 fit into 16 bits
#endif
  I part[PLANES];

  // w: four numbers of each row from 0 to 15, or with VNNI to 255; x: the four bytes of one plane
  inline void add(int plane, I w, I x) {
#if defined(__AVX512VNNI__)
    part[plane] = (I)_mm512_dpbusd_epi32((__m512i)part[plane], (__m512i)w, (__m512i)x);
#elif defined(__AVX512BW__)
    part[plane] = (I)_mm512_add_epi16((__m512i)part[plane], _mm512_maddubs_epi16((__m512i)w, (__m512i)x));
#else
    part[plane] = (I)_mm256_add_epi16((__m256i)part[plane], _mm256_maddubs_epi16((__m256i)w, (__m256i)x));
#endif
  }
  static inline I pairs(I v, int factor) {
#if defined(__AVX512VNNI__)
    return (I)((U)v * static_cast<uint32_t>(factor));
#elif defined(__AVX512BW__)
    return (I)_mm512_madd_epi16((__m512i)v, _mm512_set1_epi16(factor));
#else
    return (I)_mm256_madd_epi16((__m256i)v, _mm256_set1_epi16(factor));
#endif
  }
  inline I total() const {
    return PLANES == 1 ? pairs(part[0], 1) : (I)((U)pairs(part[0], 256) + (U)pairs(part[PLANES - 1], 1));
  }
};

constexpr int32_t FLIPPED = static_cast<int32_t>(0x80808080);  // numbers from -127 to 127 plus 128, without signs

inline I broadcast(const char* p) {
  int32_t word;
  memcpy(&word, p, sizeof word);
  return word - I{};
}
#endif

template <Kind KIND, int PLANES, bool BY_PAIRS = false>
struct WithBlocks {
  static constexpr int WORDS = KIND == EIGHT ? 2 : 1;  // of 8 numbers
  static constexpr int MOST = KIND == EIGHT || PLANES == 1 ? WIDE : 4;  // rows of x whose sums fit into registers
#if defined(__AVX2__) && !defined(__AVX512F__)
  static constexpr int together(int m) { return m <= 2 || BY_PAIRS ? 2 : 1; }
#else
  static constexpr int together(int m) { return m <= 4 ? 2 : 1; }
#endif

  template <int M>
  static void chunk(const Matrix& w, int64_t row, const Rounded& x, int64_t at, bool first, float* raw) {
    for (int64_t r = 0; r < CHUNK; r += together(M) * L) some<M, together(M)>(w, row + r, x, at, first, raw + r);
  }

  // raw [M][R * L]
  template <int M, int R>
  static void some(const Matrix& w, int64_t row, const Rounded& x, int64_t at, bool first, float* raw) {
    const int64_t words = w.width / 8 * WORDS;
    const int32_t* p[R];
    const float* scales[R];
    for (int r = 0; r < R; r++) {
      const int64_t block = (row + r * L) / BLOCK * BLOCK, lane = (row + r * L) % BLOCK;
      p[r] = static_cast<const int32_t*>(w.data) + block * words + lane;
      scales[r] = w.scales + block * (KIND == EIGHT ? 1 : x.groups) + lane;
    }
    F acc[M][R];
    D total[M][R];  // whole numbers below 2^53
    for (int m = 0; m < M; m++)
      for (int r = 0; r < R; r++) acc[m][r] = F{}, total[m][r] = D{};
    for (int64_t g = 0; g < x.groups; g++) {
      I sum[M][R];
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) sum[m][r] = x.offsets[(at + m) * x.groups + g] - I{};
      add_group<M, R>(w, g, p, x, at, first, sum);
      for (int r = 0; r < R; r++) {
        const F scale = load<F>(scales[r] + (KIND == EIGHT ? 0 : g * BLOCK));
        for (int m = 0; m < M; m++) {
          if (KIND == EIGHT) total[m][r] += __builtin_convertvector(sum[m][r], D);
          else acc[m][r] += __builtin_convertvector(sum[m][r], F) * scale;
        }
      }
    }
    for (int m = 0; m < M; m++)
      for (int r = 0; r < R; r++) {
        if (KIND == EIGHT) acc[m][r] = __builtin_convertvector(total[m][r], F) * load<F>(scales[r]);
        store(raw + m * CHUNK + r * L, acc[m][r]);
      }
  }

#if defined(__AVX2__)
  template <int M, int R>
  static inline void add_group(const Matrix& w, int64_t g, const int32_t* const* p, const Rounded& x, int64_t at,
                               bool first, I sum[M][R]) {
    const int64_t group = KIND == EIGHT ? SUMMED : w.group, begin = g * group;
    const int64_t end = begin + group < w.width ? begin + group : w.width;
    if constexpr (BY_PAIRS) return add_pairs<M, R>(begin, end, p, x, at, first, sum);
    using Part = Sums<PLANES>;
    const int64_t columns = end - begin < Part::COLUMNS ? end - begin : Part::COLUMNS;
    for (int64_t from = begin; from < end; from += columns) {
      Part part[M][R] = {};
      for (int64_t i = from; i < from + columns; i += 32)
#pragma GCC unroll 4
        for (int j = 0; j < 32; j += 8) {
          I low[R], high[R];
          for (int r = 0; r < R; r++) {
            const int32_t* word = p[r] + (i + j) * (BLOCK / 8 * WORDS);
            const I v = load<I>(word);
            low[r] = v & 0x0F0F0F0F, high[r] = v >> 4 & 0x0F0F0F0F;
            if (KIND == EIGHT) low[r] = v ^ FLIPPED, high[r] = load<I>(word + BLOCK) ^ FLIPPED;
            for (int k = 0; first && k < WORDS; k++) ahead(word + k * BLOCK);
          }
          for (int m = 0; m < M; m++) {
            const char* q = x.q + (at + m) * x.stride + PLANES * (i + j);
            for (int plane = 0; plane < PLANES; plane++) {
              const I a = broadcast(q + 8 * plane), b = broadcast(q + 8 * plane + 4);
              for (int r = 0; r < R; r++) part[m][r].add(plane, low[r], a), part[m][r].add(plane, high[r], b);
            }
          }
        }
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) sum[m][r] = (I)((U)sum[m][r] + (U)part[m][r].total());
    }
  }

  // Columns [begin, end) of FOUR: a group's sums of up to 128 products of 16 and 4 bits fit into 32 bits
  template <int M, int R>
  static inline void add_pairs(int64_t begin, int64_t end, const int32_t* const* p, const Rounded& x, int64_t at,
                               bool first, I sum[M][R]) {
    for (int64_t i = begin; i < end; i += 8) {
      I words[R];
      for (int r = 0; r < R; r++) {
        words[r] = load<I>(p[r] + i * (BLOCK / 8));
        if (first) ahead(p[r] + i * (BLOCK / 8));
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        I pair[R];
        for (int r = 0; r < R; r++) pair[r] = words[r] & 0x000F000F, words[r] >>= 4;
        for (int m = 0; m < M; m++) {
          const I a = broadcast(x.q + (at + m) * x.stride + 2 * i + 4 * j);
          for (int r = 0; r < R; r++) {
            sum[m][r] = dot<2>(sum[m][r], pair[r], a);
            asm("" : "+v"(sum[m][r]));  // in its register: a compiler that makes all products first spills them
          }
        }
      }
    }
  }
#else
  template <int M, int R>
  static inline void add_group(const Matrix& w, int64_t g, const int32_t* const* p, const Rounded& x, int64_t at,
                               bool first, I sum[M][R]) {
    for (int64_t from = g * w.group; from < (g + 1) * w.group; from += 32) {
      F part[M][R];  // whole numbers below 32 * 15 * 32639, which float32 holds exactly
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) part[m][r] = F{};
      for (int64_t i = from; i < from + 32; i += 8) {
        I v[R];
        for (int r = 0; r < R; r++) {
          v[r] = load<I>(p[r] + i * (BLOCK / 8));
          if (first) ahead(p[r] + i * (BLOCK / 8));
        }
        for (int j = 0; j < 8; j++)
          for (int r = 0; r < R; r++) {
            const F q = __builtin_convertvector(v[r] >> (8 * (j % 4) + j / 4 * 4) & 15, F);
            for (int m = 0; m < M; m++) {
              float one;
              memcpy(&one, x.q + (at + m) * x.stride + 4 * (i + j), sizeof one);
              part[m][r] += q * all(one);
            }
          }
      }
      for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) sum[m][r] += __builtin_convertvector(part[m][r], I);
    }
  }
#endif
};

// ---------------------------------------------------------------- products
template <class With>
void rounded_rows(const Matrix& w, int64_t row, const Rounded& x, int64_t m, const float* residual, float* y) {
  float raw[WIDE * CHUNK];
  const int64_t most = share(m, With::MOST);
  for (int64_t i = 0; i < m; i += most) {
    const int64_t count = m - i < most ? m - i : most;
    const bool first = i == 0;
    switch (count) {
      case 1: With::template chunk<1>(w, row, x, i, first, raw); break;
      case 2: With::template chunk<2>(w, row, x, i, first, raw); break;
      case 3: With::template chunk<3>(w, row, x, i, first, raw); break;
      case 4: With::template chunk<4>(w, row, x, i, first, raw); break;
#if defined(__AVX512F__)
      case 5: With::template chunk<5>(w, row, x, i, first, raw); break;
      case 6: With::template chunk<6>(w, row, x, i, first, raw); break;
#endif
    }
    for (int64_t j = 0; j < count; j++) {
      const int64_t at = (i + j) * w.n;
      for (int64_t r = 0; r < CHUNK; r++) raw[j * CHUNK + r] *= x.scales[i + j];
      finish(w, row, raw + j * CHUNK, residual ? residual + at : nullptr, y + at);
    }
  }
}

template <int PLANES>
bool rounded_products(const Product* all, int count, const float* x, int64_t m) {
  const Matrix& w = *all->w;  // the others are of its kind
  const int64_t groups = w.kind == FOUR ? w.width / w.group : EIGHT_IN_BLOCKS ? (w.width + SUMMED - 1) / SUMMED : 0;
#if defined(__AVX2__)
  const int64_t stride = PLANES * w.width;
#else
  const int64_t stride = (w.kind == FOUR ? 4 : PLANES) * w.width;
#endif
  const bool paired = w.kind == FOUR && PLANES == 2 && m >= PAIRED;
  float* kept = room(4, m * (stride / 4 + groups + 1));
  if (!kept) return false;
  const Rounded rounded{reinterpret_cast<char*>(kept), reinterpret_cast<int32_t*>(kept + m * (stride / 4)),
                        kept + m * (stride / 4 + groups), stride, groups, paired};
  parallel(m, m * w.width * 8, [&](int64_t i) { round_row<PLANES>(w, x, i, rounded); });
  over_chunks(all, count, m, [&](const Product& product, int64_t row) {
    const Matrix& w = *product.w;
    if constexpr (PLANES == 2 && PAIRED < INT64_MAX)
      if (paired) return rounded_rows<WithBlocks<FOUR, 2, true>>(w, row, rounded, m, product.residual, product.y);
    if (w.kind == FOUR) return rounded_rows<WithBlocks<FOUR, PLANES>>(w, row, rounded, m, product.residual, product.y);
    if constexpr (EIGHT_IN_BLOCKS)
      rounded_rows<WithBlocks<EIGHT, PLANES>>(w, row, rounded, m, product.residual, product.y);
    else
      rounded_rows<WithEight<PLANES>>(w, row, rounded, m, product.residual, product.y);
  });
  return true;
}

// Products of x [m, width] with matrices of one width, kind and group; false if memory is out
bool rounded_products(const Product* all, int count, const float* x, int64_t m) {
  return all->w->activation_bits == 8 ? rounded_products<1>(all, count, x, m) : rounded_products<2>(all, count, x, m);
}

}  // namespace
