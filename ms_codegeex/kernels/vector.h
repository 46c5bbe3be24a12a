// Vectors of L floats, written with the vector types of GCC and Clang; intrinsics only where compilers do badly.
//
// Every sum has one order, whatever the number of rows computed together, so that a row's result does not depend on its
// neighbours. The file is compiled with -ffp-contract=off: `fma` alone says where products and sums are fused.
#pragma once
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int L = 16;
#else
constexpr int L = 8;
#endif
typedef float F __attribute__((vector_size(4 * L)));
typedef int32_t I __attribute__((vector_size(4 * L)));

template <class V, class T>
inline V load(const T* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F v) { memcpy(p, &v, sizeof v); }
inline F all(float a) { return a - F{}; }  // `F{} + a` would add: -0 + 0 is 0

inline F fma(F a, F b, F c) {  // a b + c
#if defined(__AVX512F__)
  return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

struct Half { uint16_t bits; };   // IEEE's 16 bits
struct Brain { uint16_t bits; };  // the upper half of a float32

inline F widen(const float* p) { return load<F>(p); }

inline F widen(const int8_t* p) {  // __builtin_convertvector from 8 to 32 bits is scalar code in GCC 12
#if defined(__AVX512F__)
  return (F)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return (F)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  F v;
  for (int i = 0; i < L; i++) v[i] = p[i];
  return v;
#endif
}

inline F as_floats(I v) {
  F f;
  memcpy(&f, &v, sizeof f);
  return f;
}
inline I as_integers(F v) {
  I i;
  memcpy(&i, &v, sizeof i);
  return i;
}

inline I sixteen(const uint16_t* p) {
#if defined(__AVX512F__)
  return (I)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (I)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  I v;
  for (int i = 0; i < L; i++) v[i] = p[i];
  return v;
#endif
}

inline F widen(const Brain* p) { return as_floats(sixteen(&p->bits) << 16); }

inline F widen(const Half* p) {
#if defined(__AVX512F__)
  return (F)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (F)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  const I bits = sixteen(&p->bits), exponent = bits & 0x7C00;
  const I moved = ((bits & 0x7FFF) << 13) + (112 << 23);  // the exponent's new bias
  const I small = as_integers(as_floats(moved + (1 << 23)) - as_floats(I{} + (113 << 23)));  // subnormal
  const I found = exponent == 0x7C00 ? moved + (112 << 23) : exponent == 0 ? small : moved;
  return as_floats(found | (bits & 0x8000) << 16);
#endif
}

inline Half narrowed(float x) {  // to the nearest, ties to even; beyond the largest, the largest
  x = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
#if defined(__F16C__)
  return {_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)};
#else
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7FFFFFFF;
  if (bits > 0x7F800000) return {static_cast<uint16_t>(sign | 0x7E00)};  // not a number
  if (bits < 113u << 23) {                                               // subnormal
    float size;
    memcpy(&size, &bits, sizeof size);
    size += 0.5f;
    memcpy(&bits, &size, sizeof bits);
    return {static_cast<uint16_t>(sign | (bits - (126u << 23)))};
  }
  return {static_cast<uint16_t>(sign | (bits - (112u << 23) + 0xFFF + (bits >> 13 & 1)) >> 13)};
#endif
}

// sums of four vectors
inline void sums(const F* v, float* out) {
#if defined(__AVX512F__)
  const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d left = _mm512_castps_pd(ab), right = _mm512_castps_pd(cd);
  const __m512 four = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(left, right)),
                                    _mm512_castpd_ps(_mm512_unpackhi_pd(left, right)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
  for (int i = 0; i < 4; i++) {
    float a[L];
    store(a, v[i]);
    for (int n = L / 2; n; n /= 2)
      for (int j = 0; j < n; j++) a[j] += a[j + n];
    out[i] = a[0];
  }
#endif
}

inline float sum(F v) {
  const F four[4] = {v, F{}, F{}, F{}};
  float out[4];
  sums(four, out);
  return out[0];
}

inline float largest(F v) {
  float top = v[0];
  for (int i = 1; i < L; i++) top = v[i] > top ? v[i] : top;
  return top;
}
inline F larger(F a, F b) { return a > b ? a : b; }

// relative error below 2e-7 for |x| < 87 and exactly 0 below -87 (Cephes' polynomial)
inline F exponential(F x) {
  const F inside = x > all(-87.0f) ? x : all(-87.0f);
  const F clipped = inside < all(87.0f) ? inside : all(87.0f);
  const F n = (clipped * all(1.44269504f) + all(12582912.0f)) - all(12582912.0f);  // to the nearest whole number
  const F r = (clipped - n * all(0.693359375f)) - n * all(-2.12194440e-4f);
  F p = all(1.9875691500e-4f);
  p = fma(p, r, all(1.3981999507e-3f));
  p = fma(p, r, all(8.3334519073e-3f));
  p = fma(p, r, all(4.1665795894e-2f));
  p = fma(p, r, all(1.6666665459e-1f));
  p = fma(p, r, all(5.0000001201e-1f));
  p = fma(p * r, r, r) + all(1.0f);
  const I bits = (__builtin_convertvector(n, I) + 127) << 23;
  F power;
  memcpy(&power, &bits, sizeof power);
  return x < all(-87.0f) ? F{} : p * power;
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

constexpr int ROOMS = 9;

struct Room {
  float* p;
  size_t n;
};

pthread_key_t rooms;  // a thread's, to be freed when it ends
pthread_once_t rooms_begun = PTHREAD_ONCE_INIT;

inline void free_rooms(void* kept) {
  for (int i = 0; i < ROOMS; i++) free(static_cast<Room*>(kept)[i].p);
}

inline void begin_rooms() { pthread_key_create(&rooms, free_rooms); }

// Room that a thread keeps for `which` purpose; it only grows. Null if memory is out.
inline float* room(int which, size_t floats) {
  static thread_local Room kept[ROOMS];
  Room& one = kept[which];
  if (one.n < floats) {
    free(one.p);
    one.p = nullptr, one.n = 0;
    void* p = nullptr;
    if (posix_memalign(&p, 64, floats * sizeof(float))) return nullptr;
    one.p = static_cast<float*>(p), one.n = floats;
    pthread_once(&rooms_begun, begin_rooms);
    pthread_setspecific(rooms, kept);
  }
  return one.p;
}

}  // namespace
