// Multi-scale deformable attention on CUDA devices.
//
// A group of 1 to 32 lanes works on one query and head: each lane holds 16 bytes of its channels. First every lane
// prepares some of the samples (place, softmax) and leaves them in shared memory, so that this is done once for all
// lanes; then all lanes walk over the samples together, with the loads of all four cells in flight at once. The head is
// the slowest dimension of the grid: what is in the L2 cache at one time is one head of the value tensor. In an encoder,
// where every cell is a query, a block takes 8 x 8 of them, which share most of the cells that they look at.
//
// Gradients of the value are added up in one of two ways: by atomic additions, which are in no fixed order, or sorted.
// Then the backward kernel leaves a contribution for every sample at its place in the order of the cells, and a further
// kernel lets every cell gather what falls on it: the same bits in every run, and one 16-byte store where there were
// four cells of additions.
//
// tests/ops runs this file on the CPU, lane by lane, through an emulation of the few CUDA features it uses.
#if defined(MSDA_EMULATE)
#include "cuda_emulation.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define MSDA_LAUNCH(kernel, blocks, threads, bytes, stream, ...) \
  kernel<<<blocks, threads, bytes, stream>>>(__VA_ARGS__)
#define MSDA_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

#include "ms_deform_attn.h"
#include "ms_deform_attn_sort.cuh"

#include <tuple>
#include <type_traits>

