// The executor under many sessions and threads: batching, aborts, early ends and forks change no
// bit of any result, and nobody waits for ever. Run under the thread sanitizer too.
#include "core/executor.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "engine_fixture.h"

namespace {

using namespace engine_test;
using namespace std::chrono_literals;

constexpr DType kStorages[] = {DType::f32, DType::f16, DType::bf16, DType::i8};

struct Run {
  Policy policy;
  DType storage;
  Ids prompt;
  Floats logits;
  std::vector<GeneratedToken> tokens;
};

constexpr size_t kTokens = 24;

// What each session gives when it has an engine to itself and its prompt comes whole.
std::vector<Run>& undisturbed() {
  static std::vector<Run> runs = [] {
    std::vector<Run> all;
    for (const Policy& policy : allPolicies()) {
      const auto i = static_cast<uint32_t>(all.size());
      all.push_back({policy, kStorages[i % 4], randomText(i, 90 + 41 * i), {}, {}});
      Run& run = all.back();
      Engine engine;
      const SessionPointer session = engine.open(run.policy, run.storage);
      run.logits = engine.append(session, run.prompt, LogitsWanted::all);
      run.tokens = engine.generate(session, livelyOptions(), kTokens);
      CHECK_EQ(run.tokens.size(), kTokens);
    }
    return all;
  }();
  return runs;
}

// The prompt in random pieces.
Floats appendInPieces(Engine& engine, const SessionPointer& session, const Ids& ids,
                      std::mt19937& random) {
  Floats logits;
  for (size_t at = 0; at < ids.size();) {
    const size_t size = std::min<size_t>(1 + random() % 90, ids.size() - at);
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(at);
    const Floats part = engine.append(session, {begin, begin + static_cast<std::ptrdiff_t>(size)},
                                      LogitsWanted::all);
    logits.insert(logits.end(), part.begin(), part.end());
    at += size;
  }
  return logits;
}

void eachInItsThread(size_t count, const std::function<void(size_t)>& run) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) threads.emplace_back(run, i);
  for (std::thread& thread : threads) thread.join();
}

TEST(batches_chunks_and_threads_change_no_bit) {
  std::vector<Run>& runs = undisturbed();
  for (const int32_t threads : {1, 2, 4}) {
    Engine engine(threads);
    eachInItsThread(runs.size() + 1, [&](size_t i) {
      Run& run = runs[i % runs.size()];
      std::mt19937 random(static_cast<uint32_t>(threads) * 100 + static_cast<uint32_t>(i));
      const SessionPointer session = engine.open(run.policy, run.storage);
      const Floats logits = appendInPieces(engine, session, run.prompt, random);
      CHECK(sameBits(logits, run.logits));
      CHECK(sameTokens(engine.generate(session, livelyOptions(), kTokens), run.tokens));
    });
  }
}

// Rows leave dense layers too, so less can be gone back to.
TEST(layers_with_windows_of_their_own) {
  ModelConfig config = tinyConfig();
  config.windows = {0, 21, 70, 33};
  int32_t policies = 0;
  for (const Policy& policy : allPolicies()) {
    Run run{policy, DType::bf16, randomText(4, 210), {}, {}};
    const auto size = static_cast<int32_t>(run.prompt.size());
    {
      Engine engine(1, 0, config);
      SessionPointer session;
      // Consumers must not see further than their source.
      const auto code = codeOf([&] { session = engine.open(policy, run.storage); });
      if (code == ErrorCode::invalidArgument && policy.sourceLayer > 0) continue;
      run.logits = engine.append(session, run.prompt, LogitsWanted::all);
      run.tokens = engine.generate(session, livelyOptions(), kTokens);
    }
    ++policies;
    Engine engine(2, 0, config);
    eachInItsThread(3, [&](size_t i) {
      std::mt19937 random(static_cast<uint32_t>(i));
      const SessionPointer session = engine.open(policy, run.storage);
      CHECK(sameBits(appendInPieces(engine, session, run.prompt, random), run.logits));
      const SessionPointer fork = engine.executor->fork(session, size);
      CHECK(sameTokens(engine.generate(session, livelyOptions(), kTokens), run.tokens));
      engine.append(fork, {7, 8, 9});
      CHECK(codeOf([&] { engine.executor->truncate(fork, 20); }) == ErrorCode::position);
      engine.executor->truncate(fork, 0);
      CHECK(sameBits(engine.append(fork, run.prompt, LogitsWanted::all), run.logits));
      CHECK(sameTokens(engine.generate(fork, livelyOptions(), kTokens), run.tokens));
    });
  }
  CHECK(policies >= 5);
}

