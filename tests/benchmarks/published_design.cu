// The kernel design that was published with Deformable DETR, written from its description, as a yardstick: one thread
// computes one channel of one query and head and walks over all levels and points with scalar loads; in the backward
// the threads of a block share one query and head, add to the value's gradient atomically, and sum the gradients of
// location and weight through shared memory. Float32 only, channels a power of two up to 1024.
#define USE_CUDA
#include <cuda_runtime.h>

#include "ms_deform_attn.h"

#include <tuple>

namespace {

using msda::Axis;
using msda::Tensor;

struct Sizes {
  int cells, heads, channels, queries, levels, points;
  msda::Level level[16];
};

__device__ float corner(const float* value, int cell, int stride, float weight) {
  return weight != 0 ? value[static_cast<int64_t>(cell) * stride] : 0;
}

__global__ void forward(Sizes z, int64_t count, const float* value, const float* locations, const float* weights,
                        float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int d = i % z.channels, m = i / z.channels % z.heads, stride = z.heads * z.channels;
  const int64_t head = i / z.channels, image = head / z.heads / z.queries;
  const float* from = value + image * z.cells * stride + m * z.channels + d;
  int64_t k = head * z.levels * z.points;
  float sum = 0;
  for (int l = 0; l < z.levels; ++l) {
    const msda::Level level = z.level[l];
    for (int p = 0; p < z.points; ++p, ++k) {
      const Axis<float> x = msda::axis(locations[2 * k] * level.width - 0.5f, level.width);
      const Axis<float> y = msda::axis(locations[2 * k + 1] * level.height - 0.5f, level.height);
      if (!x.inside || !y.inside) continue;
      const int low = level.start + y.low * level.width, high = level.start + y.high * level.width;
      const float top = x.w_low * corner(from, low + x.low, stride, x.w_low) +
                        x.w_high * corner(from, low + x.high, stride, x.w_high);
      const float bottom = x.w_low * corner(from, high + x.low, stride, x.w_low) +
                           x.w_high * corner(from, high + x.high, stride, x.w_high);
      sum += weights[k] * (y.w_low * top + y.w_high * bottom);
    }
  }
  out[i] = sum;
}

__global__ void backward(Sizes z, const float* grad, const float* value, const float* locations, const float* weights,
                         float* grad_value, float* grad_locations, float* grad_weights) {
  extern __shared__ float shared[];
  const int64_t head = blockIdx.x, image = head / z.heads / z.queries;
  const int d = threadIdx.x, m = head % z.heads, stride = z.heads * z.channels;
  const int64_t origin = image * z.cells * stride + m * z.channels + d;
  const float g = grad[head * z.channels + d];
  int64_t k = head * z.levels * z.points;
  for (int l = 0; l < z.levels; ++l) {
    const msda::Level level = z.level[l];
    for (int p = 0; p < z.points; ++p, ++k) {
      const Axis<float> x = msda::axis(locations[2 * k] * level.width - 0.5f, level.width);
      const Axis<float> y = msda::axis(locations[2 * k + 1] * level.height - 0.5f, level.height);
      float parts[3] = {0, 0, 0};
      if (x.inside && y.inside) {
        const int low = level.start + y.low * level.width, high = level.start + y.high * level.width;
        const int cells[4] = {low + x.low, low + x.high, high + x.low, high + x.high};
        const float w[4] = {x.w_low * y.w_low, x.w_high * y.w_low, x.w_low * y.w_high, x.w_high * y.w_high};
        float dots[4];
        for (int c = 0; c < 4; ++c) {
          const int64_t at = origin + static_cast<int64_t>(cells[c]) * stride;
          dots[c] = g * value[at];
          atomicAdd(grad_value + at, g * weights[k] * w[c]);
        }
        const auto s = msda::sample_grad(x, y, dots[0], dots[1], dots[2], dots[3]);
        parts[0] = s.weight, parts[1] = s.x * weights[k] * level.width, parts[2] = s.y * weights[k] * level.height;
      }
      for (int c = 0; c < 3; ++c) shared[c * z.channels + d] = parts[c];
      __syncthreads();
      for (int half = z.channels / 2; half > 0; half /= 2) {
        for (int c = 0; d < half && c < 3; ++c) shared[c * z.channels + d] += shared[c * z.channels + d + half];
        __syncthreads();
      }
      if (d == 0) {
        grad_weights[k] = shared[0], grad_locations[2 * k] = shared[z.channels];
        grad_locations[2 * k + 1] = shared[2 * z.channels];
      }
      __syncthreads();
    }
  }
}

Sizes sizes_of(const msda::Problem& p) {
  Sizes z{static_cast<int>(p.cells),   static_cast<int>(p.heads),         static_cast<int>(p.channels),
          static_cast<int>(p.queries), static_cast<int>(p.levels.size()), static_cast<int>(p.points),
          {}};
  if (z.levels > 16 || z.channels > 1024 || z.channels & (z.channels - 1)) msda::fail("outside of the yardstick");
  for (int l = 0; l < z.levels; ++l) z.level[l] = p.levels[l];
  return z;
}

cudaStream_t stream_of(const Tensor& t) {
  void* stream = nullptr;
  aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream);
  return static_cast<cudaStream_t>(stream);
}

template <class T = float>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

Tensor run_forward(const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations, const Tensor& weights) {
  const msda::Problem p = msda::check(value, shapes, nullptr, locations, weights);
  Tensor out = torch::stable::new_empty(value, {p.batch, p.queries, p.heads * p.channels});
  const int64_t count = out.numel(), threads = 1024;
  forward<<<(count + threads - 1) / threads, threads, 0, stream_of(value)>>>(
      sizes_of(p), count, data(value), data(locations), data(weights), data(out));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> run_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                                                const Tensor& locations, const Tensor& weights) {
  const msda::Problem p = msda::check(value, shapes, nullptr, locations, weights);
  Tensor gv = torch::stable::new_zeros(value, {p.batch, p.cells, p.heads, p.channels});
  Tensor gl = torch::stable::empty_like(locations), gw = torch::stable::empty_like(weights);
  backward<<<p.batch * p.queries * p.heads, p.channels, 3 * p.channels * sizeof(float), stream_of(value)>>>(
      sizes_of(p), data(grad), data(value), data(locations), data(weights), data(gv), data(gl), data(gw));
  return {gv, gl, gw};
}

}  // namespace

STABLE_TORCH_LIBRARY(dino_nb_published, m) {
  m.def("forward(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "backward(Tensor grad, Tensor value, int[] shapes, Tensor locations, Tensor weights) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(dino_nb_published, CUDA, m) {
  m.impl("forward", TORCH_BOX(&run_forward));
  m.impl("backward", TORCH_BOX(&run_backward));
}
