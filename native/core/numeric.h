// Number formats shared by the core and every device: bf16, f16 and the int8 cache row, each with
// one rounding rule, so that a stored value means the same everywhere.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace anchorcoder {

// bf16 is the upper half of an f32.
inline float bf16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Nearest, ties to even; a NaN stays a (quiet) NaN.
inline uint16_t floatToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float roundToBf16(float value) { return bf16ToFloat(floatToBf16(value)); }

inline float f16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

// Nearest, ties to even; overflow gives infinity.
inline uint16_t floatToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal in f16: adding 0.5 leaves the rounded count below
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// A cached int8 row is symmetric: element = q * scale, q in [-127, 127], scale = max |x| / 127.
inline float int8Scale(float largestMagnitude) { return largestMagnitude / 127.0f; }

// `inverse` is 1 / scale, or 0 for a row of zeros. A NaN becomes -127, never undefined behaviour.
inline int8_t quantizeInt8(float value, float inverse) {
  const float scaled = std::nearbyint(value * inverse);
  return static_cast<int8_t>(scaled >= 127.0f ? 127.0f : scaled > -127.0f ? scaled : -127.0f);
}

}  // namespace anchorcoder
