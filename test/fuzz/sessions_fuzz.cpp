// Calls on sessions in any order, at any moment, with little memory and with much. Whatever was
// called before, a session's next logits are those of a fresh one that reads the same ids at once.
#include <algorithm>
#include <array>

#include "core/snapshot.h"
#include "engine_fixture.h"
#include "fuzz.h"
#include "policies.h"

using namespace engine_test;  // NOLINT
using fuzz::Input;

namespace {

constexpr size_t kMostSessions = 6;
constexpr int32_t kMostCalls = 40;

ModelConfig configOf(bool windows) {
  ModelConfig config = tinyConfig();
  if (windows) config.windows = {0, 24, 40, 0};
  return config;
}

struct Open {
  SessionPointer session;
  Policy policy;
  DType storage;
  Ids ids;  // the text that it must have
};

bool isOneOf(const Error& error, std::initializer_list<ErrorCode> codes) {
  return std::find(codes.begin(), codes.end(), error.code) != codes.end();
}

// The calls of one input, on an engine of its own.
class World {
 public:
  explicit World(Input& input)
      : input_(input),
        windows_(input.below(4) == 0),
        engine_(threads(), memory(), configOf(windows_), prefixBytes()) {}

  void run() {
    for (int32_t calls = 0; calls < kMostCalls && !input_.empty() && !stopped_; ++calls) {
      if (open_.empty() || input_.below(8) == 0) create();
      if (open_.empty()) continue;
      call(input_.below(static_cast<uint32_t>(open_.size())));
    }
    for (size_t i = 0; i < open_.size() && !stopped_; ++i) compare(open_[i]);
    for (const Open& one : open_) {
      if (input_.flag()) engine_.executor->dispose(one.session);
    }
    engine_.executor->stop();
    engine_.executor->join();
    REQUIRE(engine_.model->context()->heldBytes() == 0);
  }

