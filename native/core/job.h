// A call that is under way on a session. Guarded by the executor's mutex but for what the pass that
// is running reads.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "core/executor.h"

namespace anchorcoder {

// What a pass gives a generation.
struct Draw {
  std::optional<Sample> sample;  // none: the context is full
  std::optional<float> anchorLogprob;
};

struct Job {
  enum class Kind { append, generate };

  Job(Kind kindOfJob, std::shared_ptr<Session> owner)
      : kind(kindOfJob), session(std::move(owner)) {}

  const Kind kind;
  const std::shared_ptr<Session> session;
  std::optional<Error> failure;  // set by abort, dispose and failed passes
  bool over = false;             // to be removed at the next turn
  bool finished = false;         // its last answer is given
  int32_t share = 0;             // tokens of it that the next pass takes

  // append
  LogitsWanted logits = LogitsWanted::none;
  int32_t firstNew = 0;  // position of the first appended id
  bool seeksPrefix = false;
  std::vector<float> collected;
  AppendDone appended;

  // generate
  GenerateOptions options;
  std::optional<Sampler> sampler;
  std::vector<uint8_t> endsNewline;  // (vocabSize), empty when no anchor is forced
  int32_t generated = 0;             // tokens sampled
  int32_t acknowledged = 0;          // of them, read and done with
  int32_t delivered = 0;             // of them, handed to the reader
  std::atomic<int32_t> commit{0};    // nothing before it will be cut back
  std::optional<Draw> draw;          // made by the last pass, not entered yet
  Finish finish = Finish::none;
  std::vector<GeneratedToken> queue;  // sampled, not delivered
  bool anchorOpen = false;            // the last one's anchor log-probability is still to come
  ReadDone reader;
  bool ending = false;
  int32_t endPosition = 0;
  Done ended;

  bool hasCredit() const { return generated - acknowledged < kCredit; }
  bool samples() const { return finish == Finish::none && !failure && !ending; }
};

}  // namespace anchorcoder
