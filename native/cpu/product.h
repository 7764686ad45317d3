// Products with weights, shared out to threads by columns and blocks of rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device.h"
#include "plan.h"

namespace anchorcoder {

struct Output {
  const Weight* weight;
  const float* bias;  // (weight rows), null without
  float* y;           // (rows, weight rows)
  bool add;           // y += instead of y =
};

// Each output from the same x (rows, cols).
void multiply(Plan& plan, const float* x, int32_t rows, const Output* outputs, int32_t count);

// y = activation(gate x) * (up x); gate.weight null: y = activation(up x). y: (rows, up rows).
void multiplyActivated(Plan& plan, const float* x, int32_t rows, const Output& gate,
                       const Output& up, Activation activation);

// Bytes of Plan::rounded for each element of x: as f32 and as bf16.
inline constexpr size_t kRoundedBytes = sizeof(float) + sizeof(uint16_t);

// What a thread needs for products with weights of up to so many columns.
size_t productScratchFloats(int32_t mostCols);

}  // namespace anchorcoder
