// What the fuzzers share: values drawn from an input's bytes, and claims that end the program.
// A fuzzer defines LLVMFuzzerTestOneInput; main is libFuzzer's or the one of driver.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

#define REQUIRE(condition)                                                         \
  do {                                                                             \
    if (condition) break;                                                          \
    std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
    std::abort();                                                                  \
  } while (false)

namespace fuzz {

// An input, used up from its beginning; what comes after its end is 0.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return at_ >= size_; }
  uint8_t byte() { return empty() ? uint8_t{0} : data_[at_++]; }
  bool flag() { return (byte() & 1) != 0; }
  uint32_t word() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | byte();
    return value;
  }
  // 0 to below - 1.
  uint32_t below(uint32_t limit) {
    if (limit < 2) return 0;
    return (limit <= 256 ? byte() : word()) % limit;
  }
  int32_t from(int32_t least, int32_t most) {
    return least + static_cast<int32_t>(below(static_cast<uint32_t>(most - least + 1)));
  }
  // Mostly near `good`, or where arithmetic overflows.
  int64_t near(int64_t good) {
    constexpr int64_t kEdges[] = {0,          -1,        1,         INT32_MAX,    INT32_MIN,
                                  UINT32_MAX, INT64_MAX, INT64_MIN, INT64_MAX - 3};
    switch (byte() % 4) {
      case 0:
        return kEdges[below(9)];
      case 1:
        return static_cast<int64_t>(word()) << below(32);
      default:
        return static_cast<int64_t>(static_cast<uint64_t>(good) + word() % 19 - 9);
    }
  }
  std::vector<uint8_t> bytes(size_t count) {
    std::vector<uint8_t> all(count);
    for (uint8_t& value : all) value = byte();
    return all;
  }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

}  // namespace fuzz
