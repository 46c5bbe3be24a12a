// Muon: matrices that move along their momentum, made orthogonal by Newton-Schulz iterations (Jordan).
//
// Each tile of a product is computed in one order, so that results are the same for any number of threads.
#pragma once
#include "adamw.h"
#include "tiles.h"

namespace {

struct Muon {
  float momentum, a, b, c, iterations;  // X <- aX + X(bA + cA^2), A = X'X
  float rate, factor;                   // `factor`: of the gradient
};

struct Moved {
  int64_t rows, columns;
  float *w, *m;
  const float* gradient;
  float scale, decay;

  int64_t shorter() const { return rows < columns ? rows : columns; }
  int64_t work() const { return rows * columns * shorter() * 12; }
};

constexpr int64_t PANEL = 2 * L;             // columns that lie together
constexpr int64_t SQUARE = 128;              // columns of a square that a thread computes at once, and rows
constexpr int64_t DEPTH = 256;               // rows of a panel that stay in the nearest cache
constexpr int64_t RUN = 16;                  // elements of a row that are read at once
constexpr int64_t ALONE = int64_t{1} << 19;  // elements; one thread updates a matrix that has no more

// A matrix as panels [depth][PANEL], so that a product reads memory in its order. Sides are multiples of PANEL.
struct Panels {
  float* p;
  int64_t depth, across;

