// Multi-scale deformable attention on the CPU.
//
// Vectors run over channels in the gather and the scatter, and over the samples of a query in everything else.
// Positions and softmax are computed on the way, so nothing but the results is ever allocated. Forward: a task is a
// tile of queries. Backward: a task is one head of one image, so that no two threads add to the same cell, and the
// order of the additions, hence the result, does not depend on the number of threads.
#include "ms_deform_attn.h"

#include <algorithm>
#include <cstring>
#include <utility>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace msda {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));
constexpr int kUnroll = 128 / kVectorBytes;  // vectors handled together: 32 float channels, the usual size of a head

// ---- channels in and out of vectors ---------------------------------------------------------------------------

template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class A>
inline Vector<A> load(const A* p) {
  Vector<A> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Vector<float> load(const BFloat16* p) {
  typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
  typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
  Narrow n;
  std::memcpy(&n, p, sizeof n);
  const Wide w = __builtin_convertvector(n, Wide) << 16;
  Vector<float> v;
  std::memcpy(&v, &w, sizeof v);
  return v;
}

inline Vector<float> load(const Half* p) {
  Vector<float> v;
#if defined(__AVX512F__)
  const __m512 w = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  std::memcpy(&v, &w, sizeof v);
#elif defined(__AVX2__) && defined(__F16C__)
  const __m256 w = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  std::memcpy(&v, &w, sizeof v);
#else
  for (int i = 0; i < kLanes<float>; ++i) v[i] = static_cast<float>(p[i]);
#endif
  return v;
}

template <class T, class A>
inline void store(T* p, Vector<A> v) {
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(p, &v, sizeof v);
  } else {
    for (int i = 0; i < kLanes<A>; ++i) p[i] = static_cast<T>(v[i]);
  }
}

// ---- sums across lanes ------------------------------------------------------------------------------------------

// Lane i of the result is the sum of all lanes of v[i]: a butterfly in which every step halves the vectors.
template <class A, int Half, int... I>
inline Vector<A> fold(Vector<A> a, Vector<A> b, std::integer_sequence<int, I...>) {
  constexpr int n = kLanes<A>;
#if defined(__clang__)
  const Vector<A> keep = __builtin_shufflevector(a, b, ((I & Half) ? n + (I ^ Half) : I)...);
  const Vector<A> move = __builtin_shufflevector(a, b, ((I & Half) ? n + I : (I ^ Half))...);
#else
  using Int = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  typedef Int Index __attribute__((vector_size(kVectorBytes)));
  const Vector<A> keep = __builtin_shuffle(a, b, Index{((I & Half) ? n + (I ^ Half) : I)...});
  const Vector<A> move = __builtin_shuffle(a, b, Index{((I & Half) ? n + I : (I ^ Half))...});
#endif
  return keep + move;
}

template <class A, int Count>
inline Vector<A> sum_lanes(Vector<A>* v) {
  if constexpr (Count == 1) {
    return v[0];
  } else {
    constexpr int half = Count / 2;
    for (int i = 0; i < half; ++i) {
      v[i] = fold<A, half>(v[i], v[i + half], std::make_integer_sequence<int, kLanes<A>>());
    }
    return sum_lanes<A, half>(v);
  }
}

// ---- the samples of one query and head --------------------------------------------------------------------------

struct Row {  // a tensor of any floating type, read and written a few samples at a time
  char* data;
  ScalarType type;
};

template <class A, class F>
inline void with_type(ScalarType type, F&& f) {
  if constexpr (std::is_same_v<A, float>) {
    if (type == ScalarType::Half) return f(static_cast<Half*>(nullptr));
    if (type == ScalarType::BFloat16) return f(static_cast<BFloat16*>(nullptr));
  }
  f(static_cast<A*>(nullptr));
}

// exp(x) for x <= 0 in branch-free arithmetic that compilers vectorise: 2^n times a polynomial on [-ln2/2, ln2/2],
// within 1e-7 of the truth. NaN stays NaN; below -87 the result is 0.
inline float exp_negative(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float n = std::floor(clamped * 1.44269504f + 0.5f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n == n ? n : 0.0f) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : p * power;
}
inline double exp_negative(double x) { return std::exp(x); }

