// Packs the held rows of blocks, and puts them back.
#include "core/snapshot.h"

#include <algorithm>
#include <cstring>

#include "core/device.h"

namespace anchorcoder {

RowStream::RowStream(Session& session)
    : session_(session), shape_(session.sequence().cache.shape()) {
  const Sequence& sequence = session.sequence();
  const Policy& policy = session.policy();
  const int32_t cached = sequence.cached(), kept = sequence.state.keptCount();
  for (int32_t l = 0; l < shape_.layers; ++l) {
    const LayerCache layer = sequence.cache.layer(l);
    if (policy.hasKeptRows(l) && kept > 0) ranges_.push_back({layer.kept, 0, kept});
    const int32_t first = sequence.cache.released(l);
    if (first < cached) ranges_.push_back({layer.positional, first, cached});
  }
  bytes_ = session.state().rowBytes;
  whole_.resize(blockBytes(shape_.storage, shape_.headDim));
  if (!ranges_.empty()) block_ = ranges_[0].from / kBlockRows;
  if (!done()) packed_.resize(unitBytes(unit()));
}

RowStream::Unit RowStream::unit() const {
  const auto saved = session_.savedRows();
  if (saved_ < saved.size()) return {saved[saved_].row->data(), nullptr, 0, 0};
  const Range& range = ranges_[range_];
  const int32_t first = block_ * kBlockRows;
  void* block = range.table.blocks[head_ * range.table.stride + block_ - range.table.firstBlock];
  return {nullptr, block, std::max(range.from - first, 0), std::min(range.to - first, kBlockRows)};
}

size_t RowStream::unitBytes(const Unit& unit) const {
  if (unit.saved) return static_cast<size_t>(session_.model().config().hiddenSize) * sizeof(float);
  const size_t rowBytes = shape_.streamRowBytes() / static_cast<size_t>(shape_.kvHeads);
  return static_cast<size_t>(unit.to - unit.from) * rowBytes;
}

void RowStream::advance() {
  within_ = 0;
  if (saved_ < session_.savedRows().size()) {
    ++saved_;
  } else if (++head_ == shape_.kvHeads) {
    head_ = 0;
    ++block_;
    if (block_ * kBlockRows >= ranges_[range_].to && ++range_ < ranges_.size()) {
      block_ = ranges_[range_].from / kBlockRows;
    }
  }
  if (!done()) packed_.resize(unitBytes(unit()));
}

// `block` as ops.h lays it out; `packed` has the same parts with the rows of the unit alone.
template <bool toStream>
void RowStream::copyRows(const Unit& unit, uint8_t* block, uint8_t* packed) const {
  const size_t element = dtypeBytes(shape_.storage);
  const auto from = static_cast<size_t>(unit.from), rows = static_cast<size_t>(unit.to) - from;
  const auto copy = [&](size_t offset, size_t bytes) {
    if constexpr (toStream) {
      std::memcpy(packed, block + offset, bytes);
    } else {
      std::memcpy(block + offset, packed, bytes);
    }
    packed += bytes;
  };
  for (size_t d = 0; d < static_cast<size_t>(shape_.headDim); ++d) {
    copy((d * kBlockRows + from) * element, rows * element);
  }
  const size_t valueBytes = static_cast<size_t>(valueStride(shape_.headDim)) * element;
  copy(blockValueOffset(shape_.storage, shape_.headDim) + from * valueBytes, rows * valueBytes);
  if (shape_.storage != DType::i8) return;
  const size_t scales = blockScaleOffset(shape_.storage, shape_.headDim);
  copy(scales + from * sizeof(float), rows * sizeof(float));
  copy(scales + (kBlockRows + from) * sizeof(float), rows * sizeof(float));
}

void RowStream::load(const Unit& unit) {
  if (unit.saved) {
    std::memcpy(packed_.data(), unit.saved, packed_.size());
    return;
  }
  const DeviceContext& context = *session_.model().context();
  context.check(context.ops().download(context.device(), whole_.data(), unit.block, whole_.size()),
                "Reading the cache");
  copyRows<true>(unit, whole_.data(), packed_.data());
}

void RowStream::store(const Unit& unit) {
  if (unit.saved) {
    std::memcpy(unit.saved, packed_.data(), packed_.size());
    return;
  }
  std::fill(whole_.begin(), whole_.end(), uint8_t{0});
  copyRows<false>(unit, whole_.data(), packed_.data());
  const DeviceContext& context = *session_.model().context();
  context.check(context.ops().upload(context.device(), unit.block, whole_.data(), whole_.size()),
                "Filling the cache");
}

size_t RowStream::read(std::span<uint8_t> out) {
  size_t written = 0;
  while (written < out.size() && !done()) {
    if (within_ == 0) load(unit());
    const size_t count = std::min(out.size() - written, packed_.size() - within_);
    std::memcpy(out.data() + written, packed_.data() + within_, count);
    written += count;
    within_ += count;
    done_ += count;
    if (within_ == packed_.size()) advance();
  }
  return written;
}

size_t RowStream::write(std::span<const uint8_t> in) {
  size_t taken = 0;
  while (taken < in.size() && !done()) {
    const size_t count = std::min(in.size() - taken, packed_.size() - within_);
    std::memcpy(packed_.data() + within_, in.data() + taken, count);
    taken += count;
    within_ += count;
    done_ += count;
    if (within_ < packed_.size()) continue;
    store(unit());
    advance();
  }
  return taken;
}

}  // namespace anchorcoder
