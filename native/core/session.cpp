// Cutting back, committing, forking and counting.
#include "core/session.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace anchorcoder {

namespace {

Policy validated(Policy policy, const ModelConfig& config) {
  policy.modelWindows = config.windows;
  policy.validate(config.layers, config.vocabSize);
  return policy;
}

}  // namespace

Session::Session(std::shared_ptr<Model> model, Policy policy, int32_t contextLength, DType storage)
    : model_(std::move(model)),
      policy_(validated(std::move(policy), model_->config())),
      contextLength_(contextLength),
      sequence_(&policy_, SequenceCache(model_->context(), model_->cacheShape(storage), policy_)) {
  if (contextLength < 1 || contextLength > model_->config().contextLength) {
    throw Error(ErrorCode::invalidArgument, "Expected contextLength to be from 1 to " +
                                                std::to_string(model_->config().contextLength) +
                                                ", but received " + std::to_string(contextLength));
  }
  const int32_t original = model_->config().originalContext;
  sequence_.longRope = original > 0 && contextLength > original;
  publish();
}

void Session::checkAppend(std::span<const uint32_t> ids) const {
  const size_t total = sequence_.ids.size() + ids.size();
  if (total > static_cast<size_t>(contextLength_)) {
    throw Error(ErrorCode::contextLength, "Expected at most " + std::to_string(contextLength_) +
                                              " tokens in the session, but it holds " +
                                              std::to_string(sequence_.ids.size()) + " and " +
                                              std::to_string(ids.size()) + " more were given");
  }
  const auto vocabSize = static_cast<uint32_t>(model_->config().vocabSize);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= vocabSize) {
      throw Error(ErrorCode::invalidArgument, "Expected ids below " + std::to_string(vocabSize) +
                                                  ", but id " + std::to_string(i) + " is " +
                                                  std::to_string(ids[i]));
    }
  }
}

bool Session::canCut(int32_t to) const {
  if (to == cached() || !policy_.anyLeaves()) return true;
  const int32_t anchoredStart = sequence_.state.windowStart(to);
  for (int32_t l = 0; l < model_->config().layers; ++l) {
    const int32_t start = sequence_.state.layerStart(l, to, anchoredStart);
    // A token that begins a line sees kept rows only, and those are all there.
    if (start != to && start < sequence_.cache.released(l)) return false;
  }
  return true;
}

void Session::dropSaved(int32_t from) {
  while (!saved_.empty() && saved_.back().position >= from) saved_.pop_back();
}

void Session::cut(int32_t to) {
  sequence_.state.truncate(to, sequence_.ids);
  sequence_.cache.truncate(to, sequence_.state.keptCount());
  dropSaved(to);
}

void Session::truncate(int32_t to) {
  if (to < 0 || to > position()) {
    throw Error(ErrorCode::position, "Expected a position from 0 to " + std::to_string(position()) +
                                         ", but received " + std::to_string(to));
  }
  if (to < cached()) {
    if (!canCut(to)) {
      throw Error(ErrorCode::position,
                  "Position " + std::to_string(to) +
                      " lies in a line whose rows have left the cache; the end of a line, or a "
                      "position in the last one, can be reached");
    }
    cut(to);
  }
  sequence_.ids.resize(static_cast<size_t>(to));
  publish();
}

void Session::commit(int32_t to) {
  to = std::min(to, cached());
  if (policy_.anyLeaves()) {
    const int32_t anchoredStart = sequence_.state.windowStart(to);
    for (int32_t l = 0; l < model_->config().layers; ++l) {
      sequence_.cache.releaseBefore(l, sequence_.state.layerStart(l, to, anchoredStart));
    }
  }
  std::erase_if(saved_,
                [&](const SavedRow& row) { return !row.endsLine && row.position < to - 1; });
}

std::shared_ptr<Session> Session::fork(int32_t at) const {
  auto copy =
      std::make_shared<Session>(model_, policy_, contextLength_, sequence_.cache.shape().storage);
  Sequence& sequence = copy->sequence_;
  sequence.ids = sequence_.ids;
  sequence.state = PolicyState(&copy->policy_, sequence_.state);
  sequence.cache = sequence_.cache;
  copy->saved_ = saved_;
  copy->truncate(at);
  return copy;
}

void Session::saveHidden(int32_t at, std::span<const float> row) {
  const bool endsLine = policy_.anyAnchored() && sequence_.state.closesLine(at);
  dropSaved(at);  // of a pass that failed after it had saved some
  saved_.push_back(
      {at, endsLine, std::make_shared<const std::vector<float>>(row.begin(), row.end())});
}

const float* Session::lastHidden() {
  dropSaved(cached());
  const int32_t last = cached() - 1;
  if (!saved_.empty() && saved_.back().position == last) return saved_.back().row->data();
  if (last < 0 || !canCut(last)) {
    throw Error(ErrorCode::position,
                "The last token cannot be run again because its line has left the cache; append "
                "at least one token");
  }
  cut(last);
  return nullptr;
}

void Session::publish() {
  const PolicyState& state = sequence_.state;
  const int32_t cachedTokens = state.size();
  const int32_t windowStart = state.windowStart(cachedTokens);

  const std::lock_guard lock(statsMutex_);
  stats_.position = position();
  stats_.cached = cachedTokens;
  stats_.anchors = state.anchorCount();
  stats_.insertedAnchors = state.insertedCount();
  stats_.rows.assign(policy_.dense.size(), 0);
  stats_.mirrorRows = 0;
  for (size_t l = 0; l < policy_.dense.size(); ++l) {
    const int32_t start = state.layerStart(static_cast<int32_t>(l), cachedTokens, windowStart);
    const int32_t kept = policy_.dense[l] ? 0 : state.keptBelow(start);
    stats_.rows[l] = static_cast<uint32_t>(kept + cachedTokens - start);
    if (policy_.isMirror(static_cast<int32_t>(l))) {
      stats_.mirrorRows = static_cast<uint32_t>(state.keptBelow(windowStart));
    }
  }
  const size_t hidden = static_cast<size_t>(model_->config().hiddenSize) * sizeof(float);
  stats_.bytes = sequence_.cache.bytes() + saved_.size() * hidden;
  stats_.rowBytes = sequence_.cache.shape().rowBytes();
  progress = cachedTokens;
}

SessionStats Session::stats() const {
  const std::lock_guard lock(statsMutex_);
  return stats_;
}

void Session::clear() {
  sequence_.cache.truncate(0, 0);
  sequence_.state.truncate(0, sequence_.ids);
  sequence_.ids = {};
  saved_ = {};
  publish();
}

}  // namespace anchorcoder
