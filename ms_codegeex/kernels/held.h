// Products with a frozen matrix of 16, 8 or 4 bits and their gradient, a tile of the matrix in FP32 at a time.
#pragma once
#include "linear.h"
#include "tiles.h"

namespace {

constexpr int64_t SHARING = 64;  // numbers of 4 bits that share a scale
constexpr int64_t DEEP = 128;    // rows of a tile of the gradient's product; it has SHARING columns

// the numbers of 4 bits in the halves of a byte; shifted without a sign, since a negative number may not be shifted left
inline float low(int8_t byte) { return static_cast<int8_t>(static_cast<uint8_t>(byte) << 4) >> 4; }
inline float high(int8_t byte) { return byte >> 4; }

// As files have it. HALF: FP16 [n, k]. EIGHT: int8 [n, k] with a scale for each row. FOUR: two numbers in a byte, the
// earlier one in its low half, [n, bytes], with a scale for each SHARING numbers of a row.
struct Held {
  const void* data;
  const float* scales;  // null for HALF
  int64_t n, k;
  Kind kind;

  int64_t stride() const { return kind == FOUR ? (k + 1) / 2 : k; }
  int64_t groups() const { return (k + SHARING - 1) / SHARING; }
  // numbers [from, to) of a row times their scale; `from` divides by SHARING
  void unpack(int64_t row, int64_t from, int64_t to, float* out) const {
    if (kind == HALF) {
      const Half* q = static_cast<const Half*>(data) + row * k;
      int64_t i = from;
      for (; i + L <= to; i += L) store(out + i - from, widen(q + i));
      if (i == to) return;
      Half last[L] = {};
      float wide[L];
      memcpy(last, q + i, (to - i) * sizeof(Half));
      store(wide, widen(last));
      memcpy(out + i - from, wide, (to - i) * sizeof(float));
      return;
    }
    const int8_t* p = static_cast<const int8_t*>(data) + row * stride();
    if (kind == EIGHT) {
      const float scale = scales[row];
      for (int64_t i = from; i < to; i++) out[i - from] = static_cast<float>(p[i]) * scale;
      return;
    }
    for (int64_t i = from; i < to; i += SHARING) {
      const float scale = scales[row * groups() + i / SHARING];
      const int64_t count = to - i < SHARING ? to - i : SHARING;
      float* q = out + i - from;
      const int8_t* bytes = p + i / 2;
      for (int64_t j = 0; j < count / 2; j++) {
        q[2 * j] = low(bytes[j]) * scale;
        q[2 * j + 1] = high(bytes[j]) * scale;
      }
      if (count % 2) q[count - 1] = low(bytes[count / 2]) * scale;
    }
  }
};

// x [m, k] -> x wᵀ [m, n]; false if memory is out
bool held_product(const Held& w, const float* x, int64_t m, float* y) {
  const int64_t width = rounded_up(w.k, L);
  if (width != w.k) {
    float* padded = room(1, m * width);
    if (!padded) return false;
    for (int64_t i = 0; i < m; i++) {
      memcpy(padded + i * width, x + i * w.k, w.k * sizeof(float));
      memset(padded + i * width + w.k, 0, (width - w.k) * sizeof(float));
    }
    x = padded;
  }
  Matrix matrix{};
  matrix.n = w.n, matrix.activation = NONE, matrix.activation_bits = 32;
  bool failed = false;
  parallel((w.n + CHUNK - 1) / CHUNK, m * w.n * width, [&](int64_t t) {
    const int64_t row = t * CHUNK, rows = w.n - row < CHUNK ? w.n - row : CHUNK;
    float* tile = room(0, CHUNK * width);
    if (!tile) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    memset(tile + rows * width, 0, (CHUNK - rows) * width * sizeof(float));
    for (int64_t r = 0; r < rows; r++) {
      w.unpack(row + r, 0, w.k, tile + r * width);
      for (int64_t i = w.k; i < width; i++) tile[r * width + i] = 0.0f;
    }
    rows_of(Plain<float>{tile, nullptr, width}, matrix, row, 0, x, m, nullptr, y);
  });
  return !failed;
}

// dy [m, n] -> dy w [m, k]; false if memory is out
bool held_product_back(const Held& w, const float* dy, int64_t m, float* dx) {
  bool failed = false;
  parallel(w.groups(), m * w.n * w.k, [&](int64_t t) {
    const int64_t from = t * SHARING, to = from + SHARING < w.k ? from + SHARING : w.k, whole = m / TALL * TALL;
    float* tile = room(0, DEEP * SHARING);
    float* sum = room(2, m * SHARING);
    if (!tile || !sum) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    if (to - from < SHARING) memset(tile, 0, DEEP * SHARING * sizeof(float));
    for (int64_t row = 0; row < w.n; row += DEEP) {
      const int64_t count = w.n - row < DEEP ? w.n - row : DEEP;
      for (int64_t r = 0; r < count; r++) w.unpack(row + r, from, to, tile + r * SHARING);
      small_products(whole, SHARING, count, dy + row, w.n, 1, tile, SHARING, sum, SHARING, row > 0);
      for (int64_t i = whole; i < m; i++)
        for (int64_t j = 0; j < SHARING; j += 2 * L)
          small_product<1, 2>(count, dy + i * w.n + row, w.n, 1, tile + j, SHARING, sum + i * SHARING + j, SHARING,
                              row > 0);
    }
    for (int64_t i = 0; i < m; i++) memcpy(dx + i * w.k + from, sum + i * SHARING, (to - from) * sizeof(float));
  });
  return !failed;
}

}  // namespace