constexpr int kBlock = 16;  // samples of a block: one AVX-512 vector of floats

// Where the samples of a block lie. Fixed arrays inside one struct let compilers vectorise every loop over them.
template <class A>
struct alignas(64) Place {
  A scale_x[kBlock], base_x[kBlock], scale_y[kBlock], base_y[kBlock];  // pixel = scale * coordinate + base
  int32_t width[kBlock], height[kBlock], start[kBlock];                // of each sample's level
  int32_t reference[kBlock];                                           // where in a query's reference points it is
};

// The samples of one head and what becomes of them.
template <class A>
struct alignas(64) Block {
  A x[kBlock], y[kBlock], weight[kBlock];                                      // coordinates, attention weight
  A w00[kBlock], w01[kBlock], w10[kBlock], w11[kBlock];                        // attention times corner weight
  A dots[4 * kBlock], grad_x[kBlock], grad_y[kBlock], grad_weight[kBlock];     // backward only
  int32_t c00[kBlock], c01[kBlock], c10[kBlock], c11[kBlock], inside[kBlock];  // four cells; is any inside?
  int32_t outside;                                                             // is any sample outside?
  int count;                                                                   // samples in use

  void read(Row coordinates, Row weights, int64_t first) {
    with_type<A>(coordinates.type, [&](auto* t) {
      const auto* p = reinterpret_cast<decltype(t)>(coordinates.data) + 2 * first;
      if (count == kBlock) {
        for (int i = 0; i < kBlock; ++i) x[i] = static_cast<A>(p[2 * i]), y[i] = static_cast<A>(p[2 * i + 1]);
      } else {
        for (int i = 0; i < count; ++i) x[i] = static_cast<A>(p[2 * i]), y[i] = static_cast<A>(p[2 * i + 1]);
      }
    });
    with_type<A>(weights.type, [&](auto* t) {
      const auto* p = reinterpret_cast<decltype(t)>(weights.data) + first;
      if (count == kBlock) {
        for (int i = 0; i < kBlock; ++i) weight[i] = static_cast<A>(p[i]);
      } else {
        for (int i = 0; i < count; ++i) weight[i] = static_cast<A>(p[i]);
      }
    });
  }

  void write(Row coordinates, Row weights, int64_t first) const {
    with_type<A>(coordinates.type, [&](auto* t) {
      using T = std::remove_pointer_t<decltype(t)>;
      T* p = reinterpret_cast<T*>(coordinates.data) + 2 * first;
      if (count == kBlock) {
        for (int i = 0; i < kBlock; ++i) p[2 * i] = static_cast<T>(grad_x[i]), p[2 * i + 1] = static_cast<T>(grad_y[i]);
      } else {
        for (int i = 0; i < count; ++i) p[2 * i] = static_cast<T>(grad_x[i]), p[2 * i + 1] = static_cast<T>(grad_y[i]);
      }
    });
    with_type<A>(weights.type, [&](auto* t) {
      using T = std::remove_pointer_t<decltype(t)>;
      T* p = reinterpret_cast<T*>(weights.data) + first;
      for (int i = 0; i < count; ++i) p[i] = static_cast<T>(grad_weight[i]);
    });
  }

  // Cells and corner weights.
  void locate(const Place<A>& p) {
    for (int i = 0; i < kBlock; ++i) {
      const Axis<A> ax = axis(x[i] * p.scale_x[i] + p.base_x[i], p.width[i]);
      const Axis<A> ay = axis(y[i] * p.scale_y[i] + p.base_y[i], p.height[i]);
      const int32_t low = p.start[i] + ay.low * p.width[i], high = p.start[i] + ay.high * p.width[i];
      c00[i] = low + ax.low, c01[i] = low + ax.high, c10[i] = high + ax.low, c11[i] = high + ax.high;
      const A a_low = weight[i] * ay.w_low, a_high = weight[i] * ay.w_high;
      w00[i] = a_low * ax.w_low, w01[i] = a_low * ax.w_high, w10[i] = a_high * ax.w_low, w11[i] = a_high * ax.w_high;
      inside[i] = ax.inside & ay.inside;
    }
    int32_t all = 1;
    for (int i = 0; i < kBlock; ++i) all &= inside[i];
    outside = !all;
  }

