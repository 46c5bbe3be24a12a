// The next token from a row of logits: greedy or drawn after temperature, top-k and top-p, in that order.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

constexpr int BINS = 8192, SHIFT = 18;  // of a weight in [0, 1]: its exponent and 5 bits

struct Choice {        // one row of the operator's settings
  double temperature;  // 0: the likeliest
  double top_k;        // 0: all
  double top_p;        // 1: all
  double uniform;      // in [0, 1), decides
  double given;        // -1, or the token to report
};

struct Candidate {
  float weight;
  int32_t id;
};

inline int by_weight(const void* left, const void* right) {  // heaviest first, equal ones by id
  const auto *a = static_cast<const Candidate*>(left), *b = static_cast<const Candidate*>(right);
  if (a->weight != b->weight) return a->weight > b->weight ? -1 : 1;
  return a->id < b->id ? -1 : 1;
}

inline int bin(float weight) {
  uint32_t bits;
  memcpy(&bits, &weight, sizeof bits);
  return static_cast<int>(bits >> SHIFT);
}

inline float highest(const float* x, int64_t n) {
  float top = x[0];
  int64_t i = 0;
  if (n >= L) {
    F t = load<F>(x);
    for (i = L; i + L <= n; i += L) t = larger(t, load<F>(x + i));
    top = largest(t);
  }
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  return top;
}

// w[i] = exp((x[i] - top) * scale) if `w`; returns their sum
inline double exponentials(const float* x, int64_t n, float top, float scale, float* w) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += 1024) {  // short sums in float32
    const int64_t end = begin + 1024 < n ? begin + 1024 : n;
    F acc = F{};
    for (int64_t i = begin; i < end; i += L) {
      F v = all(-1e30f);
      memcpy(&v, x + i, (end - i < L ? end - i : L) * sizeof(float));
      const F e = exponential((v - all(top)) * all(scale));
      if (w) memcpy(w + i, &e, (end - i < L ? end - i : L) * sizeof(float));
      acc += e;
    }
    total += sum(acc);
  }
  return total;
}

// Candidates of one bin, heaviest first
inline int64_t sorted_bin(const float* w, int64_t n, int which, Candidate* found) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++)
    if (bin(w[i]) == which) found[count++] = {w[i], static_cast<int32_t>(i)};
  qsort(found, count, sizeof *found, by_weight);
  return count;
}

// Weights below the k-th heaviest become 0; its equals stay.
inline void keep_top_k(float* w, int64_t n, int64_t k, int32_t* counts, Candidate* found) {
  memset(counts, 0, BINS * sizeof *counts);
  for (int64_t i = 0; i < n; i++) counts[bin(w[i])]++;
  int border = BINS - 1;
  int64_t before = 0;
  while (before + counts[border] < k) before += counts[border--];
  sorted_bin(w, n, border, found);
  const float least = found[k - before - 1].weight;
  for (int64_t i = 0; i < n; i++) w[i] = w[i] < least ? 0.0f : w[i];
}

// The fewest heaviest weights that make up the share p stay; of equal ones those of lower ids.
inline void keep_top_p(float* w, int64_t n, double p, double* masses, Candidate* found) {
  memset(masses, 0, BINS * sizeof *masses);
  double total = 0.0;
  for (int64_t i = 0; i < n; i++) masses[bin(w[i])] += w[i], total += w[i];
  int border = BINS - 1;
  double before = 0.0;
  while (border > 0 && before + masses[border] < p * total) before += masses[border--];
  const int64_t count = sorted_bin(w, n, border, found);
  int64_t kept = 0;
  for (; kept < count && before < p * total; kept++) before += found[kept].weight;
  for (int64_t i = 0; i < n; i++)
    if (bin(w[i]) < border) w[i] = 0.0f;
  for (int64_t i = kept; i < count; i++) w[found[i].id] = 0.0f;
}

// The id, or -1 if memory is out. `allowed` first ids may be chosen.
inline int64_t draw(const float* x, int64_t allowed, const Choice& choice) {
  struct Scratch {
    double masses[BINS];
    int32_t counts[BINS];
  };
  auto* memory = static_cast<char*>(malloc(sizeof(Scratch) + allowed * (sizeof(Candidate) + sizeof(float))));
  if (!memory) return -1;
  auto* scratch = reinterpret_cast<Scratch*>(memory);
  auto* found = reinterpret_cast<Candidate*>(memory + sizeof(Scratch));
  auto* w = reinterpret_cast<float*>(found + allowed);
  exponentials(x, allowed, highest(x, allowed), static_cast<float>(1.0 / choice.temperature), w);
  const auto k = static_cast<int64_t>(choice.top_k);
  if (k > 0 && k < allowed) keep_top_k(w, allowed, k, scratch->counts, found);
  if (choice.top_p < 1.0) keep_top_p(w, allowed, choice.top_p, scratch->masses, found);
  double total = 0.0;
  for (int64_t i = 0; i < allowed; i++) total += w[i];
  double sum = 0.0;
  int64_t chosen = 0;
  for (int64_t i = 0; i < allowed; i++) {
    if (w[i] == 0.0f) continue;
    chosen = i, sum += w[i];
    if (sum > choice.uniform * total) break;
  }
  free(memory);
  return chosen;
}

// logits [n] -> out: id, its log-probability among all n; false if memory is out or a given token is none
inline bool choose(const float* x, int64_t n, int64_t allowed, const Choice& choice, double* out) {
  int64_t id = static_cast<int64_t>(choice.given);
  if (id < 0) {
    id = 0;
    if (choice.temperature > 0.0)
      id = draw(x, allowed, choice);
    else
      for (const float top = highest(x, allowed); id < allowed - 1 && x[id] != top;) id++;
  }
  if (id < 0 || id >= n) return false;
  const float top = highest(x, n);
  out[0] = static_cast<double>(id);
  out[1] = static_cast<double>(x[id]) - top - log(exponentials(x, n, top, 1.0f, nullptr));
  return true;
}

}  // namespace
