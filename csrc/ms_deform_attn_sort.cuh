// Sorts the samples of every head by the cell they fall in, stably: equal cells keep the order of the queries, so that
// what is added up in this order is the same bits in every run.
//
// A least-significant-digit radix sort of 8 bits a pass over 64-bit items (cell << 32 | sample). Each head is a segment
// of its own. A pass counts digits tile by tile, turns the counts into places, and moves the items there.
#pragma once

#include <cstdint>
#include <utility>

namespace msda {
namespace {

constexpr int kThreads = 256;      // of a block, here and in the attention
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kDigits = kThreads;  // a thread a digit
constexpr int kDigitBits = 8;
constexpr int kRounds = 16;        // items of a thread
constexpr int kTile = kThreads * kRounds;
constexpr int kWarps = kThreads / 32;
static_assert(kDigits == 1 << kDigitBits);

struct Sort {
  uint64_t *items, *moved;  // (heads, length): what a pass reads, and where it puts it
  int32_t* counts;          // (heads, tiles, kDigits)
  int32_t *position;        // (heads, length): where a sample has gone
  int32_t* starts;          // (heads, cells + 1): the first sample of a cell; the last entry: of those outside
  int64_t length, cells;
  int32_t tiles, shift;

  __device__ __forceinline__ int digit(uint64_t item) const { return (item >> shift) & (kDigits - 1); }
};

__global__ void __launch_bounds__(kThreads) count_kernel(const __grid_constant__ Sort s) {
  MSDA_SHARED(shared);
  int32_t* counts = reinterpret_cast<int32_t*>(shared);
  const int64_t head = blockIdx.x / s.tiles, first = static_cast<int64_t>(blockIdx.x % s.tiles) * kTile;
  const uint64_t* items = s.items + head * s.length;
  counts[threadIdx.x] = 0;
  __syncthreads();
  for (int r = 0; r < kRounds; ++r) {
    const int64_t i = first + r * kThreads + threadIdx.x;
    if (i < s.length) atomicAdd(counts + s.digit(items[i]), 1);
  }
  __syncthreads();
  s.counts[static_cast<int64_t>(blockIdx.x) * kDigits + threadIdx.x] = counts[threadIdx.x];
}

// One block a head: counts become the places of each tile's first item of each digit.
__global__ void __launch_bounds__(kThreads) scan_kernel(const __grid_constant__ Sort s) {
  MSDA_SHARED(shared);
  int32_t* sums = reinterpret_cast<int32_t*>(shared);
  const int digit = threadIdx.x;
  int32_t* counts = s.counts + static_cast<int64_t>(blockIdx.x) * s.tiles * kDigits + digit;
  int32_t total = 0;
  for (int t = 0; t < s.tiles; ++t) total += counts[static_cast<int64_t>(t) * kDigits];
  sums[digit] = total;
  __syncthreads();
  for (int o = 1; o < kDigits; o *= 2) {
    const int32_t below = digit >= o ? sums[digit - o] : 0;
    __syncthreads();
    sums[digit] += below;
    __syncthreads();
  }
  int32_t place = sums[digit] - total;
  for (int t = 0; t < s.tiles; ++t) {
    int32_t& count = counts[static_cast<int64_t>(t) * kDigits];
    const int32_t next = place + count;
    count = place;
    place = next;
  }
}

// Every warp moves a run of neighbouring items, 32 at a time and in their order.
__global__ void __launch_bounds__(kThreads) move_kernel(const __grid_constant__ Sort s) {
  MSDA_SHARED(shared);
  int32_t* all = reinterpret_cast<int32_t*>(shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t head = blockIdx.x / s.tiles;
  const int64_t first = static_cast<int64_t>(blockIdx.x % s.tiles) * kTile + warp * 32 * kRounds + lane;
  const uint64_t* items = s.items + head * s.length;
  uint64_t* moved = s.moved + head * s.length;
  int32_t* places = all + warp * kDigits;
  for (int w = 0; w < kWarps; ++w) all[w * kDigits + threadIdx.x] = 0;
  __syncthreads();
  for (int r = 0; r < kRounds; ++r) {
    const int64_t i = first + r * 32;
    if (i < s.length) atomicAdd(places + s.digit(items[i]), 1);
  }
  __syncthreads();
  int32_t place = s.counts[static_cast<int64_t>(blockIdx.x) * kDigits + threadIdx.x];
  for (int w = 0; w < kWarps; ++w) {  // counts of this digit become the places of each warp's first
    int32_t& count = all[w * kDigits + threadIdx.x];
    const int32_t next = place + count;
    count = place;
    place = next;
  }
  __syncthreads();
  for (int r = 0; r < kRounds; ++r) {
    const int64_t i = first + r * 32;
    const bool here = i < s.length;
    const uint64_t item = here ? items[i] : 0;
    const int digit = here ? s.digit(item) : kDigits;
    const unsigned equal = __match_any_sync(kAllLanes, digit);
    const int rank = __popc(equal & ((1u << lane) - 1));
    const int32_t to = here ? places[digit] : 0;
    __syncwarp();
    if (here) moved[to + rank] = item;
    if (here && rank == 0) places[digit] = to + __popc(equal);
    __syncwarp();
  }
}

// After the last pass: where each sample is, and where each cell's samples start.
__global__ void __launch_bounds__(kThreads) index_kernel(const __grid_constant__ Sort s) {
  const int64_t head = blockIdx.x / s.tiles, first = static_cast<int64_t>(blockIdx.x % s.tiles) * kTile;
  const uint64_t* items = s.items + head * s.length;
  int32_t* position = s.position + head * s.length;
  int32_t* starts = s.starts + head * (s.cells + 1);
  for (int r = 0; r < kRounds; ++r) {
    const int64_t i = first + r * kThreads + threadIdx.x;
    if (i >= s.length) return;
    const int64_t cell = items[i] >> 32;
    position[items[i] & 0xffffffffu] = static_cast<int32_t>(i);
    for (int64_t c = i ? (items[i - 1] >> 32) + 1 : 0; c <= cell; ++c) starts[c] = static_cast<int32_t>(i);
    if (i + 1 < s.length) continue;
    for (int64_t c = cell + 1; c <= s.cells; ++c) starts[c] = static_cast<int32_t>(s.length);
  }
}

// Sorts `items`; `moved` is scratch of the same size.
void sort_samples(Sort s, int heads, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(heads) * s.tiles;
  constexpr int row = kDigits * sizeof(int32_t);
  for (int bit = 0; s.cells >> bit; bit += kDigitBits) {  // cells itself stands for "outside"
    s.shift = 32 + bit;
    MSDA_LAUNCH(count_kernel, blocks, kThreads, row, stream, s);
    MSDA_LAUNCH(scan_kernel, heads, kThreads, row, stream, s);
    MSDA_LAUNCH(move_kernel, blocks, kThreads, kWarps * row, stream, s);
    std::swap(s.items, s.moved);
  }
  MSDA_LAUNCH(index_kernel, blocks, kThreads, 0, stream, s);
}

}  // namespace
}  // namespace msda
