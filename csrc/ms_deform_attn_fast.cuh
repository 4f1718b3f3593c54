// The forward kernel of the usual networks: heads of 32 channels, 4 or 5 levels of 4 points, references and offsets inside.
//
// Sizes are constants, so that every loop is unrolled; a prepared sample takes 16 bytes, with a byte offset of 32 bits,
// instead of 32: half of the shared memory goes back to the L1 cache. Anything else is for the general kernel, which
// this file is included behind.
#pragma once

namespace msda {
namespace {

struct alignas(16) Packed {
  uint32_t at;    // byte offset of the upper left cell
  float a, x, y;  // attention weight times shares at a border; how far to the right and down the sample lies
};

// Adds one sample: four fused operations a channel, each added to the total at once.
template <int V, class T>
__device__ __forceinline__ void interpolate(const Packed& r, const Pack<T, V>& v00, const Pack<T, V>& v01,
                                            const Pack<T, V>& v10, const Pack<T, V>& v11, float (&total)[V]) {
  const float lower = r.a * r.y, upper = r.a - lower;
  const float w11 = lower * r.x, w10 = lower - w11, w01 = upper * r.x, w00 = upper - w01;
#pragma unroll
  for (int d = 0; d < V; ++d) {
    total[d] += w00 * static_cast<float>(v00.item[d]);
    total[d] += w01 * static_cast<float>(v01.item[d]);
    total[d] += w10 * static_cast<float>(v10.item[d]);
    total[d] += w11 * static_cast<float>(v11.item[d]);
  }
}

// In half precision two channels are interpolated at a time; samples are added up in float32.
template <int V>
__device__ __forceinline__ void interpolate(const Packed& r, const Pack<Half, V>& v00, const Pack<Half, V>& v01,
                                            const Pack<Half, V>& v10, const Pack<Half, V>& v11, float (&total)[V]) {
  const __half2 x = __float2half2_rn(r.x), y = __float2half2_rn(r.y);
  const __half2 *h00 = reinterpret_cast<const __half2*>(&v00), *h01 = reinterpret_cast<const __half2*>(&v01);
  const __half2 *h10 = reinterpret_cast<const __half2*>(&v10), *h11 = reinterpret_cast<const __half2*>(&v11);
#pragma unroll
  for (int d = 0; d < V / 2; ++d) {
    const __half2 upper = __hfma2(x, __hsub2(h01[d], h00[d]), h00[d]);
    const __half2 lower = __hfma2(x, __hsub2(h11[d], h10[d]), h10[d]);
    const __half2 both = __hfma2(y, __hsub2(lower, upper), upper);
    total[2 * d] += r.a * __low2float(both);
    total[2 * d + 1] += r.a * __high2float(both);
  }
}

// `V` channels a lane, `G` lanes a head; coordinates and weights are of the type T as well.
template <class T, int V, int G, int L, int P, int Kind>
__global__ void __launch_bounds__(kThreads, 4) fast_kernel(const __grid_constant__ Params p) {
  MSDA_SHARED(shared);
  constexpr int S = L * P, kEach = (S + G - 1) / G;     // samples, and those that a lane prepares
  constexpr int kChunk = 2 * G < S ? 2 * G : S;         // prepared at a time
  constexpr int kPitch = kChunk + (G < 8 ? 1 : 0);      // groups of a warp start at different banks
  const Place place(p);
  const int lane = threadIdx.x & (G - 1), slot = threadIdx.x / G;
  Packed* records = reinterpret_cast<Packed*>(shared) + slot * kPitch;
  const uint32_t stride = static_cast<uint32_t>(p.heads * p.channels * sizeof(T));
  const char* base = p.value + (place.image * p.cells * p.heads + place.head) * (p.channels * sizeof(T));
  for (int i = slot; i < p.per_block; i += kThreads / G) {
    const int64_t query = place.query(p, i), row = place.image * p.queries + query;
    const bool valid = query >= 0;
    const int64_t first = valid ? (row * p.heads + place.head) * S : 0;
    const T* logits = reinterpret_cast<const T*>(p.weights.data) + first;
    const T* coordinates = reinterpret_cast<const T*>(p.coordinates.data) + 2 * first;
    const float* reference = reinterpret_cast<const float*>(p.reference) + (valid ? row * L * Kind : 0);

    float weight[kEach], top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int k = j * G + lane;
      weight[j] = k < S ? static_cast<float>(logits[k]) : -INFINITY;
      top = weight[j] > top ? weight[j] : top;
    }
    top = group_max(top, G);
#pragma unroll
    for (int j = 0; j < kEach; ++j) sum += weight[j] = exponential(weight[j] - top);
    sum = group_sum(sum, G);

    float total[V];
#pragma unroll
    for (int d = 0; d < V; ++d) total[d] = 0;
#pragma unroll
    for (int k0 = 0; k0 < S; k0 += kChunk) {
      __syncwarp();  // everyone has read the former records
#pragma unroll
      for (int j = 0; j < kChunk / G; ++j) {
        const int k = k0 + j * G + lane;
        if (k >= S) continue;
        const Level level = p.levels[k / P];
        const Affine<float> at = affine<float>(Kind, reference + k / P * Kind, level.height, level.width, P);
        const Axis<float> x = axis(static_cast<float>(coordinates[2 * k]) * at.scale_x + at.base_x, level.width);
        const Axis<float> y = axis(static_cast<float>(coordinates[2 * k + 1]) * at.scale_y + at.base_y, level.height);
        const bool border_x = x.low == x.high, border_y = y.low == y.high;
        const float share = (border_x ? x.w_low + x.w_high : 1.0f) * (border_y ? y.w_low + y.w_high : 1.0f);
        Packed r;
        r.at = static_cast<uint32_t>(level.start + y.low * level.width + x.low) * stride;
        r.a = valid && x.inside && y.inside ? weight[k0 / G + j] * share : 0.0f;
        r.x = border_x ? 0.0f : x.w_high, r.y = border_y ? 0.0f : y.w_high;
        records[j * G + lane] = r;
      }
      __syncwarp();
#pragma unroll
      for (int k = k0; k < (k0 + kChunk < S ? k0 + kChunk : S); ++k) {
        const Packed r = records[k - k0];
        if (r.a == 0.0f) continue;
        // a neighbour of no weight is not looked at: whatever stands there cannot leak in
        const uint32_t right = r.x != 0.0f ? stride : 0, down = r.y != 0.0f ? p.levels[k / P].width * stride : 0;
        const char* from = base + r.at + lane * (V * sizeof(T));
        const Pack<T, V> v00 = *reinterpret_cast<const Pack<T, V>*>(from);
        const Pack<T, V> v01 = *reinterpret_cast<const Pack<T, V>*>(from + right);
        const Pack<T, V> v10 = *reinterpret_cast<const Pack<T, V>*>(from + down);
        const Pack<T, V> v11 = *reinterpret_cast<const Pack<T, V>*>(from + down + right);
        interpolate<V>(r, v00, v01, v10, v11, total);
      }
    }
    if (!valid) continue;
    const float factor = 1.0f / sum;
    Pack<T, V> result;
#pragma unroll
    for (int d = 0; d < V; ++d) result.item[d] = static_cast<T>(total[d] * factor);
    char* to = p.out + row * stride + place.head * (p.channels * sizeof(T)) + lane * (V * sizeof(T));
    *reinterpret_cast<Pack<T, V>*>(to) = result;
  }
}

// Whether offsets within an image fit into 32 bits, in bytes.
inline bool is_small(const Params& p, int64_t item) {
  return p.cells * p.heads * p.channels * item <= std::numeric_limits<uint32_t>::max();
}

template <class T, int V, int L, int Kind>
void launch_fast(const Params& p, unsigned blocks, cudaStream_t stream) {
  constexpr int G = 32 / V, kChunk = 2 * G < 4 * L ? 2 * G : 4 * L, kPitch = kChunk + (G < 8 ? 1 : 0);
  MSDA_LAUNCH((fast_kernel<T, V, G, L, 4, Kind>), blocks, kThreads, kThreads / G * kPitch * sizeof(Packed), stream, p);
}

// Launches a fast kernel if there is one for this call.
template <class T, int V>
bool launched_fast(const Params& p, unsigned blocks, cudaStream_t stream) {
  if constexpr (std::is_same_v<T, double> || V == 1) {
    return false;
  } else {
    constexpr int own = std::is_same_v<T, Half> ? kHalf : std::is_same_v<T, BFloat16> ? kBFloat16 : kWide;
    if (p.channels != 32 || p.points != 4 || p.kind == 0 || !is_small(p, sizeof(T))) return false;
    if (p.coordinates.storage != own || p.weights.storage != own) return false;
    if (p.level_count == 4 && p.kind == 2) return launch_fast<T, V, 4, 2>(p, blocks, stream), true;
    if (p.level_count == 4 && p.kind == 4) return launch_fast<T, V, 4, 4>(p, blocks, stream), true;
    if (p.level_count == 5 && p.kind == 2) return launch_fast<T, V, 5, 2>(p, blocks, stream), true;
    if (p.level_count == 5 && p.kind == 4) return launch_fast<T, V, 5, 4>(p, blocks, stream), true;
    return false;
  }
}

}  // namespace
}  // namespace msda