namespace msda {
#if !defined(MSDA_EMULATE)
using torch::stable::accelerator::DeviceGuard;
#endif
namespace {

constexpr int kSide = 8;               // of an encoder's square of queries
constexpr int kSlots = 2;              // samples that one lane prepares at a time
constexpr int kRecords = kThreads * kSlots;
constexpr int kMaxLevels = 64;

template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

enum Storage { kWide = 0, kHalf = 1, kBFloat16 = 2 };  // kWide: the accumulation type

struct Column {  // a tensor of coordinates or weights, of a type known at run time
  char* data;
  int storage;
};

struct Params {
  const char *value, *reference, *grad_output;
  char *out, *grad_value;
  Column coordinates, weights, grad_coordinates, grad_weights;
  int64_t image, batch;  // the first image and their number
  int64_t cells, queries;
  int32_t heads, channels, points, samples, kind, level_count;
  int32_t group;      // lanes of one query and head, a power of two
  int32_t per_block;  // queries of a block
  int64_t tiles;      // blocks of one image and head
  int32_t squares;    // 1: a block is a square of cells, which in an encoder are the queries
  // for sorted gradients, of one image; all null for atomic ones
  uint64_t* items;          // what is to be sorted
  const int32_t *position;  // see Sort
  const int32_t* starts;
  char* contributions;      // (heads, queries * samples), sorted
  Level levels[kMaxLevels];
};

template <class A>
struct Record {  // a prepared sample
  int4 cell;     // the four cells; cell.x is -1 if all of them are outside
  A weight[4];   // attention weight times corner weight
};

// What one sample adds to the gradient of the value: weight * (1 - x) * (1 - y) times its query's grad_output to the cell
// under which it is sorted, weight * x * (1 - y) to the one at its right, and so on. At a border, where only one side
// exists, its share is part of the weight.
template <class A>
struct alignas(4 * sizeof(A)) Contribution {
  A weight, x, y;
  int32_t query;
};

template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T item[V];
};

template <class A>
__device__ __forceinline__ A read(const Column& column, int64_t i) {
  if constexpr (std::is_same_v<A, float>) {
    if (column.storage == kHalf) return static_cast<float>(reinterpret_cast<const Half*>(column.data)[i]);
    if (column.storage == kBFloat16) return static_cast<float>(reinterpret_cast<const BFloat16*>(column.data)[i]);
  }
  return reinterpret_cast<const A*>(column.data)[i];
}

template <class A>
__device__ __forceinline__ void write(const Column& column, int64_t i, A x) {
  if constexpr (std::is_same_v<A, float>) {
    if (column.storage == kHalf) return void(reinterpret_cast<Half*>(column.data)[i] = static_cast<Half>(x));
    if (column.storage == kBFloat16) return void(reinterpret_cast<BFloat16*>(column.data)[i] = static_cast<BFloat16>(x));
  }
  reinterpret_cast<A*>(column.data)[i] = x;
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

// Where this thread stands, and which query and head its group works on.
struct Place {
  int lane, slot, groups;  // lane in the group, group in the block, groups of the block
  int shift;               // the group's first lane in its warp
  unsigned mask;           // as many ones as the group has lanes
  int64_t image;
  int32_t head;
  int64_t tile;

  __device__ __forceinline__ explicit Place(const Params& p) {
    lane = threadIdx.x & (p.group - 1);
    slot = threadIdx.x / p.group;
    groups = kThreads / p.group;
    shift = (threadIdx.x & 31) & ~(p.group - 1);
    mask = p.group == 32 ? kAllLanes : (1u << p.group) - 1;
    const int64_t block = blockIdx.x, rest = block / p.tiles;
    tile = block % p.tiles;
    image = p.image + rest % p.batch;
    head = static_cast<int32_t>(rest / p.batch);
  }

  // The i-th query of this block, or -1 past the end of a ragged tile.
  __device__ __forceinline__ int64_t query(const Params& p, int i) const {
    if (p.squares) return cell(p, i).index;
    const int64_t q = tile * p.per_block + i;
    return q < p.queries ? q : -1;
  }

  struct Cell {
    int64_t index;
    int x, y, width;
  };

  // The i-th cell of this block's square, or an index of -1.
  __device__ __forceinline__ Cell cell(const Params& p, int i) const {
    int64_t left = tile;
    for (int l = 0; l < p.level_count; ++l) {
      const Level level = p.levels[l];
      const int across = (level.width + kSide - 1) / kSide, down = (level.height + kSide - 1) / kSide;
      const int64_t count = static_cast<int64_t>(across) * down;
      if (left < count) {
        const int y = static_cast<int>(left / across) * kSide + i / kSide;
        const int x = static_cast<int>(left % across) * kSide + i % kSide;
        const bool inside = y < level.height && x < level.width;
        return {inside ? level.start + static_cast<int64_t>(y) * level.width + x : -1, x, y, level.width};
      }
      left -= count;
    }
    return {-1, 0, 0, 0};
  }
};

template <class A>
__device__ __forceinline__ A group_max(A x, int group) {
  for (int o = group / 2; o > 0; o /= 2) {
    const A y = __shfl_xor_sync(kAllLanes, x, o);
    x = y > x ? y : x;
  }
  return x;
}

template <class A>
__device__ __forceinline__ A group_sum(A x, int group) {
  for (int o = group / 2; o > 0; o /= 2) x += __shfl_xor_sync(kAllLanes, x, o);
  return x;
}

// One sample before its attention weight is known.
template <class A>
struct Sample {
  Axis<A> x, y;
  A scale_x, scale_y;
  int32_t start, width;

  __device__ __forceinline__ Sample() {}
  // `row`: the query among those of all images; `first`: the index of its head's first sample; k: the sample.
  __device__ __forceinline__ Sample(const Params& p, int64_t row, int64_t first, int k) {
    // exact for k below 2^20, and much cheaper than an integer division
    const int l = static_cast<int>((static_cast<float>(k) + 0.5f) * (1.0f / static_cast<float>(p.points)));
    const Level level = p.levels[l];
    const A* reference = reinterpret_cast<const A*>(p.reference) + (row * p.level_count + l) * p.kind;
    const Affine<A> a = affine<A>(p.kind, reference, level.height, level.width, p.points);
    x = axis(read<A>(p.coordinates, 2 * (first + k)) * a.scale_x + a.base_x, level.width);
    y = axis(read<A>(p.coordinates, 2 * (first + k) + 1) * a.scale_y + a.base_y, level.height);
    scale_x = a.scale_x, scale_y = a.scale_y;
    start = level.start, width = level.width;
  }

  __device__ __forceinline__ bool inside() const { return x.inside && y.inside; }
  __device__ __forceinline__ int32_t cell() const { return start + y.low * width + x.low; }

  __device__ __forceinline__ Contribution<A> contribution(A attention, int64_t query) const {
    const bool border_x = x.low == x.high, border_y = y.low == y.high;
    const A share_x = border_x ? x.w_low + x.w_high : A(1), share_y = border_y ? y.w_low + y.w_high : A(1);
    return {attention * share_x * share_y, border_x ? A(0) : x.w_high, border_y ? A(0) : y.w_high,
            static_cast<int32_t>(query)};
  }

  __device__ __forceinline__ Record<A> record(A attention) const {
    Record<A> r;
    const int32_t low = start + y.low * width, high = start + y.high * width;
    r.cell = inside() ? make_int4(low + x.low, low + x.high, high + x.low, high + x.high) : make_int4(-1, -1, -1, -1);
    const A a_low = attention * y.w_low, a_high = attention * y.w_high;
    r.weight[0] = a_low * x.w_low, r.weight[1] = a_low * x.w_high;
    r.weight[2] = a_high * x.w_low, r.weight[3] = a_high * x.w_high;
    return r;
  }
};

// The largest logit of a query and head (0 in the bare op, where weights are used as they are).
template <class A>
__device__ __forceinline__ A largest(const Params& p, const Place& place, bool valid, int64_t first) {
  if (p.kind == 0) return A(0);
  A top = -INFINITY;
  for (int k = place.lane; valid && k < p.samples; k += p.group) {
    const A logit = read<A>(p.weights, first + k);
    top = logit > top ? logit : top;
  }
  return group_max(top, p.group);
}

template <class A>
__device__ __forceinline__ A attention(const Params& p, A weight, A top) {
  return p.kind == 0 ? weight : exponential(weight - top);
}

// ---- forward ----------------------------------------------------------------------------------------------------

template <class T, int V>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 3 : 4) forward_kernel(const __grid_constant__ Params p) {
  using A = Accumulate<T>;
  MSDA_SHARED(shared);
  const Place place(p);
  const int chunk = kSlots * p.group;  // samples that the group prepares at a time
  Record<A>* records = reinterpret_cast<Record<A>*>(shared) + place.slot * chunk;
  const int64_t stride = static_cast<int64_t>(p.heads) * p.channels;
  const int vectors = p.channels / V;
  const T* value = reinterpret_cast<const T*>(p.value) + place.image * p.cells * stride + place.head * p.channels;

  // the number of rounds is the same for all groups of a warp: the warp-wide operations below need every lane
  for (int i = place.slot; i < p.per_block; i += place.groups) {
    const int64_t query = place.query(p, i), row = place.image * p.queries + query;
    const bool valid = query >= 0;
    const int64_t first = (row * p.heads + place.head) * p.samples;
    const A top = largest<A>(p, place, valid, first);
    A sum = 0;
    int count = 0;
    for (int v0 = 0; v0 < vectors; v0 += p.group) {
      const int v = v0 + place.lane;
      A total[V];
#pragma unroll
      for (int d = 0; d < V; ++d) total[d] = 0;
      for (int k0 = 0; k0 < p.samples; k0 += chunk) {
        if (v0 == 0 || p.samples > chunk) {
          __syncwarp();  // everyone has read the former records
          count = 0;
#pragma unroll
          for (int j = 0; j < kSlots; ++j) {
            const int k = k0 + j * p.group + place.lane;
            bool keep = valid && k < p.samples;
            Record<A> record;
            if (keep) {
              const A a = attention(p, read<A>(p.weights, first + k), top);
              if (v0 == 0) sum += a;
              record = Sample<A>(p, row, first, k).record(a);
              keep = record.cell.x >= 0;
            }
            // only samples that see something are kept, in their order
            const unsigned kept = (__ballot_sync(kAllLanes, keep) >> place.shift) & place.mask;
            if (keep) records[count + __popc(kept & ((1u << place.lane) - 1))] = record;
            count += __popc(kept);
          }
          __syncwarp();
        }
        if (v < vectors) {
          const T* from = value + v * V;
#pragma unroll 2
          for (int s = 0; s < count; ++s) {
            const Record<A> r = records[s];
            const Pack<T, V> v00 = *reinterpret_cast<const Pack<T, V>*>(from + r.cell.x * stride);
            const Pack<T, V> v01 = *reinterpret_cast<const Pack<T, V>*>(from + r.cell.y * stride);
            const Pack<T, V> v10 = *reinterpret_cast<const Pack<T, V>*>(from + r.cell.z * stride);
            const Pack<T, V> v11 = *reinterpret_cast<const Pack<T, V>*>(from + r.cell.w * stride);
#pragma unroll
            for (int d = 0; d < V; ++d) {
              total[d] += static_cast<A>(v00.item[d]) * r.weight[0] + static_cast<A>(v01.item[d]) * r.weight[1] +
                          static_cast<A>(v10.item[d]) * r.weight[2] + static_cast<A>(v11.item[d]) * r.weight[3];
            }
          }
        }
      }
      if (v0 == 0) sum = group_sum(sum, p.group);
      if (valid && v < vectors) {
        const A factor = p.kind == 0 ? A(1) : A(1) / sum;
        Pack<T, V> result;
#pragma unroll
        for (int d = 0; d < V; ++d) result.item[d] = static_cast<T>(total[d] * factor);
        *reinterpret_cast<Pack<T, V>*>(reinterpret_cast<T*>(p.out) + row * stride + place.head * p.channels + v * V) =
            result;
      }
    }
  }
}

}  // namespace
}  // namespace msda

