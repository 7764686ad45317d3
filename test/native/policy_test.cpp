// The rules of core/policy.h against the vectors of AnchorCoder's mask and against masks of
// booleans that are built from the definitions, over random texts.
#include "core/policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/error.h"

namespace {

using namespace anchorcoder;

constexpr int32_t kVocab = 16;
constexpr int32_t kAnchor = 3, kSecondAnchor = 1;

Policy anchorPolicy() {
  Policy policy;
  policy.isAnchor.assign(kVocab, 0);
  policy.isAnchor[kAnchor] = policy.isAnchor[kSecondAnchor] = 1;
  policy.firstIsAnchor = true;
  policy.line = true;
  policy.dense = {1, 0};
  return policy;
}

using Mask = std::vector<std::string>;  // row i, column j: '1' where token i sees position j

// What the ranges of the state say, turned into positions.
class MaskBuilder {
 public:
  explicit MaskBuilder(const Policy* policy) : state(policy) {}

  std::string add(int32_t id) {
    std::vector<int32_t> keys(2);
    const int32_t position = state.size();
    const PolicyState::TokenRows rows = state.add(id, keys);
    CHECK(rows.keptRow == -1 || rows.keptRow == static_cast<int32_t>(kept.size()));
    // A row that was let go is never asked for again.
    CHECK(rows.positional.lo >= released);
    CHECK(rows.kept.hi <= static_cast<int32_t>(kept.size()));
    std::string seen(static_cast<size_t>(position) + 1, '0');
    for (int32_t row = rows.kept.lo; row < rows.kept.hi; ++row) {
      const int32_t at = kept[static_cast<size_t>(row)];
      CHECK(at < rows.positional.lo);
      seen[static_cast<size_t>(at)] = '1';
    }
    for (int32_t at = rows.positional.lo; at < rows.positional.hi; ++at) {
      seen[static_cast<size_t>(at)] = '1';
    }
    if (rows.keptRow >= 0) kept.push_back(position);
    released = std::max(released, state.windowStart(state.size()));
    return seen;
  }

  void truncate(int32_t position, const std::vector<int32_t>& ids) {
    state.truncate(position, ids);
    kept.resize(static_cast<size_t>(state.keptCount()));
    released = std::min(released, state.windowStart(position));
  }

