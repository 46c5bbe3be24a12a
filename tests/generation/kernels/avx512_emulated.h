// The AVX-512 intrinsics that the operators use, as loops over their lanes, for CPUs that have AVX2 only. Included
// before the sources, which then compile as for a CPU with AVX-512. Meanings: Intel's Intrinsics Guide.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#define __AVX512F__ 1
#define __AVX512BW__ 1
#ifdef EMULATE_VNNI
#define __AVX512VNNI__ 1
#endif

namespace emulated {

template <class T, class V>
struct Lanes {
  T lane[sizeof(V) / sizeof(T)];
  explicit Lanes(V v) { memcpy(lane, &v, sizeof v); }
  Lanes() {}
  operator V() const {
    V v;
    memcpy(&v, lane, sizeof v);
    return v;
  }
  T& operator[](int i) { return lane[i]; }
};
typedef __m512i W;
typedef Lanes<int8_t, W> I8;
typedef Lanes<uint8_t, W> U8;
typedef Lanes<int16_t, W> I16;
typedef Lanes<int32_t, W> I32;
typedef Lanes<uint32_t, W> U32;
typedef Lanes<float, __m512> F32;

template <class To, class From>
inline To same(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline W setzero_si512() { return I32(W{}); }
inline W set1_epi16(int16_t a) {
  I16 r;
  for (int i = 0; i < 32; i++) r[i] = a;
  return r;
}
inline W add_epi16(W a, W b) {
  I16 x(a), y(b);
  for (int i = 0; i < 32; i++) x[i] = static_cast<int16_t>(x[i] + y[i]);
  return x;
}
inline W add_epi32(W a, W b) {
  U32 x(a), y(b);
  for (int i = 0; i < 16; i++) x[i] += y[i];
  return x;
}
inline W srli_epi32(W a, unsigned count) {
  U32 x(a);
  for (int i = 0; i < 16; i++) x[i] = count > 31 ? 0 : x[i] >> count;
  return x;
}
inline W abs_epi8(W a) {
  I8 x(a);
  for (int i = 0; i < 64; i++) x[i] = static_cast<int8_t>(x[i] < 0 ? -x[i] : x[i]);
  return x;
}
inline uint64_t movepi8_mask(W a) {
  I8 x(a);
  uint64_t mask = 0;
  for (int i = 0; i < 64; i++) mask |= static_cast<uint64_t>(x[i] < 0) << i;
  return mask;
}
inline W mask_sub_epi8(W source, uint64_t mask, W a, W b) {
  I8 r(source), x(a), y(b);
  for (int i = 0; i < 64; i++)
    if (mask >> i & 1) r[i] = static_cast<int8_t>(x[i] - y[i]);
  return r;
}
inline W maddubs_epi16(W a, W b) {
  U8 x(a);
  I8 y(b);
  I16 r;
  for (int i = 0; i < 32; i++) {
    const int sum = x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
    r[i] = static_cast<int16_t>(sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum);
  }
  return r;
}
inline W madd_epi16(W a, W b) {
  I16 x(a), y(b);
  I32 r;
  for (int i = 0; i < 16; i++) r[i] = x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
  return r;
}
inline W dpbusd_epi32(W sum, W a, W b) {
  U8 x(a);
  I8 y(b);
  U32 r(sum);
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) r[i] += static_cast<uint32_t>(x[4 * i + j] * y[4 * i + j]);
  return r;
}
// Two of four lanes of each 128 bits of a and of b in turn, from `first` on
template <class T, class V>
inline V unpacked(V a, V b, int first) {
  constexpr int COUNT = 16 / sizeof(T);
  Lanes<T, V> x(a), y(b), r;
  for (int i = 0; i < 64 / static_cast<int>(sizeof(T)); i++) {
    const int from = i / COUNT * COUNT + first * COUNT / 2 + i % COUNT / 2;
    r[i] = i % 2 ? y[from] : x[from];
  }
  return r;
}
inline W unpacklo_epi32(W a, W b) { return unpacked<int32_t>(a, b, 0); }
inline W unpackhi_epi32(W a, W b) { return unpacked<int32_t>(a, b, 1); }
inline W unpacklo_epi64(W a, W b) { return unpacked<int64_t>(a, b, 0); }
inline W unpackhi_epi64(W a, W b) { return unpacked<int64_t>(a, b, 1); }
inline __m512 unpacklo_ps(__m512 a, __m512 b) { return unpacked<float>(a, b, 0); }
inline __m512 unpackhi_ps(__m512 a, __m512 b) { return unpacked<float>(a, b, 1); }
inline __m512d unpacklo_pd(__m512d a, __m512d b) { return unpacked<double>(a, b, 0); }
inline __m512d unpackhi_pd(__m512d a, __m512d b) { return unpacked<double>(a, b, 1); }
inline __m512d castps_pd(__m512 a) { return same<__m512d>(a); }
inline __m512 castpd_ps(__m512d a) { return same<__m512>(a); }
inline __m256 castps512_ps256(__m512 a) { return same<__m256>(a); }
inline __m256i castsi512_si256(W a) { return same<__m256i>(a); }
template <class To, class From>
inline To half(From from, int which) {
  To to;
  memcpy(&to, reinterpret_cast<const char*>(&from) + 32 * which, sizeof to);
  return to;
}
inline __m256i extracti64x4_epi64(W a, int which) { return half<__m256i>(a, which); }
inline __m256 extractf32x8_ps(__m512 a, int which) { return half<__m256>(a, which); }
inline __m512 add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  F32 x(a), y(b), z(c);
  for (int i = 0; i < 16; i++) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
  return z;
}
inline __m512 permutexvar_ps(W places, __m512 a) {
  U32 from(places);
  F32 x(a), r;
  for (int i = 0; i < 16; i++) r[i] = x[static_cast<int>(from[i] & 15)];
  return r;
}
inline __m512 cvtepi32_ps(W a) {
  I32 x(a);
  F32 r;
  for (int i = 0; i < 16; i++) r[i] = static_cast<float>(x[i]);
  return r;
}
// Each lane of a as a lane of the result
template <class From, class To, class V>
inline W widened(V a) {
  Lanes<From, V> x(a);
  Lanes<To, W> r;
  for (unsigned i = 0; i < sizeof(V) / sizeof(From); i++) r[i] = x[i];
  return r;
}
inline W cvtepi8_epi32(__m128i a) { return widened<int8_t, int32_t>(a); }
inline W cvtepi8_epi16(__m256i a) { return widened<int8_t, int16_t>(a); }
inline W cvtepu16_epi32(__m256i a) { return widened<uint16_t, int32_t>(a); }
inline __m512 cvtph_ps(__m256i a) {
  Lanes<__m128i, __m256i> x(a);
  Lanes<__m256, __m512> r;
  for (int i = 0; i < 2; i++) r[i] = _mm256_cvtph_ps(x[i]);
  return r;
}
inline __m128i cvtepi32_epi8(W a) {
  I32 x(a);
  Lanes<int8_t, __m128i> r;
  for (int i = 0; i < 16; i++) r[i] = static_cast<int8_t>(x[i]);
  return r;
}

}  // namespace emulated