#include "ms_deform_attn_fast.cuh"

namespace msda {
namespace {

// ---- backward ---------------------------------------------------------------------------------------------------

// Adds the four sums of `dot` over the lanes of the group to total[0..3]. A lane passes half of what it holds to its
// partner and keeps the other half, so that four sums over 8 lanes take 4 exchanges instead of 12.
template <class A>
__device__ __forceinline__ void add_over_lanes(const A (&dot)[4], int lane, int group, A* total) {
  if (group < 4) {
    for (int c = 0; c < 4; ++c) {
      const A sum = group_sum(dot[c], group);
      if (lane == 0) total[c] += sum;
    }
    return;
  }
  const int half = group / 2, quarter = group / 4;
  const bool upper = lane & half, odd = lane & quarter;
  A first = upper ? dot[2] : dot[0], second = upper ? dot[3] : dot[1];
  first += __shfl_xor_sync(kAllLanes, upper ? dot[0] : dot[2], half);
  second += __shfl_xor_sync(kAllLanes, upper ? dot[1] : dot[3], half);
  A mine = odd ? second : first;
  mine += __shfl_xor_sync(kAllLanes, odd ? first : second, quarter);
  for (int o = quarter / 2; o > 0; o /= 2) mine += __shfl_xor_sync(kAllLanes, mine, o);
  if ((lane & (quarter - 1)) == 0) total[(upper ? 2 : 0) + (odd ? 1 : 0)] += mine;
}

// `Lanes`: 0, or the lanes of a group where they hold a head's channels exactly (V each) and offsets fit into 32 bits.
// An address is then computed once a cell, and the additions are at constant distances from it.
template <class T, int V, int Lanes>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(const __grid_constant__ Params p) {
  using A = Accumulate<T>;
  using Offset = std::conditional_t<Lanes != 0, uint32_t, int64_t>;
  MSDA_SHARED(shared);
  const Place place(p);
  const int group = Lanes ? Lanes : p.group;
  const int chunk = kSlots * group;
  Record<A>* records = reinterpret_cast<Record<A>*>(shared) + place.slot * chunk;
  A* dots = reinterpret_cast<A*>(shared + kRecords * sizeof(Record<A>)) + 4 * place.slot * chunk;
  const int64_t stride = static_cast<int64_t>(p.heads) * p.channels;
  const int vectors = Lanes ? Lanes : p.channels / V;
  const Offset step = static_cast<Offset>(stride);
  const int64_t origin = place.image * p.cells * stride + place.head * p.channels;
  const T* value = reinterpret_cast<const T*>(p.value) + origin;
  A* grad_value = reinterpret_cast<A*>(p.grad_value) + origin;

  for (int i = place.slot; i < p.per_block; i += place.groups) {
    const int64_t query = place.query(p, i), row = place.image * p.queries + query;
    const bool valid = query >= 0;
    const int64_t first = (row * p.heads + place.head) * p.samples;
    const T* grad = reinterpret_cast<const T*>(p.grad_output) + row * stride + place.head * p.channels;
    const A top = largest<A>(p, place, valid, first);
    A factor = 1;  // one over the softmax's denominator
    if (p.kind != 0) {
      A sum = 0;
      for (int k = place.lane; valid && k < p.samples; k += group) {
        sum += attention(p, read<A>(p.weights, first + k), top);
      }
      factor = A(1) / group_sum(sum, group);
    }
    A mean = 0;  // of this lane's samples: attention times gradient, as the softmax needs it
    for (int k0 = 0; k0 < p.samples; k0 += chunk) {
      Sample<A> sample[kSlots];
      A weight[kSlots];
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kSlots; ++j) {
        const int s = j * group + place.lane, k = k0 + s;
        records[s].cell.x = -1;
        if (valid && k < p.samples) {
          weight[j] = attention(p, read<A>(p.weights, first + k), top) * factor;
          sample[j] = Sample<A>(p, row, first, k);
          records[s] = sample[j].record(weight[j]);
          if (p.position && sample[j].inside()) {
            const int64_t segment = place.head * p.queries * p.samples;
            reinterpret_cast<Contribution<A>*>(p.contributions)[segment + p.position[segment + query * p.samples + k]] =
                sample[j].contribution(weight[j], query);
          }
        }
        for (int c = 0; c < 4; ++c) dots[4 * s + c] = 0;
      }
      __syncwarp();
      for (int v0 = 0; v0 < vectors; v0 += group) {
        // Loads take V neighbouring channels a lane, but the additions below one channel a lane and step, so that the
        // lanes of a group add to whole 32-byte sectors.
        const int v = v0 + place.lane;
        A loaded[V], added[V];
#pragma unroll
        for (int d = 0; d < V; ++d) {
          const int channel = v0 * V + d * group + place.lane;
          loaded[d] = valid && v < vectors ? static_cast<A>(grad[v * V + d]) : A(0);
          added[d] = valid && channel < p.channels ? static_cast<A>(grad[channel]) : A(0);
        }
        const int last = p.samples - k0 < chunk ? p.samples - k0 : chunk;
        for (int s = 0; s < last; ++s) {  // the same count for the whole warp
          const Record<A> r = records[s];
          A dot[4] = {0, 0, 0, 0};
          if (r.cell.x >= 0) {
            const int32_t cell[4] = {r.cell.x, r.cell.y, r.cell.z, r.cell.w};
            if (v < vectors) {
              Pack<T, V> from[4];
#pragma unroll
              for (int c = 0; c < 4; ++c) {
                from[c] = *reinterpret_cast<const Pack<T, V>*>(value + static_cast<Offset>(cell[c]) * step + v * V);
              }
#pragma unroll
              for (int c = 0; c < 4; ++c) {
#pragma unroll
                for (int d = 0; d < V; ++d) dot[c] += loaded[d] * static_cast<A>(from[c].item[d]);
              }
            }
#pragma unroll
            for (int c = 0; c < 4 && !p.position; ++c) {
              if (r.weight[c] == A(0)) continue;
              A* to = grad_value + static_cast<Offset>(cell[c]) * step;
#if !defined(MSDA_EMULATE) && __CUDA_ARCH__ >= 900
              if constexpr (Lanes != 0 && std::is_same_v<A, float>) {  // four neighbours in one operation
#pragma unroll
                for (int d = 0; d < V; d += 4) {
                  const A w = r.weight[c];
                  atomicAdd(reinterpret_cast<float4*>(to + v * V + d),
                            make_float4(w * loaded[d], w * loaded[d + 1], w * loaded[d + 2], w * loaded[d + 3]));
                }
                continue;
              }
#endif
              to += v0 * V + place.lane;
#pragma unroll
              for (int d = 0; d < V; ++d) {
                if (Lanes || v0 * V + d * group + place.lane < p.channels) {
                  atomicAdd(to + d * group, r.weight[c] * added[d]);
                }
              }
            }
          }
          add_over_lanes(dot, place.lane, group, dots + 4 * s);
        }
      }
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kSlots; ++j) {
        const int s = j * group + place.lane, k = k0 + s;
        if (!valid || k >= p.samples) continue;
        const A* d = dots + 4 * s;
        const SampleGrad<A> g = sample_grad(sample[j].x, sample[j].y, d[0], d[1], d[2], d[3]);
        const bool inside = sample[j].inside();  // outside, the scale may be NaN, as its reference box is
        write(p.grad_coordinates, 2 * (first + k), inside ? g.x * weight[j] * sample[j].scale_x : A(0));
        write(p.grad_coordinates, 2 * (first + k) + 1, inside ? g.y * weight[j] * sample[j].scale_y : A(0));
        write(p.grad_weights, first + k, g.weight);
        mean += weight[j] * g.weight;
      }
    }
    if (p.kind == 0) continue;
    mean = group_sum(mean, group);
    for (int k = place.lane; valid && k < p.samples; k += group) {  // this lane wrote these itself
      const A a = attention(p, read<A>(p.weights, first + k), top) * factor;
      write(p.grad_weights, first + k, a * (read<A>(p.grad_weights, first + k) - mean));
    }
  }
}

