// The rules of policy.h.
#include "core/policy.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace anchorcoder {

namespace {

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorCode::invalidArgument, message);
}

}  // namespace

bool Policy::anyAnchored() const {
  return std::find(dense.begin(), dense.end(), uint8_t{0}) != dense.end();
}

bool Policy::anyLeaves() const {
  const auto some = [](int32_t size) { return size > 0; };
  return anyAnchored() || std::any_of(modelWindows.begin(), modelWindows.end(), some);
}

bool Policy::hasKeptRows(int32_t layer) const {
  if (!dense[static_cast<size_t>(layer)]) return true;
  if (layer != sourceLayer) return false;
  for (int32_t l = consumersAbove + 1; l < static_cast<int32_t>(dense.size()); ++l) {
    if (!dense[static_cast<size_t>(l)]) return true;
  }
  return false;
}

void Policy::validate(int32_t layers, int32_t vocabSize) const {
  if (dense.size() != static_cast<size_t>(layers)) {
    refuse("Expected the policy to name " + std::to_string(layers) + " layers, but it names " +
           std::to_string(dense.size()));
  }
  if (!modelWindows.empty() && modelWindows.size() != static_cast<size_t>(layers)) {
    refuse("Expected the policy to know the windows of " + std::to_string(layers) + " layers");
  }
  if (isAnchor.size() != static_cast<size_t>(vocabSize)) {
    refuse("Expected the policy to know " + std::to_string(vocabSize) + " ids");
  }
  if (window < 0 || sinks < 0) refuse("Expected window and sinks to be 0 or more");
  if (anyAnchored() && !line && window == 0) {
    refuse("Expected a policy with anchored layers to see a line or a window");
  }
  if (sourceLayer < 0) return;
  if (sourceLayer >= layers || consumersAbove < sourceLayer) {
    refuse("Expected the source layer (" + std::to_string(sourceLayer) +
           ") to be a layer that no consumer comes before");
  }
  // The layer after it is counted from here on.
  if (consumersAbove >= layers) {
    refuse("Expected the layer below the consumers (" + std::to_string(consumersAbove) +
           ") to be one of " + std::to_string(layers));
  }
  const int32_t sourceWindow = modelWindow(sourceLayer);
  for (int32_t l = consumersAbove + 1; sourceWindow > 0 && l < layers; ++l) {
    const int32_t own = modelWindow(l);
    if (own == 0 || own > sourceWindow) {
      refuse("Expected the consumers of layer " + std::to_string(sourceLayer) +
             ", which sees a window of " + std::to_string(sourceWindow) +
             " tokens, to see no more, but layer " + std::to_string(l) + " does");
    }
  }
  if (dense[static_cast<size_t>(sourceLayer)]) return;
  for (int32_t l = consumersAbove + 1; l < layers; ++l) {
    if (dense[static_cast<size_t>(l)]) {
      refuse("Expected the source layer " + std::to_string(sourceLayer) +
             " to be dense, because its consumer, layer " + std::to_string(l) + ", is");
    }
  }
}

void anchorKeyPositions(int32_t previous, int32_t anchor, std::span<int32_t> positions) {
  const int32_t m = anchor - previous - 1;
  if (m == 0) {
    std::fill(positions.begin(), positions.end(), anchor);
    return;
  }
  // Integers, so that equal remainders are equal: line place i has weight i^3 of total.
  using Wide = unsigned __int128;
  const auto heads = static_cast<Wide>(positions.size());
  const auto half = static_cast<Wide>(m) * static_cast<Wide>(m + 1) / 2;
  const Wide total = half * half;
  struct Place {
    int32_t index;
    Wide remainder;
  };
  std::vector<int32_t> count(static_cast<size_t>(m));
  std::vector<Place> places(static_cast<size_t>(m));
  size_t given = 0;
  for (int32_t i = 1; i <= m; ++i) {
    const auto wide = static_cast<Wide>(i);
    const Wide share = heads * wide * wide * wide;
    const auto slot = static_cast<size_t>(i - 1);
    count[slot] = static_cast<int32_t>(share / total);
    places[slot] = {i - 1, share % total};
    given += static_cast<size_t>(count[slot]);
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const Place& a, const Place& b) { return a.remainder > b.remainder; });
  for (size_t next = 0; given < positions.size(); ++given, ++next) {
    ++count[static_cast<size_t>(places[next].index)];
  }
  size_t head = 0;
  for (int32_t i = 0; i < m; ++i) {
    for (int32_t c = 0; c < count[static_cast<size_t>(i)]; ++c)
      positions[head++] = previous + 1 + i;
  }
}

