// One pass under way on the CPU: what every op needs, with all of its scratch allocated beforehand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "../core/ops.h"
#include "kernels.h"
#include "pool.h"

namespace anchorcoder {

struct RopeTable {
  const float* cos;  // (Pass::ropeCount, rotaryDims / 2), times RopeDesc::scale
  const float* sin;
};

struct Plan {
  Device* device;
  const ModelDesc* model;
  const Pass* pass;
  const Kernels* kernels;
  Pool* pool;
  int32_t threads;  // of the device: no loop uses more

  const RopeTable* ropes;  // (ModelDesc::ropeCount)

  // Scratch, aligned to 64 bytes. It belongs to the op that runs.
  float* normed;  // (max(tokens, logitCount), hiddenSize)
  float* keys;    // (tokens, kvHeads, headDim)
  float* values;  // (tokens, kvHeads, headDim)
  void* rounded;  // roundedBytes: the inputs of a product in Compute::bf16
  size_t roundedBytes;
  float* threadScratch;  // (threads, threadFloats)
  size_t threadFloats;
  void* attentionScratch;  // attentionScratchBytes(model, pass, threads)

  // fn(task, thread) for every task, each once, thread < threads.
  template <typename Fn>
  void parallelFor(int32_t tasks, Fn&& fn) {
    pool->parallelFor(threads, tasks, std::forward<Fn>(fn));
  }
};

// fn(first, end) for ranges of rows that cover [0, rows); one range where the whole is little work.
template <typename Fn>
void forRows(Plan& plan, int32_t rows, size_t rowBytes, Fn&& fn) {
  constexpr size_t kTaskBytes = 32 * 1024;
  const size_t fit = kTaskBytes / (rowBytes > 0 ? rowBytes : 1);
  const int32_t step = fit >= static_cast<size_t>(rows) ? rows : static_cast<int32_t>(fit) + 1;
  if (step <= 0) return;
  plan.parallelFor((rows + step - 1) / step, [&](int32_t task, int32_t) {
    const int32_t first = task * step;
    fn(first, rows - first < step ? rows : first + step);
  });
}

}  // namespace anchorcoder
