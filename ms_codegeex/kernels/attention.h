// Attention of rows, each a token of some slot at some position: rotary turn, cache write, causal softmax.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

// `depth` is `size` rounded up to 16, `blocks` is capacity / 16 rounded up.
// keys [slots][groups][blocks][size][16]: the scores of 16 positions are one or two vectors. values
// [slots][groups][16 blocks][depth]. cos and sin [capacity][rotary / 2] turn neighbouring channels; rotary may be 0.
struct Attention {
  int64_t heads, groups, size, rotary, slots, capacity, depth, blocks;
  const float *cos, *sin;
  void *keys, *values;  // float32, or Half
  int64_t bits;
};

constexpr int QUERIES = 8;      // attended together: rows of one slot and heads that share keys
constexpr int V = 16 / L;       // vectors of 16 numbers
constexpr float HIDDEN = -1e30f;

inline void turn(const Attention& a, const float* x, int64_t position, float scale, float* y) {
  const float *cos = a.cos + position * (a.rotary / 2), *sin = a.sin + position * (a.rotary / 2);
  for (int64_t i = 0; i < a.rotary; i += 2) {
    y[i] = (x[i] * cos[i / 2] - x[i + 1] * sin[i / 2]) * scale;
    y[i + 1] = (x[i + 1] * cos[i / 2] + x[i] * sin[i / 2]) * scale;
  }
  for (int64_t i = a.rotary; i < a.size; i++) y[i] = x[i] * scale;
}

// scores[i][t] = q[i] . key t for `B` blocks of 16 positions
template <int Q, int B, class T>
inline void score(const T* keys, const float* q, int64_t size, float* scores, int64_t width) {
  F acc[Q][B * V];
  for (int i = 0; i < Q; i++)
    for (int b = 0; b < B * V; b++) acc[i][b] = F{};
  for (int64_t d = 0; d < size; d++) {
    F k[B * V];
    for (int b = 0; b < B; b++)
      for (int v = 0; v < V; v++) k[b * V + v] = widen(keys + (b * size + d) * 16 + v * L);
    for (int i = 0; i < Q; i++) {
      const F one = all(q[i * size + d]);
      for (int b = 0; b < B * V; b++) acc[i][b] = fma(k[b], one, acc[i][b]);
    }
  }
  for (int i = 0; i < Q; i++)
    for (int b = 0; b < B * V; b++) store(scores + i * width + b * L, acc[i][b]);
}

// out[i] = sum of p[i][t] value t over `C` vectors of channels
template <int Q, int C, class T>
inline void mix(const T* values, int64_t depth, int64_t count, const float* p, int64_t width, const float* inverse,
                float* out) {
  F acc[Q][C];
  for (int i = 0; i < Q; i++)
    for (int c = 0; c < C; c++) acc[i][c] = F{};
  for (int64_t t = 0; t < count; t++) {
    F row[C];
    for (int c = 0; c < C; c++) row[c] = widen(values + t * depth + c * L);
    for (int i = 0; i < Q; i++) {
      const F weight = all(p[i * width + t]);
      for (int c = 0; c < C; c++) acc[i][c] = fma(row[c], weight, acc[i][c]);
    }
  }
  for (int i = 0; i < Q; i++)
    for (int c = 0; c < C; c++) store(out + i * depth + c * L, acc[i][c] * all(inverse[i]));
}

// Q turned queries q [Q][size] of one slot and group at `positions` -> out [Q][depth]
template <int Q, class T>
void attend_together(const Attention& a, int64_t cache, const int64_t* positions, const float* q, float* scores,
                     float* out) {
  const int64_t width = a.blocks * 16;
  const T *keys = static_cast<const T*>(a.keys) + cache * width * a.size;
  const T* values = static_cast<const T*>(a.values) + cache * width * a.depth;
  int64_t last = 0;
  for (int i = 0; i < Q; i++) last = positions[i] > last ? positions[i] : last;
  const int64_t blocks = last / 16 + 1;
  int64_t b = 0;
  constexpr int B = V == 1 ? (Q <= 2 ? 4 : 2) : Q <= 2 ? 2 : 1;  // as many sums as fit into registers
  for (; b + B <= blocks; b += B) score<Q, B>(keys + b * 16 * a.size, q, a.size, scores + b * 16, width);
  for (; b < blocks; b++) score<Q, 1>(keys + b * 16 * a.size, q, a.size, scores + b * 16, width);
  float inverse[Q];
  for (int i = 0; i < Q; i++) {
    float* s = scores + i * width;
    for (int64_t t = positions[i] + 1; t < blocks * 16; t++) s[t] = HIDDEN;
    F top = load<F>(s);
    for (int64_t t = L; t < blocks * 16; t += L) top = larger(top, load<F>(s + t));
    const F highest = all(largest(top));
    F total = F{}, odd = F{};  // `exponential` would hide scores that are not finite
    for (int64_t t = 0; t < blocks * 16; t += L) {
      const F x = load<F>(s + t), e = exponential(x - highest);
      store(s + t, e);
      total += e;
      odd += x - x;
    }
    inverse[i] = 1.0f / sum(total) + sum(odd);
  }
  constexpr int C = Q <= 2 ? 4 : 2;  // accumulators that fit into registers
  const int64_t vectors = a.depth / L;
  int64_t c = 0;
  for (; c + C <= vectors; c += C) mix<Q, C>(values + c * L, a.depth, last + 1, scores, width, inverse, out + c * L);
  for (; c < vectors; c++) mix<Q, 1>(values + c * L, a.depth, last + 1, scores, width, inverse, out + c * L);
}