  // From the dot products to the gradients of coordinates and attention weights.
  void differentiate(const Place<A>& p) {
    for (int i = 0; i < kBlock; ++i) {
      const Axis<A> ax = axis(x[i] * p.scale_x[i] + p.base_x[i], p.width[i]);
      const Axis<A> ay = axis(y[i] * p.scale_y[i] + p.base_y[i], p.height[i]);
      const SampleGrad<A> g = sample_grad(ax, ay, dots[4 * i], dots[4 * i + 1], dots[4 * i + 2], dots[4 * i + 3]);
      grad_weight[i] = g.weight;
      // outside, the scale may be NaN, as its reference box is
      grad_x[i] = inside[i] ? g.x * weight[i] * p.scale_x[i] : A(0);
      grad_y[i] = inside[i] ? g.y * weight[i] * p.scale_y[i] : A(0);
    }
  }
};

// Sum (or maximum) over a block in a fixed order, so that the compiler need not reassociate to vectorise.
template <class A, class F>
inline A reduce(const A* v, F&& f) {
  A a[8], b[4];
  for (int i = 0; i < 8; ++i) a[i] = f(v[i], v[i + 8]);
  for (int i = 0; i < 4; ++i) b[i] = f(a[i], a[i + 4]);
  return f(f(b[0], b[2]), f(b[1], b[3]));
}

// Scratch of one thread: where the samples of one query lie, the same for all its heads.
template <class A>
struct Places {
  std::vector<Place<A>> blocks;

  explicit Places(const Problem& p) : blocks((p.samples() + kBlock - 1) / kBlock) {
    const int64_t count = p.samples();
    for (int64_t k = 0; k < static_cast<int64_t>(blocks.size()) * kBlock; ++k) {
      Place<A>& b = blocks[k / kBlock];
      const int i = k % kBlock;
      const Level level = k < count ? p.levels[k / p.points] : Level{1, 1, 0};
      b.width[i] = level.width, b.height[i] = level.height, b.start[i] = level.start;
      b.reference[i] = k < count ? static_cast<int32_t>(k / p.points) * p.kind : 0;
    }
    if (p.kind == 0) move<0>(p, nullptr);
  }

  // To another query, whose points are at `reference`.
  void move(const Problem& p, const A* reference) { p.kind == 2 ? move<2>(p, reference) : move<4>(p, reference); }

  template <int Kind>
  void move(const Problem& p, const A* reference) {
    for (Place<A>& b : blocks) {
      Place<A> moved = b;  // a local of its own: nothing that is read could be what was just written
      for (int i = 0; i < kBlock; ++i) {
        A point[4] = {};
        for (int c = 0; c < Kind; ++c) point[c] = reference[moved.reference[i] + c];
        const auto points = static_cast<int32_t>(p.points);
        const Affine<A> a = affine(Kind, point, moved.height[i], moved.width[i], points);
        moved.scale_x[i] = a.scale_x, moved.base_x[i] = a.base_x;
        moved.scale_y[i] = a.scale_y, moved.base_y[i] = a.base_y;
      }
      b = moved;
    }
  }
};

// Scratch of one thread: the samples of one query and head.
template <class A>
struct Samples {
  int count;
  std::vector<Block<A>> blocks;

  explicit Samples(const Problem& p) : count(static_cast<int>(p.samples())), blocks((count + kBlock - 1) / kBlock) {
    for (size_t k = 0; k < blocks.size(); ++k) {
      Block<A>& b = blocks[k];
      b.count = std::min<int>(kBlock, count - static_cast<int>(k) * kBlock);
      for (int i = 0; i < kBlock; ++i) b.x[i] = b.y[i] = A(0.5), b.weight[i] = 0;  // padding: inside a level of 1 x 1
    }
  }

