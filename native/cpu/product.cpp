// Which thread computes which part. Nothing here can change a bit of a result: kernels add up each
// output alone.
#include "product.h"

#include <algorithm>

namespace anchorcoder {
namespace {

// One thread's part of the gate of a feed-forward layer, before it is multiplied in.
constexpr int32_t kGateFloats = 32 * 1024;
// Products of so many multiplications or fewer are not worth a second thread.
constexpr int64_t kSmallProduct = 32 * 1024;
constexpr int32_t kColumnStep = 8;  // what a kernel takes at a time where there is one row

// How a product of (rows, cols) by (columns, cols) is cut.
struct Blocks {
  int32_t rows, columns;  // of one task
  int32_t rowBlocks, columnBlocks;

  int32_t tasks() const { return rowBlocks * columnBlocks; }
};

int32_t divideUp(int32_t a, int32_t b) { return (a + b - 1) / b; }

bool takesPairs(const Plan& plan, const Weight& weight) {
  return plan.model->compute == Compute::bf16 && weight.type == DType::bf16 &&
         plan.kernels->matmul.pairs;
}

// `total` outputs share the work with those of this weight.
Blocks cut(const Plan& plan, int32_t rows, const Weight& weight, int64_t total) {
  const int32_t columns = weight.rows;
  const int32_t cols = weight.cols;
  Blocks blocks = {rows, columns, 1, 1};
  const bool few = rows <= kFewRows;
  if (few) {
    const bool small = static_cast<int64_t>(rows) * total * cols <= kSmallProduct;
    const int32_t wanted = small || plan.threads == 1 ? 1 : plan.threads * 6;
    const int32_t share = static_cast<int32_t>(total / wanted) + 1;
    blocks.columns = std::min(columns, divideUp(share, kColumnStep) * kColumnStep);
  } else {
    blocks.columns = std::min(columns, productPanelColumns(cols, takesPairs(plan, weight) ? 2 : 4));
  }
  blocks.columnBlocks = divideUp(columns, blocks.columns);
  if (!few && plan.threads > 1) {
    const auto across = static_cast<int32_t>(divideUp(static_cast<int32_t>(total), blocks.columns));
    const int32_t wanted = divideUp(plan.threads * 4, std::max(across, 1));
    blocks.rows = std::max(48, divideUp(divideUp(rows, wanted), 6) * 6);
    blocks.rows = std::min(blocks.rows, rows);
  }
  blocks.rowBlocks = divideUp(rows, blocks.rows);
  return blocks;
}

// Rows of x in the forms that kernels read; each null where no weight needs it.
struct Input {
  const char* floats;  // (rows, cols) f32, rounded to bf16 in Compute::bf16
  const char* pairs;   // (rows, cols) bf16
};

void runBlock(const Plan& plan, const Input& input, const Output& output, int32_t firstRow,
              int32_t rows, int32_t firstColumn, int32_t columns, float* panel, float* y,
              int64_t yStride) {
  const Weight& weight = *output.weight;
  const MatmulKernels& kernels = plan.kernels->matmul;
  const auto column = static_cast<size_t>(firstColumn);
  const size_t rowBytes = static_cast<size_t>(weight.cols) * dtypeBytes(weight.type);
  const bool pairs = takesPairs(plan, weight);
  const size_t x = static_cast<size_t>(firstRow) * static_cast<size_t>(weight.cols);
  Product product = {};
  product.x = pairs ? input.pairs + x * sizeof(uint16_t) : input.floats + x * sizeof(float);
  product.weight = static_cast<const char*>(weight.bytes) + column * rowBytes;
  product.bias = output.bias ? output.bias + column : nullptr;
  product.y = y;
  product.yStride = yStride;
  product.panel = panel;
  product.rows = rows;
  product.outputs = columns;
  product.cols = weight.cols;
  product.add = output.add;
  if (pairs) return kernels.pairs(product);
  kernels.products[static_cast<int>(weight.type)](product);
}

// Rounds rows of x into the plan's scratch where the compute mode says so.
Input prepareInput(Plan& plan, const float* x, int32_t rows, int32_t cols, const Output* outputs,
                   int32_t count) {
  if (plan.model->compute == Compute::exact) return {reinterpret_cast<const char*>(x), nullptr};
  bool needsFloats = false;
  bool needsPairs = false;
  for (int32_t i = 0; i < count; ++i) {
    if (!outputs[i].weight) continue;
    (takesPairs(plan, *outputs[i].weight) ? needsPairs : needsFloats) = true;
  }
  const auto size = static_cast<size_t>(cols);
  auto* floats = static_cast<float*>(plan.rounded);
  auto* pairs = reinterpret_cast<uint16_t*>(floats + static_cast<size_t>(rows) * size);
  const MatmulKernels& kernels = plan.kernels->matmul;
  forRows(plan, rows, size * sizeof(float), [&](int32_t first, int32_t end) {
    const size_t start = static_cast<size_t>(first) * size;
    const size_t elements = static_cast<size_t>(end - first) * size;
    if (needsFloats) kernels.roundToBf16(x + start, elements, floats + start);
    if (needsPairs) kernels.convertToBf16(x + start, elements, pairs + start);
  });
  return {reinterpret_cast<const char*>(floats), reinterpret_cast<const char*>(pairs)};
}

// How many rows of x can be prepared at once; the plain ops may get more rows than the pass has.
int32_t rowsAtOnce(const Plan& plan, int32_t rows, int32_t cols) {
  if (plan.model->compute == Compute::exact) return rows;
  const size_t fit = plan.roundedBytes / (static_cast<size_t>(cols) * kRoundedBytes);
  return static_cast<int32_t>(std::min(static_cast<size_t>(rows), std::max<size_t>(fit, 1)));
}

// All outputs read the same prepared input.
void multiplyPrepared(Plan& plan, const Input& input, int32_t firstRow, int32_t rows,
                      const Output* outputs, int32_t count) {
  constexpr int32_t kMostOutputs = 3;
  int64_t total = 0;
  for (int32_t i = 0; i < count; ++i) total += outputs[i].weight->rows;
  Blocks blocks[kMostOutputs];
  int32_t tasks = 0;
  for (int32_t i = 0; i < count; ++i) {
    blocks[i] = cut(plan, rows, *outputs[i].weight, total);
    tasks += blocks[i].tasks();
  }
  plan.parallelFor(tasks, [&](int32_t task, int32_t thread) {
    int32_t i = 0;
    while (task >= blocks[i].tasks()) task -= blocks[i++].tasks();
    const Blocks& block = blocks[i];
    const Output& output = outputs[i];
    const int32_t row = task % block.rowBlocks * block.rows;
    const int32_t column = task / block.rowBlocks * block.columns;
    const int64_t width = output.weight->rows;
    runBlock(plan, input, output, row, std::min(block.rows, rows - row), column,
             std::min(block.columns, output.weight->rows - column),
             plan.threadScratch + static_cast<size_t>(thread) * plan.threadFloats,
             output.y + (firstRow + row) * width + column, width);
  });
}

}  // namespace

size_t productScratchFloats(int32_t mostCols) {
  // Narrow panels of wide weights and wide ones of narrow weights differ in size.
  const size_t widest =
      std::max(productPanelFloats(mostCols), static_cast<size_t>(kPanelBytes) / sizeof(float));
  return widest + kGateFloats;
}

void multiply(Plan& plan, const float* x, int32_t rows, const Output* outputs, int32_t count) {
  const int32_t cols = outputs[0].weight->cols;
  const int32_t most = rowsAtOnce(plan, rows, cols);
  for (int32_t first = 0; first < rows; first += most) {
    const int32_t part = std::min(most, rows - first);
    const float* from = x + static_cast<size_t>(first) * static_cast<size_t>(cols);
    const Input input = prepareInput(plan, from, part, cols, outputs, count);
    multiplyPrepared(plan, input, first, part, outputs, count);
  }
}

void multiplyActivated(Plan& plan, const float* x, int32_t rows, const Output& gate,
                       const Output& up, Activation activation) {
  const int32_t cols = up.weight->cols;
  const int32_t width = up.weight->rows;
  const Output outputs[2] = {gate, up};
  const Input input = prepareInput(plan, x, rows, cols, outputs, 2);
  Blocks blocks = cut(plan, rows, *up.weight, width);
  blocks.columns = std::min(blocks.columns, kGateFloats / kFewRows / kColumnStep * kColumnStep);
  blocks.columnBlocks = divideUp(width, blocks.columns);
  blocks.rows = std::min(blocks.rows, std::max(kGateFloats / blocks.columns, 1));
  blocks.rowBlocks = divideUp(rows, blocks.rows);
  plan.parallelFor(blocks.tasks(), [&](int32_t task, int32_t thread) {
    const int32_t row = task % blocks.rowBlocks * blocks.rows;
    const int32_t height = std::min(blocks.rows, rows - row);
    const int32_t column = task / blocks.rowBlocks * blocks.columns;
    const int32_t columns = std::min(blocks.columns, width - column);
    float* panel = plan.threadScratch + static_cast<size_t>(thread) * plan.threadFloats;
    float* gated = panel + plan.threadFloats - kGateFloats;
    float* y = up.y + static_cast<int64_t>(row) * width + column;
    runBlock(plan, input, up, row, height, column, columns, panel, y, width);
    if (gate.weight) {
      runBlock(plan, input, gate, row, height, column, columns, panel, gated, columns);
    }
    for (int32_t r = 0; r < height; ++r, y += width) {
      const float* gateRow = gate.weight ? gated + static_cast<int64_t>(r) * columns : nullptr;
      plan.kernels->pointwise.activate(activation, gateRow, y, static_cast<size_t>(columns), y);
    }
  });
}

}  // namespace anchorcoder
