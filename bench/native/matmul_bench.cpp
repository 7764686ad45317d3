// Speed of the CPU's products: GB/s of weights that come from memory for one row, GFLOP/s for more
// (8 rows from memory too, 64 and 256 from cache). The best of all rounds counts.
//
//   matmul_bench [threads] [rounds] [set] [f32|f16|bf16]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/numeric.h"
#include "core/ops.h"
#include "cpu/cpu.h"

namespace {

using namespace anchorcoder;  // NOLINT
using Clock = std::chrono::steady_clock;

struct Shape {
  int32_t outputs, cols;
};

struct Settings {
  int32_t threads = 1;
  int32_t rounds = 10;
  std::string set;
  DType type = DType::bf16;
};

double seconds(Clock::time_point from) {
  return std::chrono::duration<double>(Clock::now() - from).count();
}

// Weights of one type, so many of them that they do not fit a cache when read in turn.
class Weights {
 public:
  Weights(const Ops& ops, Device* device, const Shape& shape, DType type, bool many) {
    const size_t bytes =
        static_cast<size_t>(shape.outputs) * static_cast<size_t>(shape.cols) * dtypeBytes(type);
    const size_t copies = many ? std::max<size_t>(1, (size_t{160} << 20) / bytes) : 1;
    for (size_t i = 0; i < copies; ++i) {
      std::vector<char> data(bytes);
      fill(data, type, static_cast<uint32_t>(i));
      data_.push_back(std::move(data));
      const WeightDesc desc = {type, shape.outputs, shape.cols};
      Weight* weight = nullptr;
      ops.prepareWeight(device, &desc, data_.back().data(), &weight);
      weights_.push_back(weight);
    }
  }
  const Weight* next() { return weights_[next_++ % weights_.size()]; }
  void release(const Ops& ops, Device* device) {
    for (Weight* weight : weights_) ops.freeWeight(device, weight);
  }

 private:
  static void fill(std::vector<char>& data, DType type, uint32_t seed) {
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < data.size(); i += dtypeBytes(type)) {
      state = state * 1664525u + 1013904223u;
      const float value = static_cast<float>(state >> 16) / 65536.0f - 0.5f;
      const uint16_t half = type == DType::f16 ? floatToF16(value) : floatToBf16(value);
      if (type == DType::f32) {
        std::memcpy(&data[i], &value, 4);
      } else {
        std::memcpy(&data[i], &half, 2);
      }
    }
  }

  std::vector<std::vector<char>> data_;
  std::vector<Weight*> weights_;
  size_t next_ = 0;
};

// Seconds of one product, the best of some that are timed together for about 4 ms.
double timeProduct(const Ops& ops, Device* device, Weights& weights, const Shape& shape,
                   int32_t rows, Compute compute) {
  const auto inputs = static_cast<size_t>(rows) * static_cast<size_t>(shape.cols);
  const auto results = static_cast<size_t>(rows) * static_cast<size_t>(shape.outputs);
  auto* x = static_cast<float*>(ops.alloc(device, inputs * sizeof(float)));
  auto* y = static_cast<float*>(ops.alloc(device, results * sizeof(float)));
  for (size_t i = 0; i < inputs; ++i) x[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
  const ModelDesc model = {1, shape.cols, 1, 1, 16, 16, compute, nullptr, 0};
  Pass pass = {};
  pass.tokenCount = rows;
  Plan* plan = nullptr;
  ops.beginPass(device, &model, &pass, &plan);
  ops.matmul(plan, weights.next(), nullptr, x, rows, y);
  double best = 1e9;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point from = Clock::now();
    ops.matmul(plan, weights.next(), nullptr, x, rows, y);
    best = std::min(best, seconds(from));
  } while (seconds(start) < 0.004);
  ops.endPass(plan);
  ops.free(device, x);
  ops.free(device, y);
  return best;
}

void runSet(const Settings& settings, const std::string& set, Compute compute) {
  const Ops& ops = *cpuOps();
  const OpenOptions options = {settings.threads, set.c_str()};
  Device* device = nullptr;
  if (ops.open(&options, &device) != Status::ok) {
    std::printf("%s\n", ops.lastError(nullptr));
    return;
  }
  const Shape shapes[] = {{320, 320}, {896, 320},  {576, 576},  {1536, 576},  {576, 1536},
                          {896, 896}, {4864, 896}, {896, 4864}, {2048, 8192}, {8192, 2048}};
  const int32_t rowCounts[] = {1, 8, 64, 256};
  std::printf("%s, %d threads, %s\n%14s", set.c_str(), settings.threads,
              compute == Compute::bf16 ? "bf16" : "exact", "outputs x cols");
  for (const int32_t rows : rowCounts) std::printf("   rows %3d us  rate", rows);
  std::printf("   (GB/s of weights, then GFLOP/s)\n");
  for (const Shape& shape : shapes) {
    std::printf("%6d x %5d", shape.outputs, shape.cols);
    for (const int32_t rows : rowCounts) {
      Weights weights(ops, device, shape, settings.type, rows == 1 || rows == 8);
      double best = 1e9;
      for (int32_t round = 0; round < settings.rounds; ++round) {
        best = std::min(best, timeProduct(ops, device, weights, shape, rows, compute));
      }
      const double elements = static_cast<double>(shape.outputs) * shape.cols;
      const double work = rows == 1 ? elements * static_cast<double>(dtypeBytes(settings.type))
                                    : 2 * elements * rows;
      std::printf(" %12.1f %6.1f", best * 1e6, work / best * 1e-9);
      weights.release(ops, device);
    }
    std::printf("\n");
  }
  ops.close(device);
}

}  // namespace

int main(int count, char** arguments) {
  Settings settings;
  if (count > 1) settings.threads = std::atoi(arguments[1]);
  if (count > 2) settings.rounds = std::atoi(arguments[2]);
  if (count > 3) settings.set = arguments[3];
  if (count > 4) {
    const std::string type = arguments[4];
    settings.type = type == "f32" ? DType::f32 : type == "f16" ? DType::f16 : DType::bf16;
  }
  for (const std::string& set : instructionSets()) {
    if (!settings.set.empty() && settings.set != set) continue;
    runSet(settings, set, Compute::exact);
    runSet(settings, set, Compute::bf16);
  }
}
