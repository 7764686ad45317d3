// A text with its cache: what outlives a single call on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

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
};

struct Job;  // executor.h

// While a job runs, its executor's thread owns the session; otherwise the thread that calls.
// `stats`, `cached` and the flags may be read at any time.
class Session {
 public:
  // Throws Error (invalidArgument, outOfMemory).
  Session(std::shared_ptr<Model> model, Policy policy, int32_t contextLength, DType storage);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Model& model() const { return *model_; }
  const std::shared_ptr<Model>& sharedModel() const { return model_; }
  const Policy& policy() const { return policy_; }
  int32_t contextLength() const { return contextLength_; }

  Sequence& sequence() { return sequence_; }
  int32_t position() const { return static_cast<int32_t>(sequence_.ids.size()); }
  int32_t cached() const { return sequence_.cached(); }
  int32_t pending() const { return position() - cached(); }

  // Throws Error (contextLength, invalidArgument).
  void checkAppend(std::span<const uint32_t> ids) const;
  // Drops the tokens from `to` on. Throws Error (position) where rows that are needed have left.
  void truncate(int32_t to);
  // Lets rows leave that no token from `to` on sees.
  void commit(int32_t to);
  std::shared_ptr<Session> fork(int32_t at) const;

  // Residual rows after the last layer, from which logits can be had without another pass: of the
  // last token, and of every line's end, whose own line has left the cache.
  void saveHidden(int32_t at, std::span<const float> row);
  // Row of the last cached token when nothing is pending. Where it was not saved the token becomes
  // pending and null is returned. Throws Error (position) when that token cannot be run again.
  const float* lastHidden();

  SessionStats stats() const;
  void publish();  // makes the present state visible to stats()
  void clear();    // frees the cache; nothing may run afterwards

  std::atomic<bool> busy{false};
  std::atomic<bool> disposed{false};
  std::atomic<int32_t> progress{0};  // cached tokens, for other threads
  std::shared_ptr<Job> job;          // guarded by the executor's mutex

 private:
  struct SavedRow {
    int32_t position;
    bool endsLine;
    std::shared_ptr<const std::vector<float>> row;  // (hiddenSize), shared by forks
  };

  bool canCut(int32_t to) const;
  void cut(int32_t to);
  void dropSaved(int32_t from);

  std::shared_ptr<Model> model_;
  Policy policy_;
  int32_t contextLength_;
  Sequence sequence_;
  std::vector<SavedRow> saved_;  // ascending

  mutable std::mutex statsMutex_;
  SessionStats stats_;
};

}  // namespace anchorcoder
