// Runs CUDA kernels on the CPU, one lane after the other, for tests on machines without a GPU.
//
// Every lane of a block is a fibre that runs until it meets a warp-wide operation. When all 32 lanes of a warp wait,
// they must wait at the same kind of operation with a full mask; anything else is reported, as it would hang or be
// undefined on a device. Warps take turns at barriers of the block; blocks run one after the other on shared memory
// filled with a poison. With $CUDA_EMULATION_REVERSED blocks and warps run last to first: what depends on their order
// shows.
#pragma once

#include <torch/headeronly/util/Half.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct int4 {
  int x, y, z, w;
};
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

// Two numbers of half precision; every operation is rounded once, as on a device.
struct __half2 {
  torch::headeronly::Half x, y;
};
inline __half2 __float2half2_rn(float a) { return {torch::headeronly::Half(a), torch::headeronly::Half(a)}; }
inline float __low2float(__half2 a) { return static_cast<float>(a.x); }
inline float __high2float(__half2 a) { return static_cast<float>(a.y); }
inline __half2 __hsub2(__half2 a, __half2 b) {
  return {torch::headeronly::Half(float(a.x) - float(b.x)), torch::headeronly::Half(float(a.y) - float(b.y))};
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  const auto one = [](double u, double v, double w) { return torch::headeronly::Half(static_cast<float>(u * v + w)); };
  return {one(float(a.x), float(b.x), float(c.x)), one(float(a.y), float(b.y), float(c.y))};
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline int aoti_torch_get_current_cuda_stream(int32_t, void** stream) { return *stream = nullptr, 0; }

namespace emulation {

enum Wait { kRunning, kDone, kSync, kShuffle, kBallot, kMatch, kBarrier };

struct Lane {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Wait wait = kRunning;
  uint64_t value = 0;  // what it brings to the operation, then what it gets from it
  int argument = 0;
};

struct Index {
  unsigned x = 0;
};
inline Index thread_index, block_index;
inline ucontext_t scheduler;
inline std::vector<Lane> lanes;
inline std::vector<uint64_t> shared;
inline std::function<void()> body;

[[noreturn]] inline void stop(const char* why) {
  std::fprintf(stderr, "CUDA emulation: %s\n", why);
  std::abort();
}

inline void trampoline() {
  body();
  lanes[thread_index.x].wait = kDone;
  swapcontext(&lanes[thread_index.x].context, &scheduler);
}

inline uint64_t meet(Wait wait, uint64_t value, int argument, unsigned mask) {
  if (mask != 0xffffffffu) stop("a warp-wide operation without all lanes");
  Lane& lane = lanes[thread_index.x];
  lane.wait = wait, lane.value = value, lane.argument = argument;
  swapcontext(&lane.context, &scheduler);
  return lane.value;
}

inline void resolve(Lane* warp) {
  for (int i = 1; i < 32; ++i) {
    if (warp[i].argument != warp[0].argument) stop("the lanes of a warp exchange over different distances");
  }
  const Wait kind = warp[0].wait;
  uint64_t before[32], ballot = 0;
  for (int i = 0; i < 32; ++i) before[i] = warp[i].value, ballot |= (warp[i].value & 1) << i;
  for (int i = 0; i < 32; ++i) {
    if (kind == kShuffle) warp[i].value = before[i ^ warp[i].argument];
    if (kind == kBallot) warp[i].value = ballot;
    if (kind == kMatch) {
      warp[i].value = 0;
      for (int j = 0; j < 32; ++j) warp[i].value |= uint64_t(before[i] == before[j]) << j;
    }
    warp[i].wait = kRunning;
  }
}

// Runs a warp to its end or to the block's next barrier.
inline void run_warp(unsigned first) {
  Lane* warp = &lanes[first];
  for (unsigned step = 0;; ++step) {
    for (unsigned j = 0; j < 32; ++j) {  // in turns up and down, so that a forgotten __syncwarp shows
      thread_index.x = first + (step % 2 ? 31 - j : j);
      swapcontext(&scheduler, &lanes[thread_index.x].context);
    }
    for (int i = 1; i < 32; ++i) {
      if (warp[i].wait != warp[0].wait) stop("the lanes of a warp meet at different operations, or only some end");
    }
    if (warp[0].wait == kDone || warp[0].wait == kBarrier) return;
    resolve(warp);
  }
}

inline void launch(unsigned blocks, unsigned threads, size_t bytes, std::function<void()> kernel) {
  body = std::move(kernel);
  constexpr size_t stack_bytes = 64 << 10;
  const bool reversed = std::getenv("CUDA_EMULATION_REVERSED") != nullptr;
  const unsigned warps = threads / 32;
  for (unsigned b = 0; b < blocks; ++b) {
    block_index.x = reversed ? blocks - 1 - b : b;
    shared.assign((bytes + 7) / 8 + 2, 0xfff8dead7ff8deadull);  // NaN as float and as double
    lanes.resize(threads);
    for (Lane& lane : lanes) {
      if (!lane.stack) lane.stack.reset(new char[stack_bytes]);
      getcontext(&lane.context);
      lane.context.uc_stack.ss_sp = lane.stack.get(), lane.context.uc_stack.ss_size = stack_bytes;
      lane.context.uc_link = nullptr, lane.wait = kRunning;
      makecontext(&lane.context, trampoline, 0);
    }
    do {
      for (unsigned w = 0; w < warps; ++w) run_warp(32 * (reversed ? warps - 1 - w : w));
      for (unsigned w = 1; w < warps; ++w) {
        if (lanes[32 * w].wait != lanes[0].wait) stop("some warps end while others wait at a barrier");
      }
    } while (lanes[0].wait == kBarrier);
  }
}

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define MSDA_SHARED(name) \
  char* name = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(emulation::shared.data()) + 15) & ~uintptr_t(15))
#define MSDA_LAUNCH(kernel, blocks, threads, bytes, stream, parameters) \
  ((void)stream, emulation::launch(blocks, threads, bytes, [&] { kernel(parameters); }))

inline void __syncwarp() { emulation::meet(emulation::kSync, 0, 0, 0xffffffffu); }
inline unsigned __ballot_sync(unsigned mask, bool x) {
  return static_cast<unsigned>(emulation::meet(emulation::kBallot, x, 0, mask));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T x, int distance) {
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  bits = emulation::meet(emulation::kShuffle, bits, distance, mask);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline unsigned __match_any_sync(unsigned mask, int x) {
  return static_cast<unsigned>(emulation::meet(emulation::kMatch, static_cast<uint64_t>(x), 0, mask));
}
inline void __syncthreads() { emulation::meet(emulation::kBarrier, 0, 0, 0xffffffffu); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
inline void atomicAdd(T* to, T x) {
  *to += x;
}

namespace msda {
struct DeviceGuard {
  explicit DeviceGuard(int) {}
};
}  // namespace msda
