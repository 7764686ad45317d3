// Blocks come and go here; what may go is decided by policy.h.
#include "core/cache.h"

#include <algorithm>
#include <atomic>

namespace anchorcoder {

namespace {

int32_t columnsFor(int32_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

}  // namespace

void Segment::setTable(const CacheShape& shape, size_t column) {
  auto* memory = static_cast<uint8_t*>(columns_[column]->get());
  const size_t bytes = blockBytes(shape.storage, shape.headDim);
  for (size_t head = 0; head < static_cast<size_t>(shape.kvHeads); ++head) {
    table_[head * stride_ + column] = memory + head * bytes;
  }
}

void Segment::rebuildTable(const CacheShape& shape) {
  if (columns_.size() > stride_) {
    const size_t stride = std::max<size_t>(4, std::max(columns_.size(), stride_ * 2));
    table_.assign(stride * static_cast<size_t>(shape.kvHeads), nullptr);
    stride_ = stride;  // last: it must not be larger than the table where that found no memory
  }
  for (size_t column = 0; column < columns_.size(); ++column) setTable(shape, column);
}

void Segment::reserve(const std::shared_ptr<DeviceContext>& context, const CacheShape& shape,
                      int32_t from, int32_t to) {
  if (to <= from) return;
  if (columns_.empty()) firstBlock_ = from / kBlockRows;
  const auto first = static_cast<size_t>(from / kBlockRows - firstBlock_);
  const auto last = static_cast<size_t>(columnsFor(to) - firstBlock_);

  const auto make = [&] { return std::make_shared<BlockMemory>(context, shape.columnBytes()); };
  // A shared column is copied before its first new row; without old rows in it that is a waste,
  // but such a column exists only after a fork that was cut back to its very border.
  const bool shared = first < columns_.size() && columns_[first].use_count() > 1;
  // Who shared it until now, on another thread, has read it before it is written.
  if (!shared) std::atomic_thread_fence(std::memory_order_acquire);
  if (shared) {
    BlockColumn copy = make();
    context->check(context->ops().copy(context->device(), copy->get(), columns_[first]->get(),
                                       shape.columnBytes()),
                   "Copying cache blocks");
    columns_[first] = std::move(copy);
    setTable(shape, first);
  }
  if (columns_.size() >= last) return;
  columns_.reserve(std::max(last, columns_.size() * 2));
  const size_t before = columns_.size();
  while (columns_.size() < last) columns_.push_back(make());
  if (last > stride_) {
    rebuildTable(shape);
  } else {
    for (size_t column = before; column < last; ++column) setTable(shape, column);
  }
}

void Segment::releaseBefore(int32_t row) {
  const int32_t count =
      std::min(row / kBlockRows - firstBlock_, static_cast<int32_t>(columns_.size()));
  if (count <= 0) return;
  const auto gone = static_cast<size_t>(count);
  const size_t left = columns_.size() - gone;
  columns_.erase(columns_.begin(), columns_.begin() + count);
  for (size_t at = 0; at < table_.size(); at += stride_) {
    std::copy_n(table_.begin() + static_cast<std::ptrdiff_t>(at + gone), left,
                table_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  firstBlock_ += count;
}

void Segment::truncate(int32_t row) {
  const int32_t keep = std::max(0, columnsFor(row) - firstBlock_);
  if (static_cast<size_t>(keep) < columns_.size()) columns_.resize(static_cast<size_t>(keep));
}

void Segment::count(BlockCounts& counts, int32_t by) const {
  for (const BlockColumn& column : columns_) {
    const auto at = counts.try_emplace(column.get(), 0).first;
    at->second += by;
    if (at->second == 0) counts.erase(at);
  }
}

SegmentTable Segment::table() const {
  return {columns_.empty() ? nullptr : table_.data(), static_cast<int32_t>(stride_), firstBlock_};
}

SequenceCache::SequenceCache(std::shared_ptr<DeviceContext> context, const CacheShape& shape,
                             const Policy& policy)
    : context_(std::move(context)), shape_(shape), layers_(static_cast<size_t>(shape.layers)) {
  for (int32_t l = 0; l < shape.layers; ++l) {
    auto& layer = layers_[static_cast<size_t>(l)];
    layer.hasKept = policy.hasKeptRows(l);
  }
}

void SequenceCache::reserve(int32_t from, int32_t to, int32_t keptFrom, int32_t keptTo) {
  for (auto& layer : layers_) {
    layer.positional.reserve(context_, shape_, from, to);
    if (layer.hasKept) layer.kept.reserve(context_, shape_, keptFrom, keptTo);
  }
}

void SequenceCache::releaseBefore(int32_t index, int32_t row) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  if (row <= layer.released) return;
  layer.positional.releaseBefore(row);
  layer.released = row;
}

void SequenceCache::truncate(int32_t position, int32_t kept) {
  for (auto& layer : layers_) {
    layer.positional.truncate(position);
    layer.released = std::min(layer.released, position);
    if (layer.hasKept) layer.kept.truncate(kept);
  }
}

void SequenceCache::allocate(std::span<const int32_t> released, int32_t position, int32_t kept) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    layer.positional.reserve(context_, shape_, released[l], position);
    layer.released = released[l];
    if (layer.hasKept) layer.kept.reserve(context_, shape_, 0, kept);
  }
}

void SequenceCache::count(BlockCounts& counts, int32_t by) const {
  for (const auto& layer : layers_) {
    layer.positional.count(counts, by);
    layer.kept.count(counts, by);
  }
}

LayerCache SequenceCache::layer(int32_t index) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  return {layer.positional.table(), layer.kept.table()};
}

size_t SequenceCache::bytes() const {
  size_t columns = 0;
  for (const auto& layer : layers_) columns += layer.positional.columns() + layer.kept.columns();
  return columns * shape_.columnBytes();
}

}  // namespace anchorcoder