  float* at(int64_t row, int64_t column) const { return p + (column / PANEL * depth + row) * PANEL + column % PANEL; }
};

// f(i) for i in [0, count): by this thread, or by all
template <class Function>
void each(bool together, int64_t count, int64_t work, const Function& f) {
  if (together) return parallel(count, work, f);
  for (int64_t i = 0; i < count; i++) f(i);
}

// x [L][L] -> y, its transpose
inline void mirrored(const float* x, float* y) {
  for (int64_t j = 0; j < L; j++)
    for (int64_t i = 0; i < L; i++) y[j * PANEL + i] = x[i * PANEL + j];
}

// square = X'X, or given `with`, a + b with + c X'X; only the upper half is multiplied
inline void square_block(const Panels& x, int64_t top, int64_t left, const Panels& square, const Muon* u,
                         const Panels* with) {
  const int64_t right = least(left + SQUARE, x.across), bottom = least(top + SQUARE, x.across);
  for (int64_t from = 0; from < x.depth; from += DEPTH)
    for (int64_t j = left; j < right; j += PANEL)
      for (int64_t i = top; i < least(bottom, j + PANEL); i += TALL) {
        const int64_t count = least(DEPTH, x.depth - from);
        if (i < j + L)
          small_product<TALL, 2>(count, x.at(from, i), 1, PANEL, x.at(from, j), PANEL, square.at(i, j), PANEL, from > 0);
        else
          small_product<TALL, 1>(count, x.at(from, i), 1, PANEL, x.at(from, j + L), PANEL, square.at(i, j + L), PANEL,
                                 from > 0);
      }
  for (int64_t j = left; j < right; j += PANEL)
    for (int64_t i = top; with && i < least(bottom, j + PANEL); i++) {
      float* row = square.at(i, j);
      const float* plain = with->at(i, j);
      for (int64_t k = 0; k < PANEL; k++) row[k] = u->b * plain[k] + u->c * row[k];
      if (i >= j) row[i - j] += u->a;
    }
  for (int64_t j = left; j < right; j += L)
    for (int64_t i = top; i < least(bottom, j); i += L) mirrored(square.at(i, j), square.at(j, i));
}

inline void squared(bool together, const Panels& x, const Panels& square, const Muon* u, const Panels* with) {
  const int64_t blocks = (x.across + SQUARE - 1) / SQUARE;
  each(together, blocks * blocks, x.depth * x.across * x.across / 2, [&](int64_t task) {
    const int64_t top = task / blocks * SQUARE, left = task % blocks * SQUARE;
    if (top <= left) square_block(x, top, left, square, u, with);
  });
}

// X <- X square; false if memory is out
inline bool multiplied(bool together, const Panels& x, const Panels& square) {
  bool failed = false;
  each(together, x.depth / PANEL, x.depth * x.across * x.across, [&](int64_t task) {
    const int64_t top = task * PANEL, stride = x.across + L;  // rows do not lie a power of two apart
    float* rows = room(7, PANEL * stride);
    if (!rows) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    for (int64_t j = 0; j < x.across; j += PANEL)
      for (int64_t i = 0; i < PANEL; i++) memcpy(rows + i * stride + j, x.at(top + i, j), PANEL * sizeof(float));
    for (int64_t j = 0; j < x.across; j += PANEL)
      for (int64_t from = 0; from < x.across; from += DEPTH)
        for (int64_t i = 0; i < PANEL; i += TALL)
          small_product<TALL, 2>(least(DEPTH, x.across - from), rows + i * stride + from, stride, 1, square.at(from, j),
                                 PANEL, x.at(top + i, j), PANEL, from > 0);
  });
  return !failed;
}

// f(place in the matrix, number of elements, their place in the panels and its step) for short runs of rows
template <class Function>
void over_runs(bool together, const Moved& matrix, const Panels& x, const Function& f) {
  const bool turned = matrix.rows < matrix.columns;
  each(together, (matrix.rows + PANEL - 1) / PANEL, 8 * matrix.rows * matrix.columns, [&](int64_t task) {
    const int64_t end = least(matrix.rows, (task + 1) * PANEL);
    for (int64_t j = 0; j < matrix.columns; j += RUN)
      for (int64_t i = task * PANEL; i < end; i++)
        f(i * matrix.columns + j, least(RUN, matrix.columns - j), turned ? x.at(j, i) : x.at(i, j), turned ? PANEL : 1);
  });
}

// One update; false if memory is out
bool move(const Muon& u, const Moved& matrix, bool together) {
  const int64_t across = rounded_up(matrix.shorter(), PANEL);
  const int64_t depth = rounded_up(matrix.rows + matrix.columns - matrix.shorter(), PANEL), size = depth * across;
  float* scratch = room(6, size + 2 * across * across);
  if (!scratch) return false;
  const Panels x{scratch, depth, across};
  const Panels square{scratch + size, across, across}, polynomial{square.p + across * across, across, across};
  if (size != matrix.rows * matrix.columns) memset(x.p, 0, size * sizeof(float));
  const float rest = 1.0f - u.momentum;
  over_runs(together, matrix, x, [&](int64_t place, int64_t count, float* to, int64_t step) {
    float direction[RUN];
    for (int64_t i = 0; i < count; i++) {
      const float g = matrix.gradient[place + i] * u.factor, m = u.momentum * matrix.m[place + i] + rest * g;
      matrix.m[place + i] = m, direction[i] = u.momentum * m + rest * g;  // Nesterov's
    }
    for (int64_t i = 0; i < count; i++) to[i * step] = direction[i];
  });
  each(together, across / PANEL, size, [&](int64_t i) { square.p[i] = squares_piece(x.at(0, i * PANEL), depth * PANEL); });
  double total = 0.0;
  for (int64_t i = 0; i < across / PANEL; i++) total += square.p[i];
  const float root = sqrtf(static_cast<float>(total)), norm = root > 1e-7f ? root : 1e-7f;
  each(together, across / PANEL, size, [&](int64_t i) {
    float* panel = x.at(0, i * PANEL);
    for (int64_t k = 0; k < depth * PANEL; k++) panel[k] /= norm;
  });
  for (int i = 0; i < static_cast<int>(u.iterations); i++) {
    squared(together, x, square, nullptr, nullptr);
    squared(together, square, polynomial, &u, &square);
    if (!multiplied(together, x, polynomial)) return false;
  }
  over_runs(together, matrix, x, [&](int64_t place, int64_t count, const float* from, int64_t step) {
    float direction[RUN];
    for (int64_t i = 0; i < count; i++) direction[i] = from[i * step];
    for (int64_t i = 0; i < count; i++)
      matrix.w[place + i] -= u.rate * (matrix.scale * direction[i] + matrix.decay * matrix.w[place + i]);
  });
  return true;
}

// Large matrices one after another, by all threads; of the others each thread takes the largest that is left. Orders
// `matrices`; false if memory is out.
bool move_all(const Muon& u, Moved* matrices, int64_t count) {
  for (int64_t i = 1; i < count; i++)
    for (int64_t j = i; j > 0 && matrices[j].work() > matrices[j - 1].work(); j--) {
      const Moved other = matrices[j];
      matrices[j] = matrices[j - 1], matrices[j - 1] = other;
    }
  bool failed = false;
  int64_t left = 0, work = 0;
  for (int64_t i = 0; i < count; i++) work += matrices[i].work();
  for (int64_t i = 0; i < count; i++)
    if (matrices[i].rows * matrices[i].columns > ALONE) failed |= !move(u, matrices[i], true);
    else matrices[left++] = matrices[i];
  parallel(left, work, [&](int64_t i) {
    if (!move(u, matrices[i], false)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  return !failed;
}

}  // namespace
