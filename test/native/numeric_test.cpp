// The number formats: every 16-bit pattern, the rounding rule at ties, and the int8 rule.
#include "core/numeric.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "check.h"

namespace {

using namespace anchorcoder;  // NOLINT

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(every_bf16_pattern_round_trips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float value = bf16ToFloat(pattern);
    CHECK_EQ(std::bit_cast<uint32_t>(value), bits << 16);
    if (std::isnan(value)) {
      CHECK(std::isnan(bf16ToFloat(floatToBf16(value))));
      CHECK_EQ(floatToBf16(value), static_cast<uint16_t>(bits | 0x40));
    } else {
      CHECK_EQ(floatToBf16(value), pattern);
    }
  }
}

// What the bits of an f16 mean, from its definition.
double f16Value(uint16_t bits) {
  const int32_t exponent = (bits >> 10) & 0x1f;
  const double mantissa = bits & 0x3ff;
  const double value =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -value : value;
}

TEST(every_f16_pattern_round_trips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float value = f16ToFloat(pattern);
    const bool special = (bits & 0x7c00) == 0x7c00;
    if (special && (bits & 0x3ff)) {
      CHECK(std::isnan(value));
      CHECK(std::isnan(f16ToFloat(floatToF16(value))));
      continue;
    }
    if (special) {
      CHECK_EQ(value, bits & 0x8000 ? -kInfinity : kInfinity);
    } else {
      CHECK_EQ(static_cast<double>(value), f16Value(pattern));
    }
    CHECK_EQ(floatToF16(value), pattern);
  }
}

// Between each two neighbours: the middle goes to the even one, what is beside it to the nearer.
template <typename ToFloat, typename FromFloat>
void checkTies(uint16_t infinity, ToFloat toFloat, FromFloat fromFloat) {
  for (uint16_t low = 0; low + 1 < infinity; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const float middle = static_cast<float>(
        (static_cast<double>(toFloat(low)) + static_cast<double>(toFloat(high))) / 2);
    const uint16_t even = low % 2 == 0 ? low : high;
    CHECK_EQ(fromFloat(middle), even);
    CHECK_EQ(fromFloat(-middle), static_cast<uint16_t>(even | 0x8000));
    CHECK_EQ(fromFloat(std::nextafterf(middle, 0.0f)), low);
    CHECK_EQ(fromFloat(std::nextafterf(middle, kInfinity)), high);
  }
}

TEST(bf16_rounds_ties_to_even) { checkTies(0x7f80, bf16ToFloat, floatToBf16); }
TEST(f16_rounds_ties_to_even) { checkTies(0x7c00, f16ToFloat, floatToF16); }

TEST(overflow_gives_infinity) {
  CHECK_EQ(floatToF16(65504.0f), 0x7bff);
  CHECK_EQ(floatToF16(65519.996f), 0x7bff);
  CHECK_EQ(floatToF16(65520.0f), 0x7c00);
  CHECK_EQ(floatToF16(-1e30f), 0xfc00);
  CHECK_EQ(floatToF16(kInfinity), 0x7c00);
  CHECK_EQ(floatToBf16(3.4e38f), 0x7f80);
  CHECK_EQ(floatToBf16(-kInfinity), 0xff80);
  CHECK_EQ(floatToF16(1e-30f), 0);
  CHECK_EQ(floatToF16(-1e-30f), 0x8000);
}

TEST(int8_rows_are_symmetric) {
  const float scale = int8Scale(5.08f);
  const float inverse = 1.0f / scale;
  CHECK_NEAR(scale, 0.04, 1e-8);
  CHECK_EQ(quantizeInt8(5.08f, inverse), 127);
  CHECK_EQ(quantizeInt8(-5.08f, inverse), -127);
  CHECK_EQ(quantizeInt8(100.0f, inverse), 127);
  CHECK_EQ(quantizeInt8(-kInfinity, inverse), -127);
  CHECK_EQ(quantizeInt8(std::numeric_limits<float>::quiet_NaN(), inverse), -127);
  CHECK_EQ(quantizeInt8(0.5f, 1.0f), 0);  // ties to even
  CHECK_EQ(quantizeInt8(1.5f, 1.0f), 2);
  CHECK_EQ(quantizeInt8(-2.5f, 1.0f), -2);
  CHECK_EQ(quantizeInt8(3.0f, 0.0f), 0);  // a row of zeros has no scale
  for (int32_t i = -1270; i <= 1270; ++i) {
    const float value = static_cast<float>(i) * 0.004f;
    CHECK(std::abs(static_cast<float>(quantizeInt8(value, inverse)) * scale - value) <=
          scale * 0.5001f);
  }
}

}  // namespace