  void softmax() {
    A top = -std::numeric_limits<A>::infinity(), sum = 0;
    Block<A>& last = blocks.back();
    for (int i = last.count; i < kBlock; ++i) last.weight[i] = -std::numeric_limits<A>::infinity();
    for (Block<A>& b : blocks) {
      const A most = reduce(b.weight, [](A u, A v) { return u > v ? u : v; });
      top = most > top ? most : top;
    }
    for (Block<A>& b : blocks) {
      for (int i = 0; i < kBlock; ++i) b.weight[i] = exp_negative(b.weight[i] - top);
      sum += reduce(b.weight, [](A u, A v) { return u + v; });
    }
    const A factor = A(1) / sum;
    for (Block<A>& b : blocks) {
      for (int i = 0; i < kBlock; ++i) b.weight[i] *= factor;
    }
  }

  // `first`: index of the first sample in the weight tensor.
  void prepare(const Problem& p, const Places<A>& places, Row coordinates, Row weights, int64_t first) {
    for (Block<A>& b : blocks) b.read(coordinates, weights, first), first += kBlock;
    if (p.kind) softmax();
    for (size_t k = 0; k < blocks.size(); ++k) blocks[k].locate(places.blocks[k]);
  }

  // Ends the backward: through the softmax, and out.
  void finish(const Problem& p, const Places<A>& places, Row grad_coordinates, Row grad_weights, int64_t first) {
    A mean = 0;
    for (size_t k = 0; k < blocks.size(); ++k) {
      Block<A>& b = blocks[k];
      b.differentiate(places.blocks[k]);
      A product[kBlock];
      for (int i = 0; i < kBlock; ++i) product[i] = b.weight[i] * b.grad_weight[i];
      mean += reduce(product, [](A u, A v) { return u + v; });
    }
    for (Block<A>& b : blocks) {
      if (p.kind) {
        for (int i = 0; i < kBlock; ++i) b.grad_weight[i] = b.weight[i] * (b.grad_weight[i] - mean);
      }
      b.write(grad_coordinates, grad_weights, first), first += kBlock;
    }
  }
};

// ---- which queries to visit after each other --------------------------------------------------------------------

// A block of queries: `rows` runs of `columns` consecutive queries, `pitch` apart.
struct Tile {
  int64_t first, pitch;
  int32_t rows, columns;
};

// In an encoder every cell is a query and looks about itself: visiting the queries in squares keeps the cells that
// they share in the cache. Elsewhere the order means nothing, and the tiles are runs.
std::vector<Tile> tiles_of(const Problem& p) {
  constexpr int32_t side = 16;
  std::vector<Tile> tiles;
  if (p.queries == p.cells) {
    for (const Level& level : p.levels) {
      for (int32_t y = 0; y < level.height; y += side) {
        for (int32_t x = 0; x < level.width; x += side) {
          tiles.push_back({level.start + int64_t(y) * level.width + x, level.width, std::min(side, level.height - y),
                           std::min(side, level.width - x)});
        }
      }
    }
  } else {
    for (int64_t q = 0; q < p.queries; q += side) {
      tiles.push_back({q, side, 1, static_cast<int32_t>(std::min<int64_t>(side, p.queries - q))});
    }
  }
  return tiles;
}

// ---- forward ----------------------------------------------------------------------------------------------------

// `Vectors` vectors of channels of the weighted sum over the samples of one block, added to what `sum` holds.
template <class T, int Vectors, bool AllInside>
inline void gather(const Block<Accumulate<T>>& s, const T* base, int64_t stride, Vector<Accumulate<T>>* sum) {
  using A = Accumulate<T>;
  constexpr int lanes = kLanes<A>;
  Vector<A> even[Vectors] = {}, odd[Vectors] = {};
  for (int k = 0; k < s.count; ++k) {
    if (!AllInside && !s.inside[k]) continue;
    const T *p00 = base + s.c00[k] * stride, *p01 = base + s.c01[k] * stride;
    const T *p10 = base + s.c10[k] * stride, *p11 = base + s.c11[k] * stride;
    const A w00 = s.w00[k], w01 = s.w01[k], w10 = s.w10[k], w11 = s.w11[k];
    for (int v = 0; v < Vectors; ++v) {
      even[v] += load(p00 + v * lanes) * w00;
      odd[v] += load(p01 + v * lanes) * w01;
      even[v] += load(p10 + v * lanes) * w10;
      odd[v] += load(p11 + v * lanes) * w11;
    }
  }
  for (int v = 0; v < Vectors; ++v) sum[v] += even[v] + odd[v];
}

