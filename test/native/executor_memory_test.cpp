// Every allocation of the executor's thread fails once: each call is answered all the same, and
// what comes afterwards is as if nothing had been.
#include <atomic>
#include <vector>

#include "check.h"
#include "engine_fixture.h"
#include "failing_memory.h"

namespace {

thread_local bool spared = false;  // the test's own thread
std::atomic<int32_t> untilFailure{-1};
std::atomic<int32_t> failures{0};  // in a row

}  // namespace

bool allocationFails() {
  if (spared || untilFailure < 0 || untilFailure-- > 0) return false;
  if (--failures > 0) untilFailure = 0;
  return true;
}

namespace {

using namespace engine_test;

constexpr size_t kTokens = 12;

// Answers without an allocation, so that only the executor's own are met.
struct Collector {
  std::mutex mutex;
  std::condition_variable here;
  bool given = false;
  std::optional<ErrorCode> code;
  Floats logits;
  std::vector<GeneratedToken> tokens;
  Finish finish = Finish::none;

  void give(const Error* error) {
    const std::lock_guard lock(mutex);
    CHECK(!given);
    given = true;
    if (error) code = error->code;
    here.notify_all();
  }
  std::optional<ErrorCode> wait() {
    std::unique_lock lock(mutex);
    if (!here.wait_for(lock, std::chrono::seconds(60), [this] { return given; })) {
      std::fprintf(stderr, "a call was not answered\n");
      std::abort();
    }
    return code;
  }
};

std::optional<ErrorCode> append(Engine& engine, const SessionPointer& session, const Ids& ids,
                                LogitsWanted wanted, Floats* logits) {
  Collector answer;
  Collector* const to = &answer;
  engine.executor->append(session, ids, wanted, [to](Floats values, const Error* error) {
    to->logits = std::move(values);
    to->give(error);
  });
  const auto code = answer.wait();
  *logits = std::move(answer.logits);
  return code;
}

std::optional<ErrorCode> generate(Engine& engine, const SessionPointer& session,
                                  std::vector<GeneratedToken>* tokens) {
  auto position = static_cast<int32_t>(engine.executor->ids(session).size());
  std::optional<ErrorCode> code;
  engine.executor->startGenerate(session, livelyOptions());
  while (!code && tokens->size() < kTokens) {
    Collector answer;
    Collector* const to = &answer;
    engine.executor->read(session, position, [to](GeneratedBatch batch, const Error* error) {
      to->tokens = std::move(batch.tokens);
      to->give(error);
    });
    code = answer.wait();
    for (GeneratedToken& token : answer.tokens) {
      if (tokens->size() < kTokens) tokens->push_back(std::move(token));
    }
    if (!tokens->empty()) position = tokens->back().end;
  }
  Collector ended;
  Collector* const to = &ended;
  engine.executor->endGenerate(session, position, [to](const Error* error) { to->give(error); });
  CHECK(!ended.wait());
  return code;
}

// `inARow`: allocations that fail, one after the other.
int32_t failEach(const Policy& policy, int32_t inARow) {
  const Ids prompt = randomText(3, 100);
  Floats expected;
  std::vector<GeneratedToken> expectedTokens;
  int32_t failed = 0;
  for (int32_t at = -1; at < 400; ++at) {
    Engine engine;
    const SessionPointer session = engine.open(policy, DType::bf16);
    const auto arm = [&] {
      failures = inARow;
      untilFailure = at;
    };
    Floats logits;
    arm();
    const auto code = append(engine, session, prompt, LogitsWanted::all, &logits);
    untilFailure = -1;
    if (at < 0) expected = logits;
    if (code) {
      CHECK(*code == ErrorCode::outOfMemory);
      ++failed;
      append(engine, session, {}, LogitsWanted::last, &logits);
      CHECK(sameBits(logits, {expected.end() - kVocab, expected.end()}));
    } else {
      CHECK(sameBits(logits, expected));
    }
    std::vector<GeneratedToken> tokens;
    arm();
    const auto generated = generate(engine, session, &tokens);
    const bool wasMet = at >= 0 && failures < inARow;
    untilFailure = -1;
    if (generated) {
      CHECK(*generated == ErrorCode::outOfMemory);
      ++failed;
      const size_t before = tokens.size();
      CHECK(!generate(engine, session, &tokens));
      CHECK(tokens.size() >= before);
      tokens.resize(std::min(tokens.size(), kTokens));
    }
    if (at < 0) expectedTokens = tokens;
    CHECK(sameTokens(tokens, expectedTokens));
    if (at >= 0 && !wasMet && !code) break;
  }
  return failed;
}

TEST(each_allocation_of_a_session_fails_once) {
  spared = true;
  CHECK(failEach(anchorPolicy(), 1) > 20);
}

TEST(allocations_fail_in_a_row) {
  spared = true;
  CHECK(failEach(fullPolicy(), 3) > 5);
}

// What a call on this thread throws while allocations fail here too.
std::optional<ErrorCode> unspared(const std::function<void()>& call) {
  spared = false;
  std::optional<ErrorCode> code;
  try {
    call();
  } catch (const Error& error) {
    code = error.code;
  } catch (const std::bad_alloc&) {
    code = ErrorCode::outOfMemory;
  }
  spared = true;
  return code;
}

// A text that is read, found again by others through the prefix cache, saved and restored, beside a
// session that has nothing to do with it.
struct Shared : Engine {
  Shared() : Engine(1, 0, tinyConfig(), uint64_t{1} << 30) {}