  PolicyState state;
  std::vector<int32_t> kept;
  int32_t released = 0;
};

Mask maskOf(const Policy& policy, const std::vector<int32_t>& ids) {
  MaskBuilder builder(&policy);
  Mask mask;
  for (const int32_t id : ids) mask.push_back(builder.add(id));
  return mask;
}

// From the definitions: lines, windows, sinks and anchors, one pair of positions at a time.
Mask definedMask(const Policy& policy, const std::vector<int32_t>& ids) {
  const auto length = static_cast<int32_t>(ids.size());
  const auto holdsAnchor = [&](int32_t p) {
    return policy.isAnchor[static_cast<size_t>(ids[static_cast<size_t>(p)])] != 0;
  };
  const auto closes = [&](int32_t p) { return holdsAnchor(p) || (p == 0 && policy.firstIsAnchor); };
  Mask mask;
  for (int32_t i = 0; i < length; ++i) {
    std::string seen;
    const bool blind = holdsAnchor(i) && !policy.anchorSeesAnchors;
    for (int32_t j = 0; j <= i; ++j) {
      bool sameLine = true;
      for (int32_t between = j; between < i; ++between) sameLine = sameLine && !closes(between);
      const bool near = (policy.line && sameLine) || j > i - policy.window;
      const bool kept = closes(j) || j < policy.sinks;
      seen += near || (kept && !blind) ? '1' : '0';
    }
    mask.push_back(seen);
  }
  return mask;
}

std::string text(const std::vector<int32_t>& values) {
  std::string all;
  for (const int32_t value : values) all += (all.empty() ? "" : " ") + std::to_string(value);
  return all;
}

TEST(the_published_mask) {
  Policy policy = anchorPolicy();
  const std::vector<int32_t> ids = {5, 5, 5, 5, kAnchor, 5, 5, 5, kAnchor, 5};
  const Mask expected = {"1",      "11",      "111",      "1111",      "11111",
                         "100011", "1000111", "10001111", "100011111", "1000100011"};
  const Mask mask = maskOf(policy, ids);
  for (size_t i = 0; i < ids.size(); ++i) CHECK_EQ(mask[i], expected[i]);
}

// Its first token is an ordinary one.
TEST(an_anchor_of_anllm_sees_its_own_line) {
  Policy policy = anchorPolicy();
  policy.firstIsAnchor = false;
  policy.anchorSeesAnchors = false;
  const std::vector<int32_t> ids = {5, 5, kAnchor, 5, 5, kAnchor, kAnchor, 5};
  const Mask expected = {"1", "11", "111", "0011", "00111", "000111", "0000001", "00100111"};
  const Mask mask = maskOf(policy, ids);
  for (size_t i = 0; i < ids.size(); ++i) CHECK_EQ(mask[i], expected[i]);
}

Policy randomPolicy(std::mt19937& random) {
  Policy policy = anchorPolicy();
  policy.firstIsAnchor = random() % 2 == 0;
  policy.anchorSeesAnchors = random() % 3 != 0;
  policy.line = random() % 3 != 0;
  policy.window = policy.line && random() % 2 == 0 ? 0 : 1 + static_cast<int32_t>(random() % 9);
  policy.sinks = random() % 2 == 0 ? 0 : static_cast<int32_t>(random() % 6);
  policy.multiHeadPositions = random() % 2 == 0;
  policy.insertedAnchor = random() % 2 == 0 ? kAnchor : -1;
  return policy;
}

std::vector<int32_t> randomIds(std::mt19937& random, int32_t most) {
  std::vector<int32_t> ids(1 + random() % static_cast<uint32_t>(most));
  const auto rarity = 2 + random() % 12;
  for (int32_t& id : ids) {
    id = random() % rarity == 0 ? (random() % 2 ? kAnchor : kSecondAnchor)
                                : 4 + static_cast<int32_t>(random() % 12);
  }
  return ids;
}

TEST(random_texts_follow_the_definitions) {
  std::mt19937 random(1);
  for (int32_t round = 0; round < 4000; ++round) {
    const Policy policy = randomPolicy(random);
    const std::vector<int32_t> ids = randomIds(random, 40);
    if (maskOf(policy, ids) == definedMask(policy, ids)) continue;
    CHECK_EQ("round " + std::to_string(round) + ", ids " + text(ids), "as defined");
    return;
  }
}

void checkSame(const PolicyState& a, const PolicyState& b) {
  CHECK_EQ(a.size(), b.size());
  CHECK_EQ(a.keptCount(), b.keptCount());
  CHECK_EQ(a.anchorCount(), b.anchorCount());
  CHECK_EQ(a.insertedCount(), b.insertedCount());
  for (int32_t p = 0; p <= a.size(); ++p) {
    CHECK_EQ(a.windowStart(p), b.windowStart(p));
    CHECK_EQ(a.keptBelow(p), b.keptBelow(p));
    CHECK_EQ(a.closesLine(p), b.closesLine(p));
  }
}

TEST(cutting_back_equals_building_anew) {
  std::mt19937 random(2);
  for (int32_t round = 0; round < 1500; ++round) {
    const Policy policy = randomPolicy(random);
    std::vector<int32_t> ids = randomIds(random, 40);
    PolicyState state(&policy);
    std::vector<int32_t> keys(4), freshKeys(4);
    for (const int32_t id : ids) state.add(id, keys);
    for (int32_t cut = 0; cut < 3; ++cut) {
      const auto to = static_cast<int32_t>(random() % (ids.size() + 1));
      state.truncate(to, ids);
      ids.resize(static_cast<size_t>(to));
      PolicyState fresh(&policy);
      for (const int32_t id : ids) fresh.add(id, freshKeys);
      checkSame(state, fresh);
      for (const int32_t id : randomIds(random, 12)) {
        const PolicyState::TokenRows rows = state.add(id, keys);
        const PolicyState::TokenRows expected = fresh.add(id, freshKeys);
        CHECK_EQ(rows.keptRow, expected.keptRow);
        CHECK_EQ(rows.kept.hi, expected.kept.hi);
        CHECK_EQ(rows.positional.lo, expected.positional.lo);
        CHECK_EQ(text(keys), text(freshKeys));
        ids.push_back(id);
      }
      checkSame(state, fresh);
    }
  }
}

TEST(a_copy_has_a_policy_and_a_future_of_its_own) {
  const Policy policy = anchorPolicy(), same = anchorPolicy();
  std::vector<int32_t> keys(2);
  PolicyState state(&policy);
  for (const int32_t id : {5, kAnchor, 6}) state.add(id, keys);
  PolicyState copy(&same, state);
  CHECK(&copy.policy() == &same);
  copy.add(kAnchor, keys);
  CHECK_EQ(copy.anchorCount(), 2);
  CHECK_EQ(state.anchorCount(), 1);
  CHECK_EQ(state.size(), 3);
}

std::vector<int32_t> headsPerPlace(int32_t previous, int32_t anchor, int32_t heads) {
  std::vector<int32_t> positions(static_cast<size_t>(heads));
  anchorKeyPositions(previous, anchor, positions);
  CHECK(std::is_sorted(positions.begin(), positions.end()));
  std::vector<int32_t> counts(static_cast<size_t>(anchor - previous - 1));
  for (const int32_t position : positions) {
    CHECK(position > previous && position < anchor);
    ++counts[static_cast<size_t>(position - previous - 1)];
  }
  return counts;
}

TEST(the_published_head_counts) {
  const std::vector<std::vector<int32_t>> table = {
      {32},
      {4, 28},
      {1, 7, 24},
      {0, 3, 9, 20},
      {0, 1, 4, 9, 18},
      {0, 0, 1, 2, 3, 5, 8, 13},
      {0, 0, 0, 1, 1, 2, 4, 5, 8, 11},
      {0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7},
  };
  for (const auto& counts : table) {
    const auto length = static_cast<int32_t>(counts.size());
    for (const int32_t previous : {-1, 0, 41}) {
      CHECK_EQ(text(headsPerPlace(previous, previous + length + 1, 32)), text(counts));
    }
  }
}

TEST(head_counts_are_shares_of_the_cubes) {
  for (const int32_t heads : {1, 2, 5, 8, 32, 40}) {
    for (const int32_t length : {1, 2, 3, 7, 20, 100, 999}) {
      const std::vector<int32_t> counts = headsPerPlace(6, 6 + length + 1, heads);
      const double sum = std::pow(length * (length + 1.0) / 2, 2);
      int32_t total = 0;
      for (int32_t i = 1; i <= length; ++i) {
        const int32_t count = counts[static_cast<size_t>(i - 1)];
        CHECK(std::abs(count - heads * std::pow(i, 3) / sum) < 1 + 1e-9);
        total += count;
      }
      CHECK_EQ(total, heads);
    }
  }
  // A line of a whole long context: the cubes' sum needs more than 64 bits.
  const std::vector<int32_t> counts = headsPerPlace(-1, 1 << 20, 32);
  CHECK_EQ(counts[0], 0);
}

TEST(an_anchor_without_a_line_keeps_its_position) {
  std::vector<int32_t> positions(8);
  anchorKeyPositions(4, 5, positions);
  CHECK_EQ(text(positions), "5 5 5 5 5 5 5 5");
  anchorKeyPositions(-1, 0, positions);
  CHECK_EQ(text(positions), "0 0 0 0 0 0 0 0");
}

// Position 0 counts as an anchor for what is seen; a line begins behind it only where it holds one.
TEST(the_first_line_begins_at_the_first_token) {
  Policy policy = anchorPolicy();
  policy.multiHeadPositions = true;
  std::vector<int32_t> keys(2);
  PolicyState plain(&policy);
  for (const int32_t id : {5, kAnchor}) plain.add(id, keys);
  CHECK_EQ(text(keys), "0 0");
  plain.add(kAnchor, keys);
  CHECK_EQ(text(keys), "2 2");

  PolicyState first(&policy);
  for (const int32_t id : {kSecondAnchor, kAnchor}) first.add(id, keys);
  CHECK_EQ(text(keys), "1 1");
  // BOS in the middle of a text moves its key too.
  for (const int32_t id : {5, kSecondAnchor}) first.add(id, keys);
  CHECK_EQ(text(keys), "2 2");
  first.add(5, keys);
  CHECK_EQ(text(keys), "4 4");

  // Cut back to nothing and begun otherwise: the first id is looked at anew.
  first.truncate(0, std::vector<int32_t>{kSecondAnchor, kAnchor, 5, kSecondAnchor, 5});
  for (const int32_t id : {5, kAnchor}) first.add(id, keys);
  CHECK_EQ(text(keys), "0 0");
}

TEST(layers_that_keep_rows_apart) {
  Policy policy = anchorPolicy();
  policy.dense = {1, 0, 1, 1, 0};
  CHECK(!policy.hasKeptRows(0) && policy.hasKeptRows(1) && !policy.hasKeptRows(2));
  policy.sourceLayer = 0;
  policy.consumersAbove = 3;
  CHECK(policy.isMirror(0) && !policy.isMirror(1) && !policy.isMirror(2));
  CHECK(policy.isConsumer(4) && !policy.isConsumer(3));
  policy.dense[4] = 1;  // a dense consumer reads the source's own rows
  CHECK(!policy.isMirror(0));
  policy.validate(5, kVocab);
}

bool isRefused(const Policy& policy, int32_t layers = 2) {
  try {
    policy.validate(layers, kVocab);
  } catch (const Error& error) {
    return error.code == ErrorCode::invalidArgument;
  }
  return false;
}

TEST(policies_that_cannot_run_are_refused) {
  CHECK(!isRefused(anchorPolicy()));
  CHECK(isRefused(anchorPolicy(), 3));
  const auto changed = [](auto change) {
    Policy policy = anchorPolicy();
    change(policy);
    return isRefused(policy);
  };
  CHECK(changed([](Policy& policy) { policy.isAnchor.pop_back(); }));
  CHECK(changed([](Policy& policy) { policy.window = -1; }));
  CHECK(changed([](Policy& policy) { policy.sinks = -1; }));
  CHECK(changed([](Policy& policy) { policy.line = false; }));
  CHECK(changed([](Policy& policy) { policy.sourceLayer = 2; }));
  CHECK(changed([](Policy& policy) {
    policy.sourceLayer = 1;
    policy.consumersAbove = 0;
  }));
  for (const int32_t above : {2, std::numeric_limits<int32_t>::max()}) {
    CHECK(changed([&](Policy& policy) {
      policy.sourceLayer = 0;
      policy.consumersAbove = above;
    }));
  }
  CHECK(!changed([](Policy& policy) {  // without consumers
    policy.sourceLayer = 0;
    policy.consumersAbove = 1;
  }));
  CHECK(changed([](Policy& policy) {  // a dense consumer needs all rows of the source
    policy.dense = {0, 1};
    policy.sourceLayer = 0;
    policy.consumersAbove = 0;
  }));
  CHECK(!changed([](Policy& policy) {
    policy.sourceLayer = 0;
    policy.consumersAbove = 0;
  }));
}

}  // namespace
