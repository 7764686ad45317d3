// A text with its cache: what outlives a single call on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/model.h"
#include "core/policy.h"

namespace anchorcoder {

struct SessionStats {
  int32_t position = 0;
  int32_t cached = 0;
  int32_t anchors = 0;
  int32_t insertedAnchors = 0;
  std::vector<uint32_t> rows;  // (layers)
  uint32_t mirrorRows = 0;
  uint64_t bytes = 0;
  uint64_t rowBytes = 0;
  int32_t reused = 0;  // tokens whose rows came from the prefix cache
};

// What a session is apart from its rows; with them it can be made again (snapshot.h).
struct SessionState {
  std::vector<int32_t> ids;       // of the text, pending ones included
  int32_t cached = 0;             // of them, in the cache
  std::vector<int32_t> released;  // (layers) lowest row that each still holds
  std::vector<int32_t> saved;     // positions of the saved residual rows, ascending
  uint64_t rowBytes = 0;          // of the rows, as snapshot.h streams them
};

// A residual row after the last layer (hiddenSize), counted with the caches.
class HiddenRow {
 public:
  HiddenRow(std::shared_ptr<DeviceContext> context, size_t size)
      : context_(std::move(context)), account_(context_), values_(size) {
    account_.add(bytes(), "the cache");
    context_->cacheBytes += bytes();
  }
  ~HiddenRow() { context_->cacheBytes -= bytes(); }
  HiddenRow(const HiddenRow&) = delete;
  HiddenRow& operator=(const HiddenRow&) = delete;

  float* data() { return values_.data(); }
  size_t bytes() const { return values_.size() * sizeof(float); }

 private:
  std::shared_ptr<DeviceContext> context_;
  DeviceAccount account_;
  std::vector<float> values_;
};

struct Job;  // executor.h

// While a job runs, its executor's thread owns the session; otherwise the thread that calls.
// `stats`, `cached` and the flags may be read at any time.
class Session {
 public:
  // Throws Error (invalidArgument, outOfMemory).
  Session(std::shared_ptr<Model> model, Policy policy, int32_t contextLength, DType storage);
  // With room for the rows of `state`, all zero as yet. Throws Error (invalidArgument,
  // outOfMemory).
  Session(std::shared_ptr<Model> model, Policy policy, int32_t contextLength, DType storage,
          const SessionState& state);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Model& model() const { return *model_; }
  const std::shared_ptr<Model>& sharedModel() const { return model_; }
  const Policy& policy() const { return *policy_; }
  int32_t contextLength() const { return contextLength_; }

  Sequence& sequence() { return sequence_; }
  const Sequence& sequence() const { return sequence_; }
  std::span<const int32_t> ids() const { return sequence_.ids; }
  int32_t position() const { return static_cast<int32_t>(sequence_.ids.size()); }
  int32_t cached() const { return sequence_.cached(); }
  int32_t pending() const { return position() - cached(); }

  // Throws Error (contextLength, invalidArgument).
  void checkAppend(std::span<const uint32_t> ids) const;
  // Drops the tokens from `to` on. Throws Error (position) where rows that are needed have left.
  void truncate(int32_t to);
  // Lets rows leave that no token from `to` on sees.
  void commit(int32_t to);
  // Throws Error (position, invalidArgument).
  std::shared_ptr<Session> fork(int32_t at, int32_t contextLength) const;
  std::shared_ptr<Session> fork(int32_t at) const { return fork(at, contextLength_); }
  // Largest position up to `most` that a fork can begin at and go on from.
  int32_t forkPoint(int32_t most) const;
  // Whether rows of the other one are what this one would compute for the same ids.
  bool agreesWith(const Session& other) const;
  // Takes over the first `at` tokens' rows; this session's ids begin with them, and it has no rows.
  void beginLike(const Session& other, int32_t at);

  // Residual rows after the last layer, from which logits can be had without another pass: of the
  // last token, and of every line's end, whose own line has left the cache.
  void saveHidden(int32_t at, std::span<const float> row);
  // Drops those of a pass that failed after it had saved some: their tokens are not in the cache.
  void dropUncached() noexcept { dropSaved(cached()); }
  // Row of the last cached token when nothing is pending. Where it was not saved the token becomes
  // pending and null is returned. Throws Error (position) when that token cannot be run again.
  const float* lastHidden();
  bool hasHidden(int32_t at) const;

  struct SavedRow {
    int32_t position;
    bool endsLine;
    std::shared_ptr<HiddenRow> row;  // shared by forks
  };
  std::span<const SavedRow> savedRows() const { return saved_; }

  SessionState state() const;

  SessionStats stats() const;
  void publish();  // makes the present state visible to stats()
  void clear();    // frees the cache; nothing may run afterwards

  std::atomic<bool> busy{false};
  std::atomic<bool> disposed{false};
  std::atomic<int32_t> progress{0};  // cached tokens, for other threads
  bool usesPrefixes = false;         // of the executor's prefix cache; set before it is shared
  std::shared_ptr<Job> job;          // guarded by the executor's mutex

 private:
  Session(std::shared_ptr<Model> model, std::shared_ptr<const Policy> policy, int32_t contextLength,
          DType storage);
  void restore(const SessionState& state);
  uint64_t streamBytes(const SessionState& state) const;
  bool canCut(int32_t to) const;
  void cut(int32_t to);
  void dropSaved(int32_t from) noexcept;

  std::shared_ptr<Model> model_;
  std::shared_ptr<const Policy> policy_;  // shared by forks
  int32_t contextLength_;
  Sequence sequence_;
  std::vector<SavedRow> saved_;  // ascending
  int32_t reused_ = 0;

  mutable std::mutex statsMutex_;
  SessionStats stats_;
};

}  // namespace anchorcoder