#define _mm512_abs_epi8 emulated::abs_epi8
#define _mm512_add_epi16 emulated::add_epi16
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_add_ps emulated::add_ps
#define _mm512_castpd_ps emulated::castpd_ps
#define _mm512_castps512_ps256 emulated::castps512_ps256
#define _mm512_castps_pd emulated::castps_pd
#define _mm512_castsi512_si256 emulated::castsi512_si256
#define _mm512_cvtepi32_epi8 emulated::cvtepi32_epi8
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepi8_epi16 emulated::cvtepi8_epi16
#define _mm512_cvtepi8_epi32 emulated::cvtepi8_epi32
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_dpbusd_epi32 emulated::dpbusd_epi32
#define _mm512_extractf32x8_ps emulated::extractf32x8_ps
#define _mm512_extracti64x4_epi64 emulated::extracti64x4_epi64
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_madd_epi16 emulated::madd_epi16
#define _mm512_maddubs_epi16 emulated::maddubs_epi16
#define _mm512_mask_sub_epi8 emulated::mask_sub_epi8
#define _mm512_movepi8_mask emulated::movepi8_mask
#define _mm512_permutexvar_ps emulated::permutexvar_ps
#define _mm512_set1_epi16 emulated::set1_epi16
#define _mm512_setzero_si512 emulated::setzero_si512
#define _mm512_srli_epi32 emulated::srli_epi32
#define _mm512_unpackhi_epi32 emulated::unpackhi_epi32
#define _mm512_unpackhi_epi64 emulated::unpackhi_epi64
#define _mm512_unpackhi_pd emulated::unpackhi_pd
#define _mm512_unpackhi_ps emulated::unpackhi_ps
#define _mm512_unpacklo_epi32 emulated::unpacklo_epi32
#define _mm512_unpacklo_epi64 emulated::unpacklo_epi64
#define _mm512_unpacklo_pd emulated::unpacklo_pd
#define _mm512_unpacklo_ps emulated::unpacklo_ps