TEST(a_generation_runs_ahead_of_its_reader_by_its_credit) {
  Engine engine;
  const SessionPointer session = engine.open(anchorPolicy());
  engine.append(session, randomText(1, 30));
  GenerateOptions options = livelyOptions();
  options.newlineIds.clear();
  engine.executor->startGenerate(session, options);
  int32_t expected = 30 + kCredit;
  for (int32_t round = 0; round < 3; ++round, expected += kCredit) {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    // The last one is sampled and not run, until there is credit again.
    while (session->progress < expected - 1 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(1ms);
    }
    std::this_thread::sleep_for(20ms);
    CHECK_EQ(session->progress, expected - 1);
    // Reading gives the credit of the batch before back, not of this one.
    const auto read = engine.read(session, expected).tokens.size();
    CHECK(read > 0 && read <= static_cast<size_t>(kCredit));
    if (round == 0) CHECK_EQ(read, static_cast<size_t>(kCredit));
    engine.executor->abort(session);
    engine.end(session, expected);
    engine.executor->startGenerate(session, options);
  }
}

TEST(an_early_end_keeps_what_was_read) {
  Run& run = undisturbed()[1];
  Engine engine(2);
  const auto promptSize = static_cast<int32_t>(run.prompt.size());
  const SessionPointer first = engine.open(run.policy, run.storage);
  engine.append(first, run.prompt);
  for (size_t count = 0; count <= kTokens; ++count) {
    const SessionPointer session = engine.executor->fork(first, promptSize);
    auto tokens = engine.generate(session, livelyOptions(), count);
    const int32_t end = count > 0 ? run.tokens[count - 1].end : promptSize;
    CHECK_EQ(static_cast<int32_t>(engine.executor->ids(session).size()), end);
    CHECK_EQ(session->stats().position, end);
    const auto rest = engine.generate(session, livelyOptions(), kTokens - count);
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    CHECK(sameTokens(tokens, run.tokens));
  }
}

TEST(cutting_back_and_generating_again_gives_the_same) {
  for (const size_t which : {size_t{0}, size_t{1}, size_t{3}}) {
    Run& run = undisturbed()[which];
    Engine engine;
    const SessionPointer session = engine.open(run.policy, run.storage);
    engine.append(session, run.prompt);
    const auto start = static_cast<int32_t>(run.prompt.size());
    for (int32_t round = 0; round < 5; ++round) {
      // The reader commits as it reads, so only a line's end and what it holds can be gone back to.
      engine.executor->startGenerate(session, livelyOptions());
      std::vector<GeneratedToken> tokens;
      while (tokens.size() < kTokens) {
        for (auto& token : engine.read(session, start).tokens) tokens.push_back(std::move(token));
      }
      tokens.resize(kTokens);
      CHECK(sameTokens(tokens, run.tokens));
      engine.end(session, tokens.back().end);
      engine.executor->truncate(session, start);
    }
  }
}

// Where a call is aborted depends on timing; whatever the point, going on gives the same.
TEST(an_aborted_prompt_goes_on_where_it_stopped) {
  std::mt19937 random(8);
  std::vector<Run>& runs = undisturbed();
  Engine engine(2);
  int32_t aborted = 0;
  for (int32_t round = 0; round < 60; ++round) {
    Run& run = runs[static_cast<size_t>(round) % runs.size()];
    const SessionPointer session = engine.open(run.policy, run.storage);
    Faults::passMicroseconds = 200;
    const auto answer = engine.startAppend(session, run.prompt);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    engine.executor->abort(session);
    const auto code = codeOf([&] { answer->wait(); });
    Faults::clear();
    if (code) ++aborted;
    CHECK(!code || *code == ErrorCode::aborted);
    CHECK_EQ(engine.executor->ids(session).size(), run.prompt.size());
    const Floats last = engine.append(session, {}, LogitsWanted::last);
    CHECK_EQ(last.size(), size_t{kVocab});
    CHECK(sameBits(last, {run.logits.end() - kVocab, run.logits.end()}));
    CHECK(sameTokens(engine.generate(session, livelyOptions(), kTokens), run.tokens));
  }
  CHECK(aborted > 10);
}