// ---- the sorted gradient of the value ---------------------------------------------------------------------------

// A thread a sample: the cell under which it is sorted.
template <class A>
__global__ void __launch_bounds__(kThreads) key_kernel(const __grid_constant__ Params p) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = first / p.samples, query = row / p.heads, head = row % p.heads;
  if (query >= p.queries) return;
  const int k = static_cast<int>(first % p.samples);
  const int64_t image_row = p.image * p.queries + query;
  const Sample<A> sample(p, image_row, (image_row * p.heads + head) * p.samples, k);
  const int64_t key = sample.inside() ? sample.cell() : p.cells, i = query * p.samples + k;
  p.items[head * p.queries * p.samples + i] = static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(i);
}

// A group of lanes a cell: adds up what falls on it, from the samples of its own cell and of three neighbours.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 4) gather_kernel(const __grid_constant__ Params p) {
  using A = Accumulate<T>;
  const Place place(p);
  const int64_t stride = static_cast<int64_t>(p.heads) * p.channels;
  const int vectors = p.channels / V;
  const T* grad = reinterpret_cast<const T*>(p.grad_output) + place.image * p.queries * stride + place.head * p.channels;
  T* grad_value = reinterpret_cast<T*>(p.grad_value) + place.image * p.cells * stride + place.head * p.channels;
  const int32_t* starts = p.starts + place.head * (p.cells + 1);
  const Contribution<A>* contributions =
      reinterpret_cast<const Contribution<A>*>(p.contributions) + place.head * p.queries * p.samples;

  for (int i = place.slot; i < p.per_block; i += place.groups) {
    const typename Place::Cell cell = place.cell(p, i);
    if (cell.index < 0) continue;
    for (int v = place.lane; v < vectors; v += p.group) {
      A total[V];
#pragma unroll
      for (int d = 0; d < V; ++d) total[d] = 0;
      for (int c = 0; c < 4; ++c) {
        const int right = c & 1, lower = c >> 1;  // where this cell is, seen from the one with the samples
        if (cell.x < right || cell.y < lower) continue;
        const int64_t from = cell.index - right - static_cast<int64_t>(lower) * cell.width;
        const int32_t end = starts[from + 1];
#pragma unroll 4
        for (int32_t s = starts[from]; s < end; ++s) {
          const Contribution<A> r = contributions[s];
          const A weight = r.weight * (right ? r.x : A(1) - r.x) * (lower ? r.y : A(1) - r.y);
          if (weight == A(0)) continue;
          const Pack<T, V> g = *reinterpret_cast<const Pack<T, V>*>(grad + r.query * stride + v * V);
#pragma unroll
          for (int d = 0; d < V; ++d) total[d] += weight * static_cast<A>(g.item[d]);
        }
      }
      Pack<T, V> result;
#pragma unroll
      for (int d = 0; d < V; ++d) result.item[d] = static_cast<T>(total[d]);
      *reinterpret_cast<Pack<T, V>*>(grad_value + cell.index * stride + v * V) = result;
    }
  }
}

