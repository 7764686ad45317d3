// Merging a low-rank adapter into a matrix: LoRA (arXiv 2106.09685), equation 3.
#pragma once

#include <cstdint>
#include <span>

#include "core/ops.h"

namespace anchorcoder {

struct LowRank {
  std::span<const float> a;  // (rank, cols)
  std::span<const float> b;  // (rows, rank)
  int64_t rank;
  float scale;
};

// weight (rows, cols) += scale * b a, summed in f32 in order of rank and rounded once to `type`
// (f32, f16 or bf16). Rows are shared among threads; the result does not depend on their number.
void addLowRank(DType type, uint8_t* weight, int64_t rows, int64_t cols, const LowRank& change,
                int32_t threads);

}  // namespace anchorcoder