template <class T, int Vectors>
inline void gather_head(const Samples<Accumulate<T>>& s, const T* base, int64_t stride, T* out) {
  using A = Accumulate<T>;
  Vector<A> sum[Vectors] = {};
  for (const Block<A>& b : s.blocks) {
    b.outside ? gather<T, Vectors, false>(b, base, stride, sum) : gather<T, Vectors, true>(b, base, stride, sum);
  }
  for (int v = 0; v < Vectors; ++v) store<T, A>(out + v * kLanes<A>, sum[v]);
}

template <class T>
inline void gather_channels(const Samples<Accumulate<T>>& s, const T* base, int64_t stride, int64_t channels, T* out) {
  using A = Accumulate<T>;
  constexpr int lanes = kLanes<A>;
  int64_t d = 0;
  for (; d + kUnroll * lanes <= channels; d += kUnroll * lanes) gather_head<T, kUnroll>(s, base + d, stride, out + d);
  for (; d + lanes <= channels; d += lanes) gather_head<T, 1>(s, base + d, stride, out + d);
  for (; d < channels; ++d) {
    A sum = 0;
    for (const Block<A>& b : s.blocks) {
      for (int k = 0; k < b.count; ++k) {
        if (!b.inside[k]) continue;
        sum += static_cast<A>(base[b.c00[k] * stride + d]) * b.w00[k];
        sum += static_cast<A>(base[b.c01[k] * stride + d]) * b.w01[k];
        sum += static_cast<A>(base[b.c10[k] * stride + d]) * b.w10[k];
        sum += static_cast<A>(base[b.c11[k] * stride + d]) * b.w11[k];
      }
    }
    out[d] = static_cast<T>(sum);
  }
}

struct Inputs {
  const char *value, *reference;  // reference is null in the bare op
  Row coordinates, weights;
};

template <class T>
void forward(const Problem& p, const Inputs& in, T* out) {
  using A = Accumulate<T>;
  const std::vector<Tile> tiles = tiles_of(p);
  const int64_t stride = p.heads * p.channels, reference_size = p.kind * static_cast<int64_t>(p.levels.size());
  const int64_t tasks = p.batch * static_cast<int64_t>(tiles.size());
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    // The samples of a head are prepared before the head before it is gathered: the one is a chain of dependent
    // arithmetic, the other all loads, and the processor does both at once.
    Places<A> places(p);
    Samples<A> first(p), second(p), *now = &first, *next = &second;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / static_cast<int64_t>(tiles.size());
      const Tile& tile = tiles[task % tiles.size()];
      const T* value = reinterpret_cast<const T*>(in.value) + n * p.cells * stride;
      const auto gather_to_out = [&](const Samples<A>& s, int64_t head) {
        gather_channels<T>(s, value + head % p.heads * p.channels, stride, p.channels, out + head * p.channels);
      };
      int64_t before = -1;  // the query and head that `now` holds
      for (int32_t i = 0; i < tile.rows * tile.columns; ++i) {
        const int64_t query = n * p.queries + tile.first + i / tile.columns * tile.pitch + i % tile.columns;
        if (p.kind) places.move(p, reinterpret_cast<const A*>(in.reference) + query * reference_size);
        for (int64_t head = query * p.heads; head < (query + 1) * p.heads; ++head) {
          next->prepare(p, places, in.coordinates, in.weights, head * next->count);
          if (before >= 0) gather_to_out(*now, before);
          std::swap(now, next);
          before = head;
        }
      }
      gather_to_out(*now, before);
    }
  });
}