// ---- the ops ----------------------------------------------------------------------------------------------------

Column column_of(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  return {static_cast<char*>(t.data_ptr()),
          type == ScalarType::Half ? kHalf : type == ScalarType::BFloat16 ? kBFloat16 : kWide};
}

// A contiguous tensor that starts at a multiple of 16 bytes.
Tensor packed(const Tensor& t) {
  const Tensor c = torch::stable::contiguous(t);
  return reinterpret_cast<uintptr_t>(c.const_data_ptr()) % 16 ? torch::stable::clone(c) : c;
}

unsigned launchable(int64_t blocks) {
  if (blocks > std::numeric_limits<int32_t>::max()) fail("too large for one launch: ", blocks, " blocks");
  return static_cast<unsigned>(blocks);
}

struct Call {  // contiguous copies where needed, kept alive until the kernel is queued
  Tensor value, reference, coordinates, weights;
  Problem problem;
  Params params{};

  Call(const Tensor& v, const std::vector<int64_t>& shapes, const Tensor* r, const Tensor& c, const Tensor& w)
      : value(v), reference(r ? *r : c), coordinates(c), weights(w), problem(check(v, shapes, r, c, w)) {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    const Problem& q = problem;
    if (q.levels.size() > kMaxLevels) fail("more than ", kMaxLevels, " levels");
    if (q.heads > most || q.channels > most || q.queries > most) fail("a dimension is larger than 2^31");
    for (Tensor* t : {&value, &reference, &coordinates, &weights}) *t = packed(*t);
    Params& p = params;
    p.value = static_cast<const char*>(value.const_data_ptr());
    p.reference = static_cast<const char*>(reference.const_data_ptr());
    p.coordinates = column_of(coordinates), p.weights = column_of(weights);
    p.batch = q.batch, p.cells = q.cells, p.queries = q.queries;
    p.heads = static_cast<int32_t>(q.heads), p.channels = static_cast<int32_t>(q.channels);
    p.points = static_cast<int32_t>(q.points), p.samples = static_cast<int32_t>(q.samples()), p.kind = q.kind;
    p.level_count = static_cast<int32_t>(q.levels.size());
    for (size_t l = 0; l < q.levels.size(); ++l) p.levels[l] = q.levels[l];
  }

