// Multi-scale deformable attention: the arithmetic and the argument checks that the CPU and the CUDA source share.
//
// One formulation serves the bare and the fused op. The pixel position of a sample is an affine function of what the
// coordinate tensor holds, `pixel = scale * coordinate + base`, per query and level:
//   bare op (locations in [0, 1]):       scale = size,                         base = -0.5
//   fused, 2-d reference (px offsets):   scale = 1,                            base = reference * size - 0.5
//   fused, 4-d reference (box offsets):  scale = extent * 0.5 * size / points, base = centre * size - 0.5
// and the weights are taken as they are (bare) or through a softmax over levels x points (fused).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#if defined(__CUDACC__)
#define MSDA_FN __host__ __device__ __forceinline__
#else
#define MSDA_FN inline __attribute__((always_inline))
#endif

namespace msda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Level {
  int32_t height, width, start;  // start: the first cell of the level in the value tensor
};

// How the position along one axis meets the cells of one level. A cell outside has weight and slope 0 and its index is
// clamped to its neighbour's, so that whatever is read belongs to the sample and a NaN elsewhere cannot leak in.
template <class A>
struct Axis {
  int32_t low, high;       // cell indices
  A w_low, w_high;         // interpolation weights
  A s_low, s_high;         // their derivatives by the position
  int32_t inside;          // 0 also for NaN and infinity
};

template <class A>
MSDA_FN Axis<A> axis(A position, int32_t size) {
  Axis<A> r;  // selects only, no logic on bools: compilers vectorise this
  r.inside = position > A(-1) ? 1 : 0;
  r.inside = position < A(size) ? r.inside : 0;
  const A p = r.inside ? position : A(0);
#if defined(__CUDA_ARCH__)
  const A f = floor(p);
#else
  const A f = std::floor(p);
#endif
  const A fraction = p - f;
  const int32_t cell = static_cast<int32_t>(f), last = size - 1;
  r.low = cell < 0 ? 0 : cell;
  r.high = cell < last ? cell + 1 : last;
  r.w_low = cell < 0 ? A(0) : A(1) - fraction;
  r.w_high = cell < last ? fraction : A(0);
  r.s_low = cell < 0 ? A(0) : A(-1);
  r.s_high = cell < last ? A(1) : A(0);
  return r;
}

// pixel = scale * coordinate + base along both axes
template <class A>
struct Affine {
  A scale_x, base_x, scale_y, base_y;
};

// `reference` points at the 2 or 4 coordinates of one query and level; kind is 0 (bare op), 2 or 4.
template <class A>
MSDA_FN Affine<A> affine(int kind, const A* reference, int32_t height, int32_t width, int32_t points) {
  Affine<A> r;
  r.scale_x = kind == 0 ? A(width) : A(1);
  r.scale_y = kind == 0 ? A(height) : A(1);
  r.base_x = r.base_y = A(-0.5);
  if (kind != 0) {
    r.base_x += reference[0] * A(width);
    r.base_y += reference[1] * A(height);
  }
  if (kind == 4) {
    r.scale_x = reference[2] * A(0.5) * A(width) / A(points);
    r.scale_y = reference[3] * A(0.5) * A(height) / A(points);
  }
  return r;
}

// The gradient of one sample from the four dot products of grad_output with the cells' values.
template <class A>
struct SampleGrad {
  A weight, x, y;  // by the attention weight, and by the pixel position (not yet times the attention weight)
};

template <class A>
MSDA_FN SampleGrad<A> sample_grad(const Axis<A>& x, const Axis<A>& y, A d00, A d01, A d10, A d11) {
  const A row_low = x.w_low * d00 + x.w_high * d01, row_high = x.w_low * d10 + x.w_high * d11;
  SampleGrad<A> r;
  r.weight = y.w_low * row_low + y.w_high * row_high;
  r.y = y.s_low * row_low + y.s_high * row_high;
  r.x = y.w_low * (x.s_low * d00 + x.s_high * d01) + y.w_high * (x.s_low * d10 + x.s_high * d11);
  return r;
}

// What the tensors of a call say about its size. Everything is checked here, before any work starts.
struct Problem {
  int64_t batch, cells, heads, channels, queries, points;
  int kind;  // 0 bare, 2 or 4: coordinates of a reference point
  std::vector<Level> levels;

  int64_t samples() const { return static_cast<int64_t>(levels.size()) * points; }  // of one query and head
};

template <class... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream text;
  text << "ms_deform_attn: ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

