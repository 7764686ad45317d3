// Blocks of the cache: what a row holds survives growth, forks and cuts of others; memory that runs
// out in the middle leaves everything usable; all of it comes back.
#include "core/cache.h"

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "cpu/cpu.h"

namespace {

using namespace anchorcoder;

constexpr CacheShape kShape{3, 2, 4, DType::f32};

std::shared_ptr<DeviceContext> openContext(uint64_t maxBytes = 0) {
  return DeviceContext::open(cpuOps(), {1, nullptr}, maxBytes);
}

// Layer 0 is dense with a mirror, layer 1 anchored, layer 2 dense without kept rows... but for
// layer 1 to be a consumer it must come after layer 0.
Policy makePolicy() {
  Policy policy;
  policy.isAnchor.assign(8, 0);
  policy.line = true;
  policy.dense = {1, 0, 1};
  policy.sourceLayer = 0;
  policy.consumersAbove = 0;
  return policy;
}

size_t slot(int32_t index) { return static_cast<size_t>(index); }

float* cell(const SegmentTable& table, int32_t head, int32_t row) {
  void* block = table.blocks[head * table.stride + row / kBlockRows - table.firstBlock];
  return static_cast<float*>(block) + row % kBlockRows;
}

// A sequence and a plain copy of what its rows should hold.
class Shadowed {
 public:
  explicit Shadowed(const std::shared_ptr<DeviceContext>& context)
      : cache(context, kShape, makePolicy()) {}

  // New rows with new numbers, the same in every layer and head but for an offset.
  void grow(int32_t rows, int32_t kept, std::mt19937& random) {
    const auto size = static_cast<int32_t>(values.size());
    const auto keptSize = static_cast<int32_t>(keptValues.size());
    cache.reserve(size, size + rows, keptSize, keptSize + kept);
    for (int32_t i = 0; i < rows; ++i) values.push_back(static_cast<float>(random() % 100000));
    for (int32_t i = 0; i < kept; ++i) keptValues.push_back(static_cast<float>(random() % 100000));
    visit([&](float* at, float value, int32_t row, bool isKept) {
      if (row >= (isKept ? keptSize : size)) *at = value;
    });
  }

  void truncate(int32_t position, int32_t kept) {
    cache.truncate(position, kept);
    values.resize(slot(position));
    keptValues.resize(slot(kept));
    lowest = std::min(lowest, position);
  }

  void release(int32_t row) {
    cache.releaseBefore(1, row);  // the anchored layer
    lowest = std::max(lowest, row);
  }

  bool holds() const {
    bool right = true;
    visit([&](const float* at, float value, int32_t, bool) { right = right && *at == value; });
    return right;
  }

  SequenceCache cache;
  std::vector<float> values, keptValues;
  int32_t lowest = 0;  // row that anchored layers still hold

