// The sum, row by row.
#include "core/adapter.h"

#include <algorithm>
#include <span>
#include <thread>
#include <vector>

#include "core/elements.h"

namespace anchorcoder {

namespace {

// `sum`: room for a row.
void addRows(DType type, uint8_t* weight, int64_t from, int64_t to, std::span<float> sum,
             const LowRank& change) {
  const size_t width = sum.size();
  const auto cols = static_cast<int64_t>(width);
  for (int64_t r = from; r < to; ++r) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (int64_t k = 0; k < change.rank; ++k) {
      const float factor = change.b[static_cast<size_t>(r * change.rank + k)];
      const float* a = change.a.data() + k * cols;
      for (size_t c = 0; c < width; ++c) sum[c] += factor * a[c];
    }
    uint8_t* bytes = weight + static_cast<size_t>(r) * width * dtypeBytes(type);
    for (size_t c = 0; c < width; ++c) {
      storeElement(type, loadElement(type, bytes, c) + change.scale * sum[c], bytes, c);
    }
  }
}

}  // namespace

void addLowRank(DType type, uint8_t* weight, int64_t rows, int64_t cols, const LowRank& change,
                int32_t threads) {
  const int64_t share = (rows + threads - 1) / std::max(threads, 1);
  // Beforehand: no memory is an error here, and the end of the process in a helper.
  const auto width = static_cast<size_t>(cols);
  std::vector<float> sums(width * static_cast<size_t>(std::max(threads, 1)));
  std::vector<std::jthread> helpers;
  float* own = sums.data();
  for (int64_t from = share; from < rows; from += share) {
    const int64_t to = std::min(rows, from + share);
    const std::span<float> sum{own += width, width};
    helpers.emplace_back([=, &change] { addRows(type, weight, from, to, sum, change); });
  }
  addRows(type, weight, 0, std::min(rows, share), {sums.data(), width}, change);
}

}  // namespace anchorcoder
