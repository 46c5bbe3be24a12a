// The next token from a row of logits: greedy or drawn after edits and what `Choice` says, in its order; and the likeliest
// tokens by the logits as they are.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

constexpr int BINS = 8192, SHIFT = 18;  // of a weight in [0, 1]: its exponent and 5 bits
constexpr double MAX_IDS = 1 << 30;

struct Choice {        // one row of the operator's settings: COLUMNS of choice.py, in that order
  double temperature;  // 0: the likeliest
  double top_k;        // 0: all
  double top_p;        // 1: all
  double min_p;        // 0: all
  double uniform;      // in [0, 1), decides
  double given;        // -1, or the token to report
  double allowed;      // so many first ids may be chosen

  bool fits(int64_t n) const {  // a NaN does not
    const auto ids = static_cast<double>(n);
    return temperature >= 0.0 && temperature <= 1e30 && top_k >= 0.0 && top_k <= MAX_IDS && top_p > 0.0 && top_p <= 1.0 &&
           min_p >= 0.0 && min_p <= 1.0 && uniform >= 0.0 && uniform < 1.0 && given >= -1.0 && given < ids && allowed >= 1.0 && allowed <= ids;
  }
};

constexpr int64_t COLUMNS = sizeof(Choice) / sizeof(double);

struct Edit {     // of a logit x: (x > 0 ? x / factor : x * factor) + term
  double id;      // -1: none
  double factor;  // above 0
  double term;

  bool fits(int64_t n) const {
    return id >= -1.0 && id < static_cast<double>(n) && factor > 0.0 && factor <= 1e30 && term >= -1e30 && term <= 1e30;
  }
};

struct Row {
  const float* x;  // logits [n]
  int64_t n;
  Choice choice;
  const Edit* edits;  // no id twice
  int64_t edited;
  int64_t best;  // how many likeliest ids are reported, at most `allowed`
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

// Weights below the share p of the heaviest, which is 1, become 0.
inline void keep_min_p(float* w, int64_t n, double p) {
  for (int64_t i = 0; i < n; i++) w[i] = static_cast<double>(w[i]) < p ? 0.0f : w[i];
}

struct Scratch {
  double masses[BINS];
  int32_t counts[BINS];
};

inline size_t candidates_and_scratch(int64_t allowed) { return sizeof(Scratch) + allowed * sizeof(Candidate); }

// An id drawn from weights that are made in place of the logits w [allowed]; `memory` as the function above says.
inline int64_t draw(float* w, int64_t allowed, const Choice& choice, char* memory) {
  auto* scratch = reinterpret_cast<Scratch*>(memory);
  auto* found = reinterpret_cast<Candidate*>(memory + sizeof(Scratch));
  exponentials(w, allowed, highest(w, allowed), static_cast<float>(1.0 / choice.temperature), w);
  const auto k = static_cast<int64_t>(choice.top_k);
  if (k > 0 && k < allowed) keep_top_k(w, allowed, k, scratch->counts, found);
  if (choice.top_p < 1.0) keep_top_p(w, allowed, choice.top_p, scratch->masses, found);
  if (choice.min_p > 0.0) keep_min_p(w, allowed, choice.min_p);
  double total = 0.0;
  for (int64_t i = 0; i < allowed; i++) total += w[i];
  double sum = 0.0;
  int64_t chosen = 0;
  for (int64_t i = 0; i < allowed; i++) {
    if (w[i] == 0.0f) continue;
    chosen = i, sum += w[i];
    if (sum > choice.uniform * total) break;
  }
  return chosen;
}

inline int64_t greedy(const float* x, int64_t allowed) {
  int64_t id = 0;
  for (const float top = highest(x, allowed); id < allowed - 1 && x[id] != top;) id++;
  return id;
}

// The likeliest ids, of equal ones the lower first, as pairs [row.best, 2] with their logits.
inline void likeliest(const Row& row, double* out) {
  const auto allowed = static_cast<int64_t>(row.choice.allowed);
  int64_t kept = 0;
  for (int64_t i = 0; row.best && i < allowed; i++) {
    if (kept == row.best && !(row.x[i] > out[2 * kept - 1])) continue;
    int64_t place = kept < row.best ? kept++ : kept - 1;
    for (; place > 0 && row.x[i] > out[2 * place - 1]; place--)
      out[2 * place] = out[2 * place - 2], out[2 * place + 1] = out[2 * place - 1];
    out[2 * place] = static_cast<double>(i), out[2 * place + 1] = row.x[i];
  }
}

// The id after edits; -1 if memory is out.
inline int64_t chosen(const Row& row) {
  const Choice& c = row.choice;
  const auto allowed = static_cast<int64_t>(c.allowed);
  bool plain = true;
  for (int64_t i = 0; i < row.edited; i++) plain = plain && row.edits[i].id < 0.0;
  if (c.given >= 0.0) return static_cast<int64_t>(c.given);
  if (plain && c.temperature == 0.0) return greedy(row.x, allowed);
  const size_t bytes = rounded_up(candidates_and_scratch(allowed), 64);
  float* kept = room(5, bytes / sizeof(float) + row.n);
  if (!kept) return -1;
  float* x = kept + bytes / sizeof(float);
  memcpy(x, row.x, row.n * sizeof(float));
  for (int64_t i = 0; i < row.edited; i++) {
    if (row.edits[i].id < 0.0) continue;
    float& at = x[static_cast<int64_t>(row.edits[i].id)];
    const auto factor = static_cast<float>(row.edits[i].factor);
    at = (at > 0.0f ? at / factor : at * factor) + static_cast<float>(row.edits[i].term);
  }
  return c.temperature == 0.0 ? greedy(x, allowed) : draw(x, allowed, c, reinterpret_cast<char*>(kept));
}

// Whether all of x [n] are finite: the difference of any other number and itself is not a number.
inline bool finite(const float* x, int64_t n) {
  F odd = F{};
  int64_t i = 0;
  for (; i + L <= n; i += L) odd += load<F>(x + i) - load<F>(x + i);
  float rest = sum(odd);
  for (; i < n; i++) rest += x[i] - x[i];
  return rest == 0.0f;
}

// -> out [1 + best, 2]: ids, the chosen one first, and their log-probabilities among all n by the logits as they are, or
// NaN if a logit is not finite; false if memory is out or the row does not suit
inline bool choose(const Row& row, double* out) {
  bool fits = row.choice.fits(row.n) && static_cast<double>(row.best) <= row.choice.allowed;
  for (int64_t i = 0; i < row.edited; i++) fits = fits && row.edits[i].fits(row.n);
  if (fits && !finite(row.x, row.n)) {
    for (int64_t i = 0; i <= row.best; i++) out[2 * i] = 0.0, out[2 * i + 1] = NAN;
    return true;
  }
  const int64_t id = fits ? chosen(row) : -1;
  if (id < 0) return false;
  out[0] = static_cast<double>(id), out[1] = row.x[id];
  likeliest(row, out + 2);
  const float top = highest(row.x, row.n);
  const double total = top + log(exponentials(row.x, row.n, top, 1.0f, nullptr));
  for (int64_t i = 0; i <= row.best; i++) out[2 * i + 1] -= total;
  return true;
}

}  // namespace
