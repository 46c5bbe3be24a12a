// Operators: inputs, then outputs, in `params`. Decoding calls them itself (generation/kernels), training as MindSpore's
// ops.Custom(func_type="aot").
//
// What an operator knows besides its rows (weights, caches, sizes) is registered first by the Python code that owns
// the memory and has checked it (library.py). The last input of an operator is the number of its registration, int64
// [1]. A number without such a registration, and rows that do not suit it, are errors.
#include "activation.h"
#include "block.h"
#include "choice.h"
#include "entropy.h"
#include "held.h"
#include "muon.h"
#include "whole_attention.h"

namespace {

enum What { FREE, MATRIX, NORM, ATTENTION, EXCHANGE, DECODER_BLOCK };

constexpr int PARTS = 11;

struct Entry {
  What what;
  int helpers;
  union {
    struct {
      Matrix matrix;
      Adapters adapters;
    };
    Norm norm;
    Attention attention;
    Exchange exchange;
    int64_t parts[PARTS];  // numbers of registrations, -1 for none
  };
};

constexpr int64_t ENTRIES = 1 << 20;
Entry* entries[ENTRIES];
int64_t used = 0;
pthread_mutex_t registering = PTHREAD_MUTEX_INITIALIZER;

int64_t add(const Entry& entry, int64_t threads) {
  auto* kept = static_cast<Entry*>(malloc(sizeof(Entry)));
  if (!kept) return -1;
  *kept = entry;
  kept->helpers = helpers_of(threads);
  pthread_mutex_lock(&registering);
  const int64_t number = used < ENTRIES ? used++ : -1;
  if (number >= 0) __atomic_store_n(&entries[number], kept, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&registering);
  if (number < 0) free(kept);
  return number;
}

// what a number stands for, or null
Entry* found(int64_t number, What what) {
  if (number < 0 || number >= ENTRIES) return nullptr;
  Entry* entry = __atomic_load_n(&entries[number], __ATOMIC_ACQUIRE);
  return entry && entry->what == what ? entry : nullptr;
}

// A block from its parts, in the order of `register_block`; false if they do not fit together
bool assemble(const Entry& entry, Block* block) {
  const int64_t* next = entry.parts;
  bool right = true;
  const auto part = [&](What what, bool optional = false) {
    const int64_t number = *next++;
    Entry* e = found(number, what);
    if (!e && !(optional && number < 0)) right = false;
    return e;
  };
  const auto linear = [&](bool optional = false) {
    const Entry* e = part(MATRIX, optional);
    return e ? Linear{&e->matrix, &e->adapters} : Linear{};
  };
  const Entry *first = part(NORM), *second = part(NORM, true), *attention = part(ATTENTION);
  Entry* exchange = part(EXCHANGE, true);
  block->query = linear(), block->key = linear(), block->value = linear(), block->output = linear();
  block->gate = linear(true), block->up = linear(), block->down = linear();
  if (!right) return false;
  block->attention_norm = &first->norm, block->feed_forward_norm = second ? &second->norm : nullptr;
  block->attention = &attention->attention, block->exchange = exchange ? &exchange->exchange : nullptr;
  helpers = entry.helpers;
  return block->fits();
}

struct Call {
  int count;
  void** params;
  int* ranks;
  int64_t** shapes;
  const char** types;