TEST(an_aborted_generation_goes_on_from_what_was_read) {
  std::mt19937 random(9);
  std::vector<Run>& runs = undisturbed();
  Engine engine;
  for (int32_t round = 0; round < 40; ++round) {
    Run& run = runs[static_cast<size_t>(round) % runs.size()];
    const SessionPointer session = engine.open(run.policy, run.storage);
    engine.append(session, run.prompt);
    auto position = static_cast<int32_t>(run.prompt.size());
    std::vector<GeneratedToken> tokens;
    for (int32_t aborts = 0; tokens.size() < kTokens; ++aborts) {
      engine.executor->startGenerate(session, livelyOptions());
      const size_t more = aborts < 6 ? random() % 6 : kTokens;
      const size_t wanted = std::min(kTokens, tokens.size() + more);
      while (tokens.size() < wanted) {
        for (auto& token : engine.read(session, position).tokens) {
          if (tokens.size() < kTokens) tokens.push_back(std::move(token));
        }
        position = tokens.back().end;
      }
      const auto pending = engine.startRead(session, position);
      engine.executor->abort(session);
      const auto code = codeOf([&] { pending->wait(); });
      CHECK(!code || *code == ErrorCode::aborted);
      CHECK(codeOf([&] { engine.read(session, position); }) == ErrorCode::aborted);
      engine.end(session, position);
    }
    CHECK(sameTokens(tokens, run.tokens));
  }
}

TEST(forks_taken_while_others_run) {
  std::vector<Run>& runs = undisturbed();
  Engine engine(2);
  eachInItsThread(runs.size(), [&](size_t i) {
    Run& run = runs[i];
    const auto size = static_cast<int32_t>(run.prompt.size());
    const SessionPointer first = engine.open(run.policy, run.storage);
    engine.append(first, run.prompt);
    for (int32_t round = 0; round < 4; ++round) {
      const SessionPointer fork = engine.executor->fork(first, size);
      engine.append(fork, randomText(static_cast<uint32_t>(round), 40));  // drawn over the shared
      CHECK(
          sameTokens(engine.generate(engine.executor->fork(first, size), livelyOptions(), kTokens),
                     run.tokens));
    }
    CHECK(sameTokens(engine.generate(first, livelyOptions(), kTokens), run.tokens));
  });
}

constexpr uint64_t kLimit = uint64_t{1} << 30;

// Fills the memory of an engine that has kLimit, but for `bytes`.
void leaveFree(const Engine& engine, uint64_t bytes) {
  DeviceContext& context = *engine.model->context();
  context.account(kLimit - bytes - context.heldBytes(), "a test");
}

TEST(running_out_of_memory_is_one_session_s_matter) {
  Run& run = undisturbed()[0];
  const Ids prompt(run.prompt.begin(), run.prompt.begin() + 66);  // room for 30 more in its blocks
  std::vector<GeneratedToken> expected;
  const auto setUp = [&](Engine& engine) {
    std::vector<SessionPointer> sessions;
    for (int32_t i = 0; i < 3; ++i) {
      sessions.push_back(engine.open(fullPolicy()));
      engine.append(sessions.back(), prompt);
    }
    return sessions;
  };
  {
    Engine engine;
    const auto sessions = setUp(engine);
    expected = engine.generate(sessions[0], livelyOptions(), 15);
  }
  const size_t column = CacheShape{kLayers, 2, 8, DType::f32}.columnBytes();
  for (uint64_t extra = 0; extra < 6; ++extra) {
    Engine engine(1, kLimit);
    const auto sessions = setUp(engine);
    const SessionPointer large = engine.open(fullPolicy());
    leaveFree(engine, 30 * column);
    const uint64_t before = engine.model->context()->cacheBytes;
    std::shared_ptr<Answer<Floats>> failing;
    eachInItsThread(4, [&](size_t i) {
      if (i < 3) {
        CHECK(sameTokens(engine.generate(sessions[i], livelyOptions(), 15), expected));
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(extra));
        failing = engine.startAppend(large, randomText(2, 500));
        CHECK(codeOf([&] { failing->wait(); }) == ErrorCode::outOfMemory);
      }
    });
    // It can go on with less.
    engine.executor->truncate(large, std::max(0, large->stats().cached - 2));
    engine.append(large, {7, 8}, LogitsWanted::last);
    engine.executor->dispose(large);
    // The others' saved rows, at most 31 each, are less than one column of the large one's layers.
    CHECK(engine.model->context()->cacheBytes < before + kLayers * column);
  }
}

