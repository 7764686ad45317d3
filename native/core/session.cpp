// Cutting back, committing, forking and counting.
#include "core/session.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "core/error.h"

namespace anchorcoder {

namespace {

std::shared_ptr<const Policy> validated(Policy policy, const ModelConfig& config) {
  policy.modelWindows = config.windows;
  policy.validate(config.layers, config.vocabSize);
  return std::make_shared<const Policy>(std::move(policy));
}

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorCode::invalidArgument, message);
}

}  // namespace

Session::Session(std::shared_ptr<Model> model, Policy policy, int32_t contextLength, DType storage)
    : Session(model, validated(std::move(policy), model->config()), contextLength, storage) {}

Session::Session(std::shared_ptr<Model> model, Policy policy, int32_t contextLength, DType storage,
                 const SessionState& state)
    : Session(std::move(model), std::move(policy), contextLength, storage) {
  restore(state);
}

Session::Session(std::shared_ptr<Model> model, std::shared_ptr<const Policy> policy,
                 int32_t contextLength, DType storage)
    : model_(std::move(model)),
      policy_(std::move(policy)),
      contextLength_(contextLength),
      sequence_(policy_.get(),
                SequenceCache(model_->context(), model_->cacheShape(storage), *policy_)) {
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
  if (to == cached() || !policy_->anyLeaves()) return true;
  const int32_t anchoredStart = sequence_.state.windowStart(to);
  for (int32_t l = 0; l < model_->config().layers; ++l) {
    const int32_t start = sequence_.state.layerStart(l, to, anchoredStart);
    // A token that begins a line sees kept rows only, and those are all there.
    if (start != to && start < sequence_.cache.released(l)) return false;
  }
  return true;
}

void Session::dropSaved(int32_t from) noexcept {
  while (!saved_.empty() && saved_.back().position >= from) saved_.pop_back();
}

void Session::cut(int32_t to) {
  sequence_.state.truncate(to, sequence_.ids);
  sequence_.cache.truncate(to, sequence_.state.keptCount());
  dropSaved(to);
  reused_ = std::min(reused_, to);
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
  if (policy_->anyLeaves()) {
    const int32_t anchoredStart = sequence_.state.windowStart(to);
    for (int32_t l = 0; l < model_->config().layers; ++l) {
      sequence_.cache.releaseBefore(l, sequence_.state.layerStart(l, to, anchoredStart));
    }
  }
  std::erase_if(saved_,
                [&](const SavedRow& row) { return !row.endsLine && row.position < to - 1; });
}

std::shared_ptr<Session> Session::fork(int32_t at, int32_t contextLength) const {
  const DType storage = sequence_.cache.shape().storage;
  const std::shared_ptr<Session> copy(new Session(model_, policy_, contextLength, storage));
  Sequence& sequence = copy->sequence_;
  if (sequence.longRope != sequence_.longRope) {
    refuse("Expected contextLength to be on the same side of " +
           std::to_string(model_->config().originalContext) +
           ", where this model's rotary frequencies change, but received " +
           std::to_string(contextLength));
  }
  if (at > contextLength && at <= position()) {
    throw Error(ErrorCode::contextLength, "Expected at most " + std::to_string(contextLength) +
                                              " tokens, but the fork begins with " +
                                              std::to_string(at));
  }
  sequence.ids = sequence_.ids;
  sequence.state = PolicyState(copy->policy_.get(), sequence_.state);
  sequence.cache = sequence_.cache;
  copy->saved_ = saved_;
  copy->reused_ = reused_;
  copy->usesPrefixes = usesPrefixes;
  copy->truncate(at);
  return copy;
}

int32_t Session::forkPoint(int32_t most) const {
  const int32_t at = std::min(most, cached());
  if (canCut(at)) return at;
  // Rows that left before `at` left before any earlier token too, but for the ends of lines.
  const int32_t lineStart = sequence_.state.lineStart(at);
  return canCut(lineStart) ? lineStart : 0;
}

bool Session::agreesWith(const Session& other) const {
  return sequence_.longRope == other.sequence_.longRope &&
         sequence_.cache.shape().storage == other.sequence_.cache.shape().storage &&
         (policy_ == other.policy_ || *policy_ == *other.policy_);
}

void Session::beginLike(const Session& other, int32_t at) {
  const auto copy = other.fork(at, other.contextLength_);
  // Nothing below can fail.
  policy_ = copy->policy_;
  sequence_.state = std::move(copy->sequence_.state);
  sequence_.cache = std::move(copy->sequence_.cache);
  saved_ = std::move(copy->saved_);
  reused_ = at;
  publish();
}

void Session::saveHidden(int32_t at, std::span<const float> row) {
  const bool endsLine = policy_->anyAnchored() && sequence_.state.closesLine(at);
  auto saved = std::make_shared<HiddenRow>(model_->context(), row.size());
  std::copy(row.begin(), row.end(), saved->data());
  saved_.push_back({at, endsLine, std::move(saved)});
}