  int64_t elements(int i) const {
    int64_t n = 1;
    for (int d = 0; d < ranks[i]; d++) n *= shapes[i][d];
    return n;
  }
  template <class T>
  T* at(int i) const { return static_cast<T*>(params[i]); }
  bool is(int i, const char* type, int64_t size) const {
    const char* given = types[i];
    for (; *type; type++, given++)
      if (*type != *given) return false;
    return !*given && elements(i) == size;
  }
  // of the first n parameters, to be freed; null if one is not FP32 or memory is out
  int64_t* sizes(int64_t n) const {
    auto* found = static_cast<int64_t*>(malloc(sizeof(int64_t) * (n + 1)));
    for (int64_t i = 0; found && i < n; i++) {
      found[i] = elements(i);
      if (!is(i, "float32", found[i])) return free(found), nullptr;
    }
    return found;
  }
  // what input i's number stands for
  Entry* entry(int i, What what) const {
    Entry* entry = is(i, "int64", 1) ? found(*at<int64_t>(i), what) : nullptr;
    if (entry) helpers = entry->helpers;
    return entry;
  }
  // Inputs 0 to 5 of `attend_whole`, whose second result is parameter `lse`; false if they do not fit together
  bool sequences(int lse, Sequences* s) const {
    if (ranks[0] != 2 || ranks[1] != 2 || ranks[3] != 2 || ranks[lse] != 3) return false;
    s->batch = shapes[3][0], s->seq = shapes[3][1], s->heads = shapes[lse][1];
    const int64_t tokens = s->batch * s->seq, wide = shapes[0][1], narrow = shapes[1][1];
    if (s->heads < 1 || wide < 1 || wide % s->heads || narrow < 1 || narrow % (wide / s->heads)) return false;
    s->size = wide / s->heads, s->groups = narrow / s->size;
    const int64_t turned = elements(4) == 1 ? 1 : tokens * s->size;
    const bool right = s->heads % s->groups == 0 && is(0, "float32", tokens * wide) &&
                       is(1, "float32", tokens * narrow) && is(2, "float32", tokens * narrow) &&
                       is(3, "int32", tokens) && is(4, "float32", turned) && is(5, "float32", turned) &&
                       is(lse, "float32", tokens * s->heads);
    if (!right) return false;
    s->query = at<float>(0), s->key = at<float>(1), s->value = at<float>(2), s->positions = at<int32_t>(3);
    s->cos = turned == 1 ? nullptr : at<float>(4), s->sin = turned == 1 ? nullptr : at<float>(5);
    for (int64_t i = 0; i < tokens; i++)
      if (s->positions[i] < 0 || s->positions[i] > i % s->seq) return false;
    return true;
  }
  // Inputs 0 to 3 of `norm_whole`; the number of rows, -1 if they do not fit together
  int64_t norm(Norm* norm) const {
    const int64_t h = elements(1), size = elements(0), shifts = ranks[2] == 1 ? elements(2) : 0;
    const bool right = h > 0 && size % h == 0 && is(0, "float32", size) && is(1, "float32", h) &&
                       is(2, "float32", shifts) && (shifts == h || shifts == 1) && is(3, "float32", 1);
    if (!right) return -1;
    *norm = {at<float>(1), nullptr, h, *at<float>(3)};
    if (shifts == h) norm->bias = at<float>(2);
    return size / h;
  }
  // Inputs 0 to 2 of `linear_active`: an active matrix [m, k]; false if they do not fit together
  bool active(View* x) const {
    const bool right = ranks[0] == 2 && is(0, "float32", elements(0)) && is(1, "float32", shapes[0][1]) &&
                       is(2, "int32", 1);
    if (!right) return false;
    *x = {at<float>(0), shapes[0][1], 1, {at<float>(1), *at<int32_t>(2)}};
    return true;
  }
  // all inputs between the first and the result: a matrix of k columns; false if they do not fit together
  bool held(int64_t k, Held* w) const {
    if (count < 3 || count > 4 || ranks[1] != 2 || k < 1) return false;
    const Kind kind = count == 3 ? HALF : is(1, "uint8", elements(1)) ? FOUR : EIGHT;
    *w = {at<void>(1), kind == HALF ? nullptr : at<float>(2), shapes[1][0], k, kind};
    if (kind == HALF) return is(1, "float16", w->n * k);
    return is(1, kind == FOUR ? "uint8" : "int8", w->n * w->stride()) &&
           is(2, "float32", w->n * (kind == FOUR ? w->groups() : 1));
  }
};

constexpr int RIGHT = 0, WRONG = 1;

int result(bool right) { return right ? RIGHT : WRONG; }

// whether a product has rows, columns and terms
bool some_of_all(int64_t m, int64_t n, int64_t k) { return m > 0 && n > 0 && k > 0; }

}  // namespace