struct Tile {
  int64_t row, count;  // a run of rows of one slot: the first, how many
  int64_t pair;        // first of its (row, head) pairs
  int64_t pairs;       // 1 to QUERIES
};

struct Rows {
  const float *query, *key, *value;  // [m][heads * size], [m][groups * size] twice
  const int32_t *slots, *positions;  // [m]; a row at position `capacity` or beyond is padding
  int64_t m;
};

inline void keep(float x, float* at) { *at = x; }
inline void keep(float x, Half* at) { *at = narrowed(x); }

// Keys and values of rows [begin, end); false if memory is out
template <class T>
bool write(const Attention& a, const Rows& rows, int64_t begin, int64_t end, int64_t group) {
  float* turned = room(2, a.size);
  if (!turned) return false;
  for (int64_t i = begin; i < end; i++) {
    const int64_t t = rows.positions[i], cache = rows.slots[i] * a.groups + group, from = (i * a.groups + group) * a.size;
    if (t >= a.capacity) continue;
    turn(a, rows.key + from, t, 1.0f, turned);
    T* block = static_cast<T*>(a.keys) + (cache * a.blocks + t / 16) * a.size * 16 + t % 16;
    T* values = static_cast<T*>(a.values) + (cache * a.blocks * 16 + t) * a.depth;
    for (int64_t d = 0; d < a.size; d++) keep(turned[d], block + d * 16), keep(rows.value[from + d], values + d);
  }
  return true;
}

template <class T>
bool attend_tile(const Attention& a, const Rows& rows, const Tile& tile, int64_t group, float* out) {
  const int64_t shared = a.heads / a.groups, width = a.blocks * 16;
  float* scores = room(3, QUERIES * (width + a.size + a.depth));
  if (!scores) return false;
  float *q = scores + QUERIES * width, *mixed = q + QUERIES * a.size;
  const float scale = 1.0f / sqrtf(static_cast<float>(a.size));
  int64_t positions[QUERIES], places[QUERIES];
  for (int64_t j = 0; j < tile.pairs; j++) {
    const int64_t pair = tile.pair + j, row = tile.row + pair / shared, head = group * shared + pair % shared;
    positions[j] = rows.positions[row], places[j] = (row * a.heads + head) * a.size;
    turn(a, rows.query + places[j], positions[j], scale, q + j * a.size);
  }
  const int64_t cache = rows.slots[tile.row] * a.groups + group;
  switch (tile.pairs) {
    case 1: attend_together<1, T>(a, cache, positions, q, scores, mixed); break;
    case 2: attend_together<2, T>(a, cache, positions, q, scores, mixed); break;
    case 3: attend_together<3, T>(a, cache, positions, q, scores, mixed); break;
    case 4: attend_together<4, T>(a, cache, positions, q, scores, mixed); break;
    case 5: attend_together<5, T>(a, cache, positions, q, scores, mixed); break;
    case 6: attend_together<6, T>(a, cache, positions, q, scores, mixed); break;
    case 7: attend_together<7, T>(a, cache, positions, q, scores, mixed); break;
    case 8: attend_together<8, T>(a, cache, positions, q, scores, mixed); break;
  }
  for (int64_t j = 0; j < tile.pairs; j++) memcpy(out + places[j], mixed + j * a.depth, a.size * sizeof(float));
  return true;
}

template <class T>
bool attend_as(const Attention& a, const Rows& rows, float* out) {
  const int64_t shared = a.heads / a.groups;
  for (int64_t i = 0; i < rows.m; i++)
    if (rows.slots[i] < 0 || rows.slots[i] >= a.slots || rows.positions[i] < 0) return false;
  Tile* tiles = static_cast<Tile*>(malloc(sizeof(Tile) * (rows.m * shared + 1)));
  if (!tiles || !room(2, a.size)) return free(tiles), false;
  int64_t count = 0, seen = 0;  // tiles, positions
  bool single = true;           // each run is one tile, and the only one of its slot
  for (int64_t i = 0, n; i < rows.m; i += n) {
    n = 1;
    if (rows.positions[i] >= a.capacity) {
      memset(out + i * a.heads * a.size, 0, a.heads * a.size * sizeof(float));
      continue;
    }
    while (i + n < rows.m && rows.slots[i + n] == rows.slots[i] && rows.positions[i + n] < a.capacity) n++;
    for (int64_t j = 0; j < n; j++) seen += rows.positions[i + j] + 1;
    if (n * shared > QUERIES) single = false;
    for (int64_t t = 0; single && t < count; t++) single = rows.slots[tiles[t].row] != rows.slots[i];
    for (int64_t pair = 0; pair < n * shared; pair += QUERIES)
      tiles[count++] = {i, n, pair, n * shared - pair < QUERIES ? n * shared - pair : QUERIES};
  }
  bool failed = false;
  if (!single)  // several tiles read what one of them would write
    parallel(a.groups, rows.m * a.groups * a.size, [&](int64_t group) {
      if (!write<T>(a, rows, 0, rows.m, group)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    });
  parallel(a.groups * count, 2 * seen * a.heads * a.size, [&](int64_t task) {
    const Tile& tile = tiles[task / a.groups];
    const int64_t group = task % a.groups;
    const bool written = !single || write<T>(a, rows, tile.row, tile.row + tile.count, group);
    if (!written || !attend_tile<T>(a, rows, tile, group, out)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  free(tiles);
  return !failed;
}

// out [m][heads * size]; false if a slot or position is wrong or memory is out
bool attend(const Attention& a, const Rows& rows, float* out) {
  return a.bits == 16 ? attend_as<Half>(a, rows, out) : attend_as<float>(a, rows, out);
}

}  // namespace