bool Session::hasHidden(int32_t at) const {
  return std::any_of(saved_.begin(), saved_.end(),
                     [&](const SavedRow& saved) { return saved.position == at; });
}

const float* Session::lastHidden() {
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

SessionState Session::state() const {
  SessionState state;
  state.ids = sequence_.ids;
  state.cached = cached();
  for (int32_t l = 0; l < model_->config().layers; ++l) {
    state.released.push_back(sequence_.cache.released(l));
  }
  for (const SavedRow& saved : saved_) state.saved.push_back(saved.position);
  state.rowBytes = streamBytes(state);
  return state;
}

uint64_t Session::streamBytes(const SessionState& state) const {
  const auto kept = static_cast<uint64_t>(sequence_.state.keptCount());
  uint64_t rows = 0;
  for (int32_t l = 0; l < model_->config().layers; ++l) {
    rows += static_cast<uint64_t>(state.cached - state.released[static_cast<size_t>(l)]);
    if (policy_->hasKeptRows(l)) rows += kept;
  }
  const auto hidden = static_cast<uint64_t>(model_->config().hiddenSize) * sizeof(float);
  return rows * sequence_.cache.shape().streamRowBytes() + state.saved.size() * hidden;
}

void Session::restore(const SessionState& given) {
  const ModelConfig& config = model_->config();
  const auto length = static_cast<int32_t>(std::min<size_t>(given.ids.size(), INT32_MAX));
  if (length > contextLength_) {
    throw Error(ErrorCode::contextLength, "Expected at most " + std::to_string(contextLength_) +
                                              " tokens, but received " + std::to_string(length));
  }
  if (given.cached < 0 || given.cached > length) {
    refuse("Expected from 0 to " + std::to_string(length) + " cached tokens, but received " +
           std::to_string(given.cached));
  }
  std::vector<int32_t> keyPositions(static_cast<size_t>(config.kvHeads));
  for (int32_t p = 0; p < length; ++p) {
    const int32_t id = given.ids[static_cast<size_t>(p)];
    if (id < 0 || id >= config.vocabSize) {
      refuse("Expected ids from 0 to " + std::to_string(config.vocabSize - 1) + ", but id " +
             std::to_string(p) + " is " + std::to_string(id));
    }
    if (p < given.cached) sequence_.state.add(id, keyPositions);
  }
  if (given.released.size() != static_cast<size_t>(config.layers)) {
    refuse("Expected the first row of " + std::to_string(config.layers) + " layers");
  }
  // What the next token sees must be there.
  const int32_t anchoredStart = sequence_.state.windowStart(given.cached);
  for (int32_t l = 0; l < config.layers; ++l) {
    const int32_t start = sequence_.state.layerStart(l, given.cached, anchoredStart);
    const int32_t released = given.released[static_cast<size_t>(l)];
    if (released < 0 || released > start) {
      refuse("Expected the first row of layer " + std::to_string(l) + " to be from 0 to " +
             std::to_string(start) + ", but received " + std::to_string(released));
    }
  }
  int32_t before = -1;
  for (const int32_t at : given.saved) {
    if (at <= before || at >= given.cached) refuse("Expected saved positions in ascending order");
    before = at;
  }
  // Before memory is taken for them.
  if (const uint64_t bytes = streamBytes(given); bytes != given.rowBytes) {
    refuse("Expected " + std::to_string(bytes) + " bytes of rows, but received " +
           std::to_string(given.rowBytes));
  }
  const auto hiddenSize = static_cast<size_t>(config.hiddenSize);
  for (const int32_t at : given.saved) {
    const bool endsLine = policy_->anyAnchored() && sequence_.state.closesLine(at);
    saved_.push_back({at, endsLine, std::make_shared<HiddenRow>(model_->context(), hiddenSize)});
  }
  sequence_.ids = given.ids;
  sequence_.cache.allocate(given.released, given.cached, sequence_.state.keptCount());
  publish();
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
  stats_.rows.assign(policy_->dense.size(), 0);
  stats_.mirrorRows = 0;
  for (size_t l = 0; l < policy_->dense.size(); ++l) {
    const int32_t start = state.layerStart(static_cast<int32_t>(l), cachedTokens, windowStart);
    const int32_t kept = policy_->dense[l] ? 0 : state.keptBelow(start);
    stats_.rows[l] = static_cast<uint32_t>(kept + cachedTokens - start);
    if (policy_->isMirror(static_cast<int32_t>(l))) {
      stats_.mirrorRows = static_cast<uint32_t>(state.keptBelow(windowStart));
    }
  }
  const size_t hidden = static_cast<size_t>(model_->config().hiddenSize) * sizeof(float);
  stats_.bytes = sequence_.cache.bytes() + saved_.size() * hidden;
  stats_.rowBytes = sequence_.cache.shape().rowBytes();
  stats_.reused = reused_;
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