extern "C" {

// ---------------------------------------------------------------- registrations; -1 if there are too many
// `adapters`: `count` times two addresses and a rank
int64_t register_matrix(const void* data, const float* scales, const float* bias, const void* adapters,
                        const int32_t* chosen, int64_t n, int64_t k, int64_t rows, int64_t width, int64_t kind,
                        int64_t group, int64_t activation, int64_t activation_bits, int64_t count, int64_t most,
                        int64_t threads) {
  Entry entry{};
  entry.what = MATRIX;
  entry.matrix = {data, scales, bias, n, k, rows, width, kind, group, activation, activation_bits};
  entry.adapters = {static_cast<const Adapter*>(adapters), count, chosen, most};
  return add(entry, threads);
}

int64_t register_norm(const float* weight, const float* bias, int64_t h, double epsilon, int64_t threads) {
  Entry entry{};
  entry.what = NORM;
  entry.norm = {weight, bias, h, epsilon};
  return add(entry, threads);
}

int64_t register_attention(int64_t heads, int64_t groups, int64_t size, int64_t rotary, int64_t slots, int64_t capacity,
                           const float* cos, const float* sin, void* keys, void* values, int64_t bits,
                           int64_t threads) {
  Entry entry{};
  entry.what = ATTENTION;
  entry.attention = {heads, groups, size, rotary, slots, capacity, rounded_up(size, 16), rounded_up(capacity, 16) / 16,
                     cos, sin, keys, values, bits};
  return add(entry, threads);
}

// `memory`: zeros, `ranks` lines and 2 * `ranks` parts of `room` floats, which all ranks have mapped
int64_t register_exchange(void* memory, int64_t rank, int64_t ranks, int64_t room, int64_t threads) {
  Entry entry{};
  entry.what = EXCHANGE;
  entry.exchange = {static_cast<char*>(memory), rank, ranks, room, 0};
  return add(entry, threads);
}

// `parts`: numbers of the norms before attention and before the feed-forward part, of the attention, of the exchange, and
// of the matrices of query, key, value, output, gate, up and down; -1 for no second norm, no exchange, no gate
int64_t register_block(const int64_t* parts, int64_t threads) {
  Entry entry{};
  entry.what = DECODER_BLOCK;
  memcpy(entry.parts, parts, sizeof entry.parts);
  return add(entry, threads);
}

// whether rows of EIGHT lie side by side where activations are rounded
int64_t eight_in_blocks() { return EIGHT_IN_BLOCKS; }

void release(int64_t number) {
  if (number < 0 || number >= ENTRIES) return;
  free(__atomic_exchange_n(&entries[number], nullptr, __ATOMIC_ACQ_REL));
}

// of the choice, which belongs to no engine
void use_threads(int64_t threads) { __atomic_store_n(&usual, helpers_of(threads), __ATOMIC_RELAXED); }

// ---------------------------------------------------------------- operators
// x [m, k], number -> y [m, n]
int linear(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const Entry* e = count == 3 ? call.entry(1, MATRIX) : nullptr;
  if (!e) return WRONG;
  const int64_t m = call.elements(0) / e->matrix.k;
  if (!call.is(0, "float32", m * e->matrix.k) || !call.is(2, "float32", m * e->matrix.n)) return WRONG;
  const Product product{&e->matrix, &e->adapters, nullptr, call.at<float>(2)};
  return result(linear(&product, 1, call.at<float>(0), m));
}

// residual [m, n], x [m, k], number -> y [m, n]; a step of `blocks` alone, which tests compare with NumPy
int linear_add(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const Entry* e = count == 4 ? call.entry(2, MATRIX) : nullptr;
  if (!e) return WRONG;
  const int64_t m = call.elements(1) / e->matrix.k;
  const bool right = call.is(0, "float32", m * e->matrix.n) && call.is(1, "float32", m * e->matrix.k) &&
                     call.is(3, "float32", m * e->matrix.n);
  const Product product{&e->matrix, &e->adapters, call.at<float>(0), call.at<float>(3)};
  return right ? result(linear(&product, 1, call.at<float>(1), m)) : WRONG;
}

// x [m, h], slots and positions int32 [2, m], for one block perhaps query [m, h], numbers int64 [blocks] -> x after these
// blocks. Rows of padding at the end are not computed; they become zeros.
int blocks(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  if (count != 4 && count != 5) return WRONG;
  const int numbers = count - 2, out = count - 1;
  const int64_t size = call.elements(0), m = call.elements(1) / 2, many = call.elements(numbers);
  const bool right = call.is(0, "float32", size) && call.is(1, "int32", 2 * m) && call.is(numbers, "int64", many) &&
                     call.is(out, "float32", size) && many > 0 && (count == 4 || (many == 1 && call.is(2, "float32", size)));
  if (!right) return WRONG;
  const int32_t* rows = call.at<int32_t>(1);
  const float *x = call.at<float>(0), *query = count == 5 ? call.at<float>(2) : nullptr;
  for (int64_t i = 0; i < many; i++, x = call.at<float>(out)) {
    const Entry* entry = found(call.at<int64_t>(numbers)[i], DECODER_BLOCK);
    Block block;
    if (!entry || !assemble(*entry, &block) || block.hidden() * m != size) return WRONG;
    int64_t used = m;
    while (used > 0 && rows[m + used - 1] >= block.attention->capacity) used--;
    memset(call.at<float>(out) + used * block.hidden(), 0, (m - used) * block.hidden() * sizeof(float));
    if (used && !run(block, x, query, rows, rows + m, used, call.at<float>(out))) return WRONG;
  }
  return RIGHT;
}

// indices int32 [...], number -> rows of a matrix [..., k]
int lookup(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const Entry* e = count == 3 ? call.entry(1, MATRIX) : nullptr;
  if (!e) return WRONG;
  const int64_t m = call.elements(0), k = e->matrix.k;
  if (!call.is(0, "int32", m) || !call.is(2, "float32", m * k)) return WRONG;
  for (int64_t i = 0; i < m; i++)
    if (!lookup(e->matrix, call.at<int32_t>(0)[i], call.at<float>(2) + i * k)) return WRONG;
  return RIGHT;
}

// x [m, h], number -> [m, h]
int norm(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const Entry* e = count == 3 ? call.entry(1, NORM) : nullptr;
  if (!e) return WRONG;
  const int64_t m = call.elements(0) / e->norm.h;
  if (!call.is(0, "float32", m * e->norm.h) || !call.is(2, "float32", m * e->norm.h)) return WRONG;
  norm_rows(e->norm, call.at<float>(0), m, call.at<float>(2));
  return RIGHT;
}

// query [m, heads * size], key and value [m, groups * size], slots and positions int32 [2, m], number -> as query; also
// such a step
int attend(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const Entry* e = count == 6 ? call.entry(4, ATTENTION) : nullptr;
  if (!e) return WRONG;
  const Attention& a = e->attention;
  const int64_t m = call.elements(0) / (a.heads * a.size), wide = m * a.heads * a.size, narrow = m * a.groups * a.size;
  const bool right = call.is(0, "float32", wide) && call.is(1, "float32", narrow) && call.is(2, "float32", narrow) &&
                     call.is(3, "int32", 2 * m) && call.is(5, "float32", wide);
  if (!right) return WRONG;
  const int32_t* rows = call.at<int32_t>(3);
  return result(attend(a, {call.at<float>(0), call.at<float>(1), call.at<float>(2), rows, rows + m, m}, call.at<float>(5)));
}

// x [...], number -> the sum of all ranks' x
int sum_ranks(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Entry* e = count == 3 ? call.entry(1, EXCHANGE) : nullptr;
  if (!e) return WRONG;
  const int64_t size = call.elements(0);
  if (!call.is(0, "float32", size) || !call.is(2, "float32", size)) return WRONG;
  return result(sum_ranks(e->exchange, call.at<float>(0), size, nullptr, call.at<float>(2)));
}

// x [m, n], number -> the columns of all ranks' x [m, whole]
int gather_ranks(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Entry* e = count == 3 && ranks[0] == 2 && ranks[2] == 2 ? call.entry(1, EXCHANGE) : nullptr;
  if (!e) return WRONG;
  const int64_t m = shapes[0][0], n = shapes[0][1], whole = shapes[2][1];
  if (!call.is(0, "float32", m * n) || !call.is(2, "float32", m * whole)) return WRONG;
  return result(gather_ranks(e->exchange, call.at<float>(0), m, n, whole, call.at<float>(2)));
}

// logits [n, vocabulary], `Choice`s float64 [n, columns], `Edit`s float64 [n, a, 3], any int32 [1 + k] -> float64
// [n, 1 + k, 2]: ids and their log-probabilities, the chosen one and the k likeliest
int choose(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  if (count != 5 || ranks[0] != 2 || ranks[2] != 3) return WRONG;
  const int64_t n = shapes[0][0], vocabulary = shapes[0][1], edits = shapes[2][1], given = call.elements(3);
  const bool right = vocabulary >= 1 && given >= 1 && call.is(0, "float32", n * vocabulary) && call.is(1, "float64", COLUMNS * n) &&
                     call.is(2, "float64", 3 * n * edits) && call.is(3, "int32", given) &&
                     call.is(4, "float64", 2 * n * given);
  if (!right) return WRONG;
  bool failed = false;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  parallel(n, n * vocabulary, [&](int64_t i) {
    const Row row{call.at<float>(0) + i * vocabulary, vocabulary, call.at<Choice>(1)[i], call.at<Edit>(2) + i * edits,
                  edits, given - 1};
    if (!choose(row, call.at<double>(4) + 2 * i * given)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  return result(!failed);
}

// ---------------------------------------------------------------- operators of training, which know nothing but inputs
// ids int32 [batch, seq], the number that ends a document int32 [1] -> positions in documents, as ids
int positions(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const int64_t size = count == 3 && ranks[0] == 2 ? call.elements(0) : -1;
  if (size < 0 || !call.is(0, "int32", size) || !call.is(1, "int32", 1) || !call.is(2, "int32", size)) return WRONG;
  const int32_t *ids = call.at<int32_t>(0), end = *call.at<int32_t>(1);
  for (int64_t i = 0; i < size; i++) {
    const bool begins = i % shapes[0][1] == 0 || ids[i - 1] == end;
    call.at<int32_t>(2)[i] = begins ? 0 : call.at<int32_t>(2)[i - 1] + 1;
  }
  return RIGHT;
}

// query [batch * seq, heads * size], key and value [batch * seq, groups * size], positions int32 [batch, seq], cos and
// sin [batch, 1, seq, size] or [1] -> as query; logarithms of the sums of exponentials [batch, heads, seq]
int attend_whole(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Sequences s;
  float* lse = count == 8 && call.sequences(7, &s) ? call.at<float>(7) : nullptr;
  if (!lse || !call.is(6, "float32", call.elements(0))) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  return result(attend_sequences(s, call.at<float>(6), lse));
}

// the inputs and results of `attend_whole`, the gradient of the first result -> those of query, key and value
int attend_whole_back(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Sequences s;
  if (count != 12 || !call.sequences(7, &s)) return WRONG;
  const int64_t wide = call.elements(0), narrow = call.elements(1);
  const bool right = call.is(6, "float32", wide) && call.is(8, "float32", wide) && call.is(9, "float32", wide) &&
                     call.is(10, "float32", narrow) && call.is(11, "float32", narrow);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  return result(attend_sequences_back(s, {call.at<float>(6), call.at<float>(7), call.at<float>(8), call.at<float>(9),
                                          call.at<float>(10), call.at<float>(11)}));
}

// x [m, h], weight [h], bias [h] or [0 rows], epsilon [1] -> y [m, h]; mean and inverse deviation of each row [m, 2]
int norm_whole(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Norm norm;
  const int64_t m = count == 6 ? call.norm(&norm) : -1;
  if (m < 0 || !call.is(4, "float32", m * norm.h) || !call.is(5, "float32", 2 * m)) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  norm_rows(norm, call.at<float>(0), m, call.at<float>(4), call.at<float>(5));
  return RIGHT;
}

// the inputs of `norm_whole`, its second result, the gradient of the first -> those of x, weight and bias
int norm_whole_back(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Norm norm;
  const int64_t m = count == 9 ? call.norm(&norm) : -1, size = m * norm.h;
  const bool right = m >= 0 && call.is(4, "float32", 2 * m) && call.is(5, "float32", size) &&
                     call.is(6, "float32", size) && call.is(7, "float32", norm.h) &&
                     call.is(8, "float32", call.elements(2));
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  if (!norm.bias) *call.at<float>(8) = 0.0f;
  return result(norm_rows_back(norm, call.at<float>(0), call.at<float>(4), call.at<float>(5), m, call.at<float>(6),
                               call.at<float>(7), norm.bias ? call.at<float>(8) : nullptr));
}

// x [m, k], w [n, k], bias [n] or [1 row] for none -> x wᵀ + bias [m, n]
int linear_whole(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  if (count != 4 || ranks[0] != 2 || ranks[1] != 2 || ranks[2] < 1) return WRONG;
  const int64_t m = shapes[0][0], k = shapes[0][1], n = shapes[1][0];
  const float* bias = ranks[2] == 1 ? call.at<float>(2) : nullptr;
  const bool right = some_of_all(m, n, k) && call.is(0, "float32", m * k) && call.is(1, "float32", n * k) &&
                     call.is(2, "float32", bias ? n : 1) && call.is(3, "float32", m * n);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  const View x{call.at<float>(0), k, 1}, w{call.at<float>(1), 1, k};
  return result(multiply(x, w, m, n, k, bias, call.at<float>(3)));
}

// the gradient of `linear_whole`'s result [m, n], w [n, k] -> that of x [m, k]
int linear_whole_to_x(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  if (count != 3 || ranks[0] != 2 || ranks[1] != 2) return WRONG;
  const int64_t m = shapes[0][0], n = shapes[0][1], k = shapes[1][1];
  const bool right = some_of_all(m, n, k) && call.is(0, "float32", m * n) && call.is(1, "float32", n * k) &&
                     call.is(2, "float32", m * k);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  const View to_y{call.at<float>(0), n, 1}, w{call.at<float>(1), k, 1};
  return result(multiply(to_y, w, m, k, n, nullptr, call.at<float>(2)));
}

// x [m, k], the gradient of `linear_whole`'s result [m, n], bias -> those of w [n, k] and bias
int linear_whole_to_weights(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  if (count != 5 || ranks[0] != 2 || ranks[1] != 2 || ranks[2] < 1) return WRONG;
  const int64_t m = shapes[0][0], k = shapes[0][1], n = shapes[1][1];
  float* to_bias = ranks[2] == 1 ? call.at<float>(4) : nullptr;
  const bool right = some_of_all(m, n, k) && call.is(0, "float32", m * k) && call.is(1, "float32", m * n) &&
                     call.is(3, "float32", n * k) && call.is(4, "float32", to_bias ? n : 1);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  if (!to_bias) *call.at<float>(4) = 0.0f;
  const View to_y{call.at<float>(1), 1, n}, x{call.at<float>(0), k, 1};
  return result(multiply(to_y, x, n, k, m, nullptr, call.at<float>(3)) &&
                (!to_bias || column_sums(call.at<float>(1), m, n, to_bias)));
}

// hidden [rows, h], table [v, h], bias [v] or [1 row] for none, labels int32 [rows], mask [rows], z-loss [1] -> the sum
// of mask (nll + z-loss log² Z) [1] and its gradients of hidden, table and bias
int entropy_whole(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  if (count != 10 || ranks[0] != 2 || ranks[1] != 2 || ranks[2] < 1) return WRONG;
  const int64_t rows = shapes[0][0], h = shapes[0][1], v = shapes[1][0], biases = ranks[2] == 1 ? v : 1;
  const bool right = some_of_all(rows, h, v) && call.is(0, "float32", rows * h) && call.is(1, "float32", v * h) &&
                     call.is(2, "float32", biases) && call.is(3, "int32", rows) && call.is(4, "float32", rows) &&
                     call.is(5, "float32", 1) && call.is(6, "float32", 1) && call.is(7, "float32", rows * h) &&
                     call.is(8, "float32", v * h) && call.is(9, "float32", biases);
  if (!right) return WRONG;
  const float* bias = ranks[2] == 1 ? call.at<float>(2) : nullptr;
  const Entropy e{call.at<float>(0), call.at<float>(1), bias, call.at<int32_t>(3), call.at<float>(4),
                  rows, h, v, *call.at<float>(5)};
  for (int64_t i = 0; i < rows; i++)
    if (e.labels[i] < 0 || e.labels[i] >= v) return WRONG;
  if (!e.bias) *call.at<float>(9) = 0.0f;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  return result(entropy_and_gradients(e, call.at<float>(6), call.at<float>(7), call.at<float>(8), call.at<float>(9)));
}

// x [m, k], shift [k], `Activation` int32 [1], w [n, k], bias [n] -> activation(x + shift) wᵀ + bias [m, n]
int linear_active(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  View x;
  if (count != 6 || ranks[3] != 2 || !call.active(&x)) return WRONG;
  const int64_t m = shapes[0][0], k = shapes[0][1], n = shapes[3][0];
  const bool right = some_of_all(m, n, k) && call.is(3, "float32", n * k) && call.is(4, "float32", n) &&
                     call.is(5, "float32", m * n);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  const View w{call.at<float>(3), 1, k};
  return result(multiply(x, w, m, n, k, call.at<float>(4), call.at<float>(5)));
}

// the inputs of `linear_active` but the bias, the gradient of its result -> those of x and shift
int linear_active_to_x(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  View x;
  if (count != 7 || ranks[3] != 2 || !call.active(&x)) return WRONG;
  const int64_t m = shapes[0][0], k = shapes[0][1], n = shapes[3][0];
  const bool right = some_of_all(m, n, k) && call.is(3, "float32", n * k) && call.is(4, "float32", m * n) &&
                     call.is(5, "float32", m * k) && call.is(6, "float32", k);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  const View to_y{call.at<float>(4), n, 1}, w{call.at<float>(3), k, 1};
  float* to_x = call.at<float>(5);
  return result(multiply(to_y, w, m, k, n, nullptr, to_x, false, &x) && column_sums(to_x, m, k, call.at<float>(6)));
}

// x, shift, `Activation`, the gradient of `linear_active`'s result -> those of w and bias
int linear_active_to_weights(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  View x;
  if (count != 6 || ranks[3] != 2 || !call.active(&x)) return WRONG;
  const int64_t m = shapes[0][0], k = shapes[0][1], n = shapes[3][1];
  const bool right = some_of_all(m, n, k) && call.is(3, "float32", m * n) && call.is(4, "float32", n * k) &&
                     call.is(5, "float32", n);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  const View to_y{call.at<float>(3), 1, n};
  return result(multiply(to_y, x, n, k, m, nullptr, call.at<float>(4)) &&
                column_sums(call.at<float>(3), m, n, call.at<float>(5)));
}

// x [m, n], bias [n], `Activation` int32 [1] -> activation(x + bias)
int activate(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const int64_t size = count == 4 ? call.elements(0) : -1, n = count == 4 ? call.elements(1) : 0;
  const bool right = size >= 0 && n > 0 && size % n == 0 && call.is(0, "float32", size) && call.is(1, "float32", n) &&
                     call.is(2, "int32", 1) && call.is(3, "float32", size);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  activate_rows(call.at<float>(0), call.at<float>(1), *call.at<int32_t>(2), size / n, n, call.at<float>(3));
  return RIGHT;
}

// the inputs of `activate`, the gradient of its result -> those of x and bias
int activate_back(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const int64_t size = count == 6 ? call.elements(0) : -1, n = count == 6 ? call.elements(1) : 0;
  const bool right = size >= 0 && n > 0 && size % n == 0 && call.is(0, "float32", size) && call.is(1, "float32", n) &&
                     call.is(2, "int32", 1) && call.is(3, "float32", size) && call.is(4, "float32", size) &&
                     call.is(5, "float32", n);
  if (!right) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  return result(activate_rows_back(call.at<float>(0), call.at<float>(1), *call.at<int32_t>(2), call.at<float>(3),
                                   size / n, n, call.at<float>(4), call.at<float>(5)));
}

// x [m, k], numbers float16 [n, k], or int8 [n, k] or uint8 [n, bytes] and scales -> x wᵀ [m, n]
int held_product(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Held w;
  if (ranks[0] != 2 || !call.held(shapes[0][1], &w)) return WRONG;
  const int64_t m = shapes[0][0];
  if (!call.is(0, "float32", m * w.k) || !call.is(count - 1, "float32", m * w.n)) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  return result(held_product(w, call.at<float>(0), m, call.at<float>(count - 1)));
}

// the gradient of `held_product`'s result [m, n], numbers, scales if they have any -> that of x [m, k]
int held_product_back(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  Held w;
  const int last = count - 1;
  if (last < 2 || ranks[last] != 2 || !call.held(shapes[last][1], &w)) return WRONG;
  const int64_t m = shapes[last][0];
  if (!call.is(0, "float32", m * w.n) || !call.is(last, "float32", m * w.k)) return WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  return result(held_product_back(w, call.at<float>(0), m, call.at<float>(last)));
}

// n gradients -> the sum of their squares [1]
int squares(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const int64_t n = count - 1;
  int64_t* sizes = call.sizes(n);
  if (!sizes || !call.is(count - 1, "float32", 1)) return free(sizes), WRONG;
  int64_t total = 0;
  for (int64_t i = 0; i < n; i++) total += pieces(sizes[i]);
  float* parts = room(7, total + 1);
  if (!parts) return free(sizes), WRONG;
  helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
  over_pieces(sizes, n, 1, [&](int64_t tensor, int64_t at, int64_t size, int64_t number) {
    parts[number] = squares_piece(call.at<float>(tensor) + at, size);
  });
  free(sizes);
  double sum = 0.0;
  for (int64_t i = 0; i < total; i++) sum += parts[i];
  *call.at<float>(count - 1) = static_cast<float>(sum);
  return RIGHT;
}

// n parameters, their first moments, the second ones of those that AdamW updates, n gradients; decays [n], scales of Muon
// [n], 0 for AdamW; constants [7]: beta1, beta2 and the first five of `Muon`; settings [5]: AdamW's rate, epsilon and
// factor of the decays, Muon's rate, factor of the gradients -> 1; writes parameters and moments
int optimize(int count, void** params, int* ranks, int64_t** shapes, const char** types, void*, void*) {
  const Call call{count, params, ranks, shapes, types};
  const int64_t n = count > 5 ? call.elements(count - 5) : 0, end = count - 5;
  int64_t* sizes = n > 0 && 3 * n <= end && end <= 4 * n ? call.sizes(n) : nullptr;
  bool right = sizes && call.is(end, "float32", n) && call.is(end + 1, "float32", n) && call.is(end + 2, "float32", 7) &&
               call.is(end + 3, "float32", 5) && call.is(end + 4, "float32", 1);
  auto* matrices = static_cast<Moved*>(malloc(sizeof(Moved) * (n + 1)));
  auto* seconds = static_cast<float**>(malloc(sizeof(float*) * (n + 1)));
  right = right && matrices && seconds;
  const float *decays = call.at<float>(end), *scales = call.at<float>(end + 1), *fixed = call.at<float>(end + 2);
  const float* a = call.at<float>(end + 3);
  int64_t moved = 0, second = 2 * n;
  for (int64_t i = 0; right && i < n; i++) {
    float *w = call.at<float>(i), *m = call.at<float>(n + i), *gradient = call.at<float>(end - n + i);
    right = call.is(n + i, "float32", sizes[i]) && call.is(end - n + i, "float32", sizes[i]);
    if (right && scales[i] > 0.0f) {
      right = ranks[i] == 2;
      if (right) matrices[moved++] = {shapes[i][0], shapes[i][1], w, m, gradient, scales[i], decays[i]};
      sizes[i] = 0;
    } else if (right) {
      right = second < end - n && call.is(second, "float32", sizes[i]);
      seconds[i] = call.at<float>(second++);
    }
  }
  right = right && second == end - n;
  if (right) {
    helpers = __atomic_load_n(&usual, __ATOMIC_RELAXED);
    over_pieces(sizes, n, 8, [&](int64_t i, int64_t at, int64_t size, int64_t) {
      const AdamW settings{a[0], fixed[0], fixed[1], a[1], a[2] * decays[i], a[4]};
      adamw_piece(settings, size, call.at<float>(i) + at, call.at<float>(n + i) + at, seconds[i] + at,
                  call.at<float>(end - n + i) + at);
    });
    const Muon settings{fixed[2], fixed[3], fixed[4], fixed[5], fixed[6], a[3], a[4]};
    right = move_all(settings, matrices, moved);
    *call.at<float>(end + 4) = 1.0f;
  }
  free(sizes), free(matrices), free(seconds);
  return result(right);
}
}