// A long prompt's scratch is no reason to refuse others for lack of memory, nor logits for all of
// its tokens.
TEST(scratch_of_larger_passes_gives_way) {
  const Ids one{7};
  uint64_t least = 0;
  Floats expected;
  {
    Engine engine;
    const uint64_t before = engine.model->context()->heldBytes();
    const SessionPointer session = engine.open(fullPolicy());
    expected = engine.append(session, one, LogitsWanted::last);
    least = engine.model->context()->heldBytes() - before;
  }
  Engine engine(1, kLimit);
  const uint64_t weights = engine.model->context()->heldBytes();
  const SessionPointer large = engine.open(fullPolicy());
  engine.append(large, randomText(1, 300), LogitsWanted::all);
  engine.executor->dispose(large);
  const SessionPointer small = engine.open(fullPolicy());
  const uint64_t scratch = engine.model->context()->heldBytes() - weights;
  CHECK(scratch > 4096);
  // What one token needs is there only if the scratch is given up, and no more of it is kept.
  const uint64_t taken = std::min(least, scratch);
  leaveFree(engine, least - taken);
  CHECK(sameBits(engine.append(small, one, LogitsWanted::last), expected));
  CHECK_EQ(engine.model->context()->heldBytes(), kLimit - (scratch - taken));
}

TEST(a_failing_device_leaves_sessions_as_they_were) {
  Run& run = undisturbed()[2];
  for (auto* fault : {&Faults::alloc, &Faults::begin, &Faults::end, &Faults::download}) {
    for (int32_t calls = 0; calls < 12; ++calls) {
      Engine engine;
      const SessionPointer session = engine.open(run.policy, run.storage);
      *fault = calls;
      const auto code = codeOf([&] { engine.append(session, run.prompt); });
      Faults::clear();
      CHECK(!code || *code == ErrorCode::outOfMemory || *code == ErrorCode::device);
      CHECK_EQ(engine.executor->ids(session).size(), run.prompt.size());
      const Floats last = engine.append(session, {}, LogitsWanted::last);
      CHECK(sameBits(last, {run.logits.end() - kVocab, run.logits.end()}));
      *fault = calls;
      std::vector<GeneratedToken> tokens;
      const auto failed =
          codeOf([&] { tokens = engine.generate(session, livelyOptions(), kTokens); });
      Faults::clear();
      if (failed) {
        // What was read before the failure is in the text.
        const size_t end = engine.executor->ids(session).size();
        for (const GeneratedToken& token : run.tokens) {
          if (static_cast<size_t>(token.end) <= end) tokens.push_back(token);
        }
        const size_t rest = kTokens - tokens.size();
        for (auto& token : engine.generate(session, livelyOptions(), rest)) {
          tokens.push_back(std::move(token));
        }
      }
      CHECK(sameTokens(tokens, run.tokens));
    }
  }
}

