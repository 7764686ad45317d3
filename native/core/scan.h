// Weights that are no numbers.
#pragma once

#include <cstdint>

#include "core/ops.h"
#include "core/weights.h"

namespace anchorcoder {

struct NonFinite {
  uint64_t nan = 0;
  uint64_t infinite = 0;
};

// Counts among `count` elements of a type of weights (f32, f16, bf16), at any byte.
NonFinite countNonFinite(DType type, const uint8_t* bytes, uint64_t count);

// The same for `length` bytes of a file from `offset` on. Throws Error (modelNotFound,
// modelInvalid).
NonFinite countNonFinite(const FileSpec& file, DType type, uint64_t offset, uint64_t length);

}  // namespace anchorcoder
