// States and rows that no session ever had: they are refused with an Error, or make a session that
// holds exactly these rows and can be used like any other.
#include "core/snapshot.h"
#include "engine_fixture.h"
#include "fuzz.h"
#include "policies.h"

using namespace engine_test;  // NOLINT
using fuzz::Input;

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kMostRowBytes = uint64_t{8} << 20;

int32_t& oneOf(Input& input, std::vector<int32_t>& values) {
  if (values.empty()) values.push_back(0);
  return values[input.below(static_cast<uint32_t>(values.size()))];
}

void damage(Input& input, SessionState& state) {
  switch (input.below(9)) {
    case 0:
      oneOf(input, state.ids) = static_cast<int32_t>(input.near(kAnchor));
      break;
    case 1:
      state.ids.resize(input.below(kContext + 20));
      break;
    case 2:
      state.cached = static_cast<int32_t>(input.near(state.cached));
      break;
    case 3:
      oneOf(input, state.released) = static_cast<int32_t>(input.near(state.cached));
      break;
    case 4:
      state.released.resize(input.below(kLayers + 3));
      break;
    case 5:
      oneOf(input, state.saved) = static_cast<int32_t>(input.near(state.cached));
      break;
    case 6:
      state.saved.resize(input.below(8));
      break;
    case 7:
      state.rowBytes = static_cast<uint64_t>(input.near(int64_t(state.rowBytes)));
      break;
    default:  // a line ends where none did
      oneOf(input, state.ids) = kAnchor;
  }
}

// What restore would say the rows take, so that more than its last check is reached.
uint64_t rowBytesOf(Engine& engine, const Policy& policy, DType storage, SessionState state) {
  state.rowBytes = UINT64_MAX;
  try {
    engine.executor->restore(policy, kContext, storage, state);
  } catch (const Error& error) {
    unsigned long long bytes = 0;
    if (std::sscanf(error.what(), "Expected %llu bytes of rows", &bytes) == 1) return bytes;
  }
  return state.rowBytes;
}

void use(Engine& engine, Input& input, const SessionPointer& session) {
  for (int32_t step = 0; step < 3; ++step) {
    try {
      switch (input.below(5)) {
        case 0:
          engine.append(session, {}, LogitsWanted::last);
          break;
        case 1:
          engine.append(session, randomText(input.byte(), 1 + input.below(80)));
          break;
        case 2:
          engine.generate(session, livelyOptions(input.byte()), input.below(8));
          break;
        case 3:
          engine.executor->truncate(session, input.from(0, session->stats().position));
          break;
        default: {
          const auto copy = engine.executor->fork(session, session->stats().position);
          engine.append(copy, {7, kNewline, kAnchor}, LogitsWanted::all);
          engine.executor->dispose(copy);
        }
      }
    } catch (const Error&) {
    }
  }
}

Bytes rowsOf(Engine& engine, Input& input, const SessionPointer& session) {
  Bytes all, part;
  for (RowStream rows = engine.executor->openRows(session); !rows.done();) {
    part.resize(1 + input.below(5000));
    part.resize(engine.executor->readRows(session, rows, part));
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Engine engine;
  Input input(data, size);
  const Policy policy = fuzz::somePolicy(input, kLayers);
  const DType storage = fuzz::someStorage(input);
  SessionState state;
  Bytes bytes;
  try {
    const auto session = engine.executor->createSession(policy, kContext, storage);
    engine.append(session, randomText(input.byte(), 1 + input.below(200), 1 + input.below(50)));
    if (input.flag()) engine.generate(session, livelyOptions(input.byte()), input.below(6));
    state = engine.executor->state(session);
    bytes = rowsOf(engine, input, session);
    engine.executor->dispose(session);
  } catch (const Error&) {
    return 0;  // a policy that cannot run
  }
  REQUIRE(bytes.size() == state.rowBytes);
  const uint32_t damages = input.below(4);
  for (uint32_t i = 0; i < damages; ++i) damage(input, state);
  if (damages > 0 && input.below(4) > 0) {
    state.rowBytes = rowBytesOf(engine, policy, storage, state);
  }
  for (uint32_t i = input.below(20); i > 0 && !bytes.empty(); --i) {
    bytes[input.word() % bytes.size()] = input.byte();
  }
  try {
    const auto session = engine.executor->restore(policy, kContext, storage, state);
    REQUIRE(state.rowBytes <= kMostRowBytes);
    bytes.resize(state.rowBytes, input.byte());  // 0xff are numbers that are none
    RowStream rows = engine.executor->openRows(session);
    for (size_t at = 0; at < bytes.size();) {
      const size_t count = std::min(bytes.size() - at, size_t{1} + input.below(9000));
      REQUIRE(engine.executor->writeRows(session, rows, {bytes.data() + at, count}) == count);
      at += count;
    }
    REQUIRE(rows.done());
    uint8_t more = 0;
    REQUIRE(engine.executor->writeRows(session, rows, {&more, 1}) == 0);
    REQUIRE(rowsOf(engine, input, session) == bytes);
    use(engine, input, session);
    engine.executor->dispose(session);
  } catch (const Error& error) {
    REQUIRE(error.what()[0] != '\0');
  }
  REQUIRE(engine.model->context()->cacheBytes == 0);
  return 0;
}