TEST(a_failing_pass_runs_again_for_each_session) {
  std::vector<Run>& runs = undisturbed();
  for (auto* fault : {&Faults::alloc, &Faults::begin, &Faults::end, &Faults::download}) {
    for (int32_t calls = 0; calls < 12; ++calls) {
      Engine engine;
      // While the first is in its pass the others gather.
      Faults::passMicroseconds = 2000;
      engine.startAppend(engine.open(fullPolicy()), {6, 7, 8});
      std::vector<SessionPointer> sessions;
      std::vector<std::shared_ptr<Answer<Floats>>> answers;
      *fault = calls + 4;
      for (const size_t i : {0, 1, 4}) {
        sessions.push_back(engine.open(runs[i].policy, runs[i].storage));
        answers.push_back(engine.startAppend(sessions.back(), runs[i].prompt));
      }
      for (const auto& answer : answers) codeOf([&] { answer->wait(); });
      Faults::clear();
      for (const size_t i : {0, 1, 2}) {
        const Run& run = runs[i == 2 ? 4 : i];
        const Floats last = engine.append(sessions[i], {}, LogitsWanted::last);
        CHECK(sameBits(last, {run.logits.end() - kVocab, run.logits.end()}));
      }
    }
  }
}

TEST(positions_that_cannot_be_ended_at) {
  Engine engine;
  Ids prompt = randomText(3, 50);
  prompt.insert(prompt.end(), {kNewline, kAnchor, 8, 9, 10});
  for (const int32_t position : {-1, 10000, 54, 20}) {
    const SessionPointer session = engine.open(anchorPolicy());
    engine.append(session, prompt);
    engine.append(session, {11, kNewline, kAnchor, 12});
    engine.executor->startGenerate(session, livelyOptions());
    engine.read(session);
    CHECK(codeOf([&] { engine.end(session, position); }) == ErrorCode::position);
    const auto size = static_cast<int32_t>(engine.executor->ids(session).size());
    CHECK(size > 59);
    engine.executor->truncate(session, 59);
    CHECK_EQ(engine.generate(session, livelyOptions(), 5).size(), size_t{5});
  }
}

TEST(one_call_at_a_time) {
  Engine engine;
  const SessionPointer session = engine.open(anchorPolicy());
  CHECK(codeOf([&] { engine.append(session, {}); }) == ErrorCode::invalidArgument);
  CHECK(codeOf([&] { engine.executor->startGenerate(session, {}); }) == ErrorCode::invalidArgument);
  CHECK(codeOf([&] { engine.read(session); }) == ErrorCode::busy);
  CHECK(codeOf([&] { engine.end(session, 0); }) == ErrorCode::busy);
  CHECK(codeOf([&] { engine.append(session, {1, kVocab}); }) == ErrorCode::invalidArgument);
  CHECK(codeOf([&] { engine.append(session, Ids(kContext + 1)); }) == ErrorCode::contextLength);
  engine.append(session, {7, 8, 9});
  engine.executor->startGenerate(session, livelyOptions());
  CHECK(codeOf([&] { engine.append(session, {1}); }) == ErrorCode::busy);
  CHECK(codeOf([&] { engine.executor->truncate(session, 1); }) == ErrorCode::busy);
  CHECK(codeOf([&] { engine.executor->fork(session, 1); }) == ErrorCode::busy);
  CHECK(codeOf([&] { engine.executor->ids(session); }) == ErrorCode::busy);
  CHECK(codeOf([&] { engine.executor->startGenerate(session, {}); }) == ErrorCode::busy);
  engine.end(session, 3);
  engine.executor->dispose(session);
  engine.executor->dispose(session);
  CHECK(codeOf([&] { engine.append(session, {1}); }) == ErrorCode::disposed);
  CHECK_EQ(engine.model->context()->cacheBytes, uint64_t{0});
}

// Generates by itself: each answer asks for the next tokens.
struct SelfReader : std::enable_shared_from_this<SelfReader> {
  SelfReader(Executor& owner, SessionPointer of) : executor(owner), session(std::move(of)) {}
  void start(int32_t maxTokens) {
    executor.startGenerate(session, livelyOptions(3, maxTokens));
    next();
  }
  void next() {
    executor.read(session, 0,
                  [self = shared_from_this()](GeneratedBatch batch, const Error* error) {
                    self->tokens += batch.tokens.size();
                    if (error || batch.finish != Finish::none) {
                      self->done = true;
                    } else {
                      self->next();
                    }
                  });
  }
  Executor& executor;
  SessionPointer session;
  std::atomic<size_t> tokens{0};
  std::atomic<bool> done{false};
};