inline std::string shape_of(const Tensor& t) {
  std::ostringstream text;
  text << "(";
  for (int64_t i = 0; i < t.dim(); ++i) text << (i ? ", " : "") << t.size(i);
  text << ")";
  return text.str();
}

inline void expect_shape(const char* name, const Tensor& t, const std::vector<int64_t>& shape) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; same && i < shape.size(); ++i) same = t.size(i) == shape[i];
  if (same) return;
  std::ostringstream text;
  for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
  fail(name, " must be of shape (", text.str(), "), not ", shape_of(t));
}

inline void expect_beside(const char* name, const Tensor& t, const Tensor& value) {
  if (t.is_cpu() != value.is_cpu() || t.is_cuda() != value.is_cuda() || t.get_device_index() != value.get_device_index()) {
    fail(name, " is not on the device of value");
  }
}

inline bool is_16_bit(ScalarType type) { return type == ScalarType::Half || type == ScalarType::BFloat16; }

// fp32 for everything but float64
inline ScalarType accumulate_type(ScalarType value) {
  return value == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// `reference` is absent in the bare op, where `coordinates` are locations (always fp32, or float64 with float64
// values); in the fused op they are offsets, which like the logits may also be of 16 bits.
inline Problem check(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor* reference,
                     const Tensor& coordinates, const Tensor& weights) {
  const char* coordinates_name = reference ? "sampling_offsets" : "sampling_locations";
  const char* weights_name = reference ? "attention_logits" : "attention_weights";
  if (value.dim() != 4) fail("value must be of shape (N, S, M, D), not ", shape_of(value));
  if (coordinates.dim() != 6) {
    fail(coordinates_name, " must be of shape (N, Q, M, L, P, 2), not ", shape_of(coordinates));
  }
  if (shapes.size() % 2) fail("spatial_shapes must hold pairs (height, width)");
  Problem p;
  p.batch = value.size(0), p.cells = value.size(1), p.heads = value.size(2), p.channels = value.size(3);
  p.queries = coordinates.size(1), p.points = coordinates.size(4), p.kind = 0;
  const int64_t levels = static_cast<int64_t>(shapes.size()) / 2;
  int64_t start = 0;
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t h = shapes[2 * l], w = shapes[2 * l + 1];
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    if (h < 1 || w < 1 || h > most / w || start > most - h * w) fail("level ", l, " has the impossible size ", h, " x ", w);
    p.levels.push_back({static_cast<int32_t>(h), static_cast<int32_t>(w), static_cast<int32_t>(start)});
    start += h * w;
  }
  if (start != p.cells) fail("spatial_shapes add up to ", start, " cells, but value has ", p.cells);
  if (p.samples() > (1 << 20)) fail("more than 2^20 samples a query and head");
  expect_shape(coordinates_name, coordinates, {p.batch, p.queries, p.heads, levels, p.points, 2});
  expect_shape(weights_name, weights, {p.batch, p.queries, p.heads, levels, p.points});

  expect_beside(coordinates_name, coordinates, value);
  expect_beside(weights_name, weights, value);
  if (reference) expect_beside("reference_points", *reference, value);
  const ScalarType type = value.scalar_type(), acc = accumulate_type(type);
  if (type != ScalarType::Float && type != ScalarType::Double && !is_16_bit(type)) {
    fail("value must be float16, bfloat16, float32 or float64");
  }
  const auto accepted = [&](const Tensor& t) {
    return t.scalar_type() == acc || (reference && acc == ScalarType::Float && is_16_bit(t.scalar_type()));
  };
  const char* wanted = acc == ScalarType::Double ? " must be float64, as value is" : " must be float32";
  if (!accepted(coordinates)) fail(coordinates_name, wanted);
  if (reference ? !accepted(weights) : weights.scalar_type() != acc) fail(weights_name, wanted);
  if (reference) {
    p.kind = reference->dim() == 4 ? static_cast<int>(reference->size(3)) : 0;
    if (p.kind != 2 && p.kind != 4) {
      fail("reference_points must be of shape (N, Q, L, 2) or (N, Q, L, 4), not ", shape_of(*reference));
    }
    expect_shape("reference_points", *reference, {p.batch, p.queries, levels, p.kind});
    if (reference->scalar_type() != acc) fail("reference_points", wanted);
  }
  return p;
}

inline void expect_grad(const Problem& p, const Tensor& grad, const Tensor& value) {
  expect_shape("grad_output", grad, {p.batch, p.queries, p.heads * p.channels});
  expect_beside("grad_output", grad, value);
  if (grad.scalar_type() != value.scalar_type()) fail("grad_output must be of the type of value");
}

}  // namespace msda
