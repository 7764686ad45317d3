// The key/value cache of one sequence: per layer a segment of rows by position and, where the
// policy keeps some rows for good, a segment of those. Blocks are shared by forks until written.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/device.h"
#include "core/ops.h"
#include "core/policy.h"

namespace anchorcoder {

// kBlockRows rows of all KV heads of one layer: one allocation, one block for every head.
class BlockMemory {
 public:
  BlockMemory(const std::shared_ptr<DeviceContext>& context, size_t bytes)
      : buffer_(context, bytes, "the cache"), context_(context.get()) {
    context_->cacheBytes += bytes;
  }
  ~BlockMemory() { context_->cacheBytes -= buffer_.bytes(); }
  BlockMemory(const BlockMemory&) = delete;
  BlockMemory& operator=(const BlockMemory&) = delete;

  void* get() const { return buffer_.get(); }

 private:
  DeviceBuffer buffer_;  // keeps the context alive
  DeviceContext* context_;
};

using BlockColumn = std::shared_ptr<BlockMemory>;
// Columns, and how many holders among some caches each has.
using BlockCounts = std::unordered_map<const BlockMemory*, int32_t>;

struct CacheShape {
  int32_t layers = 0;
  int32_t kvHeads = 0;
  int32_t headDim = 0;
  DType storage = DType::f32;

  size_t columnBytes() const { return blockBytes(storage, headDim) * static_cast<size_t>(kvHeads); }
  // One row of one layer: a key and a value for every KV head, scales included.
  size_t rowBytes() const {
    const size_t scales = storage == DType::i8 ? 2 * sizeof(float) : 0;
    return static_cast<size_t>(kvHeads) *
           (2 * static_cast<size_t>(headDim) * dtypeBytes(storage) + scales);
  }
  // The same in a RowStream, with what pads values.
  size_t streamRowBytes() const {
    const auto padding = static_cast<size_t>(valueStride(headDim) - headDim);
    return rowBytes() + static_cast<size_t>(kvHeads) * padding * dtypeBytes(storage);
  }
};

// Rows by number, in columns of blocks. Rows below the first column have been released.
class Segment {
 public:
  // Makes rows [from, to) writable: adds columns and copies the shared ones. Throws Error
  // (outOfMemory); rows below `from` are then as before.
  void reserve(const std::shared_ptr<DeviceContext>& context, const CacheShape& shape, int32_t from,
               int32_t to);
  void releaseBefore(int32_t row);  // whole columns only
  void truncate(int32_t row);       // keeps rows below `row`

  SegmentTable table() const;
  size_t columns() const { return columns_.size(); }
  void count(BlockCounts& counts, int32_t by) const;

 private:
  void rebuildTable(const CacheShape& shape);
  void setTable(const CacheShape& shape, size_t column);

  int32_t firstBlock_ = 0;
  std::vector<BlockColumn> columns_;
  std::vector<void*> table_;  // (kvHeads, stride_)
  size_t stride_ = 0;
};

class SequenceCache {
 public:
  SequenceCache(std::shared_ptr<DeviceContext> context, const CacheShape& shape,
                const Policy& policy);

  // A copy that shares all blocks.
  SequenceCache(const SequenceCache&) = default;
  SequenceCache& operator=(const SequenceCache&) = default;
  SequenceCache(SequenceCache&&) = default;
  SequenceCache& operator=(SequenceCache&&) = default;

  const CacheShape& shape() const { return shape_; }
  void reserve(int32_t from, int32_t to, int32_t keptFrom, int32_t keptTo);
  // Rows of the layer below `row` may go, but for kept ones.
  void releaseBefore(int32_t layer, int32_t row);
  // Lowest row that the layer still holds.
  int32_t released(int32_t layer) const { return layers_[static_cast<size_t>(layer)].released; }
  void truncate(int32_t position, int32_t kept);
  // Makes room in an empty cache for the rows of `position` tokens, but for those of each layer
  // below `released` (layers). Throws Error (outOfMemory).
  void allocate(std::span<const int32_t> released, int32_t position, int32_t kept);

  LayerCache layer(int32_t index) const;
  size_t bytes() const;  // of all blocks held, shared ones included
  // Adds `by` to the count of each column held; a count that reaches 0 is left out.
  void count(BlockCounts& counts, int32_t by) const;

 private:
  struct Layer {
    bool hasKept = false;
    int32_t released = 0;
    Segment positional;
    Segment kept;
  };

  std::shared_ptr<DeviceContext> context_;
  CacheShape shape_;
  std::vector<Layer> layers_;
};

}  // namespace anchorcoder
