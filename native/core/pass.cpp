// Builds the arrays of one pass.
#include "core/pass.h"

#include <algorithm>

namespace anchorcoder {

void PassBuilder::build(const ModelConfig& config, std::span<BatchItem> items) {
  clear(config, items);
  for (size_t i = 0; i < items.size(); ++i) addItem(config, i, items[i]);
  addRanges(config, items);
  addCaches(config, items);
  addLogitRows(items);
  finish();
}

void PassBuilder::rollBack(std::span<BatchItem> items) noexcept {
  // Fewer than there are items where there was no memory to note them all.
  for (size_t i = 0; i < before_.size(); ++i) {
    Sequence& sequence = *items[i].sequence;
    sequence.state.truncate(before_[i], sequence.ids);
    sequence.cache.truncate(before_[i], sequence.state.keptCount());
  }
}

void PassBuilder::clear(const ModelConfig& config, std::span<BatchItem> items) {
  pass_ = {};
  policy_ = nullptr;
  before_.clear();
  for (const BatchItem& item : items) {
    before_.push_back(item.sequence->cached());
    if (item.tokens == 0 || policy_) continue;
    policy_ = &item.sequence->state.policy();
    longRope_ = item.sequence->longRope;
  }
  for (auto* list : {&ids_, &positions_, &sequenceStarts_, &ropePositions_, &queryRope_, &keyRope_,
                     &keptRow_, &logitRows_}) {
    list->clear();
  }
  storage_.clear();
  seesKept_.clear();
  anchoredKept_.clear();
  anchoredRows_.clear();
  hiddenRows_.clear();
  keyPositions_.resize(static_cast<size_t>(config.kvHeads));
}

void PassBuilder::addItem(const ModelConfig&, size_t index, BatchItem& item) {
  if (item.tokens == 0) return;
  Sequence& sequence = *item.sequence;
  sequenceStarts_.push_back(static_cast<int32_t>(ids_.size()));
  storage_.push_back(sequence.cache.shape().storage);
  const int32_t from = sequence.cached();
  const int32_t keptFrom = sequence.state.keptCount();
  for (int32_t t = 0; t < item.tokens; ++t) {
    addToken(item, keyPositions_);
    const int32_t position = from + t;
    const bool last = t + 1 == item.tokens;
    if (last || (sequence.state.policy().anyAnchored() && sequence.state.closesLine(position))) {
      hiddenRows_.push_back({index, static_cast<int32_t>(ids_.size()) - 1, position});
    }
  }
  sequence.cache.reserve(from, sequence.cached(), keptFrom, sequence.state.keptCount());
}

void PassBuilder::addToken(BatchItem& item, std::span<int32_t> keyPositions) {
  Sequence& sequence = *item.sequence;
  const int32_t position = sequence.cached();
  const int32_t id = sequence.ids[static_cast<size_t>(position)];
  const PolicyState::TokenRows rows = sequence.state.add(id, keyPositions);

  ids_.push_back(id);
  positions_.push_back(position);
  keptRow_.push_back(rows.keptRow);
  seesKept_.push_back(rows.seesKept ? 1 : 0);
  anchoredKept_.push_back(rows.kept);
  anchoredRows_.push_back(rows.positional);

  const auto own = static_cast<int32_t>(ropePositions_.size());
  ropePositions_.push_back(position);
  queryRope_.push_back(own);
  // Heads come in order of position, so equal ones are neighbours.
  for (const int32_t keyPosition : keyPositions) {
    if (keyPosition == position) {
      keyRope_.push_back(own);
      continue;
    }
    if (ropePositions_.back() != keyPosition) ropePositions_.push_back(keyPosition);
    keyRope_.push_back(static_cast<int32_t>(ropePositions_.size()) - 1);
  }
}

void PassBuilder::addRanges(const ModelConfig& config, std::span<BatchItem> items) {
  ranges_.clear();
  layerVisibility_.clear();
  std::vector<uint8_t> dense;
  for (size_t layer = 0; layer < static_cast<size_t>(config.layers); ++layer) {
    dense.clear();
    for (const BatchItem& item : items) {
      if (item.tokens > 0) dense.push_back(item.sequence->state.policy().dense[layer]);
    }
    const int32_t window = config.windows[layer];
    const auto same = std::find_if(ranges_.begin(), ranges_.end(), [&](const Ranges& ranges) {
      return ranges.dense == dense && ranges.window == window;
    });
    layerVisibility_.push_back(static_cast<int32_t>(same - ranges_.begin()));
    if (same == ranges_.end()) ranges_.push_back({dense, window, {}, {}});
  }
  for (Ranges& ranges : ranges_) fillRanges(ranges, items);
}

void PassBuilder::fillRanges(Ranges& ranges, std::span<BatchItem> items) {
  size_t token = 0, sequence = 0;
  for (const BatchItem& item : items) {
    if (item.tokens == 0) continue;
    const bool dense = ranges.dense[sequence++] != 0;
    for (int32_t t = 0; t < item.tokens; ++t, ++token) {
      const int32_t position = positions_[token];
      RowRange kept = dense ? RowRange{0, 0} : anchoredKept_[token];
      RowRange rows = dense ? RowRange{0, position + 1} : anchoredRows_[token];
      const int32_t first = ranges.window > 0 ? position - ranges.window + 1 : 0;
      if (first > rows.lo) {
        rows.lo = first;
        // What the window cuts off the line is still seen where it is kept.
        if (!dense && seesKept_[token]) kept.hi = item.sequence->state.keptBelow(first);
      }
      ranges.kept.push_back(kept);
      ranges.positional.push_back(rows);
    }
  }
}

void PassBuilder::addCaches(const ModelConfig& config, std::span<BatchItem> items) {
  caches_.clear();
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    for (const BatchItem& item : items) {
      if (item.tokens > 0) caches_.push_back(item.sequence->cache.layer(layer));
    }
  }
}

void PassBuilder::addLogitRows(std::span<BatchItem> items) {
  auto saved = static_cast<int32_t>(ids_.size());
  int32_t start = 0;
  for (const BatchItem& item : items) {
    if (item.savedHidden) logitRows_.push_back(saved++);
    for (int32_t t = item.firstLogit; t < item.tokens; ++t) logitRows_.push_back(start + t);
    start += item.tokens;
  }
}

void PassBuilder::finish() {
  pass_.tokenCount = static_cast<int32_t>(ids_.size());
  pass_.sequenceCount = static_cast<int32_t>(sequenceStarts_.size());
  sequenceStarts_.push_back(pass_.tokenCount);
  visibility_.clear();
  for (const Ranges& ranges : ranges_) {
    visibility_.push_back({ranges.kept.data(), ranges.positional.data()});
  }
  pass_.ropeCount = static_cast<int32_t>(ropePositions_.size());
  pass_.visibilityCount = static_cast<int32_t>(visibility_.size());
  pass_.logitCount = static_cast<int32_t>(logitRows_.size());
  pass_.ids = ids_.data();
  pass_.positions = positions_.data();
  pass_.sequenceStarts = sequenceStarts_.data();
  pass_.storage = storage_.data();
  pass_.ropePositions = ropePositions_.data();
  pass_.queryRope = queryRope_.data();
  pass_.keyRope = keyRope_.data();
  pass_.keptRow = keptRow_.data();
  pass_.visibility = visibility_.data();
  pass_.caches = caches_.data();
  pass_.logitRows = logitRows_.data();
}

}  // namespace anchorcoder
