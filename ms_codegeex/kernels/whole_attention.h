// Causal attention of whole sequences, forward and backward, for training. Scores exist for BAND queries at a time.
#pragma once
#include "pool.h"
#include "tiles.h"

namespace {

// A token sees itself and the `positions` tokens before it. cos and sin [batch][seq][size], or null, turn pairs of
// neighbouring channels: y = x cos + swapped(x) sin.
struct Sequences {
  const float *query, *key, *value;  // [batch * seq][heads * size], [batch * seq][groups * size] twice
  const int32_t* positions;          // [batch][seq]
  const float *cos, *sin;
  int64_t batch, seq, heads, groups, size;

  int64_t depth() const { return rounded_up(size, L); }
  int64_t width() const { return rounded_up(seq, BAND); }
  float scale() const { return 1.0f / sqrtf(static_cast<float>(size)); }
  static constexpr int64_t BAND = 32;   // queries that are attended together
  static constexpr int64_t PART = 128;  // keys whose scores the backward pass has at a time
};

// `count` rows of x, `stride` apart, from token `at` on, turned and times `factor` -> y [padded][depth]; zeros elsewhere
inline void gather_rows(const Sequences& s, const float* x, int64_t stride, int64_t at, int64_t count, int64_t padded,
                        bool turned, float factor, float* y) {
  const int64_t depth = s.depth();
  for (int64_t i = 0; i < count; i++) {
    const float* from = x + i * stride;
    float* to = y + i * depth;
    if (turned && s.cos) {
      const float *cos = s.cos + (at + i) * s.size, *sin = s.sin + (at + i) * s.size;
      int64_t d = 0;
      for (; d + 1 < s.size; d += 2) {
        to[d] = (from[d] * cos[d] + from[d + 1] * sin[d]) * factor;
        to[d + 1] = (from[d + 1] * cos[d + 1] + from[d] * sin[d + 1]) * factor;
      }
      if (d < s.size) to[d] = from[d] * factor;
    } else {
      for (int64_t d = 0; d < s.size; d++) to[d] = from[d] * factor;
    }
    for (int64_t d = s.size; d < depth; d++) to[d] = 0.0f;
  }
  memset(y + count * depth, 0, (padded - count) * depth * sizeof(float));
}

// The gradients y [count][depth] of turned rows -> x, those of the rows before the turn, times `factor`
inline void scatter_rows(const Sequences& s, const float* y, int64_t at, int64_t count, bool turned, float factor,
                         float* x, int64_t stride) {
  const int64_t depth = s.depth();
  for (int64_t i = 0; i < count; i++) {
    const float* from = y + i * depth;
    float* to = x + i * stride;
    if (turned && s.cos) {
      const float *cos = s.cos + (at + i) * s.size, *sin = s.sin + (at + i) * s.size;
      int64_t d = 0;
      for (; d + 1 < s.size; d += 2) {
        to[d] = (from[d] * cos[d] + from[d + 1] * sin[d + 1]) * factor;
        to[d + 1] = (from[d + 1] * cos[d + 1] + from[d] * sin[d]) * factor;
      }
      if (d < s.size) to[d] = from[d] * factor;
    } else {
      for (int64_t d = 0; d < s.size; d++) to[d] = from[d] * factor;
    }
  }
}

// x [width][depth] -> y [depth][width]
inline void transposed(const float* x, int64_t width, int64_t depth, float* y) {
  for (int64_t i = 0; i < width; i += L)
    for (int64_t d = 0; d < depth; d++)
      for (int64_t j = 0; j < L; j++) y[d * width + i + j] = x[(i + j) * depth + d];
}

// The first key that a query of a band sees, rounded down to the beginning of a band
inline int64_t first_key(const int32_t* positions, int64_t begin, int64_t count) {
  int64_t first = begin;
  for (int64_t i = begin; i < begin + count; i++) first = i - positions[i] < first ? i - positions[i] : first;
  return first / Sequences::BAND * Sequences::BAND;
}

// scores [0, count) of keys from `base` on -> exp(score - highest) of those in [first, last], otherwise 0; the sum
inline float softmax_row(float* scores, int64_t base, int64_t count, int64_t first, int64_t last, float* highest) {
  for (int64_t t = 0; t < first - base; t++) scores[t] = -1e30f;
  for (int64_t t = last + 1 - base; t < count; t++) scores[t] = -1e30f;
  F top = load<F>(scores);
  for (int64_t t = L; t < count; t += L) top = larger(top, load<F>(scores + t));
  *highest = largest(top);
  F total = F{}, odd = F{};  // `exponential` would hide scores that are not finite
  for (int64_t t = 0; t < count; t += L) {
    const F x = load<F>(scores + t), e = exponential(x - all(*highest));
    store(scores + t, e);
    total += e;
    odd += x - x;
  }
  return sum(total) + sum(odd);
}

// One head of one sequence: out [seq] rows, `stride` apart; lse [seq]: logarithms of the sums of exponentials
inline void attend_head(const Sequences& s, int64_t sequence, int64_t head, const float* keys, const float* values,
                        float* scratch, float* out, float* lse) {
  const int64_t depth = s.depth(), width = s.width(), stride = s.heads * s.size, token = sequence * s.seq;
  float *q = scratch, *mixed = q + s.BAND * depth, *scores = mixed + s.BAND * depth;
  const int32_t* positions = s.positions + token;
  for (int64_t begin = 0; begin < s.seq; begin += s.BAND) {
    const int64_t count = s.seq - begin < s.BAND ? s.seq - begin : s.BAND, rows = rounded_up(count, TALL);
    const int64_t from = first_key(positions, begin, count), keyed = begin + s.BAND - from;
    const int64_t place = (token + begin) * stride + head * s.size;
    gather_rows(s, s.query + place, stride, token + begin, count, rows, true, s.scale(), q);
    small_products(rows, keyed, depth, q, depth, 1, keys + from, width, scores, width, false);
    float inverse[Sequences::BAND];
    for (int64_t i = 0; i < count; i++) {
      float highest;
      const int64_t at = begin + i;
      const float total = softmax_row(scores + i * width, from, keyed, at - positions[at], at, &highest);
      inverse[i] = 1.0f / total, lse[at] = highest + logf(total);
    }
    small_products(rows, depth, keyed, scores, width, 1, values + from * depth, depth, mixed, depth, false);
    for (int64_t i = 0; i < count; i++)
      for (int64_t d = 0; d < s.size; d++) out[place + i * stride + d] = mixed[i * depth + d] * inverse[i];
  }
}

// out as query; lse [batch][heads][seq]; false if memory is out
bool attend_sequences(const Sequences& s, float* out, float* lse) {
  const int64_t depth = s.depth(), width = s.width(), narrow = s.groups * s.size, shared = s.heads / s.groups;
  bool failed = false;
  parallel(s.batch * s.groups, s.batch * s.heads * s.seq * s.seq * s.size, [&](int64_t task) {
    const int64_t sequence = task / s.groups, group = task % s.groups, token = sequence * s.seq;
    float* scratch = room(6, 2 * width * depth + s.BAND * (2 * depth + width));
    if (!scratch) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    float *values = scratch + width * depth, *rest = values + width * depth;
    const int64_t place = token * narrow + group * s.size;
    gather_rows(s, s.key + place, narrow, token, s.seq, width, true, 1.0f, values);
    transposed(values, width, depth, scratch);
    gather_rows(s, s.value + place, narrow, token, s.seq, width, false, 1.0f, values);
    for (int64_t head = group * shared; head < (group + 1) * shared; head++)
      attend_head(s, sequence, head, scratch, values, rest, out, lse + (sequence * s.heads + head) * s.seq);
  });
  return !failed;
}

struct AttentionGradients {
  const float *out, *lse, *to_out;           // as `attend_sequences` has written; the gradient of `out`
  float *to_query, *to_key, *to_value;  // as query, key and value
};

struct OneGroup {  // [width][depth], and [depth][width]
  float *key, *key_columns, *value_columns, *to_key, *to_value;
};

// Adds to the gradients of a group's keys and values, writes those of one head's queries
inline void attend_head_back(const Sequences& s, const AttentionGradients& g, int64_t sequence, int64_t head,
                             const OneGroup& of, float* scratch) {
  constexpr int64_t BAND = Sequences::BAND, PART = Sequences::PART;
  const int64_t depth = s.depth(), width = s.width(), stride = s.heads * s.size, token = sequence * s.seq;
  float *q = scratch, *to_out = q + BAND * depth, *to_q = to_out + BAND * depth;
  float *p = to_q + BAND * depth, *to_p = p + BAND * PART;
  const int32_t* positions = s.positions + token;
  const float* lse = g.lse + (sequence * s.heads + head) * s.seq;
  for (int64_t begin = 0; begin < s.seq; begin += BAND) {
    const int64_t count = s.seq - begin < BAND ? s.seq - begin : BAND, rows = rounded_up(count, TALL);
    const int64_t from = first_key(positions, begin, count), end = begin + BAND;
    const int64_t place = (token + begin) * stride + head * s.size;
    gather_rows(s, s.query + place, stride, token + begin, count, rows, true, s.scale(), q);
    gather_rows(s, g.to_out + place, stride, 0, count, rows, false, 1.0f, to_out);
    float delta[BAND];
    for (int64_t i = 0; i < count; i++) {
      delta[i] = 0.0f;
      for (int64_t d = 0; d < s.size; d++) delta[i] += to_out[i * depth + d] * g.out[place + i * stride + d];
    }
    for (int64_t k = from; k < end; k += PART) {
      const int64_t keyed = end - k < PART ? end - k : PART;
      small_products(rows, keyed, depth, q, depth, 1, of.key_columns + k, width, p, PART, false);
      small_products(rows, keyed, depth, to_out, depth, 1, of.value_columns + k, width, to_p, PART, false);
      for (int64_t i = 0; i < rows; i++) {
        const int64_t at = begin + i;
        float *weights = p + i * PART, *slopes = to_p + i * PART;
        if (i >= count) {
          memset(weights, 0, keyed * sizeof(float)), memset(slopes, 0, keyed * sizeof(float));
          continue;
        }
        for (int64_t t = k; t < at - positions[at] && t < k + keyed; t++) weights[t - k] = -1e30f;
        for (int64_t t = at + 1 > k ? at + 1 : k; t < k + keyed; t++) weights[t - k] = -1e30f;
        for (int64_t t = 0; t < keyed; t += L) {
          const F weight = exponential(load<F>(weights + t) - all(lse[at]));
          store(weights + t, weight);
          store(slopes + t, weight * (load<F>(slopes + t) - all(delta[i])));
        }
      }
      small_products(rows, depth, keyed, to_p, PART, 1, of.key + k * depth, depth, to_q, depth, k > from);
      small_products(keyed, depth, count, p, 1, PART, to_out, depth, of.to_value + k * depth, depth, true);
      small_products(keyed, depth, count, to_p, 1, PART, q, depth, of.to_key + k * depth, depth, true);
    }
    scatter_rows(s, to_q, token + begin, count, true, s.scale(), g.to_query + place, stride);
  }
}

// false if memory is out
bool attend_sequences_back(const Sequences& s, const AttentionGradients& g) {
  constexpr int64_t BAND = Sequences::BAND, PART = Sequences::PART;
  const int64_t depth = s.depth(), width = s.width(), narrow = s.groups * s.size, shared = s.heads / s.groups;
  const int64_t whole = width * depth;
  bool failed = false;
  parallel(s.batch * s.groups, 2 * s.batch * s.heads * s.seq * s.seq * s.size, [&](int64_t task) {
    const int64_t sequence = task / s.groups, group = task % s.groups, token = sequence * s.seq;
    float* scratch = room(6, 5 * whole + BAND * (3 * depth + 2 * PART));
    if (!scratch) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    const OneGroup of{scratch, scratch + whole, scratch + 2 * whole, scratch + 3 * whole, scratch + 4 * whole};
    const int64_t place = token * narrow + group * s.size;
    gather_rows(s, s.value + place, narrow, token, s.seq, width, false, 1.0f, of.key);
    transposed(of.key, width, depth, of.value_columns);
    gather_rows(s, s.key + place, narrow, token, s.seq, width, true, 1.0f, of.key);
    transposed(of.key, width, depth, of.key_columns);
    memset(of.to_key, 0, 2 * whole * sizeof(float));
    for (int64_t head = group * shared; head < (group + 1) * shared; head++)
      attend_head_back(s, g, sequence, head, of, scratch + 5 * whole);
    scatter_rows(s, of.to_key, token, s.seq, true, 1.0f, g.to_key + place, narrow);
    scatter_rows(s, of.to_value, token, s.seq, false, 1.0f, g.to_value + place, narrow);
  });
  return !failed;
}

}  // namespace
