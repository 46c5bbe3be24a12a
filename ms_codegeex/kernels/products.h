// Products of matrices of any size, and sums of their columns, for training.
//
// Each element of a result is summed in one order, whatever the number of threads.
#pragma once
#include "activation.h"
#include "tiles.h"

namespace {

constexpr int64_t WIDTH = 2 * L;      // columns that lie together in a packed matrix
constexpr int64_t SHARE = 64;         // most rows of a result in a task
constexpr int64_t GROUP = 8;          // most WIDTHs of columns in a task
constexpr int64_t TASKS = 64;         // at least so many, unless their rows would be too few
constexpr int64_t SLAB = 512;         // terms of the sums for which b is packed at once
constexpr int64_t TERMS = 256;        // terms that a tile adds up at once
constexpr int64_t ALIKE = 1024;       // floats; addresses that differ by them take one place in a cache
constexpr int64_t APART = TERMS + L;  // from a packed row to the next; not a power of two

// What happens to the elements of a matrix: v -> activation(v + shift[column]); v stays without `shift`
struct Active {
  const float* shift = nullptr;
  int64_t activation = NONE;

  // `count` elements of a row, from column j
  void copy(const float* p, int64_t j, int64_t count, float* out) const {
    if (!shift) memcpy(out, p, count * sizeof(float));
    else
      over_row(count, [&](int64_t i, int64_t few) {
        keep_some(out + i, activated(some(p + i, few) + some(shift + j + i, few), activation), few);
      });
  }
};

// Element (i, j) of a matrix is p[i * down + j * along]; one of the two is 1. An active one has `along` 1.
struct View {
  const float* p;
  int64_t down, along;
  Active active{};
};

// Rows [from, to) of WIDTH columns of b, of which `count` exist, the others are zeros -> [to - from][WIDTH]
inline void pack_columns(const View& b, int64_t from, int64_t to, int64_t left, int64_t count, float* packed) {
  const float* p = b.p + left * b.along;
  if (count < WIDTH) memset(packed, 0, (to - from) * WIDTH * sizeof(float));
  if (b.active.shift)
    for (int64_t t = from; t < to; t++) b.active.copy(p + t * b.down, left, count, packed + (t - from) * WIDTH);
  else if (b.along == 1 && count == WIDTH)
    for (int64_t t = from; t < to; t++) memcpy(packed + (t - from) * WIDTH, p + t * b.down, WIDTH * sizeof(float));
  else
    for (int64_t j = 0; j < count; j++)
      for (int64_t t = from; t < to; t++) packed[(t - from) * WIDTH + j] = p[t * b.down + j * b.along];
}

// TALL rows of a packed matrix lie `next` after those before; element (i, t) of them at i * down + t * along.
struct PackedRows {
  const float* p;
  int64_t next, down, along;
};

// Columns [from, to) of `count` rows of a: as they are, or packed if they are active, if some rows of the last TALL do
// not exist, which are zeros, if rows would take each other's place in a cache, or if the columns of a lie together.
inline PackedRows pack_rows(const View& a, int64_t top, int64_t count, int64_t from, int64_t to, float* packed) {
  const int64_t whole = rounded_up(count, TALL);
  if (a.down == 1 && !a.active.shift) {
    for (int64_t i = 0; i < whole; i += TALL) {
      float* q = packed + i * TERMS;
      const float* p = a.p + top + i + from * a.along;
      const int64_t there = least(count - i, TALL);
      if (there < TALL) memset(q, 0, (to - from) * TALL * sizeof(float));
      for (int64_t t = from; t < to; t++, p += a.along, q += TALL)
        if (there == TALL) memcpy(q, p, TALL * sizeof(float));
        else memcpy(q, p, there * sizeof(float));
    }
    return {packed, TALL * TERMS, 1, TALL};
  }
  const float* p = a.p + top * a.down + from;
  if (whole == count && a.down % ALIKE && !a.active.shift) return {p, TALL * a.down, a.down, 1};
  for (int64_t i = 0; i < whole; i++)
    if (i < count) a.active.copy(p + i * a.down, from, to - from, packed + i * APART);
    else memset(packed + i * APART, 0, (to - from) * sizeof(float));
  return {packed, TALL * APART, APART, 1};
}

// c (+)= a b for a tile of c, of which `rows` and `columns` exist
inline void tile_product(int64_t terms, const PackedRows& a, const float* b, int64_t rows, int64_t columns, float* c,
                         int64_t ldc, bool more) {
  if (rows == TALL && columns == WIDTH)
    return small_product<TALL, 2>(terms, a.p, a.down, a.along, b, WIDTH, c, ldc, more);
  float tile[TALL * WIDTH] = {};
  for (int64_t i = 0; more && i < rows; i++) memcpy(tile + i * WIDTH, c + i * ldc, columns * sizeof(float));
  small_product<TALL, 2>(terms, a.p, a.down, a.along, b, WIDTH, tile, WIDTH, more);
  for (int64_t i = 0; i < rows; i++) memcpy(c + i * ldc, tile + i * WIDTH, columns * sizeof(float));
}

// c [m, n] = a b + bias, for a [m, k] and b [k, n]; `bias` may be null. `more`: c += a b instead. `through`, without
// `more`: a b is the gradient of this active matrix [m, n], and c that of its elements. False if memory is out.
bool multiply(const View& a, const View& b, int64_t m, int64_t n, int64_t k, const float* bias, float* c,
              bool more = false, const View* through = nullptr) {
  const int64_t panels = (n + WIDTH - 1) / WIDTH, groups = (panels + GROUP - 1) / GROUP;
  const int64_t even = rounded_up(m * groups / TASKS, TALL), block = even < 2 * TALL ? 2 * TALL : least(even, SHARE);
  const int64_t blocks = (m + block - 1) / block;
  float* packed = room(6, panels * WIDTH * least(k, SLAB));
  if (!packed) return false;
  bool failed = false;
  for (int64_t slab = 0; slab < k; slab += SLAB) {
    const int64_t depth = least(k - slab, SLAB);
    parallel(panels, n * depth, [&](int64_t panel) {
      const int64_t left = panel * WIDTH, count = least(n - left, WIDTH);
      pack_columns(b, slab, slab + depth, left, count, packed + panel * WIDTH * depth);
    });
    parallel(blocks * groups, m * n * depth, [&](int64_t task) {
      const int64_t top = task % blocks * block, rows = least(m - top, block);
      const int64_t first = task / blocks * GROUP, last = least(first + GROUP, panels);
      const int64_t left = first * WIDTH, right = least(last * WIDTH, n);
      float* space = room(7, SHARE * APART);
      if (!space) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      for (int64_t from = 0; from < depth; from += TERMS) {
        const int64_t terms = least(depth - from, TERMS);
        PackedRows part = pack_rows(a, top, rows, slab + from, slab + from + terms, space);
        for (int64_t i = 0; i < rows; i += TALL, part.p += part.next)
          for (int64_t panel = first; panel < last; panel++)
            tile_product(terms, part, packed + (panel * depth + from) * WIDTH, least(rows - i, TALL),
                         least(n - panel * WIDTH, WIDTH), c + (top + i) * n + panel * WIDTH, n,
                         more || slab + from > 0);
      }
      for (int64_t i = top; bias && slab + depth == k && i < top + rows; i++)
        for (int64_t j = left; j < right; j++) c[i * n + j] += bias[j];
      for (int64_t i = top; through && slab + depth == k && i < top + rows; i++)
        over_row(right - left, [&](int64_t j, int64_t few) {
          const F v = some(through->p + i * n + left + j, few) + some(through->active.shift + left + j, few);
          float* own = c + i * n + left + j;
          keep_some(own, some(own, few) * activated_slope(v, through->active.activation), few);
        });
    });
  }
  return !failed;
}

// The sums of the columns of x [m, n]; false if memory is out
bool column_sums(const float* x, int64_t m, int64_t n, float* sums) {
  const int64_t parts = (m + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  float* found = room(7, parts * n);
  if (!found) return false;
  memset(found, 0, parts * n * sizeof(float));
  parallel(parts, m * n, [&](int64_t part) {
    for (int64_t i = part * ROWS_AT_ONCE; i < (part + 1) * ROWS_AT_ONCE && i < m; i++)
      for (int64_t j = 0; j < n; j++) found[part * n + j] += x[i * n + j];
  });
  add_up(found, parts, n, sums);
  return true;
}

}  // namespace