  // Sets the layout of the grid, over queries or `cells`, for lanes that hold `width` channels each, and returns the
  // number of blocks.
  unsigned lay_out(int width, bool cells = false) {
    Params& p = params;
    for (p.group = 1; p.group < 32 && p.group < p.channels / width;) p.group *= 2;
    p.squares = cells || p.queries == p.cells;
    p.per_block = p.squares ? kSide * kSide : kThreads / p.group;
    p.tiles = (p.queries + p.per_block - 1) / p.per_block;
    if (p.squares) {
      p.tiles = 0;
      for (const Level& l : problem.levels) {
        p.tiles += static_cast<int64_t>((l.width + kSide - 1) / kSide) * ((l.height + kSide - 1) / kSide);
      }
    }
    return launchable(p.tiles * p.batch * p.heads);
  }
};

// Channels that a lane loads at once: 16 bytes of them, or one where they do not come in such portions. There are no
// kernels for one 16-bit channel a lane; such calls are computed in float32.
template <class T>
constexpr int kWidth = std::is_same_v<T, double> ? 1 : 16 / sizeof(T);

bool needs_float(const Tensor& value) {
  return is_16_bit(value.scalar_type()) && value.dim() == 4 && value.size(3) % kWidth<Half>;
}

// Calls f with a zero of the value's type and the width as a constant.
template <class F>
void dispatch(const Tensor& value, F&& f) {
  const auto with = [&](auto zero, auto width) { f(zero, width); };
  switch (value.scalar_type()) {
    case ScalarType::Double: return with(double(), std::integral_constant<int, kWidth<double>>());
    case ScalarType::Half: return with(Half(), std::integral_constant<int, kWidth<Half>>());
    case ScalarType::BFloat16: return with(BFloat16(), std::integral_constant<int, kWidth<BFloat16>>());
    default:
      if (value.size(3) % kWidth<float>) return with(float(), std::integral_constant<int, 1>());
      return with(float(), std::integral_constant<int, kWidth<float>>());
  }
}

