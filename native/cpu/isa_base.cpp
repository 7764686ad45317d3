// The kernels that run on every machine.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../core/numeric.h"
#include "attention.h"
#include "kernels.h"

#define ISA 0
// clang-format off: in this order
#include "simd.h"
#include "rows.inl"
#include "attention.inl"
#include "matmul.inl"
#include "pointwise.inl"
// clang-format on

namespace anchorcoder {

const Kernels& baseKernels() {
  static const AttentionKernels attention = attentionKernels();
  static const Kernels kernels = {"base", matmulKernels(), pointwiseKernels(), &attention};
  return kernels;
}

}  // namespace anchorcoder