 private:
  template <typename Fn>
  void visit(Fn&& fn) const {
    for (int32_t layer = 0; layer < kShape.layers; ++layer) {
      const LayerCache tables = cache.layer(layer);
      for (int32_t head = 0; head < kShape.kvHeads; ++head) {
        const auto offset = static_cast<float>(layer * 10 + head);
        for (int32_t row = layer == 1 ? lowest : 0; row < static_cast<int32_t>(values.size());
             ++row) {
          fn(cell(tables.positional, head, row), values[slot(row)] + offset, row, false);
        }
        if (layer == 2) continue;
        for (int32_t row = 0; row < static_cast<int32_t>(keptValues.size()); ++row) {
          fn(cell(tables.kept, head, row), keptValues[slot(row)] - offset, row, true);
        }
      }
    }
  }
};

TEST(tables_are_right_after_growth) {
  std::mt19937 random(1);
  Shadowed sequence(openContext());
  CHECK(sequence.cache.layer(0).positional.blocks == nullptr);
  CHECK(sequence.cache.layer(0).kept.blocks == nullptr);
  for (int32_t step = 0; step < 60; ++step) {
    sequence.grow(1 + step * 3 % 50, step % 4, random);
    CHECK(sequence.holds());
  }
  CHECK(sequence.cache.layer(2).kept.blocks == nullptr);
}

TEST(bytes_are_those_of_the_blocks_held) {
  const auto context = openContext();
  const uint64_t before = context->heldBytes();
  {
    std::mt19937 random(2);
    Shadowed sequence(context);
    CHECK_EQ(sequence.cache.bytes(), size_t{0});
    sequence.grow(33, 1, random);
    CHECK_EQ(sequence.cache.bytes(), (3 * 2 + 2 * 1) * kShape.columnBytes());
    CHECK_EQ(context->cacheBytes, sequence.cache.bytes());
    CHECK_EQ(context->heldBytes(), before + sequence.cache.bytes());
    sequence.release(32);
    CHECK_EQ(sequence.cache.bytes(), (2 + 1 + 2 + 2 * 1) * kShape.columnBytes());
    const Shadowed copy = sequence;
    CHECK_EQ(copy.cache.bytes(), sequence.cache.bytes());
    CHECK_EQ(context->cacheBytes, sequence.cache.bytes());
    sequence.truncate(0, 0);
    CHECK_EQ(sequence.cache.bytes(), size_t{0});
    CHECK_EQ(context->cacheBytes, copy.cache.bytes());
  }
  CHECK_EQ(context->cacheBytes, uint64_t{0});
  CHECK_EQ(context->heldBytes(), before);
}

TEST(a_fork_copies_only_the_open_column) {
  const auto context = openContext();
  std::mt19937 random(3);
  Shadowed sequence(context);
  sequence.grow(70, 40, random);
  Shadowed fork = sequence;
  const uint64_t before = context->cacheBytes;
  fork.grow(1, 1, random);
  CHECK_EQ(context->cacheBytes, before + (3 + 2) * kShape.columnBytes());
  CHECK(fork.holds());
  CHECK(sequence.holds());
  for (int32_t layer = 0; layer < kShape.layers; ++layer) {
    const SegmentTable own = fork.cache.layer(layer).positional;
    const SegmentTable other = sequence.cache.layer(layer).positional;
    CHECK(own.blocks[0] == other.blocks[0] && own.blocks[1] == other.blocks[1]);
    CHECK(own.blocks[2] != other.blocks[2]);
  }
  // The other one is alone with its column now and writes in place.
  const uint64_t after = context->cacheBytes;
  sequence.grow(1, 1, random);
  CHECK_EQ(context->cacheBytes, after);
  CHECK(fork.holds());
}

TEST(random_histories_of_many_forks) {
  const auto context = openContext();
  const uint64_t before = context->heldBytes();
  std::mt19937 random(4);
  const auto upTo = [&](size_t most) { return static_cast<int32_t>(random() % (most + 1)); };
  for (int32_t round = 0; round < 40; ++round) {
    std::vector<Shadowed> all{Shadowed(context)};
    for (int32_t step = 0; step < 120; ++step) {
      Shadowed& one = all[random() % all.size()];
      switch (random() % 6) {
        case 0:
        case 1:
          one.grow(upTo(60), upTo(20), random);
          break;
        case 2:
          one.truncate(upTo(one.values.size()), upTo(one.keptValues.size()));
          break;
        case 3:
          one.release(upTo(one.values.size()));
          break;
        case 4: {
          if (all.size() > 5) break;
          Shadowed copy = one;
          all.push_back(std::move(copy));
          break;
        }
        default:
          if (all.size() > 1) all.erase(all.begin() + upTo(all.size() - 1));
      }
      const bool right =
          std::all_of(all.begin(), all.end(), [](const auto& s) { return s.holds(); });
      CHECK(right);
      if (!right) return;
    }
    all.clear();
    CHECK_EQ(context->cacheBytes, uint64_t{0});
  }
  CHECK_EQ(context->heldBytes(), before);
}

// Every number of blocks that is too few for the growth from 40 rows to 100.
TEST(running_out_in_the_middle_leaves_the_sequence_as_it_was) {
  const size_t column = kShape.columnBytes();
  for (uint64_t extra = 0; extra < 12; ++extra) {
    std::mt19937 random(5);
    const auto context = openContext((8 + extra) * column);
    Shadowed sequence(context);
    sequence.grow(40, 3, random);
    CHECK_EQ(context->heldBytes(), 8 * column);
    Shadowed fork = sequence;
    const uint64_t before = context->heldBytes();
    bool failed = false;
    try {
      fork.cache.reserve(40, 100, 3, 40);  // 5 copies and 3 * 2 + 2 new columns
    } catch (const Error& error) {
      failed = error.code == ErrorCode::outOfMemory;
      fork.cache.truncate(40, 3);  // what a pass that cannot run does
    }
    CHECK(failed);
    CHECK(sequence.holds());
    CHECK(fork.holds());
    fork = Shadowed(context);
    CHECK_EQ(context->heldBytes(), before);
    sequence.truncate(20, 1);
    CHECK_EQ(context->heldBytes(), 5 * column);
    sequence.grow(12, 31, random);
    CHECK(sequence.holds());
  }
}

TEST(a_column_too_large_for_the_device_is_refused) {
  const auto context = openContext();
  const CacheShape huge{1, 1 << 20, 1 << 20, DType::f32};
  Policy policy = makePolicy();
  policy.dense = {1};
  policy.sourceLayer = -1;
  SequenceCache cache(context, huge, policy);
  CHECK_THROWS(cache.reserve(0, 1, 0, 0));
  CHECK_EQ(context->heldBytes(), uint64_t{0});
  CHECK_EQ(context->cacheBytes, uint64_t{0});
}

TEST(the_limit_counts_every_account) {
  const auto context = openContext(1000);
  context->account(600, "a file");
  CHECK_THROWS(context->account(401, "too much"));
  CHECK_THROWS(context->allocate(401, "too much"));
  CHECK_EQ(context->heldBytes(), uint64_t{600});
  CHECK_THROWS(context->account(~uint64_t{0} - 100, "more than there are numbers for"));
  CHECK_EQ(context->heldBytes(), uint64_t{600});
  void* memory = context->allocate(400, "the rest");
  context->release(memory, 400);
  context->unaccount(600);
  CHECK_EQ(context->heldBytes(), uint64_t{0});
}

}  // namespace