  SessionPointer opened() {
    return executor->createSession(anchorPolicy(), kContext, DType::f32, true);
  }
  // Bits of the logits of a text's last token, as its first reader gets them or another.
  std::optional<ErrorCode> readText(const Ids& ids, Floats* logits) {
    const auto session = opened();
    const auto code = appendLast(session, ids, logits);
    executor->dispose(session);
    return code;
  }
  std::optional<ErrorCode> appendLast(const SessionPointer& session, const Ids& ids,
                                      Floats* logits) {
    return ::append(*this, session, ids, LogitsWanted::last, logits);
  }
  void save(const SessionPointer& session) {
    const auto copy = executor->fork(session, session->stats().position);
    state = executor->state(copy);
    bytes.resize(state.rowBytes);
    RowStream rows = executor->openRows(copy);
    CHECK_EQ(executor->readRows(copy, rows, bytes), bytes.size());
    executor->dispose(copy);
  }
  SessionPointer restored() {
    auto session = executor->restore(anchorPolicy(), kContext, DType::f32, state);
    RowStream rows = executor->openRows(session);
    CHECK_EQ(executor->writeRows(session, rows, bytes), bytes.size());
    return session;
  }

  SessionState state;
  std::vector<uint8_t> bytes;
};

TEST(allocations_fail_while_rows_are_shared_saved_and_restored) {
  spared = true;
  const Ids text = randomText(3, 100);
  Ids longer = text;
  for (const uint32_t id : {7u, 8u, 9u}) longer.push_back(id);
  Floats ofText, ofLonger, ofNeighbour;
  int32_t failed = 0;
  bool met = true;
  for (int32_t at = -1; at < 400 && met; ++at) {
    Shared engine;
    const auto neighbour = engine.open(fullPolicy(), DType::i8);
    Floats logits;
    CHECK(!::append(engine, neighbour, randomText(5, 80), LogitsWanted::last, &logits));
    const auto arm = [&] {
      failures = 1;
      untilFailure = at;
    };
    met = at < 0;
    // A call that fails and the same again, or one that does not notice: the same logits.
    const auto twice = [&](Floats& expected,
                           const std::function<std::optional<ErrorCode>()>& call) {
      arm();
      const auto code = call();
      met = met || (at >= 0 && untilFailure < 0);
      untilFailure = -1;
      if (code) {
        ++failed;
        CHECK(*code == ErrorCode::outOfMemory);
        CHECK(!call());
      }
      if (at < 0 && expected.empty()) expected = logits;
      CHECK(sameBits(logits, expected));
    };
    twice(ofText, [&] { return engine.readText(text, &logits); });
    twice(ofLonger, [&] { return engine.readText(longer, &logits); });
    twice(ofLonger, [&] { return engine.readText(longer, &logits); });

    const auto saved = engine.opened();
    CHECK(!engine.appendLast(saved, longer, &logits));
    twice(ofLonger, [&] { return unspared([&] { engine.save(saved); }); });
    twice(ofLonger, [&]() -> std::optional<ErrorCode> {
      SessionPointer copy;
      if (const auto code = unspared([&] { copy = engine.restored(); })) return code;
      return engine.appendLast(copy, {}, &logits);
    });
    CHECK(!engine.appendLast(saved, {}, &logits));
    CHECK(sameBits(logits, ofLonger));
    CHECK(!::append(engine, neighbour, {}, LogitsWanted::last, &logits));
    if (at < 0) ofNeighbour = logits;
    CHECK(sameBits(logits, ofNeighbour));
    engine.executor->stop();
    engine.executor->join();
    CHECK_EQ(engine.model->context()->heldBytes(), uint64_t{0});
  }
  CHECK(!met);
  CHECK(failed > 50);
}

// Answers that are ready when memory runs out for the next one are given all the same.
TEST(allocations_fail_while_many_are_answered_at_once) {
  spared = true;
  // Long enough for all that wait to be in the next one.
  Faults::passMicroseconds = 2000;
  Floats expected;
  bool met = true;
  for (int32_t at = -1; at < 400 && met; ++at) {
    Shared engine;
    std::vector<SessionPointer> sessions;
    std::vector<std::unique_ptr<Collector>> logits, tokens, ends;
    for (int32_t i = 0; i < 6; ++i) {
      sessions.push_back(engine.opened());
      for (auto* answers : {&logits, &tokens, &ends}) {
        answers->push_back(std::make_unique<Collector>());
      }
    }
    met = at < 0;
    const auto arm = [&](int32_t when) {
      met = met || (at >= 0 && when < 0 && untilFailure < 0);
      failures = 1;
      untilFailure = when;
    };
    arm(at);
    for (size_t i = 0; i < sessions.size(); ++i) {
      engine.executor->append(sessions[i], Ids{7, 8}, LogitsWanted::last,
                              [to = logits[i].get()](Floats values, const Error* error) {
                                to->logits = std::move(values);
                                to->give(error);
                              });
    }
    for (const auto& answer : logits) {
      const auto code = answer->wait();
      CHECK(!code || *code == ErrorCode::outOfMemory);
      if (expected.empty()) expected = answer->logits;
      if (!code) CHECK(sameBits(answer->logits, expected));
    }
    arm(-1);
    arm(at);
    for (size_t i = 0; i < sessions.size(); ++i) {
      engine.executor->startGenerate(sessions[i], livelyOptions());
      engine.executor->read(sessions[i], 2,
                            [to = tokens[i].get()](GeneratedBatch batch, const Error* error) {
                              to->tokens = std::move(batch.tokens);
                              to->give(error);
                            });
    }
    for (const auto& answer : tokens) {
      const auto code = answer->wait();
      CHECK(code ? *code == ErrorCode::outOfMemory : !answer->tokens.empty());
    }
    arm(-1);
    arm(at);
    for (size_t i = 0; i < sessions.size(); ++i) {
      engine.executor->endGenerate(sessions[i], 2,
                                   [to = ends[i].get()](const Error* error) { to->give(error); });
    }
    for (const auto& answer : ends) CHECK(!answer->wait());
    arm(-1);
    for (const auto& session : sessions) {
      CHECK_EQ(engine.executor->ids(session).size(), size_t{2});
      engine.executor->dispose(session);
    }
    engine.executor->stop();
    engine.executor->join();
    CHECK_EQ(engine.model->context()->heldBytes(), uint64_t{0});
  }
  Faults::clear();
  CHECK(!met);
}

TEST(allocations_fail_while_many_run) {
  spared = true;
  for (int32_t at = 0; at < 300; at += 3) {
    Engine engine;
    std::vector<SessionPointer> sessions;
    std::vector<std::unique_ptr<Collector>> answers;
    failures = 2;
    untilFailure = at;
    for (const Policy& policy : allPolicies()) {
      sessions.push_back(engine.open(policy));
      answers.push_back(std::make_unique<Collector>());
      engine.executor->append(
          sessions.back(), randomText(9, 70), LogitsWanted::last,
          [to = answers.back().get()](Floats, const Error* error) { to->give(error); });
    }
    for (const auto& answer : answers) {
      const auto code = answer->wait();
      CHECK(!code || *code == ErrorCode::outOfMemory);
    }
    engine.executor->dispose(sessions[0]);
    engine.executor->stop();
    engine.executor->join();
    untilFailure = -1;
    CHECK_EQ(engine.model->context()->heldBytes(), uint64_t{0});
  }
}

}  // namespace
