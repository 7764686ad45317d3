// Opening a device and laying out the scratch of a pass.
#include "device.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

#include "attention.h"
#include "dispatch.h"
#include "product.h"
#include "threads.h"

namespace anchorcoder {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMostBytes = size_t{1} << 47;  // the address space of a process

size_t roundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

thread_local std::string openError;

const Kernels* chooseKernels(const char* wanted) {
  if (!wanted) wanted = std::getenv("ANCHOR_ISA");
  if (!wanted || !*wanted) return findKernels(instructionSets().front());
  const Kernels* kernels = findKernels(wanted);
  if (!kernels) {
    openError = "The instruction set '" + std::string(wanted) + "' is not one of this machine's:";
    for (const std::string& name : instructionSets()) openError += " " + name;
  }
  return kernels;
}

// Takes addresses from a block, or with a null base only counts what it must hold.
class Layout {
 public:
  explicit Layout(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(size_t count) {
    char* address = base_ ? base_ + used_ : nullptr;
    used_ += roundUp(count * sizeof(T));
    return reinterpret_cast<T*>(address);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

size_t count(int32_t a, int32_t b, int32_t c = 1) {
  return static_cast<size_t>(a) * static_cast<size_t>(b) * static_cast<size_t>(c);
}

// Gives the plan and its rope tables their places.
size_t layOut(Device& device, Plan& plan, void* base) {
  const ModelDesc& model = *plan.model;
  const Pass& pass = *plan.pass;
  Layout layout(base);
  for (int32_t i = 0; i < model.ropeCount; ++i) {
    const size_t values = count(pass.ropeCount, model.ropes[i].rotaryDims / 2);
    const float* cos = layout.take<float>(values);
    device.ropes[static_cast<size_t>(i)] = {cos, layout.take<float>(values)};
  }
  const int32_t rows = std::max(pass.tokenCount, pass.logitCount);
  plan.normed = layout.take<float>(count(rows, model.hiddenSize));
  plan.keys = layout.take<float>(count(pass.tokenCount, model.kvHeads, model.headDim));
  plan.values = layout.take<float>(count(pass.tokenCount, model.kvHeads, model.headDim));
  plan.roundedBytes = 0;
  if (model.compute == Compute::bf16) {
    plan.roundedBytes = count(rows, device.mostCols) * kRoundedBytes;
  }
  plan.rounded = layout.take<char>(plan.roundedBytes);
  plan.threadFloats =
      roundUp(productScratchFloats(device.mostCols) * sizeof(float)) / sizeof(float);
  plan.threadScratch = layout.take<float>(static_cast<size_t>(plan.threads) * plan.threadFloats);
  plan.attentionScratch = layout.take<char>(attentionScratchBytes(model, pass, plan.threads));
  return layout.used();
}

// Angles are taken in double: in float a position of 100,000 would leave two digits of them.
void fillRopes(Device& device, Plan& plan) {
  const Pass& pass = *plan.pass;
  for (int32_t i = 0; i < plan.model->ropeCount; ++i) {
    const RopeDesc& rope = plan.model->ropes[i];
    const int32_t half = rope.rotaryDims / 2;
    auto* cos = const_cast<float*>(device.ropes[static_cast<size_t>(i)].cos);
    auto* sin = const_cast<float*>(device.ropes[static_cast<size_t>(i)].sin);
    plan.parallelFor((pass.ropeCount + 31) / 32, [&](int32_t task, int32_t) {
      const int32_t end = std::min(pass.ropeCount, task * 32 + 32);
      for (int32_t p = task * 32; p < end; ++p) {
        for (int32_t j = 0; j < half; ++j) {
          const double angle = pass.ropePositions[p] * rope.inverseFrequencies[j];
          const auto at =
              static_cast<size_t>(p) * static_cast<size_t>(half) + static_cast<size_t>(j);
          cos[at] = static_cast<float>(std::cos(angle) * static_cast<double>(rope.scale));
          sin[at] = static_cast<float>(std::sin(angle) * static_cast<double>(rope.scale));
        }
      }
    });
  }
}

bool reserveScratch(Device& device, size_t bytes) {
  if (bytes <= device.scratchBytes) return true;
  device.scratch.reset();  // before asking for more
  device.scratchBytes = 0;
  device.scratch = allocateMemory(bytes);
  if (!device.scratch) return false;
  device.scratchBytes = bytes;
  return true;
}

}  // namespace

void FreeMemory::operator()(void* memory) const { std::free(memory); }

Memory allocateMemory(size_t bytes) {
  if (bytes > kMostBytes) return nullptr;
  return Memory(std::aligned_alloc(kAlignment, roundUp(bytes > 0 ? bytes : 1)));
}

Status openDevice(const OpenOptions* options, Device** device) try {
  *device = nullptr;
  openError.clear();
  const Kernels* kernels = chooseKernels(options->instructionSet);
  if (!kernels) return Status::unsupported;
  auto opened = std::make_unique<Device>();
  opened->kernels = kernels;
  opened->pool = Pool::shared();
  const int32_t wanted = options->threads > 0 ? options->threads : defaultThreads();
  opened->threads = std::min(wanted, opened->pool->reserve(wanted));
  *device = opened.release();
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::outOfMemory;
} catch (const std::exception& error) {
  openError = error.what();
  return Status::failed;
}

const char* deviceError(Device* device) {
  return device ? device->error.c_str() : openError.c_str();
}

Status beginPass(Device* device, const ModelDesc* model, const Pass* pass, Plan** plan) try {
  *plan = nullptr;
  if (device->planIsOpen) {
    device->error = "A pass is open on this device already.";
    return Status::failed;
  }
  Plan& next = device->plan;
  next = {};
  next.device = device;
  next.model = model;
  next.pass = pass;
  next.kernels = device->kernels;
  next.pool = device->pool.get();
  next.threads = device->threads;
  device->ropes.resize(static_cast<size_t>(model->ropeCount));
  next.ropes = device->ropes.data();
  if (!reserveScratch(*device, layOut(*device, next, nullptr))) {
    device->error =
        "There is no memory left for a pass of " + std::to_string(pass->tokenCount) + " tokens.";
    return Status::outOfMemory;
  }
  layOut(*device, next, device->scratch.get());
  device->pool->beginTurn();
  device->planIsOpen = true;
  fillRopes(*device, next);
  *plan = &next;
  return Status::ok;
} catch (const std::bad_alloc&) {
  return Status::outOfMemory;
}

Status endPass(Plan* plan) {
  plan->device->planIsOpen = false;
  plan->pool->endTurn();
  return Status::ok;
}

}  // namespace anchorcoder