TEST(source_layers_take_turns) {
  Engine engine;
  std::vector<std::shared_ptr<SelfReader>> readers;
  for (const Policy& policy : allPolicies()) {
    const SessionPointer session = engine.open(policy);
    engine.append(session, {6, 7, 8});
    readers.push_back(std::make_shared<SelfReader>(*engine.executor, session));
  }
  Faults::passMicroseconds = 300;
  readers[0]->start(500);
  for (size_t i = 1; i < readers.size(); ++i) readers[i]->start(40);
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  for (size_t i = 1; i < readers.size(); ++i) {
    while (!readers[i]->done && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(1ms);
    }
    CHECK_EQ(readers[i]->tokens, size_t{40});
  }
  CHECK(!readers[0]->done);
  Faults::clear();
  engine.executor->stop();
  engine.executor->join();
}

// On a machine so slow that single tokens take up all of a pass.
TEST(a_prompt_gets_on_beside_any_number_of_generations) {
  Engine engine;
  Faults::passMicroseconds = 100000;
  std::vector<std::shared_ptr<SelfReader>> readers;
  for (int32_t i = 0; i < 40; ++i) {
    const SessionPointer session = engine.open(fullPolicy());
    readers.push_back(std::make_shared<SelfReader>(*engine.executor, session));
    engine.startAppend(session, {6, 7, 8});
  }
  for (const auto& reader : readers) {
    while (reader->session->busy) std::this_thread::sleep_for(1ms);
    reader->start(550);
  }
  std::this_thread::sleep_for(1200ms);  // some passes, to learn how slow it is
  const SessionPointer prompt = engine.open(fullPolicy());
  engine.append(prompt, randomText(1, 40));
  CHECK(!readers[0]->done);
  engine.executor->stop();
  Faults::clear();
  engine.executor->join();
}

TEST(stop_and_dispose_at_any_time) {
  std::mt19937 random(10);
  for (int32_t round = 0; round < 60; ++round) {
    Engine engine(1 + round % 3);
    const bool stops = round % 2 == 0;
    const auto delay = std::chrono::microseconds(random() % 4000);
    std::vector<SessionPointer> sessions;
    for (const Policy& policy : allPolicies()) sessions.push_back(engine.open(policy));
    const auto allowed = [](std::optional<ErrorCode> code) {
      CHECK(!code || *code == ErrorCode::disposed || *code == ErrorCode::aborted ||
            *code == ErrorCode::busy);
    };
    eachInItsThread(sessions.size() + 1, [&](size_t i) {
      if (i == sessions.size()) {
        std::this_thread::sleep_for(delay);
        if (stops) return engine.executor->stop();
        for (const SessionPointer& session : sessions) engine.executor->dispose(session);
        return;
      }
      const SessionPointer& session = sessions[i];
      allowed(codeOf([&] {
        for (int32_t turn = 0;; ++turn) {
          engine.append(session, randomText(static_cast<uint32_t>(turn), 20));
          engine.executor->fork(session, session->stats().position);
          engine.generate(session, livelyOptions(), 3);
          engine.executor->truncate(session, 0);
          engine.executor->sessionCount();
          session->stats();
        }
      }));
    });
    if (!stops) CHECK_EQ(engine.executor->sessionCount(), size_t{0});
    engine.executor->stop();
    engine.executor->join();
    CHECK(engine.executor->finished());
    CHECK_EQ(engine.model->context()->heldBytes(), uint64_t{0});
    CHECK(codeOf([&] { engine.open(fullPolicy()); }) == ErrorCode::disposed);
  }
}

// Generations that nobody reads are no reason to sleep through a stop.
TEST(stop_wakes_an_executor_that_waits_for_readers) {
  for (int32_t round = 0; round < 40; ++round) {
    Engine engine;
    std::vector<SessionPointer> sessions;
    for (int32_t i = 0; i < 3; ++i) {
      sessions.push_back(engine.open(fullPolicy()));
      engine.append(sessions.back(), {6, 7});
      engine.executor->startGenerate(sessions.back(), livelyOptions());
    }
    const bool never = sessions[0]->progress > 100;
    CHECK(!never);
    std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
    engine.executor->stop();
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (!engine.executor->finished() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(100us);
    }
    CHECK(engine.executor->finished());
    if (!engine.executor->finished()) std::abort();  // joining would wait for ever
  }
}

}  // namespace
