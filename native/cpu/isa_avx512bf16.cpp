// The kernels for AVX-512 with products of bf16 pairs.
#if defined(__x86_64__)
// Every standard header before the pragma: under it their functions would be compiled for the set,
// and the linker might keep that copy for all.
#include <immintrin.h>

#include "../core/numeric.h"
#include "attention.h"
#include "kernels.h"

#define ISA 3
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
// gcc 12 warns of its own headers: an undefined vector is initialised with itself (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
// clang-format off: in this order
#include "simd.h"
#include "rows.inl"
#include "attention.inl"
#include "matmul.inl"
#include "pointwise.inl"
// clang-format on

#pragma GCC pop_options

namespace anchorcoder {

const Kernels& avx512bf16Kernels() {
  static const AttentionKernels attention = attentionKernels();
  static const Kernels kernels = {"avx512bf16", matmulKernels(), pointwiseKernels(), &attention};
  return kernels;
}

}  // namespace anchorcoder
#endif
