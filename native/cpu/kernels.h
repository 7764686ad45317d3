// The kernels of one instruction set as a table of plain functions, picked once by cpuid.
//
// Files ending in .inl are compiled once per set: isa_*.cpp defines ISA (see simd.h), opens
// `#pragma GCC target` and includes them. Each of them puts its code in
// `namespace anchorcoder { namespace { ... } }`, so that no two sets share a symbol, and includes
// no standard header, so that none is compiled for more than the base set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/ops.h"

namespace anchorcoder {

// y (rows, outputs) = x weight^T + bias. A sum runs over `cols` in one order that depends on
// nothing but `cols`, so a result does not depend on which rows or outputs stand beside it.
struct Product {
  const void* x;       // (rows, cols) f32, or bf16 for `pairs`
  const void* weight;  // (outputs, cols) at any byte alignment
  const float* bias;   // (outputs), null without
  float* y;            // (rows, yStride)
  float* panel;        // productPanelFloats(cols) of scratch; null is right for few rows
  int64_t yStride;
  int32_t rows, outputs, cols;
  bool add;  // y += (x weight^T + bias)
};

// Up to so many rows are multiplied with weights in place, which are turned into f32 anew for each
// group of rows; for more, weights become aligned f32 first, a panel at a time that fits the second
// cache. Products of bf16 pairs need no panel, but take as many weights at a time.
inline constexpr int32_t kFewRows = 12;
inline constexpr int32_t kPanelBytes = 256 * 1024;
inline constexpr int32_t kMostPanelColumns = 64;

// Elements from one row of a panel to the next: not a power of two, which would crowd cache sets.
inline constexpr int32_t productPanelStride(int32_t cols) { return (cols + 15) / 16 * 16 + 16; }
inline constexpr int32_t productPanelColumns(int32_t cols, int32_t elementBytes) {
  const int32_t fit = kPanelBytes / elementBytes / productPanelStride(cols) / 4 * 4;
  return fit < 4 ? 4 : fit > kMostPanelColumns ? kMostPanelColumns : fit;
}
inline constexpr size_t productPanelFloats(int32_t cols) {
  return static_cast<size_t>(productPanelColumns(cols, sizeof(float))) *
         static_cast<size_t>(productPanelStride(cols));
}

struct MatmulKernels {
  void (*products[3])(const Product&);  // by weight type: f32, f16, bf16
  void (*pairs)(const Product&);        // x and weight in bf16, null where the set lacks it
  void (*roundToBf16)(const float* x, size_t count, float* y);  // stays in f32
  void (*convertToBf16)(const float* x, size_t count, uint16_t* y);
};

struct PointwiseKernels {
  void (*norm)(const NormDesc& desc, const float* x, int32_t size,
               float* y);  // one row; y may be x
  // One head in place; cos and sin hold rotaryDims / 2 values.
  void (*rope)(const RopeDesc& desc, const float* cos, const float* sin, float* x);
  void (*embed)(DType type, const void* row, float scale, int32_t size, float* y);
  void (*activate)(Activation activation, const float* gate, const float* up, size_t count,
                   float* y);                           // gate null: y = activation(up)
  void (*add)(const float* x, size_t count, float* y);  // y += x
  void (*softcap)(float cap, size_t count, float* x);   // x = cap * tanh(x / cap)
};

struct AttentionKernels;  // attention.h

struct Kernels {
  const char* name;
  MatmulKernels matmul;
  PointwiseKernels pointwise;
  const AttentionKernels* attention;
};

const Kernels& baseKernels();
const Kernels& avx2Kernels();
const Kernels& avx512Kernels();
const Kernels& avx512bf16Kernels();

}  // namespace anchorcoder