// Before the first launch: the error of an earlier call would otherwise be taken for one of this.
void expect_no_error() {
  const cudaError_t error = cudaPeekAtLastError();
  if (error != cudaSuccess) fail("an earlier CUDA call failed: ", cudaGetErrorString(error));
}

void expect_launched() {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) fail("the CUDA kernel did not start: ", cudaGetErrorString(error));
}

cudaStream_t current_stream(const Tensor& t) {
  expect_no_error();
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream)) fail("PyTorch has no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

Tensor run_forward(Call& call) {
  const Problem& q = call.problem;
  const DeviceGuard guard(call.value.get_device_index());
  const std::vector<int64_t> shape = {q.batch, q.queries, q.heads * q.channels};
  if (q.samples() == 0) return torch::stable::new_zeros(call.value, shape);
  Tensor out = torch::stable::new_empty(call.value, shape);
  if (out.numel() == 0) return out;
  Params& p = call.params;
  p.out = static_cast<char*>(out.mutable_data_ptr());
  dispatch(call.value, [&](auto zero, auto width) {
    using T = decltype(zero);
    constexpr int V = decltype(width)::value, bytes = kRecords * sizeof(Record<Accumulate<T>>);
    const cudaStream_t stream = current_stream(call.value);
    const unsigned blocks = call.lay_out(V);
    if (!launched_fast<T, V>(p, blocks, stream)) {
      MSDA_LAUNCH((forward_kernel<T, V>), blocks, kThreads, bytes, stream, p);
    }
    expect_launched();
  });
  return out;
}

template <class T, int V>
void launch_backward(Call& call, cudaStream_t stream) {
  using A = Accumulate<T>;
  constexpr int bytes = kRecords * (sizeof(Record<A>) + 4 * sizeof(A));
  const unsigned blocks = call.lay_out(V);
  if constexpr (V > 1) {
    constexpr int lanes = 32 / V;
    if (call.params.channels == 32 && is_small(call.params, sizeof(A))) {
      MSDA_LAUNCH((backward_kernel<T, V, lanes>), blocks, kThreads, bytes, stream, call.params);
      return;
    }
  }
  MSDA_LAUNCH((backward_kernel<T, V, 0>), blocks, kThreads, bytes, stream, call.params);
}

// One image after the other, so that what is needed beside the results does not grow with the batch.
template <class T, int V>
void launch_sorted_backward(Call& call, cudaStream_t stream) {
  using A = Accumulate<T>;
  const Problem& q = call.problem;
  Params& p = call.params;
  Sort sort{};
  sort.length = q.queries * q.samples(), sort.cells = q.cells;
  if (sort.length > std::numeric_limits<int32_t>::max() - kTile) fail("too many samples to sort: ", sort.length);
  const int64_t rows = q.heads * sort.length;
  sort.tiles = static_cast<int32_t>((sort.length + kTile - 1) / kTile);
  launchable(q.heads * sort.tiles);
  const auto scratch = [&](int64_t size, ScalarType type) { return torch::stable::new_empty(call.value, {size}, type); };
  const Tensor items = scratch(rows, ScalarType::Long), moved = scratch(rows, ScalarType::Long);
  const Tensor counts = scratch(q.heads * sort.tiles * kDigits, ScalarType::Int);
  const Tensor position = scratch(rows, ScalarType::Int), starts = scratch(q.heads * (q.cells + 1), ScalarType::Int);
  const Tensor contributions = scratch(4 * rows, accumulate_type(call.value.scalar_type()));
  sort.items = p.items = static_cast<uint64_t*>(items.mutable_data_ptr());
  sort.moved = static_cast<uint64_t*>(moved.mutable_data_ptr());
  sort.counts = static_cast<int32_t*>(counts.mutable_data_ptr());
  p.position = sort.position = static_cast<int32_t*>(position.mutable_data_ptr());
  p.starts = sort.starts = static_cast<int32_t*>(starts.mutable_data_ptr());
  p.contributions = static_cast<char*>(contributions.mutable_data_ptr());
  p.batch = 1;
  for (p.image = 0; p.image < q.batch; ++p.image) {
    MSDA_LAUNCH((key_kernel<A>), launchable((rows + kThreads - 1) / kThreads), kThreads, 0, stream, p);
    sort_samples(sort, p.heads, stream);
    launch_backward<T, V>(call, stream);
    const unsigned blocks = call.lay_out(V, true);
    MSDA_LAUNCH((gather_kernel<T, V>), blocks, kThreads, 0, stream, p);
  }
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients run_backward(Call& call, const Tensor& grad_output, bool deterministic) {
  const Problem& q = call.problem;
  expect_grad(q, grad_output, call.value);
  const DeviceGuard guard(call.value.get_device_index());
  const Tensor grad = packed(grad_output);
  const ScalarType type = call.value.scalar_type(), weight_type = call.weights.scalar_type();
  const bool any = call.weights.numel() != 0 && call.value.numel() != 0, sorted = deterministic && any;
  Tensor grad_value = sorted ? torch::stable::new_empty(call.value, {q.batch, q.cells, q.heads, q.channels})
                             : torch::stable::new_zeros(call.value, {q.batch, q.cells, q.heads, q.channels},
                                                        accumulate_type(type));
  Tensor grad_coordinates = torch::stable::empty_like(call.coordinates);
  // the kernel reads these back on its way through the softmax: 16 bits would be too few for that
  const bool widen = q.kind && is_16_bit(weight_type);
  Tensor grad_weights = torch::stable::new_empty(
      call.weights, {q.batch, q.queries, q.heads, static_cast<int64_t>(q.levels.size()), q.points},
      widen ? ScalarType::Float : weight_type);
  if (any) {
    Params& p = call.params;
    p.grad_output = static_cast<const char*>(grad.const_data_ptr());
    p.grad_value = static_cast<char*>(grad_value.mutable_data_ptr());
    p.grad_coordinates = column_of(grad_coordinates), p.grad_weights = column_of(grad_weights);
    dispatch(call.value, [&](auto zero, auto width) {
      constexpr int V = decltype(width)::value;
      const cudaStream_t stream = current_stream(call.value);
      (sorted ? launch_sorted_backward<decltype(zero), V> : launch_backward<decltype(zero), V>)(call, stream);
      expect_launched();
    });
  }
  if (grad_value.scalar_type() != type) grad_value = torch::stable::to(grad_value, type);
  if (grad_weights.scalar_type() != weight_type) grad_weights = torch::stable::to(grad_weights, weight_type);
  return {grad_value, grad_coordinates, grad_weights};
}

Tensor forward(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor* reference,
               const Tensor& coordinates, const Tensor& weights) {
  const ScalarType type = value.scalar_type();
  const bool widen = needs_float(value);
  Call call(widen ? torch::stable::to(value, ScalarType::Float) : value, shapes, reference, coordinates, weights);
  const Tensor out = run_forward(call);
  return widen ? torch::stable::to(out, type) : out;
}

Gradients backward(const Tensor& grad, const Tensor& value, const std::vector<int64_t>& shapes, const Tensor* reference,
                   const Tensor& coordinates, const Tensor& weights, bool deterministic) {
  const ScalarType type = value.scalar_type();
  const bool widen = needs_float(value);
  if (grad.scalar_type() != type) fail("grad_output must be of the type of value");
  Call call(widen ? torch::stable::to(value, ScalarType::Float) : value, shapes, reference, coordinates, weights);
  Gradients all = run_backward(call, widen ? torch::stable::to(grad, ScalarType::Float) : grad, deterministic);
  if (widen) std::get<0>(all) = torch::stable::to(std::get<0>(all), type);
  return all;
}

Tensor bare_forward(const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations, const Tensor& weights) {
  return forward(value, shapes, nullptr, locations, weights);
}

Gradients bare_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations,
                        const Tensor& weights, bool deterministic) {
  return backward(grad, value, shapes, nullptr, locations, weights, deterministic);
}

Tensor fused_forward(const Tensor& value, std::vector<int64_t> shapes, const Tensor& reference, const Tensor& offsets,
                     const Tensor& logits) {
  return forward(value, shapes, &reference, offsets, logits);
}

Gradients fused_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes, const Tensor& reference,
                         const Tensor& offsets, const Tensor& logits, bool deterministic) {
  return backward(grad, value, shapes, &reference, offsets, logits, deterministic);
}

}  // namespace
}  // namespace msda

#if defined(MSDA_EMULATE)
STABLE_TORCH_LIBRARY_IMPL(dino_nb_emulated, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(dino_nb, CUDA, m) {
#endif
  m.impl("ms_deform_attn", TORCH_BOX(&msda::bare_forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&msda::bare_backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&msda::fused_forward));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&msda::fused_backward));
}
