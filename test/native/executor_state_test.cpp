// Snapshots and the prefix cache: the same bits whether rows were computed, stored or shared.
#include <algorithm>

#include "core/snapshot.h"
#include "engine_fixture.h"

using namespace engine_test;  // NOLINT

namespace {

using Bytes = std::vector<uint8_t>;

Bytes rowsOf(Engine& engine, const SessionPointer& session, size_t slice) {
  RowStream rows(*session);
  Bytes all;
  Bytes part(slice);
  while (!rows.done()) {
    const size_t count = engine.executor->readRows(session, rows, part);
    CHECK(count > 0);
    all.insert(all.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(count));
  }
  CHECK_EQ(engine.executor->readRows(session, rows, part), size_t{0});
  CHECK_EQ(static_cast<uint64_t>(all.size()), session->state().rowBytes);
  return all;
}

SessionPointer restored(Engine& engine, const Policy& policy, DType storage,
                        const SessionState& state, const Bytes& bytes, size_t slice) {
  auto session = engine.executor->restore(policy, kContext, storage, state);
  RowStream rows(*session);
  for (size_t at = 0; at < bytes.size(); at += slice) {
    const std::span part(bytes.data() + at, std::min(slice, bytes.size() - at));
    CHECK_EQ(engine.executor->writeRows(session, rows, part), part.size());
  }
  CHECK(rows.done());
  return session;
}

// The second, a copy, has no block that holds only rows which have left.
bool sameStats(const SessionStats& a, const SessionStats& b) {
  return a.position == b.position && a.cached == b.cached && a.anchors == b.anchors &&
         a.insertedAnchors == b.insertedAnchors && a.rows == b.rows &&
         a.mirrorRows == b.mirrorRows && a.bytes >= b.bytes;
}

Ids slice(const Ids& ids, size_t from, size_t to) {
  return {ids.begin() + static_cast<std::ptrdiff_t>(from),
          ids.begin() + static_cast<std::ptrdiff_t>(to)};
}

// In another engine, as in another process.
TEST(restores_every_policy_and_storage) {
  Engine engine, other(2);
  const Ids text = randomText(3, 500);
  for (const Policy& policy : allPolicies()) {
    for (const DType storage : {DType::f32, DType::bf16, DType::f16, DType::i8}) {
      for (const size_t length : {size_t{1}, size_t{31}, size_t{32}, size_t{333}}) {
        const auto session = engine.open(policy, storage);
        engine.append(session, slice(text, 0, length));
        const SessionState state = session->state();
        const Bytes bytes = rowsOf(engine, session, 1000);
        const auto copy = restored(other, policy, storage, state, bytes, 77);
        CHECK(sameStats(session->stats(), copy->stats()));
        CHECK(rowsOf(other, copy, 4096) == bytes);
        const Ids rest = slice(text, length, length + 90);
        CHECK(sameBits(engine.append(session, {}, LogitsWanted::last),
                       other.append(copy, {}, LogitsWanted::last)));
        CHECK(sameBits(engine.append(session, rest, LogitsWanted::all),
                       other.append(copy, rest, LogitsWanted::all)));
        CHECK(sameTokens(engine.generate(session, livelyOptions(), 20),
                         other.generate(copy, livelyOptions(), 20)));
        CHECK(sameBits(engine.append(session, {7, kNewline, kAnchor}, LogitsWanted::last),
                       other.append(copy, {7, kNewline, kAnchor}, LogitsWanted::last)));
      }
    }
  }
}

// A snapshot does not tell how its text was read, nor what was cut off again.
TEST(equal_states_give_equal_bytes) {
  Engine engine;
  const Ids text = randomText(4, 300);
  for (const Policy& policy : allPolicies()) {
    const auto whole = engine.open(policy), pieces = engine.open(policy);
    engine.append(whole, slice(text, 0, 200));
    for (size_t at = 0; at < 200; at += 8) engine.append(pieces, slice(text, at, at + 8));
    const Bytes bytes = rowsOf(engine, whole, 999);
    CHECK(rowsOf(engine, pieces, 999) == bytes);
    // Rows of a generation that is taken back are in no snapshot.
    engine.generate(pieces, livelyOptions(9), 0);
    CHECK(rowsOf(engine, pieces, 999) == bytes);
  }
}

TEST(keeps_pending_tokens) {
  Engine engine;
  const auto session = engine.open(anchorPolicy());
  engine.append(session, randomText(5, 60));
  engine.generate(session, livelyOptions(5, 7), 7);
  const SessionState state = session->state();
  CHECK(state.cached < static_cast<int32_t>(state.ids.size()));
  const auto copy =
      restored(engine, anchorPolicy(), DType::f32, state, rowsOf(engine, session, 64), 64);
  CHECK_EQ(copy->stats().position, session->stats().position);
  CHECK(sameTokens(engine.generate(session, livelyOptions(), 30),
                   engine.generate(copy, livelyOptions(), 30)));
}

TEST(refuses_states_that_cannot_be) {
  Engine engine;
  const auto session = engine.open(anchorPolicy());
  engine.append(session, randomText(6, 80));
  const SessionState good = session->state();
  const auto code = [&](auto change) {
    SessionState state = good;
    change(state);
    return codeOf([&] { engine.executor->restore(anchorPolicy(), kContext, DType::f32, state); });
  };
  const auto bad = std::optional(ErrorCode::invalidArgument);
  CHECK(code([](SessionState&) {}) == std::nullopt);
  CHECK(code([](SessionState& state) { state.ids[3] = kVocab; }) == bad);
  CHECK(code([](SessionState& state) { state.ids[3] = -1; }) == bad);
  CHECK(code([](SessionState& state) { ++state.cached; }) == bad);
  CHECK(code([](SessionState& state) { state.cached = -1; }) == bad);
  CHECK(code([](SessionState& state) { state.ids.resize(kContext + 1); }) ==
        ErrorCode::contextLength);
  CHECK(code([](SessionState& state) { state.released[1] = state.cached; }) == bad);
  CHECK(code([](SessionState& state) { state.released[0] = 1; }) == bad);
  CHECK(code([](SessionState& state) { state.released[2] = -1; }) == bad);
  CHECK(code([](SessionState& state) { state.released.pop_back(); }) == bad);
  CHECK(code([](SessionState& state) { state.saved.push_back(state.cached); }) == bad);
  CHECK(code([](SessionState& state) { state.saved.push_back(0); }) == bad);
  CHECK(code([](SessionState& state) { --state.rowBytes; }) == bad);
}

// A model may stop between two calls of who saves or restores.
TEST(gives_no_rows_of_what_has_gone) {
  Engine engine;
  const auto session = engine.open(anchorPolicy());
  engine.append(session, randomText(6, 80));
  const SessionState state = engine.executor->state(session);
  const auto copy = engine.executor->restore(anchorPolicy(), kContext, DType::f32, state);
  RowStream rows = engine.executor->openRows(copy);
  engine.executor->dispose(session);
  CHECK(codeOf([&] { engine.executor->openRows(session); }) == ErrorCode::disposed);
  engine.executor->stop();
  engine.executor->join();
  std::vector<uint8_t> bytes(state.rowBytes);
  CHECK(codeOf([&] { engine.executor->openRows(copy); }) == ErrorCode::disposed);
  CHECK(codeOf([&] { engine.executor->state(copy); }) == ErrorCode::disposed);
  CHECK(codeOf([&] { engine.executor->readRows(copy, rows, bytes); }) == ErrorCode::disposed);
  CHECK(codeOf([&] { engine.executor->writeRows(copy, rows, bytes); }) == ErrorCode::disposed);
}

// Rows that a pass saved before it failed are of a text that may never be read.
TEST(forgets_the_saved_rows_of_a_pass_that_failed) {
  const Ids before = randomText(12, 40), other{7, 8, 9};
  const Ids lines{7, kAnchor, 8, 9, kAnchor, 10, kAnchor, 11};
  Ids start = before;
  start.insert(start.end(), other.begin(), other.begin() + 2);
  constexpr int32_t kSavedRows = 4;
  for (const Policy& policy : allPolicies()) {
    if (policy.window > 0) continue;  // no way back to where it was
    Engine engine;
    const Floats expected = engine.append(engine.open(policy), start, LogitsWanted::last);
    for (int32_t row = 0; row < (policy.anyAnchored() ? kSavedRows : 1); ++row) {
      const auto session = engine.open(policy);
      engine.append(session, before);
      Faults::download = row;
      CHECK(codeOf([&] { engine.append(session, lines); }) == ErrorCode::device);
      Faults::clear();

      const SessionState state = engine.executor->state(session);
      const Bytes bytes = rowsOf(engine, session, 1000);
      const auto copy = restored(engine, policy, DType::f32, state, bytes, 1000);
      for (const SessionPointer& one : {session, copy}) {
        engine.executor->truncate(one, static_cast<int32_t>(before.size()));
        engine.append(one, other);
        engine.executor->truncate(one, static_cast<int32_t>(start.size()));
        CHECK(sameBits(engine.append(one, {}, LogitsWanted::last), expected));
      }
    }
  }
}

// Much memory is freed by the executor's thread, which may have a pass to run first.
TEST(restores_into_what_was_let_go_of_before) {
  ModelConfig config = tinyConfig();
  config.contextLength = 10'000;
  SessionState state;
  uint64_t weights = 0, rows = 0;
  {
    Engine engine(1, 0, config);
    weights = engine.model->context()->heldBytes();
    const auto one = engine.open(fullPolicy());
    engine.append(one, {7});
    state = engine.executor->state(one);
    state.saved.clear();
    state.ids.assign(static_cast<size_t>(config.contextLength), 7);
    state.cached = config.contextLength;
    const auto rowBytes = engine.model->cacheShape(DType::f32).streamRowBytes();
    rows = state.rowBytes = state.ids.size() * size_t{kLayers} * rowBytes;
    CHECK(rows > uint64_t{4} << 20);
  }
  Engine engine(1, weights + rows + rows / 2, config);
  const auto open = [&] {
    return engine.executor->restore(fullPolicy(), config.contextLength, DType::f32, state);
  };
  SessionPointer large = open();
  CHECK(codeOf(open) == ErrorCode::outOfMemory);
  for (int32_t i = 0; i < 40; ++i) {
    // At times the thread is in a pass, at times about to free.
    const bool busy = i % 8 < 2;
    std::shared_ptr<Answer<Floats>> pass;
    const auto small = engine.open(fullPolicy());
    Faults::passMicroseconds = busy ? 50'000 : 0;
    if (busy) pass = engine.startAppend(small, {7});
    if (busy) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    if (i % 2 == 0) {
      engine.executor->dispose(large);
    } else {
      engine.executor->truncate(large, 1);
    }
    large = open();
    if (pass) pass->wait();
  }
  Faults::clear();
}

struct PrefixEngine : Engine {
  explicit PrefixEngine(uint64_t prefixBytes, uint64_t maxBytes = 0)
      : Engine(1, maxBytes, tinyConfig(), prefixBytes) {}
  SessionPointer open(const Policy& policy, DType storage = DType::f32) {
    return executor->createSession(policy, kContext, storage, true);
  }
  // Logits of a text's last token and 12 tokens after it, by a session that is disposed.
  std::pair<Floats, std::vector<GeneratedToken>> run(const Policy& policy, const Ids& ids) {
    const auto session = open(policy);
    Floats logits = append(session, ids, LogitsWanted::last);
    reused = session->stats().reused;
    auto tokens = generate(session, livelyOptions(), 12);
    executor->dispose(session);
    return {std::move(logits), std::move(tokens)};
  }
  int32_t reused = 0;
};

TEST(shares_prefixes_with_the_same_bits) {
  for (const Policy& policy : allPolicies()) {
    PrefixEngine engine(uint64_t{1} << 30);
    Engine plain;
    const Ids text = randomText(7, 400), turn = randomText(8, 60);
    const auto check = [&](const Ids& ids, int32_t least, int32_t most) {
      const auto [logits, tokens] = engine.run(policy, ids);
      const auto session = plain.open(policy);
      CHECK(sameBits(logits, plain.append(session, ids, LogitsWanted::last)));
      CHECK(sameTokens(tokens, plain.generate(session, livelyOptions(), 12)));
      CHECK(engine.reused >= least && engine.reused <= most);
    };
    const auto length = [](const Ids& ids) { return static_cast<int32_t>(ids.size()); };
    check(text, 0, 0);
    // Down to a line's end: what was generated has closed the last line.
    check(text, length(text) - 42, length(text));
    Ids longer = text;
    longer.insert(longer.end(), turn.begin(), turn.end());
    check(longer, length(text) - 42, length(text) + 20);
    // Another end: what the two have in common, down to a line's end.
    Ids other = slice(text, 0, 300);
    other.insert(other.end(), turn.begin(), turn.end());
    check(other, policy.window > 0 ? 0 : 300 - 45, 300);
    // The same again, from two entries.
    check(longer, length(longer) - 42, length(longer));
  }
}

// What is cut off, or run again, is not reused any more.
TEST(counts_reused_tokens_up_to_the_position) {
  PrefixEngine engine(uint64_t{1} << 30);
  const Ids longer = randomText(7, 112), text = slice(longer, 0, 100);
  // One append, whose only saved row is its last: generating saves rows that a later read drops,
  // and whether the text's last row is still there would be a matter of time.
  const auto entry = engine.open(fullPolicy());
  engine.append(entry, longer);
  engine.executor->dispose(entry);
  const auto session = engine.open(fullPolicy());
  engine.append(session, text);
  CHECK_EQ(session->stats().reused, 99);
  CHECK_EQ(engine.executor->fork(session, 60)->stats().reused, 60);
  engine.executor->truncate(session, 30);
  CHECK_EQ(session->stats().reused, 30);
  engine.append(session, {7, 8});
  CHECK_EQ(session->stats().reused, 30);
}

TEST(keeps_policies_and_types_apart) {
  PrefixEngine engine(uint64_t{1} << 30);
  const Ids text = randomText(9, 200);
  engine.run(anchorPolicy(), text);
  engine.run(fullPolicy(), text);
  CHECK_EQ(engine.reused, 0);
  const auto bf16 = engine.open(anchorPolicy(), DType::bf16);
  engine.append(bf16, text);
  CHECK_EQ(bf16->stats().reused, 0);
  // All logits need all passes; a session may also keep out.
  const auto all = engine.open(anchorPolicy());
  CHECK_EQ(engine.append(all, text, LogitsWanted::all).size(), text.size() * size_t{kVocab});
  CHECK_EQ(all->stats().reused, 0);
  const auto apart = engine.executor->createSession(anchorPolicy(), kContext, DType::f32, false);
  engine.append(apart, text);
  CHECK_EQ(apart->stats().reused, 0);
  const PrefixStats stats = engine.executor->prefixStats();
  CHECK_EQ(stats.hits, uint64_t{0});
  CHECK_EQ(stats.entries, uint32_t{3});
}

// Rows that several prefixes share are counted once, and with the last entry all of them go.
TEST(stays_within_its_bytes) {
  const Ids text = randomText(10, 300);
  PrefixEngine engine(200'000);
  for (uint32_t turn = 0; turn < 12; ++turn) {
    Ids ids = slice(text, 0, 200);
    const Ids rest = randomText(20 + turn, 40);
    ids.insert(ids.end(), rest.begin(), rest.end());
    engine.run(anchorPolicy(), ids);
    const PrefixStats stats = engine.executor->prefixStats();
    CHECK(stats.bytes <= 200'000);
    CHECK(stats.entries >= 1);
    // Nothing else holds blocks now, and saved rows are not among them.
    CHECK(engine.model->context()->cacheBytes <= stats.bytes);
  }
  CHECK(engine.executor->prefixStats().entries < 12);
  CHECK(engine.executor->prefixStats().hits >= 8);

  PrefixEngine tiny(1000);
  tiny.run(anchorPolicy(), text);
  CHECK_EQ(tiny.executor->prefixStats().entries, uint32_t{0});
  CHECK_EQ(tiny.executor->prefixStats().bytes, uint64_t{0});
  CHECK_EQ(tiny.model->context()->cacheBytes.load(), uint64_t{0});
}

// One conversation is one entry, however many turns it has.
TEST(replaces_what_it_contains) {
  PrefixEngine engine(uint64_t{1} << 30);
  Ids ids;
  for (uint32_t turn = 0; turn < 8; ++turn) {
    const Ids more = randomText(40 + turn, 30);
    ids.insert(ids.end(), more.begin(), more.end());
    const auto session = engine.open(anchorPolicy());
    engine.append(session, ids);
    CHECK((turn == 0) == (session->stats().reused == 0));
    engine.executor->dispose(session);
  }
  CHECK_EQ(engine.executor->prefixStats().entries, uint32_t{1});
}

// What nobody uses gives way to what somebody needs.
TEST(gives_way_when_memory_is_short) {
  const Ids text = randomText(11, 500);
  uint64_t weights = 0, session = 0;
  {
    Engine engine;
    weights = engine.model->context()->heldBytes();
    const auto one = engine.open(fullPolicy());
    engine.append(one, text);
    session = engine.model->context()->heldBytes() - weights;
  }
  PrefixEngine engine(uint64_t{1} << 30, weights + session + session / 2);
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const auto one = engine.open(fullPolicy());
    engine.append(one, randomText(60 + seed, 450));
    engine.executor->dispose(one);
  }
  CHECK(engine.executor->prefixStats().entries < 6);
}

}  // namespace
