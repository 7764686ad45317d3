// Every allocation of the executor's thread fails once: each call is answered all the same, and
// what comes afterwards is as if nothing had been.
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "check.h"
#include "engine_fixture.h"

namespace {

thread_local bool spared = false;  // the test's own thread
std::atomic<int32_t> untilFailure{-1};
std::atomic<int32_t> failures{0};  // in a row

bool allocationFails() {
  if (spared || untilFailure < 0 || untilFailure-- > 0) return false;
  if (--failures > 0) untilFailure = 0;
  return true;
}

// Not inlined, or the compiler takes malloc and free for a mismatch of operators.
[[gnu::noinline]] void* take(size_t bytes) {
  if (allocationFails()) throw std::bad_alloc();
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}

[[gnu::noinline]] void give(void* memory) { std::free(memory); }

}  // namespace

// NOLINTBEGIN: the program's own operators
void* operator new(size_t bytes) { return take(bytes); }
void* operator new[](size_t bytes) { return take(bytes); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return allocationFails() ? nullptr : std::malloc(bytes);
}
void operator delete(void* memory) noexcept { give(memory); }
void operator delete[](void* memory) noexcept { give(memory); }
void operator delete(void* memory, size_t) noexcept { give(memory); }
void operator delete[](void* memory, size_t) noexcept { give(memory); }
// NOLINTEND

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