// ---- backward ---------------------------------------------------------------------------------------------------

// Adds the gradient of the four cells of sample k, and returns in `dot` the dot products of grad_output with them.
template <class T, int Fixed>
inline void scatter(const Block<Accumulate<T>>& s, int k, const T* base, int64_t stride, int64_t channels,
                    const T* grad, Accumulate<T>* grad_base, Vector<Accumulate<T>>* dot) {
  using A = Accumulate<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t cell[4] = {s.c00[k] * stride, s.c01[k] * stride, s.c10[k] * stride, s.c11[k] * stride};
  const A weight[4] = {s.w00[k], s.w01[k], s.w10[k], s.w11[k]};
  const int64_t blocks = Fixed ? Fixed : channels / lanes;
  for (int c = 0; c < 4; ++c) {
    Vector<A> sum = {};
    for (int64_t b = 0; b < blocks; ++b) {
      const Vector<A> g = load(grad + b * lanes);
      sum += g * load(base + cell[c] + b * lanes);
      A* to = grad_base + cell[c] + b * lanes;
      store<A, A>(to, load(to) + g * weight[c]);
    }
    if (!Fixed) {
      for (int64_t d = blocks * lanes; d < channels; ++d) {
        const A g = static_cast<A>(grad[d]);
        sum[0] += g * static_cast<A>(base[cell[c] + d]);
        grad_base[cell[c] + d] += g * weight[c];
      }
    }
    dot[c] = sum;
  }
}

template <class T, int Fixed>
void backward_head(const Problem& p, const Inputs& in, const std::vector<Tile>& tiles, const T* grad_output,
                   Accumulate<T>* grad_value, Row grad_coordinates, Row grad_weights, int64_t n, int64_t m) {
  using A = Accumulate<T>;
  constexpr int lanes = kLanes<A>, group = lanes >= 4 ? lanes / 4 : 1, sums = lanes >= 4 ? lanes : 4;
  const int64_t stride = p.heads * p.channels, reference_size = p.kind * static_cast<int64_t>(p.levels.size());
  const T* base = reinterpret_cast<const T*>(in.value) + n * p.cells * stride + m * p.channels;
  A* grad_base = grad_value + n * p.cells * stride + m * p.channels;
  Places<A> places(p);
  Samples<A> s(p);
  for (const Tile& tile : tiles) {
    for (int32_t i = 0; i < tile.rows * tile.columns; ++i) {
      const int64_t query = n * p.queries + tile.first + i / tile.columns * tile.pitch + i % tile.columns;
      const int64_t first = (query * p.heads + m) * s.count;
      if (p.kind) places.move(p, reinterpret_cast<const A*>(in.reference) + query * reference_size);
      s.prepare(p, places, in.coordinates, in.weights, first);
      const T* grad = grad_output + query * stride + m * p.channels;
      for (Block<A>& b : s.blocks) {
        for (int k = 0; k < kBlock; k += group) {
          Vector<A> dot[sums] = {};
          for (int j = k; j < std::min(k + group, b.count); ++j) {
            if (b.inside[j]) scatter<T, Fixed>(b, j, base, stride, p.channels, grad, grad_base, dot + 4 * (j - k));
          }
          for (int c = 0; c < sums; c += lanes) store<A, A>(b.dots + 4 * k + c, sum_lanes<A, lanes>(dot + c));
        }
      }
      s.finish(p, places, grad_coordinates, grad_weights, first);
    }
  }
}

template <class T>
void backward(const Problem& p, const Inputs& in, const T* grad_output, Accumulate<T>* grad_value,
              Row grad_coordinates, Row grad_weights) {
  constexpr int lanes = kLanes<Accumulate<T>>;
  const std::vector<Tile> tiles = tiles_of(p);
  constexpr int unroll = std::is_same_v<T, float> ? kUnroll : 0;  // compiling one more for every type takes seconds
  const auto head = p.channels == unroll * lanes ? backward_head<T, unroll> : backward_head<T, 0>;
  torch::stable::parallel_for(0, p.batch * p.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      head(p, in, tiles, grad_output, grad_value, grad_coordinates, grad_weights, task / p.heads, task % p.heads);
    }
  });
}

