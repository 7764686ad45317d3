// What happens to rows between the products. Elements behind the last whole vector take the same
// steps in a padded one, so a value depends on no place in a row.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace anchorcoder {
namespace {

// Calls step(i, n) for every vector of `count` elements; n < kLanes only for the last.
template <typename Step>
inline void forVectors(size_t count, Step&& step) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) step(i, kLanes);
  if (i < count) step(i, static_cast<int32_t>(count - i));
}

inline Floats loadSome(const float* p, int32_t n) { return n == kLanes ? load(p) : loadPart(p, n); }

inline void storeSome(float* p, Floats v, int32_t n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    storePart(p, v, n);
  }
}

// The sum of (x - shift)^2, where what pads the last vector counts nothing.
inline float sumOfSquares(const float* x, size_t size, float shift) {
  Floats sums[4] = {};
  int32_t next = 0;
  forVectors(size, [&](size_t i, int32_t n) {
    Floats v = loadSome(x + i, n) - shift;
    for (int32_t lane = n; lane < kLanes; ++lane) v[lane] = 0;
    sums[next] = multiplyAdd(v, v, sums[next]);
    next = (next + 1) & 3;
  });
  return sumLanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

inline float meanOf(const float* x, size_t size) {
  Floats sum = {};
  forVectors(size, [&](size_t i, int32_t n) { sum += loadSome(x + i, n); });
  return sumLanes(sum) / static_cast<float>(size);
}

inline void normRow(const NormDesc& desc, const float* x, int32_t size, float* y) {
  const auto count = static_cast<size_t>(size);
  const float mean = desc.kind == NormKind::layer ? meanOf(x, count) : 0.0f;
  const float square = sumOfSquares(x, count, mean) / static_cast<float>(size);
  const float inverse = 1.0f / __builtin_sqrtf(square + desc.epsilon);
  const float offset = desc.kind == NormKind::rmsOnePlus ? 1.0f : 0.0f;
  forVectors(count, [&](size_t i, int32_t n) {
    const Floats scaled = (loadSome(x + i, n) - mean) * inverse;
    Floats result = scaled * (loadSome(desc.weight + i, n) + offset);
    if (desc.bias) result += loadSome(desc.bias + i, n);
    storeSome(y + i, result, n);
  });
}

inline void turnPairs(const RopeDesc& desc, const float* cos, const float* sin, float* x) {
  for (int32_t j = 0; j < desc.rotaryDims / 2; ++j) {
    const float a = x[2 * j];
    const float b = x[2 * j + 1];
    x[2 * j] = a * cos[j] - b * sin[j];
    x[2 * j + 1] = b * cos[j] + a * sin[j];
  }
}

inline void turnHead(const RopeDesc& desc, const float* cos, const float* sin, float* x) {
  if (desc.interleaved) return turnPairs(desc, cos, sin, x);
  const auto half = static_cast<size_t>(desc.rotaryDims / 2);
  float* upper = x + half;
  forVectors(half, [&](size_t i, int32_t n) {
    const Floats a = loadSome(x + i, n);
    const Floats b = loadSome(upper + i, n);
    const Floats c = loadSome(cos + i, n);
    const Floats s = loadSome(sin + i, n);
    storeSome(x + i, a * c - b * s, n);
    storeSome(upper + i, b * c + a * s, n);
  });
}

inline Floats loadElements(DType type, const void* row, size_t i, int32_t n) {
  const char* p = static_cast<const char*>(row) + i * dtypeBytes(type);
  if (type == DType::f32) return n == kLanes ? load(p) : loadPart(p, n);
  const Halves halves = n == kLanes ? loadHalves(p) : loadHalvesPart(p, n);
  return type == DType::f16 ? fromF16(halves) : fromBf16(halves);
}

inline void embedRow(DType type, const void* row, float scale, int32_t size, float* y) {
  forVectors(static_cast<size_t>(size), [&](size_t i, int32_t n) {
    storeSome(y + i, loadElements(type, row, i, n) * scale, n);
  });
}

template <typename Function>
inline void activateWith(Function&& function, const float* gate, const float* up, size_t count,
                         float* y) {
  if (!gate) {
    forVectors(count,
               [&](size_t i, int32_t n) { storeSome(y + i, function(loadSome(up + i, n)), n); });
    return;
  }
  forVectors(count, [&](size_t i, int32_t n) {
    storeSome(y + i, function(loadSome(gate + i, n)) * loadSome(up + i, n), n);
  });
}

inline Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }
inline Floats gelu(Floats x) { return x * normalShare(x); }

// 0.5 x (1 + tanh u) in the form that keeps its digits where the two nearly cancel.
inline Floats geluTanh(Floats x) {
  const Floats twice = 1.59576912f * (x + 0.044715f * x * x * x);
  return x / (1.0f + exponential(-twice));
}

inline void activateRow(Activation activation, const float* gate, const float* up, size_t count,
                        float* y) {
  switch (activation) {
    case Activation::silu:
      return activateWith(silu, gate, up, count, y);
    case Activation::gelu:
      return activateWith(gelu, gate, up, count, y);
    case Activation::geluTanh:
      return activateWith(geluTanh, gate, up, count, y);
  }
}

inline void addRow(const float* x, size_t count, float* y) {
  forVectors(count, [&](size_t i, int32_t n) {
    storeSome(y + i, loadSome(y + i, n) + loadSome(x + i, n), n);
  });
}

inline void softcapRow(float cap, size_t count, float* x) {
  forVectors(count, [&](size_t i, int32_t n) {
    storeSome(x + i, cap * hyperbolicTangent(loadSome(x + i, n) / cap), n);
  });
}

inline PointwiseKernels pointwiseKernels() {
  return {normRow, turnHead, embedRow, activateRow, addRow, softcapRow};
}

}  // namespace
}  // namespace anchorcoder
