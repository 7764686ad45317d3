// A CPU device: threads, an instruction set, and the scratch that its passes share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../core/ops.h"
#include "kernels.h"
#include "plan.h"
#include "pool.h"

namespace anchorcoder {

struct FreeMemory {
  void operator()(void* memory) const;
};
using Memory = std::unique_ptr<void, FreeMemory>;

// Aligned to 64 bytes, not cleared; null when there is none left.
Memory allocateMemory(size_t bytes);

struct Weight {
  DType type;
  int32_t rows, cols;
  const void* bytes;  // the caller's
};

struct Device {
  std::shared_ptr<Pool> pool;
  const Kernels* kernels = nullptr;
  int32_t threads = 1;
  std::string error;

  std::atomic<int32_t> mostCols{0};  // of all weights so far: scratch is sized by it

  // Kept from pass to pass, since fresh pages cost more than most ops.
  Memory scratch;
  size_t scratchBytes = 0;
  std::vector<RopeTable> ropes;
  Plan plan = {};
  bool planIsOpen = false;
};

Status openDevice(const OpenOptions* options, Device** device);
const char* deviceError(Device* device);  // null: why the last `open` of this thread failed

Status beginPass(Device* device, const ModelDesc* model, const Pass* pass, Plan** plan);
Status endPass(Plan* plan);

}  // namespace anchorcoder
