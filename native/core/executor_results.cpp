// What the executor makes of a pass: logits, tokens, and answers to readers.
#include <algorithm>
#include <iterator>
#include <limits>
#include <memory>
#include <utility>

#include "core/executor.h"
#include "core/job.h"

namespace anchorcoder {

// What a pass made for one job, on this thread's own data.
void Executor::take(Job& job, const BatchItem& item, std::span<const float> logits) {
  Session& session = *job.session;
  if (job.kind == Job::Kind::append) {
    job.collected.insert(job.collected.end(), logits.begin(), logits.end());
    session.commit(session.cached());
    return;
  }
  session.commit(job.commit);
  if (logits.empty() || job.finish != Finish::none) return;
  const auto vocabSize = static_cast<size_t>(model_->config().vocabSize);
  Draw draw;
  if (job.anchorOpen && item.logitCount() == 2) {
    draw.anchorLogprob = logProbability(logits.first(vocabSize), job.options.forcedAnchor);
  }
  if (session.position() < session.contextLength()) {
    draw.sample = job.sampler->sample(logits.last(vocabSize), session.position());
  }
  job.draw = std::move(draw);
}

// The same on what other threads see too.
void Executor::enter(Job& job) {
  if (job.kind == Job::Kind::append) {
    if (job.session->pending() == 0) job.over = true;
    return;
  }
  if (!job.draw || !job.samples()) return;
  if (job.draw->anchorLogprob) job.queue.back().anchorLogprob = *job.draw->anchorLogprob;
  job.anchorOpen = false;
  addSample(job);
  job.draw.reset();
}

void Executor::addSample(Job& job) {
  Session& session = *job.session;
  auto& ids = session.sequence().ids;
  if (!job.draw->sample) {
    job.finish = Finish::length;
    return;
  }
  job.queue.reserve(job.queue.size() + 1);
  ids.reserve(ids.size() + 2);  // nothing below needs memory
  GeneratedToken token;
  token.sample = std::move(*job.draw->sample);
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

// Like `finishJob`, all or nothing.
void Executor::answerReader(Job& job, Calls& calls) {
  if (!job.reader) return;
  calls.reserve(calls.size() + 1);
  std::function<void()> call;
  if (job.failure) {
    call = [done = job.reader, error = *job.failure] { done({}, &error); };
  } else {
    // The token whose anchor's log-probability is still to come waits for it.
    const size_t ready = job.queue.size() - (job.anchorOpen ? 1 : 0);
    if (ready == 0 && job.finish == Finish::none) return;
    const auto batch = std::make_shared<GeneratedBatch>();
    batch->tokens.reserve(ready);
    call = [done = job.reader, batch] { done(std::move(*batch), nullptr); };
    const auto end = job.queue.begin() + static_cast<std::ptrdiff_t>(ready);
    batch->tokens.assign(std::make_move_iterator(job.queue.begin()), std::make_move_iterator(end));
    batch->finish = job.finish;
    job.queue.erase(job.queue.begin(), end);
    job.delivered += static_cast<int32_t>(ready);
  }
  calls.push_back(std::move(call));
  job.reader = nullptr;
}

}  // namespace anchorcoder
