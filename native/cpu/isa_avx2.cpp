// The kernels for AVX2 with FMA and F16C.
#if defined(__x86_64__)
// Every standard header before the pragma: under it their functions would be compiled for the set,
// and the linker might keep that copy for all.
#include <immintrin.h>

#include "../core/numeric.h"
#include "attention.h"
#include "kernels.h"

#define ISA 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
// clang-format off: in this order
#include "simd.h"
#include "rows.inl"
#include "attention.inl"
#include "matmul.inl"
#include "pointwise.inl"
// clang-format on

#pragma GCC pop_options

namespace anchorcoder {

const Kernels& avx2Kernels() {
  static const AttentionKernels attention = attentionKernels();
  static const Kernels kernels = {"avx2", matmulKernels(), pointwiseKernels(), &attention};
  return kernels;
}

}  // namespace anchorcoder
#endif