int32_t PolicyState::keptBelow(int32_t position) const {
  return static_cast<int32_t>(std::lower_bound(kept_.begin(), kept_.end(), position) -
                              kept_.begin());
}

int32_t PolicyState::lastCloserBelow(int32_t position) const {
  const auto after = std::lower_bound(closers_.begin(), closers_.end(), position);
  return after == closers_.begin() ? -1 : *(after - 1);
}

int32_t PolicyState::lineStart(int32_t position) const { return lastCloserBelow(position) + 1; }

int32_t PolicyState::windowStart(int32_t position) const {
  if (policy_->window == 0) return lineStart(position);
  const int32_t window = std::max(0, position - policy_->window + 1);
  return policy_->line ? std::min(lineStart(position), window) : window;
}

int32_t PolicyState::layerStart(int32_t layer, int32_t position, int32_t anchoredStart) const {
  const int32_t start = policy_->dense[static_cast<size_t>(layer)] ? 0 : anchoredStart;
  const int32_t window = policy_->modelWindow(layer);
  return window > 0 ? std::max(start, position - window + 1) : start;
}

bool PolicyState::closesLine(int32_t position) const {
  return std::binary_search(closers_.begin(), closers_.end(), position);
}

PolicyState::TokenRows PolicyState::add(int32_t id, std::span<int32_t> keyPositions) {
  const int32_t position = size_;
  const bool isAnchorId = policy_->isAnchor[static_cast<size_t>(id)] != 0;
  const bool closes = isAnchorId || (position == 0 && policy_->firstIsAnchor);
  const bool keep = closes || position < policy_->sinks;

  TokenRows rows{};
  const int32_t start = windowStart(position);
  const bool blind = closes && isAnchorId && !policy_->anchorSeesAnchors;
  rows.kept = {0, blind ? 0 : keptBelow(start)};
  rows.positional = {start, position + 1};
  rows.seesKept = !blind;
  rows.keptRow = keep ? keptCount() : -1;

  if (isAnchorId && policy_->multiHeadPositions) {
    int32_t previous = lastCloserBelow(position);
    // Position 0 counts as an anchor for what is seen, but starts a line unless it holds one.
    if (previous == 0 && !firstHoldsAnchor_) previous = -1;
    anchorKeyPositions(previous, position, keyPositions);
  } else {
    std::fill(keyPositions.begin(), keyPositions.end(), position);
  }

  if (position == 0) firstHoldsAnchor_ = isAnchorId;
  if (keep) kept_.push_back(position);
  if (closes) closers_.push_back(position);
  if (isAnchorId) ++anchorCount_;
  if (id == policy_->insertedAnchor) ++insertedCount_;
  ++size_;
  return rows;
}

void PolicyState::truncate(int32_t position, std::span<const int32_t> ids) {
  for (int32_t p = position; p < size_; ++p) {
    const int32_t id = ids[static_cast<size_t>(p)];
    if (policy_->isAnchor[static_cast<size_t>(id)]) --anchorCount_;
    if (id == policy_->insertedAnchor) --insertedCount_;
  }
  while (!kept_.empty() && kept_.back() >= position) kept_.pop_back();
  while (!closers_.empty() && closers_.back() >= position) closers_.pop_back();
  size_ = std::min(size_, position);
}

}  // namespace anchorcoder
