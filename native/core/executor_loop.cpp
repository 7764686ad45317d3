// The executor's own thread: collecting a batch, running it, handing the results out.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
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

}  // namespace

void Executor::loop() {
  Batch batch;
  for (;;) {
    Calls calls;
    {
      Lock lock(mutex_);
      control(calls);
      if (calls.empty() && stopping_) break;
      if (calls.empty()) {
        waitForReaders(lock);
        control(calls);
        collect(batch);
        if (batch.empty() && calls.empty()) {
          wake_.wait(lock);
          continue;
        }
      }
    }
    for (const auto& call : calls) call();
    if (!batch.empty()) runPass(std::move(batch));
    batch.clear();
  }
  for (const auto& weak : sessions_) {
    if (const auto session = weak.lock()) session->clear();
  }
  model_->unload();
  finished_ = true;
  if (stopped_) stopped_();
}

// Ends the jobs that are done, aborted or disposed, outside of a pass.
void Executor::control(Calls& calls) {
  for (const auto& job : jobs_) {
    if (stopping_) {
      if (!job->failure) job->failure.emplace(ErrorCode::disposed, "The model has been disposed");
      job->over = true;
    }
    if (job->failure && job->kind == Job::Kind::append) job->over = true;
    if (job->ending) job->over = true;
    if (job->over) {
      finishJob(*job, calls);
    } else if (job->kind == Job::Kind::generate) {
      answerReader(*job, calls);
    }
  }
  std::erase_if(jobs_, [](const auto& job) { return job->over; });
}

void Executor::finishJob(Job& job, Calls& calls) {
  Session& session = *job.session;
  if (job.kind == Job::Kind::append) {
    calls.push_back([done = std::move(job.appended), logits = std::move(job.collected),
                     failure = job.failure]() mutable {
      if (failure) {
        done({}, &*failure);
      } else {
        done(std::move(logits), nullptr);
      }
    });
  } else {
    if (job.reader) {
      const Error ended(ErrorCode::aborted, "The generation has ended");
      calls.push_back([done = std::move(job.reader), error = job.failure.value_or(ended)] {
        done({}, &error);
      });
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
      calls.push_back(
          [done = std::move(job.ended), failure] { done(failure ? &*failure : nullptr); });
    }
  }
  if (session.disposed) session.clear();
  session.publish();
  session.job = nullptr;
  session.busy = false;
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
  const Policy* shared = nullptr;  // layer-wise attention is a setting of the whole pass
  const auto runnable = [&](const Job& job, bool step) {
    if (job.failure || job.over || job.ending) return false;
    if (job.kind == Job::Kind::generate && (!job.samples() || !job.hasCredit())) return false;
    const Policy& policy = job.session->policy();
    const bool fits = !shared || (shared->sourceLayer == policy.sourceLayer &&
                                  shared->consumersAbove == policy.consumersAbove);
    return fits && (job.session->pending() <= kStepTokens) == step;
  };
  lastGenerating_ = 0;
  for (const bool step : {true, false}) {
    for (const auto& job : jobs_) {
      if (!runnable(*job, step)) continue;
      if (!step && left <= 0 && !batch.empty()) break;
      job->share = std::min(job->session->pending(), std::max(left, kSmallestBudget));
      if (job->logits == LogitsWanted::all) job->share = std::min(job->share, mostLogitRows());
      left -= job->share;
      shared = &job->session->policy();
      if (job->kind == Job::Kind::generate) ++lastGenerating_;
      batch.push_back(job);
    }
  }
}

