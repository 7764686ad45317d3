// Merging adapters: against double loops, on any number of threads.
#include "core/adapter.h"

#include <array>
#include <atomic>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "core/elements.h"
#include "failing_memory.h"

using namespace anchorcoder;  // NOLINT: a test

namespace {

std::atomic<bool> othersFail{false};
thread_local bool spared = false;  // the test's own thread

}  // namespace

bool allocationFails() { return othersFail && !spared; }

namespace {

std::vector<float> randoms(std::mt19937& random, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// What is stored, with one byte before it so that nothing is aligned.
std::vector<uint8_t> stored(DType type, const std::vector<float>& values) {
  std::vector<uint8_t> bytes(1 + values.size() * dtypeBytes(type));
  for (size_t i = 0; i < values.size(); ++i) storeElement(type, values[i], bytes.data() + 1, i);
  return bytes;
}

TEST(adds_the_product_of_the_factors) {
  std::mt19937 random(1);
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    for (const auto [rows, cols, rank] :
         {std::array<int64_t, 3>{1, 1, 1}, {7, 33, 3}, {64, 5, 8}}) {
      const auto a = randoms(random, static_cast<size_t>(rank * cols));
      const auto b = randoms(random, static_cast<size_t>(rows * rank));
      const auto before = stored(type, randoms(random, static_cast<size_t>(rows * cols)));
      std::vector<uint8_t> first;
      for (const int32_t threads : {1, 2, 3, 100}) {
        auto bytes = before;
        addLowRank(type, bytes.data() + 1, rows, cols, {a, b, rank, 0.5f}, threads);
        if (first.empty()) first = bytes;
        CHECK(bytes == first);
      }
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          double sum = 0;
          for (int64_t k = 0; k < rank; ++k) {
            sum += static_cast<double>(b[static_cast<size_t>(r * rank + k)]) *
                   static_cast<double>(a[static_cast<size_t>(k * cols + c)]);
          }
          const auto at = static_cast<size_t>(r * cols + c);
          const double expected =
              static_cast<double>(loadElement(type, before.data() + 1, at)) + 0.5 * sum;
          const double error =
              std::abs(static_cast<double>(loadElement(type, first.data() + 1, at)) - expected);
          const double bound = type == DType::f32 ? 1e-5 : type == DType::bf16 ? 4e-3 : 5e-4;
          CHECK(error <= bound * (1 + std::abs(expected)));
        }
      }
    }
  }
}

// Memory that is short is told to who asked for the merge; a thread has nobody to tell.
TEST(takes_no_memory_on_its_threads) {
  std::vector<float> weight(12, 1.0f), factors(8, 2.0f);
  spared = othersFail = true;
  const std::span<const float> some(factors);
  addLowRank(DType::f32, reinterpret_cast<uint8_t*>(weight.data()), 4, 3,
             {some.first(3), some.first(4), 1, 0.5f}, 4);
  othersFail = false;
  for (const float value : weight) CHECK_EQ(value, 3.0f);
}

}  // namespace
