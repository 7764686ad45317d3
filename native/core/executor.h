// One thread per model that runs its sessions: each turn it takes every session that has work and
// runs one pass over all of them. Single tokens come first, prompt chunks fill the rest of the
// pass, oldest first. Nothing else schedules.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/prefix_cache.h"
#include "core/sampler.h"
#include "core/session.h"
#include "core/snapshot.h"

namespace anchorcoder {

enum class LogitsWanted { none, last, all };

// A generation may be this many tokens ahead of its reader.
inline constexpr int32_t kCredit = 16;

struct GenerateOptions {
  int32_t maxTokens = 0;
  SamplerOptions sampler;
  std::vector<int32_t> eosIds;
  std::vector<int32_t> bannedIds;
  int32_t forcedAnchor = -1;  // follows every id of newlineIds; -1: none
  std::vector<int32_t> newlineIds;
};

enum class Finish { none, stop, length };

struct GeneratedToken {
  int32_t id = 0;
  int32_t end = 0;  // length of the text after it and the anchor that follows
  Sample sample;
  float anchorLogprob = 0;  // NaN where no anchor follows
};

struct GeneratedBatch {
  std::vector<GeneratedToken> tokens;
  Finish finish = Finish::none;
};

// Callbacks get an Error or a null pointer. They are called on the executor's thread or, when the
// answer is at hand, on the caller's, never with a lock held; they must not throw.
using AppendDone = std::function<void(std::vector<float> logits, const Error* error)>;
using ReadDone = std::function<void(GeneratedBatch batch, const Error* error)>;
using Done = std::function<void(const Error* error)>;

// What is a setting of the whole pass: (source layer, layer below its consumers, second rope).
using BatchKey = std::tuple<int32_t, int32_t, bool>;

class Executor {
 public:
  // `stopped` is called on the executor's thread when a stop has taken effect.
  // `prefixBytes`: what rows of prefixes may take that no session holds any more, 0: none are kept.
  explicit Executor(std::shared_ptr<Model> model, std::function<void()> stopped = {},
                    uint64_t prefixBytes = 0);
  ~Executor();  // stops and joins
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  const std::shared_ptr<Model>& model() const { return model_; }

  // These throw Error at once for what is wrong with the call itself (busy, disposed, ...).
  std::shared_ptr<Session> createSession(Policy policy, int32_t contextLength, DType storage,
                                         bool usesPrefixes = false);
  // `contextLength` 0: the session's.
  std::shared_ptr<Session> fork(const std::shared_ptr<Session>& session, int32_t at,
                                int32_t contextLength = 0);
  // With the rows still to be written. It keeps out of the prefix cache: what its rows are, only
  // who saved them knows.
  std::shared_ptr<Session> restore(const Policy& policy, int32_t contextLength, DType storage,
                                   const SessionState& state);
  SessionState state(const std::shared_ptr<Session>& session);
  RowStream openRows(const std::shared_ptr<Session>& session);
  // Reads or writes the rows of a session, which must be the stream's.
  size_t readRows(const std::shared_ptr<Session>& session, RowStream& rows, std::span<uint8_t> out);
  size_t writeRows(const std::shared_ptr<Session>& session, RowStream& rows,
                   std::span<const uint8_t> in);
  void append(const std::shared_ptr<Session>& session, std::span<const uint32_t> ids,
              LogitsWanted logits, AppendDone done);
  void startGenerate(const std::shared_ptr<Session>& session, GenerateOptions options);
  // Takes what has been sampled, at least one token or the finish. Rows that no token from `commit`
  // on sees may leave.
  void read(const std::shared_ptr<Session>& session, int32_t commit, ReadDone done);
  void endGenerate(const std::shared_ptr<Session>& session, int32_t position, Done done);
  void truncate(const std::shared_ptr<Session>& session, int32_t position);
  std::vector<int32_t> ids(const std::shared_ptr<Session>& session);

  void abort(const std::shared_ptr<Session>& session);
  void dispose(const std::shared_ptr<Session>& session) noexcept;
  // Refuses new work, ends what runs with ERR_DISPOSED and frees the weights and caches; returns
  // at once.
  void stop();
  // Waits until a stop has taken effect: one pass at most. Not on the executor's own thread.
  void join();
  bool finished() const { return finished_; }
  size_t sessionCount();
  PrefixStats prefixStats() const { return prefixes_.stats(); }

 private:
  using Lock = std::unique_lock<std::mutex>;
  // What has to be called once the lock is released.
  using Calls = std::vector<std::function<void()>>;

  using Batch = std::vector<std::shared_ptr<Job>>;

  // What takes a while to free. Who takes it out of `garbage_` counts itself in `freeing_`.
  struct Garbage {
    std::vector<std::shared_ptr<Session>> sessions;  // disposed
    std::vector<SequenceCache> caches;               // rows that were cut off are among them
    bool empty() const { return sessions.empty() && caches.empty(); }
  };

  class Claim;

  void addSession(const std::shared_ptr<Session>& session);
  void enqueue(const std::shared_ptr<Job>& job);
  void enqueueOrCut(std::shared_ptr<Job> job, size_t length);
  bool leaveToExecutor(const std::shared_ptr<Session>& session) noexcept;
  void keepForExecutor(const SequenceCache& cache) noexcept;
  void free(Garbage& garbage) noexcept;
  void freeEverything() noexcept;
  void loop();
  bool prepare(Batch& batch, Calls& calls);
  void clearSessions();
  void control(Calls& calls);
  void finishJob(Job& job, Calls& calls);
  void findPrefix(Job& job);
  void remember(const std::shared_ptr<Session>& session) noexcept;
  void waitForReaders(Lock& lock);
  void collect(Batch& batch);
  bool chooseKey();
  int32_t mostLogitRows() const;
  // `scratchFreed`: it has failed before, and runs again without what scratch there was.
  void runPass(Batch batch, bool scratchFreed = false);
  void prepareItems(Batch& batch, std::vector<BatchItem>& items);
  void failOrSplit(const Batch& batch, const Error& error);
  void fail(Job& job, const Error& error);
  void take(Job& job, const BatchItem& item, std::span<const float> logits);
  void enter(Job& job);
  void addSample(Job& job);
  void answerReader(Job& job, Calls& calls);
  void learnBudget(int32_t tokens, std::chrono::steady_clock::duration time);

  std::shared_ptr<Model> model_;
  PrefixCache prefixes_;
  std::function<void()> stopped_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;  // oldest first
  std::vector<std::weak_ptr<Session>> sessions_;
  Garbage garbage_;      // to be freed by the executor's thread
  int32_t freeing_ = 0;  // threads that free some
  std::condition_variable freed_;
  bool stopping_ = false;
  std::atomic<bool> finished_{false};
  size_t lastGenerating_ = 0;           // generations in the last pass
  BatchKey lastKey_{-1, -1, false};     // of the last pass
  const Error noMemory_, sessionGone_;  // made before memory is short
  double tokensPerSecond_ = 0;          // of long passes, 0: not known yet
  std::thread thread_;
};

}  // namespace anchorcoder