 private:
  int32_t threads() { return input_.below(4) == 0 ? 2 : 1; }
  uint64_t prefixBytes() { return std::array<uint64_t, 4>{0, 0, 60'000, 1 << 26}[input_.below(4)]; }
  // Of caches and passes, beside the weights; 0: no limit.
  uint64_t memory() {
    static const uint64_t weights = Engine().model->context()->heldBytes();
    return input_.below(3) > 0 ? 0 : weights + 20'000 + 3000 * uint64_t{input_.byte()};
  }

  Ids someText() {
    if (!open_.empty() && input_.flag()) {  // what another one has read, for the prefix cache
      Ids ids = open_[input_.below(static_cast<uint32_t>(open_.size()))].ids;
      ids.resize(input_.below(static_cast<uint32_t>(ids.size()) + 1));
      return ids;
    }
    return randomText(input_.byte() % 8, input_.below(180), 1 + input_.below(50));
  }

  void create() {
    if (open_.size() == kMostSessions) return;
    Open one{nullptr, fuzz::somePolicy(input_, kLayers), fuzz::someStorage(input_), {}};
    // Two of a kind can share more.
    if (!open_.empty() && input_.flag()) {
      one.policy = open_[0].policy;
      one.storage = open_[0].storage;
    }
    const int32_t context = input_.flag() ? kContext : input_.from(1, kContext);
    try {
      one.session =
          engine_.executor->createSession(one.policy, context, one.storage, input_.below(4) > 0);
    } catch (const Error& error) {
      REQUIRE(isOneOf(error, {ErrorCode::invalidArgument, ErrorCode::outOfMemory}));
      return;
    }
    open_.push_back(one);
    append(open_.back(), someText());
  }

  void call(size_t which) {
    Open& one = open_[which];
    switch (input_.below(14)) {
      case 0:
        return append(one, someText());
      case 1:
        return append(one, {static_cast<uint32_t>(input_.below(kVocab))});
      case 2:
        return generate(one);
      case 3:
        return generate(one);
      case 4:
        return truncate(one);
      case 5:
        return fork(one);
      case 6:
        return restore(one);
      case 7:
        return abort(one);
      case 8:
        return appendMany();
      case 9:
        return compare(one);
      case 10:
        return generateMany();
      case 11:
        return disposeBusy(which);
      case 12:
        engine_.executor->dispose(one.session);
        open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(which));
        return;
      default:
        if (input_.below(8) == 0) stopBusy();
    }
  }

  Ids idsOf(const Open& one) {
    const auto ids = engine_.executor->ids(one.session);
    return {ids.begin(), ids.end()};
  }
  void checkText(const Open& one) { REQUIRE(idsOf(one) == one.ids); }

  void append(Open& one, const Ids& ids) {
    const auto wanted =
        std::array{LogitsWanted::none, LogitsWanted::last, LogitsWanted::all}[input_.below(3)];
    try {
      const auto answer = engine_.startAppend(one.session, ids, wanted);
      one.ids.insert(one.ids.end(), ids.begin(), ids.end());
      const Floats logits = answer->wait();
      const size_t rows = wanted == LogitsWanted::none   ? 0
                          : wanted == LogitsWanted::last ? 1
                                                         : ids.size();
      REQUIRE(logits.size() == rows * kVocab);
    } catch (const Error& error) {
      REQUIRE(isOneOf(error, {ErrorCode::contextLength, ErrorCode::outOfMemory,
                              ErrorCode::invalidArgument, ErrorCode::position}));
    }
    checkText(one);
  }

  GenerateOptions options() {
    GenerateOptions options = livelyOptions(input_.byte(), input_.from(0, 40));
    if (input_.flag()) options.forcedAnchor = -1;
    if (input_.flag()) options.eosIds = {6, 7};
    if (input_.flag()) options.sampler.temperature = 0;
    return options;
  }

  // Takes some of the tokens, and goes back behind those.
  void generate(Open& one) {
    const auto start = static_cast<int32_t>(one.ids.size());
    try {
      engine_.executor->startGenerate(one.session, options());
    } catch (const Error& error) {
      REQUIRE(isOneOf(error, {ErrorCode::invalidArgument, ErrorCode::outOfMemory}));
      return checkText(one);
    }
    int32_t position = start;
    readSome(one, &position);
    finish(one, position);
  }

  void readSome(Open& one, int32_t* position) {
    try {
      for (uint32_t reads = input_.below(6); reads > 0; --reads) {
        const GeneratedBatch batch = engine_.read(one.session, *position);
        const size_t taken = input_.flag()
                                 ? batch.tokens.size()
                                 : input_.below(static_cast<uint32_t>(batch.tokens.size()) + 1);
        for (size_t i = 0; i < taken; ++i) {
          REQUIRE(batch.tokens[i].end >= *position);
          *position = batch.tokens[i].end;
        }
        if (taken < batch.tokens.size() || batch.finish != Finish::none) break;
      }
    } catch (const Error& error) {
      REQUIRE(isOneOf(error, {ErrorCode::outOfMemory, ErrorCode::position, ErrorCode::aborted}));
    }
  }

  void finish(Open& one, int32_t position) {
    engine_.end(one.session, position);
    const Ids ids = idsOf(one);
    REQUIRE(ids.size() == static_cast<size_t>(position));
    REQUIRE(std::equal(one.ids.begin(), one.ids.end(), ids.begin()));
    one.ids = ids;
  }

  void truncate(Open& one) {
    const auto to = input_.from(-1, static_cast<int32_t>(one.ids.size()) + 1);
    try {
      engine_.executor->truncate(one.session, to);
      one.ids.resize(static_cast<size_t>(to));
    } catch (const Error& error) {
      REQUIRE(error.code == ErrorCode::position);
    }
    checkText(one);
  }

  void fork(const Open& one) {
    if (open_.size() == kMostSessions) return;
    Open copy = one;
    const auto at = input_.flag() ? static_cast<int32_t>(one.ids.size())
                                  : input_.from(0, static_cast<int32_t>(one.ids.size()));
    const int32_t context = input_.flag() ? 0 : input_.from(1, kContext);
    try {
      copy.session = engine_.executor->fork(one.session, at, context);
    } catch (const Error& error) {
      REQUIRE(isOneOf(error, {ErrorCode::position, ErrorCode::contextLength}));
      return;
    }
    copy.ids.resize(static_cast<size_t>(at));
    checkText(copy);
    open_.push_back(std::move(copy));
  }

  // In place of the saved one, or beside it.
  void restore(Open& one) {
    Executor& executor = *engine_.executor;
    const auto copy = executor.fork(one.session, one.session->stats().position);
    const SessionState state = executor.state(copy);
    std::vector<uint8_t> bytes(state.rowBytes);
    RowStream from = executor.openRows(copy);
    // The saved one goes on while its state is read.
    const auto other = input_.flag() ? appendLater(one) : nullptr;
    const size_t half = bytes.size() / 2;
    REQUIRE(executor.readRows(copy, from, std::span(bytes).first(half)) == half);
    if (other) settle(*other, {ErrorCode::outOfMemory, ErrorCode::position});
    REQUIRE(executor.readRows(copy, from, std::span(bytes).subspan(half)) == bytes.size() - half);
    executor.dispose(copy);
    Open restored = one;
    restored.ids.assign(state.ids.begin(), state.ids.end());
    try {
      restored.session =
          executor.restore(one.policy, one.session->contextLength(), one.storage, state);
    } catch (const Error& error) {
      REQUIRE(error.code == ErrorCode::outOfMemory);
      return;
    }
    RowStream to = executor.openRows(restored.session);
    REQUIRE(executor.writeRows(restored.session, to, bytes) == bytes.size());
    if (open_.size() < kMostSessions && input_.flag()) return open_.push_back(std::move(restored));
    executor.dispose(one.session);
    one = std::move(restored);
  }

  using Pending = std::shared_ptr<Answer<Floats>>;

  // Null where there is no room.
  Pending appendLater(Open& one) {
    const Ids ids = randomText(input_.byte(), 1 + input_.below(60));
    try {
      auto answer = engine_.startAppend(one.session, ids);
      one.ids.insert(one.ids.end(), ids.begin(), ids.end());
      return answer;
    } catch (const Error& error) {
      REQUIRE(isOneOf(error, {ErrorCode::contextLength, ErrorCode::outOfMemory}));
      return nullptr;
    }
  }
  void settle(Answer<Floats>& answer, std::initializer_list<ErrorCode> codes) {
    try {
      answer.wait();
    } catch (const Error& error) {
      REQUIRE(isOneOf(error, codes));
    }
  }

  void abort(Open& one) {
    if (input_.flag() && !one.ids.empty()) {
      int32_t position = static_cast<int32_t>(one.ids.size());
      engine_.executor->startGenerate(one.session, options());
      const auto reading = engine_.startRead(one.session, position);
      pause();
      engine_.executor->abort(one.session);
      try {
        const GeneratedBatch batch = reading->wait();
        if (!batch.tokens.empty()) position = batch.tokens.back().end;
      } catch (const Error& error) {
        REQUIRE(isOneOf(error, {ErrorCode::aborted, ErrorCode::outOfMemory, ErrorCode::position}));
      }
      return finish(one, position);
    }
    const auto answer = appendLater(one);
    if (!answer) return;
    expectBusy(one);
    pause();
    engine_.executor->abort(one.session);
    settle(*answer, {ErrorCode::aborted, ErrorCode::outOfMemory});
    checkText(one);
  }

  // A session in the middle of a call refuses others, unless that call has just ended.
  void expectBusy(const Open& one) {
    try {
      engine_.executor->fork(one.session, 0);
    } catch (const Error& error) {
      REQUIRE(error.code == ErrorCode::busy);
    }
  }

  void pause() { std::this_thread::sleep_for(std::chrono::microseconds(input_.byte() * 4)); }

  void appendMany() {
    std::vector<Pending> answers;
    for (Open& one : open_) answers.push_back(appendLater(one));
    for (const auto& answer : answers) {
      if (answer) settle(*answer, {ErrorCode::outOfMemory});
    }
    for (const Open& one : open_) checkText(one);
  }

  void generateMany() {
    std::vector<std::pair<size_t, int32_t>> running;
    for (size_t i = 0; i < open_.size(); ++i) {
      if (open_[i].ids.empty()) continue;
      engine_.executor->startGenerate(open_[i].session, options());
      running.push_back({i, static_cast<int32_t>(open_[i].ids.size())});
    }
    for (auto& [which, position] : running) readSome(open_[which], &position);
    for (const auto& [which, position] : running) finish(open_[which], position);
  }

  void disposeBusy(size_t which) {
    Open one = open_[which];
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(which));
    const auto answer = appendLater(one);
    pause();
    engine_.executor->dispose(one.session);
    if (answer) settle(*answer, {ErrorCode::disposed, ErrorCode::outOfMemory});
  }

