// Writes the keys and values of a pass into the cache.
#include <algorithm>

#include "attention.h"
#include "plan.h"

namespace anchorcoder {
namespace {

constexpr int32_t kTokensPerTask = 64;  // neighbours share cache lines of a block
constexpr int64_t kLeastTaskFloats = 1 << 14;

void* blockOf(const SegmentTable& table, int32_t head, int32_t row) {
  return table
      .blocks[static_cast<ptrdiff_t>(head) * table.stride + (row / kBlockRows - table.firstBlock)];
}

}  // namespace

void storeRows(Plan& plan, int32_t layer, const float* k, const float* v) {
  const ModelDesc& model = *plan.model;
  const Pass& pass = *plan.pass;
  const LayerCache* caches = pass.caches + static_cast<ptrdiff_t>(layer) * pass.sequenceCount;
  const auto store = plan.kernels->attention->storeRow;
  const int32_t runs = (pass.tokenCount + kTokensPerTask - 1) / kTokensPerTask;
  const int64_t floats = int64_t{2} * pass.tokenCount * model.kvHeads * model.headDim;
  const auto threads =
      static_cast<int32_t>(std::min<int64_t>(plan.threads, 1 + floats / kLeastTaskFloats));
  plan.pool->parallelFor(threads, runs * model.kvHeads, [&](int32_t task, int32_t) {
    const int32_t head = task % model.kvHeads;
    const int32_t first = task / model.kvHeads * kTokensPerTask;
    const int32_t end = std::min(first + kTokensPerTask, pass.tokenCount);
    const int32_t* starts = pass.sequenceStarts;
    auto sequence =
        static_cast<int32_t>(std::upper_bound(starts, starts + pass.sequenceCount, first) - starts);
    for (int32_t token = first; token < end; ++token) {
      while (token >= starts[sequence]) ++sequence;
      const LayerCache& cache = caches[sequence - 1];
      const DType storage = pass.storage[sequence - 1];
      const size_t at = (static_cast<size_t>(token) * static_cast<size_t>(model.kvHeads) +
                         static_cast<size_t>(head)) *
                        static_cast<size_t>(model.headDim);
      const auto write = [&](const SegmentTable& table, int32_t row) {
        store(storage, k + at, v + at, model.headDim, row % kBlockRows, blockOf(table, head, row));
      };
      write(cache.positional, pass.positions[token]);
      if (pass.keptRow[token] >= 0 && cache.kept.blocks != nullptr) {
        write(cache.kept, pass.keptRow[token]);
      }
    }
  });
}

}  // namespace anchorcoder