void Executor::runPass(Batch batch) {
  const auto start = Clock::now();
  std::vector<BatchItem> items;
  std::span<const float> logits;
  try {
    prepareItems(batch, items);
    RowSaver saver(batch);
    if (!batch.empty()) logits = model_->forward(items, &saver);
  } catch (const std::exception& failure) {
    const auto* known = dynamic_cast<const Error*>(&failure);
    const Error error = known ? *known : Error(ErrorCode::outOfMemory, failure.what());
    if (batch.size() == 1) return fail(*batch.front(), error);
    // One session's trouble is not the others': each runs by itself.
    for (const auto& job : batch) runPass({job});
    return;
  }
  int32_t tokens = 0;
  for (const BatchItem& item : items) tokens += item.tokens;
  learnBudget(tokens, Clock::now() - start);

  Calls calls;
  {
    const Lock lock(mutex_);
    const auto vocabSize = static_cast<size_t>(model_->config().vocabSize);
    for (size_t i = 0; i < items.size(); ++i) {
      const size_t size = static_cast<size_t>(items[i].logitCount()) * vocabSize;
      const auto own = logits.first(size);
      logits = logits.subspan(size);
      if (batch[i]->kind == Job::Kind::append) {
        takeAppend(*batch[i], own);
      } else {
        takeGenerate(*batch[i], items[i], own);
        answerReader(*batch[i], calls);
      }
      batch[i]->session->publish();
    }
  }
  for (const auto& call : calls) call();
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

void Executor::takeAppend(Job& job, std::span<const float> logits) {
  job.collected.insert(job.collected.end(), logits.begin(), logits.end());
  job.session->commit(job.session->cached());
  if (job.session->pending() == 0) job.over = true;
}

void Executor::takeGenerate(Job& job, const BatchItem& item, std::span<const float> logits) {
  Session& session = *job.session;
  session.commit(job.commit);
  if (logits.empty() || !job.samples()) return;
  const auto vocabSize = static_cast<size_t>(model_->config().vocabSize);
  if (job.anchorOpen && item.logitCount() == 2) {
    job.queue.back().anchorLogprob =
        logProbability(logits.first(vocabSize), job.options.forcedAnchor);
  }
  job.anchorOpen = false;
  addSample(job, logits.last(vocabSize));
}

void Executor::addSample(Job& job, std::span<const float> logits) {
  Session& session = *job.session;
  auto& ids = session.sequence().ids;
  if (session.position() >= session.contextLength()) {
    job.finish = Finish::length;
    return;
  }
  GeneratedToken token;
  token.sample = job.sampler->sample(logits, session.position());
  token.id = token.sample.id;
  token.anchorLogprob = std::numeric_limits<float>::quiet_NaN();
  const auto& eos = job.options.eosIds;
  ++job.generated;
  if (std::find(eos.begin(), eos.end(), token.id) != eos.end()) {
    token.end = session.position();
    job.finish = Finish::stop;
    job.queue.push_back(std::move(token));
    return;
  }
  const auto slot = static_cast<size_t>(token.id);
  ids.push_back(token.id);
  if (!session.policy().isAnchor[slot]) job.sampler->see(token.id);
  if (!job.endsNewline.empty() && job.endsNewline[slot] &&
      session.position() < session.contextLength()) {
    ids.push_back(job.options.forcedAnchor);
    job.anchorOpen = job.options.sampler.logprobs;
  }
  token.end = session.position();
  job.queue.push_back(std::move(token));
  if (job.generated >= job.options.maxTokens || session.position() >= session.contextLength()) {
    job.finish = Finish::length;
  }
  // A last newline's anchor is not run, so its log-probability stays unknown.
  if (job.finish != Finish::none) job.anchorOpen = false;
}

void Executor::answerReader(Job& job, Calls& calls) {
  if (!job.reader) return;
  if (job.failure) {
    calls.push_back([done = std::move(job.reader), error = *job.failure] { done({}, &error); });
    job.reader = nullptr;
    return;
  }
  // The token whose anchor's log-probability is still to come waits for it.
  const size_t ready = job.queue.size() - (job.anchorOpen ? 1 : 0);
  if (ready == 0 && job.finish == Finish::none) return;
  GeneratedBatch batch;
  const auto end = job.queue.begin() + static_cast<std::ptrdiff_t>(ready);
  batch.tokens.assign(std::make_move_iterator(job.queue.begin()), std::make_move_iterator(end));
  job.queue.erase(job.queue.begin(), end);
  job.delivered += static_cast<int32_t>(ready);
  batch.finish = job.finish;
  calls.push_back([done = std::move(job.reader), batch = std::move(batch)]() mutable {
    done(std::move(batch), nullptr);
  });
  job.reader = nullptr;
}

void Executor::learnBudget(int32_t tokens, Clock::duration time) {
  if (tokens < kSmallestBudget * 2) return;
  const double rate = tokens / std::chrono::duration<double>(time).count();
  tokensPerSecond_ = tokensPerSecond_ == 0 ? rate : 0.7 * tokensPerSecond_ + 0.3 * rate;
}

}  // namespace anchorcoder