// ---- the ops ----------------------------------------------------------------------------------------------------

template <class F>
void dispatch(ScalarType type, F&& f) {
  switch (type) {
    case ScalarType::Float: return f(float());
    case ScalarType::Double: return f(double());
    case ScalarType::Half: return f(Half());
    default: return f(BFloat16());
  }
}

Row row_of(const Tensor& t) { return {static_cast<char*>(t.data_ptr()), t.scalar_type()}; }

struct Call {  // contiguous copies where needed, kept alive while pointers into them are used
  Tensor value, reference, coordinates, weights;
  Problem problem;
  bool fused;

  Call(const Tensor& v, const std::vector<int64_t>& shapes, const Tensor* r, const Tensor& c, const Tensor& w)
      : value(v), reference(r ? *r : c), coordinates(c), weights(w), problem(check(v, shapes, r, c, w)), fused(r) {
    for (Tensor* t : {&value, &reference, &coordinates, &weights}) *t = torch::stable::contiguous(*t);
  }
  Inputs inputs() const {
    return {static_cast<const char*>(value.const_data_ptr()),
            fused ? static_cast<const char*>(reference.const_data_ptr()) : nullptr, row_of(coordinates),
            row_of(weights)};
  }
};

Tensor run_forward(const Call& call) {
  const Problem& p = call.problem;
  const std::vector<int64_t> shape = {p.batch, p.queries, p.heads * p.channels};
  if (p.samples() == 0) return torch::stable::new_zeros(call.value, shape);
  Tensor out = torch::stable::new_empty(call.value, shape);
  if (out.numel() == 0) return out;
  dispatch(call.value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    forward<T>(p, call.inputs(), static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> run_backward(const Call& call, const Tensor& grad_output) {
  const Problem& p = call.problem;
  expect_grad(p, grad_output, call.value);
  const Tensor grad = torch::stable::contiguous(grad_output);
  const ScalarType type = call.value.scalar_type();
  Tensor grad_value = torch::stable::new_zeros(call.value, {p.batch, p.cells, p.heads, p.channels}, accumulate_type(type));
  Tensor grad_coordinates = torch::stable::empty_like(call.coordinates);
  Tensor grad_weights = torch::stable::empty_like(call.weights);
  if (call.weights.numel() != 0) {
    dispatch(type, [&](auto zero) {
      using T = decltype(zero);
      backward<T>(p, call.inputs(), static_cast<const T*>(grad.const_data_ptr()),
                  static_cast<Accumulate<T>*>(grad_value.mutable_data_ptr()), row_of(grad_coordinates),
                  row_of(grad_weights));
    });
  }
  if (is_16_bit(type)) grad_value = torch::stable::to(grad_value, type);
  return {grad_value, grad_coordinates, grad_weights};
}

Tensor bare_forward(const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations, const Tensor& weights) {
  return run_forward(Call(value, shapes, nullptr, locations, weights));
}

// The last argument of a backward asks for a fixed order of additions: here there is no other.
std::tuple<Tensor, Tensor, Tensor> bare_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                                                 const Tensor& locations, const Tensor& weights, bool) {
  return run_backward(Call(value, shapes, nullptr, locations, weights), grad);
}

Tensor fused_forward(const Tensor& value, std::vector<int64_t> shapes, const Tensor& reference, const Tensor& offsets,
                     const Tensor& logits) {
  return run_forward(Call(value, shapes, &reference, offsets, logits));
}

std::tuple<Tensor, Tensor, Tensor> fused_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                                                  const Tensor& reference, const Tensor& offsets,
                                                  const Tensor& logits, bool) {
  return run_backward(Call(value, shapes, &reference, offsets, logits), grad);
}

}  // namespace
}  // namespace msda

STABLE_TORCH_LIBRARY_IMPL(dino_nb, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&msda::bare_forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&msda::bare_backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&msda::fused_forward));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&msda::fused_backward));
}
