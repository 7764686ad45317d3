// What the tests of the CPU's ops share: devices of every instruction set, passes, random weights,
// poisoned outputs and the double loops that results are held against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/numeric.h"
#include "core/ops.h"
#include "cpu/cpu.h"
#include "guarded.h"

namespace ops_test {

using namespace anchorcoder;  // NOLINT: a test's own header

inline const Ops& ops() { return *cpuOps(); }
inline size_t at(int32_t index) { return static_cast<size_t>(index); }
inline size_t at(int32_t row, int32_t width) { return at(row) * at(width); }

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float normal() { return distribution_(engine_); }
  std::vector<float> normals(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal();
    return values;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> distribution_;
};

// A matrix of random elements. With an even seed it ends at a page without access, with an odd one
// it starts at an odd address.
class Matrix {
 public:
  Matrix(DType type, int32_t rows, int32_t cols, uint32_t seed)
      : type_(type), rows_(rows), cols_(cols), values_(at(rows, cols)), bytes_(size() + seed % 2) {
    Random random(seed);
    for (size_t i = 0; i < values_.size(); ++i) put(i, random.normal());
  }
  double value(int32_t row, int32_t col) const {
    return static_cast<double>(values_[at(row, cols_) + at(col)]);
  }
  Weight* prepare(Device* device) const {
    const WeightDesc desc = {type_, rows_, cols_};
    Weight* weight = nullptr;
    ops().prepareWeight(device, &desc, bytes_.data(), &weight);
    return weight;
  }
  int32_t rows() const { return rows_; }
  int32_t cols() const { return cols_; }

 private:
  size_t size() const { return at(rows_, cols_) * dtypeBytes(type_); }
  void put(size_t i, float value) {
    char* to = bytes_.data() + i * dtypeBytes(type_);
    if (type_ == DType::f32) {
      std::memcpy(to, &value, 4);
      values_[i] = value;
      return;
    }
    const uint16_t half = type_ == DType::f16 ? floatToF16(value) : floatToBf16(value);
    std::memcpy(to, &half, 2);
    values_[i] = type_ == DType::f16 ? f16ToFloat(half) : bf16ToFloat(half);
  }

  DType type_;
  int32_t rows_, cols_;
  std::vector<float> values_;
  GuardedBytes bytes_;
};

// Floats that start as NaN and end at a page without access.
class Floats {
 public:
  explicit Floats(size_t count) : count_(count), bytes_(count * sizeof(float)) {
    std::fill_n(data(), count, std::numeric_limits<float>::quiet_NaN());
  }
  explicit Floats(const std::vector<float>& values) : Floats(values.size()) {
    std::copy(values.begin(), values.end(), data());
  }
  float* data() const { return reinterpret_cast<float*>(bytes_.data()); }
  float operator[](size_t i) const { return data()[i]; }
  size_t size() const { return count_; }
  bool equals(const Floats& other) const { return equals(other.data(), count_); }
  bool equals(const float* other, size_t count) const {
    return std::memcmp(data(), other, count * sizeof(float)) == 0;
  }

 private:
  size_t count_;
  GuardedBytes bytes_;
};

struct Shape {
  int32_t hidden = 64, heads = 4, kvHeads = 2, headDim = 16;
  Compute compute = Compute::exact;
  RopeDesc rope = {0, false, 1.0f, nullptr};
};

// An open device with a pass of two sequences over one layer.
class Bed {
 public:
  Bed(const std::string& set, int32_t threads, const Shape& shape, int32_t tokens) : shape_(shape) {
    const OpenOptions options = {threads, set.c_str()};
    ops().open(&options, &device);
    fillPass(tokens);
    fillCaches(tokens);
  }
  ~Bed() {
    for (Weight* weight : weights_) ops().freeWeight(device, weight);
    for (void* block : blocks_) ops().free(device, block);
    ops().close(device);
  }
  Bed(const Bed&) = delete;
  Bed& operator=(const Bed&) = delete;

  const Weight* weight(const Matrix& matrix) {
    weights_.push_back(matrix.prepare(device));
    return weights_.back();
  }

  template <typename Fn>
  void run(Fn&& fn) {
    const ModelDesc model = {1,
                             shape_.hidden,
                             shape_.heads,
                             shape_.kvHeads,
                             shape_.headDim,
                             1000,
                             shape_.compute,
                             &shape_.rope,
                             shape_.rope.rotaryDims > 0};
    Plan* plan = nullptr;
    ops().beginPass(device, &model, &pass, &plan);
    fn(plan);
    ops().endPass(plan);
  }

  // Everything that the blocks of the cache hold.
  std::vector<char> cacheBytes() const {
    const size_t bytes = blockBytes(DType::f32, shape_.headDim);
    std::vector<char> all;
    for (const void* block : blocks_) {
      const char* from = static_cast<const char*>(block);
      all.insert(all.end(), from, from + bytes);
    }
    return all;
  }
  void clearCache() {
    for (void* block : blocks_) std::memset(block, 0, blockBytes(DType::f32, shape_.headDim));
  }

  Device* device = nullptr;
  Pass pass = {};
  std::vector<int32_t> logitRows;

 private:
  void fillPass(int32_t tokens) {
    const int32_t first = tokens / 3;
    starts_ = {0, first, tokens};
    for (int32_t t = 0; t < tokens; ++t) {
      ids_.push_back(t * 7 % 100);
      positions_.push_back(t < first ? t : t - first);
      queryRope_.push_back(t);
      for (int32_t h = 0; h < shape_.kvHeads; ++h) keyRope_.push_back((t + h) % tokens);
      if (t % 3 != 1) logitRows.push_back(t);
    }
    keptRow_.assign(at(tokens), -1);
    storage_ = {DType::f32, DType::f32};
    for (int32_t t = 0; t < tokens; ++t) ropePositions_.push_back(t * 5);
    pass.tokenCount = tokens;
    pass.sequenceCount = 2;
    pass.ropeCount = tokens;
    pass.logitCount = static_cast<int32_t>(logitRows.size());
    pass.ids = ids_.data();
    pass.positions = positions_.data();
    pass.sequenceStarts = starts_.data();
    pass.storage = storage_.data();
    pass.ropePositions = ropePositions_.data();
    pass.queryRope = queryRope_.data();
    pass.keyRope = keyRope_.data();
    pass.keptRow = keptRow_.data();
    pass.logitRows = logitRows.data();
  }

  void fillCaches(int32_t tokens) {
    const int32_t stride = tokens / kBlockRows + 1;
    for (int32_t i = 0; i < 2 * shape_.kvHeads * stride; ++i) {
      blocks_.push_back(ops().alloc(device, blockBytes(DType::f32, shape_.headDim)));
    }
    for (int32_t s = 0; s < 2; ++s) {
      const SegmentTable table = {blocks_.data() + at(s * shape_.kvHeads, stride), stride, 0};
      caches_.push_back({table, {nullptr, 0, 0}});
    }
    pass.caches = caches_.data();
  }

  Shape shape_;
  std::vector<Weight*> weights_;
  std::vector<void*> blocks_;
  std::vector<LayerCache> caches_;
  std::vector<int32_t> ids_, positions_, starts_, queryRope_, keyRope_, keptRow_, ropePositions_;
  std::vector<DType> storage_;
};

inline std::string nameOf(DType type) {
  return type == DType::f32 ? "f32" : type == DType::f16 ? "f16" : "bf16";
}

}  // namespace ops_test