  void stopBusy() {
    std::vector<Pending> answers;
    for (Open& one : open_) answers.push_back(appendLater(one));
    engine_.executor->stop();
    for (const auto& answer : answers) {
      if (answer) settle(*answer, {ErrorCode::disposed, ErrorCode::outOfMemory});
    }
    stopped_ = true;
  }

  // The oracle. Where the last token cannot be run again, one more is read.
  void compare(Open& one) {
    if (one.ids.empty()) return;
    static Engine plain, windowed(1, 0, configOf(true));
    Engine& other = windows_ ? windowed : plain;
    Floats logits;
    try {
      logits = engine_.append(one.session, {}, LogitsWanted::last);
    } catch (const Error& error) {
      if (error.code == ErrorCode::outOfMemory) return;
      REQUIRE(error.code == ErrorCode::position);
      if (static_cast<int32_t>(one.ids.size()) >= one.session->contextLength()) return;
      one.ids.push_back(8);
      try {
        logits = engine_.append(one.session, {8}, LogitsWanted::last);
      } catch (const Error& second) {
        REQUIRE(second.code == ErrorCode::outOfMemory);
        return;
      }
    }
    const auto fresh = other.executor->createSession(one.policy, kContext, one.storage);
    REQUIRE(sameBits(logits, other.append(fresh, one.ids, LogitsWanted::last)));
    other.executor->dispose(fresh);
    checkText(one);
  }

  Input& input_;
  const bool windows_;
  Engine engine_;
  std::vector<Open> open_;
  bool stopped_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  World(input).run();
  return 0;
}
