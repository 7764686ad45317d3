// Single elements of stored tensors (f32, f16, bf16), at any alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/numeric.h"
#include "core/ops.h"

namespace anchorcoder {

inline float loadElement(DType type, const uint8_t* bytes, size_t index) {
  if (type == DType::f32) {
    float value;
    std::memcpy(&value, bytes + index * 4, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, bytes + index * 2, 2);
  return type == DType::bf16 ? bf16ToFloat(half) : f16ToFloat(half);
}

inline void storeElement(DType type, float value, uint8_t* bytes, size_t index) {
  if (type == DType::f32) {
    std::memcpy(bytes + index * 4, &value, 4);
    return;
  }
  const uint16_t half = type == DType::bf16 ? floatToBf16(value) : floatToF16(value);
  std::memcpy(bytes + index * 2, &half, 2);
}

}  // namespace anchorcoder
