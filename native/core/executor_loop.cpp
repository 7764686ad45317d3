// The executor's own thread: ending jobs, collecting a batch, running it.
#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "core/executor.h"
#include "core/job.h"

namespace anchorcoder {

namespace {

using Clock = std::chrono::steady_clock;

// A pass should take about this long: an abort is honoured within one.
constexpr double kPassSeconds = 0.05;
constexpr int32_t kFirstBudget = 64, kSmallestBudget = 16, kLargestBudget = 2048;
// How long a batch waits for readers whose sessions were in the last one.
constexpr auto kReaderWait = std::chrono::microseconds(200);
constexpr size_t kLogitBytes = size_t{32} << 20;
// Longer items are prompts.
constexpr int32_t kStepTokens = 2;

class RowSaver : public HiddenSink {
 public:
  explicit RowSaver(const std::vector<std::shared_ptr<Job>>& batch) : batch_(batch) {}
  void hidden(size_t item, int32_t position, std::span<const float> row) override {
    batch_[item]->session->saveHidden(position, row);
  }

 private:
  const std::vector<std::shared_ptr<Job>>& batch_;
};

// Sessions of one pass agree in these; see BatchKey.
BatchKey keyOf(const Job& job) {
  const Policy& policy = job.session->policy();
  const bool longRope = job.session->sequence().longRope;
  if (policy.sourceLayer < 0) return {-1, -1, longRope};
  return {policy.sourceLayer, policy.consumersAbove, longRope};
}

std::function<void()> clearing(std::shared_ptr<Session> session) {
  return [session = std::move(session)] {
    session->clear();
    session->busy = false;
  };
}

// After a pass that failed.
void dropUncached(const std::vector<std::shared_ptr<Job>>& batch) noexcept {
  for (const auto& job : batch) job->session->dropUncached();
}

void make(std::vector<std::function<void()>>& calls) noexcept {
  for (const auto& call : calls) {
    try {
      call();
    } catch (const std::exception&) {
      // Not even the way back to the caller had memory; the others are called all the same.
    }
  }
  calls.clear();
}

bool isRunnable(const Job& job) {
  if (job.failure || job.over || job.ending || job.seeksPrefix) return false;
  return job.kind == Job::Kind::append || (job.samples() && job.hasCredit());
}

}  // namespace

void Executor::loop() {
  Batch batch;
  Calls calls;
  for (bool stopped = false; !stopped;) {
    try {
      stopped = prepare(batch, calls);
      make(calls);
      if (!batch.empty()) runPass(batch);
    } catch (const std::exception&) {
      // There was no memory. What could not be answered or run is still there, and what was
      // answered before is out of the jobs' hands.
      make(calls);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    batch.clear();
  }
  clearSessions();
  prefixes_.clear();
  {
    const Lock lock(mutex_);
    garbage_ = {};
  }
  model_->unload();
  finished_ = true;
  if (stopped_) stopped_();
}

// Gathers what is to be called and run next, or waits for it; true: nothing ever will be.
bool Executor::prepare(Batch& batch, Calls& calls) {
  Lock lock(mutex_);
  control(calls);
  if (!calls.empty()) return false;
  if (stopping_) return true;
  waitForReaders(lock);
  control(calls);
  collect(batch);
  // A stop while it waited for readers was notified then, and is seen at the next turn.
  if (batch.empty() && calls.empty() && !stopping_) wake_.wait(lock);
  return false;
}

// After a stop nobody claims a session any more; whoever still has one lets go soon.
void Executor::clearSessions() {
  std::vector<std::weak_ptr<Session>> sessions;
  {
    const Lock lock(mutex_);
    sessions.swap(sessions_);
  }
  for (const auto& weak : sessions) {
    const auto session = weak.lock();
    if (!session) continue;
    while (session->busy.exchange(true)) std::this_thread::yield();
    session->clear();
    session->busy = false;
  }
}

// Ends the jobs that are done, aborted or disposed, outside of a pass.
void Executor::control(Calls& calls) {
  for (const auto& job : jobs_) {
    if (job->finished) continue;
    if (stopping_) {
      if (!job->failure) job->failure.emplace(ErrorCode::disposed, "The model has been disposed");
      job->over = true;
    }
    if (job->failure && job->kind == Job::Kind::append) job->over = true;
    if (job->ending) job->over = true;
    if (job->over) {
      finishJob(*job, calls);
    } else if (job->seeksPrefix) {
      // Without the lock, since there may be much to compare.
      calls.push_back([this, job] { findPrefix(*job); });
    } else if (job->kind == Job::Kind::generate) {
      answerReader(*job, calls);
    }
  }
  std::erase_if(jobs_, [](const auto& job) { return job->finished; });
  if (garbage_.empty()) return;
  const auto garbage = std::make_shared<Garbage>();
  calls.push_back([this, garbage] { free(*garbage); });
  std::swap(*garbage, garbage_);
  ++freeing_;
}

void Executor::findPrefix(Job& job) {
  try {
    prefixes_.adopt(*job.session);
  } catch (const std::exception&) {
    // There was no memory: the text is read from its beginning.
  }
  job.seeksPrefix = false;
}

// Keeps what the session has read for others, and lets go of it.
void Executor::remember(const std::shared_ptr<Session>& session) noexcept {
  try {
    prefixes_.add(*session);
  } catch (const std::exception&) {
    // There was no memory.
  }
  const Lock lock(mutex_);
  // Who disposed it meanwhile left it to us.
  if (session->disposed) session->clear();
  session->busy = false;
}

// Either answers everything or, where there is no memory, throws and changes nothing.
void Executor::finishJob(Job& job, Calls& calls) {
  calls.reserve(calls.size() + 4);
  Session& session = *job.session;
  std::function<void()> clear, keep, reader, last;
  std::shared_ptr<std::vector<float>> collected;
  if (session.disposed) clear = clearing(job.session);
  if (job.kind == Job::Kind::append) {
    const auto logits = std::make_shared<std::vector<float>>();
    last = [done = job.appended, logits, failure = job.failure] {
      if (failure) return done({}, &*failure);
      done(std::move(*logits), nullptr);
    };
    collected = logits;
  } else {
    if (job.reader) {
      const Error ended(ErrorCode::aborted, "The generation has ended");
      reader = [done = job.reader, error = job.failure.value_or(ended)] { done({}, &error); };
    }
    // An abort or a failed pass was told to the reader; ending and cutting back go well then.
    std::optional<Error> failure;
    if (job.failure && job.failure->code == ErrorCode::disposed) failure = job.failure;
    if (job.ending && !failure) {
      try {
        session.truncate(job.endPosition);
      } catch (const Error& error) {
        failure = error;
      }
    }
    if (job.ended) {
      last = [done = job.ended, failure] { done(failure ? &*failure : nullptr); };
    }
  }
  const bool failed = job.failure && job.failure->code != ErrorCode::aborted;
  if (session.usesPrefixes && !session.disposed && !failed) {
    keep = [this, kept = job.session] { remember(kept); };
  }
  // Nothing below needs memory.
  const bool keeps = static_cast<bool>(keep);
  if (collected) collected->swap(job.collected);
  for (auto* call : {&clear, &keep, &reader, &last}) {
    if (*call) calls.push_back(std::move(*call));
  }
  job.reader = nullptr;
  session.publish();
  session.job = nullptr;
  if (!session.disposed && !keeps) session.busy = false;
  job.finished = true;
}

// Without this, readers that are all about to come back fall into small batches.
void Executor::waitForReaders(Lock& lock) {
  if (lastGenerating_ < 2) return;
  wake_.wait_for(lock, kReaderWait, [this] {
    size_t ready = 0, generating = 0;
    for (const auto& job : jobs_) {
      if (job->kind != Job::Kind::generate || !job->samples()) continue;
      ++generating;
      if (job->hasCredit()) ++ready;
    }
    return stopping_ || ready >= std::min(generating, lastGenerating_);
  });
}

// Rows of logits that one pass makes at most, so that its scratch stays bounded.
int32_t Executor::mostLogitRows() const {
  const size_t rows = kLogitBytes / (static_cast<size_t>(model_->config().vocabSize) * 4);
  return std::max(kSmallestBudget, static_cast<int32_t>(rows));
}

// Picks the jobs of the next pass and how many tokens each of them runs.
void Executor::collect(Batch& batch) {
  int32_t left = kFirstBudget;
  if (tokensPerSecond_ > 0) {
    left = std::clamp(static_cast<int32_t>(tokensPerSecond_ * kPassSeconds), kSmallestBudget,
                      kLargestBudget);
  }
  lastGenerating_ = 0;
  if (!chooseKey()) return;
  bool prompts = false;
  for (const bool step : {true, false}) {
    for (const auto& job : jobs_) {
      if (!isRunnable(*job) || keyOf(*job) != lastKey_) continue;
      if ((job->session->pending() <= kStepTokens) != step) continue;
      // However many steps there are, a prompt gets on.
      if (!step && left <= 0 && prompts) break;
      job->share = std::min(job->session->pending(), std::max(left, kSmallestBudget));
      if (job->logits == LogitsWanted::all) job->share = std::min(job->share, mostLogitRows());
      left -= job->share;
      prompts = prompts || !step;
      if (job->kind == Job::Kind::generate) ++lastGenerating_;
      batch.push_back(job);
    }
  }
}

// Sessions that cannot share a pass take turns.
bool Executor::chooseKey() {
  std::optional<BatchKey> next, first;
  for (const auto& job : jobs_) {
    if (!isRunnable(*job)) continue;
    const BatchKey key = keyOf(*job);
    if (!first || key < *first) first = key;
    if (key > lastKey_ && (!next || key < *next)) next = key;
  }
  if (first) lastKey_ = next ? *next : *first;
  return first.has_value();
}

void Executor::runPass(Batch batch, bool scratchFreed) {
  const auto start = Clock::now();
  std::vector<BatchItem> items;
  std::span<const float> logits;
  try {
    prepareItems(batch, items);
    RowSaver saver(batch);
    if (!batch.empty()) logits = model_->forward(items, &saver);
  } catch (const Error& error) {
    dropUncached(batch);
    if (error.code == ErrorCode::outOfMemory) {
      // What nobody asks for at present gives way: first the scratch of larger passes than this.
      if (!scratchFreed) model_->freeScratch();
      if (!scratchFreed || prefixes_.shrink()) return runPass(batch, true);
    }
    return failOrSplit(batch, error);
  } catch (const std::exception&) {
    dropUncached(batch);
    return failOrSplit(batch, noMemory_);
  }
  int32_t tokens = 0;
  for (const BatchItem& item : items) tokens += item.tokens;
  learnBudget(tokens, Clock::now() - start);

  // Without the lock: choosing a token may take a millisecond.
  const auto vocabSize = static_cast<size_t>(model_->config().vocabSize);
  for (size_t i = 0; i < items.size(); ++i) {
    const size_t size = static_cast<size_t>(items[i].logitCount()) * vocabSize;
    try {
      take(*batch[i], items[i], logits.first(size));
    } catch (const std::exception&) {
      fail(*batch[i], noMemory_);
    }
    logits = logits.subspan(size);
  }
  Calls calls;
  {
    const Lock lock(mutex_);
    for (const auto& job : batch) {
      try {
        enter(*job);
      } catch (const std::exception&) {
        if (!job->failure) job->failure = noMemory_;
      }
      job->session->publish();
      try {
        answerReader(*job, calls);
      } catch (const std::exception&) {
        // The next turn answers.
      }
    }
  }
  make(calls);
}

// One session's trouble is not the others': each runs by itself.
void Executor::failOrSplit(const Batch& batch, const Error& error) {
  if (batch.size() == 1) return fail(*batch.front(), error);
  for (const auto& job : batch) runPass({job});
}

// Says which logits are wanted. A job that cannot run fails and leaves the batch.
void Executor::prepareItems(Batch& batch, std::vector<BatchItem>& items) {
  Batch ready;
  for (const auto& job : batch) {
    Session& session = *job->session;
    BatchItem item{&session.sequence(), job->share, nullptr, job->share};
    const bool last = job->share == session.pending();
    const bool wantsLast =
        last && (job->kind == Job::Kind::generate || job->logits == LogitsWanted::last);
    if (wantsLast && item.tokens == 0) {
      try {
        item.savedHidden = session.lastHidden();
      } catch (const Error& error) {
        fail(*job, error);
        continue;
      }
      if (!item.savedHidden) item.tokens = 1;
    } else if (wantsLast) {
      item.firstLogit = item.tokens - (job->anchorOpen && item.tokens == 2 ? 2 : 1);
    } else if (job->logits == LogitsWanted::all) {
      item.firstLogit = std::clamp(job->firstNew - session.cached(), 0, item.tokens);
    }
    ready.push_back(job);
    items.push_back(item);
  }
  batch = std::move(ready);
}

void Executor::fail(Job& job, const Error& error) {
  const Lock lock(mutex_);
  if (!job.failure) job.failure = error;
}

void Executor::learnBudget(int32_t tokens, Clock::duration time) {
  if (tokens < kSmallestBudget * 2) return;
  const double rate = tokens / std::chrono::duration<double>(time).count();
  tokensPerSecond_ = tokensPerSecond_ == 0 ? rate : 0.7 * tokensPerSecond_ + 0.3 * rate;
}

}  // namespace anchorcoder
