// The sum, row by row.
#include "core/adapter.h"

#include <algorithm>
#include <span>
#include <thread>
#include <vector>

#include "core/elements.h"

namespace anchorcoder {

namespace {

void addRows(DType type, uint8_t* weight, int64_t from, int64_t to, int64_t cols,
             const LowRank& change, std::span<float> sum) {
  const size_t width = sum.size();
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
  const int32_t most = std::max(threads, 1);
  const int64_t share = (rows + most - 1) / most;
  // Before any thread starts, since one that runs out of memory ends the process.
  std::vector<std::vector<float>> sums(static_cast<size_t>(most),
                                       std::vector<float>(static_cast<size_t>(cols)));
  std::vector<std::jthread> helpers;
  for (int64_t from = share; from < rows; from += share) {
    const int64_t to = std::min(rows, from + share);
    const std::span<float> sum = sums[helpers.size() + 1];
    helpers.emplace_back([=, &change] { addRows(type, weight, from, to, cols, change, sum); });
  }
  addRows(type, weight, 0, std::min(rows, share), cols, change, sums.front());
}

}  // namespace anchorcoder
