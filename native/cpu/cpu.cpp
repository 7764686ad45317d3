// The CPU's table of ops: each fused op is the chain of the plain ones, bit for bit.
#include "cpu.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <unistd.h>
#endif

#include "attention.h"
#include "device.h"
#include "experts.h"
#include "product.h"

namespace anchorcoder {
namespace {

size_t elements(int32_t rows, int32_t size) {
  return static_cast<size_t>(rows) * static_cast<size_t>(size);
}

// ---- Device and memory.

void deviceInfo(Device* device, DeviceInfo* info) {
  *info = {};
  std::snprintf(info->name, sizeof info->name, "CPU, %d thread%s", device->threads,
                device->threads == 1 ? "" : "s");
  std::snprintf(info->instructionSet, sizeof info->instructionSet, "%s", device->kernels->name);
  info->threads = device->threads;
#if defined(__linux__)
  info->memoryBytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                      static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
#endif
}

void closeDevice(Device* device) { delete device; }

void* allocate(Device*, size_t bytes) {
  void* memory = allocateMemory(bytes).release();
  if (memory) std::memset(memory, 0, bytes);
  return memory;
}

void freeMemory(Device*, void* memory) { FreeMemory()(memory); }

Status copyMemory(Device*, void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return Status::ok;
}

Status sync(Device*) { return Status::ok; }

Status prepareWeight(Device* device, const WeightDesc* desc, const void* bytes, Weight** out) {
  *out = nullptr;
  if (desc->type == DType::i8 || desc->rows <= 0 || desc->cols <= 0) return Status::unsupported;
  *out = new (std::nothrow) Weight{desc->type, desc->rows, desc->cols, bytes};
  if (!*out) return Status::outOfMemory;
  int32_t most = device->mostCols;
  while (most < desc->cols && !device->mostCols.compare_exchange_weak(most, desc->cols)) {
  }
  return Status::ok;
}

void freeWeight(Device*, Weight* weight) { delete weight; }

// ---- Plain ops.

void normRows(Plan* plan, const NormDesc* desc, const float* x, int32_t rows, int32_t size,
              float* y) {
  forRows(*plan, rows, elements(1, size) * sizeof(float), [&](int32_t first, int32_t end) {
    for (int32_t row = first; row < end; ++row) {
      plan->kernels->pointwise.norm(*desc, x + elements(row, size), size, y + elements(row, size));
    }
  });
}

void matmul(Plan* plan, const Weight* weight, const float* bias, const float* x, int32_t rows,
            float* y) {
  const Output output = {weight, bias, y, false};
  multiply(*plan, x, rows, &output, 1);
}

// Turns the heads of one token.
void turnToken(const Plan& plan, int32_t rope, bool keys, int32_t token, float* x) {
  const ModelDesc& model = *plan.model;
  const RopeDesc& desc = model.ropes[rope];
  const int32_t heads = keys ? model.kvHeads : model.heads;
  for (int32_t head = 0; head < heads; ++head) {
    const int32_t position = keys ? plan.pass->keyRope[elements(token, heads) + elements(1, head)]
                                  : plan.pass->queryRope[token];
    const size_t at = elements(position, desc.rotaryDims / 2);
    plan.kernels->pointwise.rope(desc, plan.ropes[rope].cos + at, plan.ropes[rope].sin + at,
                                 x + elements(head, model.headDim));
  }
}

void ropeRows(Plan* plan, int32_t rope, bool keys, float* x) {
  const ModelDesc& model = *plan->model;
  const int32_t width = (keys ? model.kvHeads : model.heads) * model.headDim;
  forRows(*plan, plan->pass->tokenCount, elements(1, width) * sizeof(float),
          [&](int32_t first, int32_t end) {
            for (int32_t token = first; token < end; ++token) {
              turnToken(*plan, rope, keys, token, x + elements(token, width));
            }
          });
}

void store(Plan* plan, int32_t layer, const float* k, const float* v) {
  storeRows(*plan, layer, k, v);
}

// Elements that a task takes; a multiple of every vector.
constexpr size_t kElementsAtOnce = 16 * 1024;

template <typename Fn>
void forElements(Plan* plan, size_t count, Fn&& fn) {
  const auto tasks = static_cast<int32_t>((count + kElementsAtOnce - 1) / kElementsAtOnce);
  plan->parallelFor(tasks, [&](int32_t task, int32_t) {
    const size_t first = static_cast<size_t>(task) * kElementsAtOnce;
    fn(first, std::min(kElementsAtOnce, count - first));
  });
}

void activate(Plan* plan, Activation activation, const float* gate, const float* up, size_t count,
              float* y) {
  forElements(plan, count, [&](size_t first, size_t part) {
    plan->kernels->pointwise.activate(activation, gate ? gate + first : nullptr, up + first, part,
                                      y + first);
  });
}

void add(Plan* plan, const float* x, size_t count, float* y) {
  forElements(plan, count, [&](size_t first, size_t part) {
    plan->kernels->pointwise.add(x + first, part, y + first);
  });
}

// ---- Fused ops.

void embed(Plan* plan, const Weight* table, float scale, float* x) {
  const int32_t size = plan->model->hiddenSize;
  const size_t rowBytes = elements(1, size) * dtypeBytes(table->type);
  forRows(*plan, plan->pass->tokenCount, elements(1, size) * sizeof(float),
          [&](int32_t first, int32_t end) {
            for (int32_t token = first; token < end; ++token) {
              const auto id = static_cast<size_t>(plan->pass->ids[token]);
              const char* row = static_cast<const char*>(table->bytes) + id * rowBytes;
              plan->kernels->pointwise.embed(table->type, row, scale, size,
                                             x + elements(token, size));
            }
          });
}

// Norm and RoPE of the heads of one token in place.
void finishHeads(const Plan& plan, const NormQkvArgs& args, bool keys, int32_t token, float* x) {
  const ModelDesc& model = *plan.model;
  const float* weight = keys ? args.kNorm : args.qNorm;
  if (weight) {
    const NormKind kind =
        args.norm.kind == NormKind::rmsOnePlus ? NormKind::rmsOnePlus : NormKind::rms;
    const NormDesc desc = {kind, args.norm.epsilon, weight, nullptr};
    for (int32_t head = 0; head < (keys ? model.kvHeads : model.heads); ++head) {
      float* at = x + elements(head, model.headDim);
      plan.kernels->pointwise.norm(desc, at, model.headDim, at);
    }
  }
  if (args.rope >= 0) turnToken(plan, args.rope, keys, token, x);
}

void normQkv(Plan* plan, const NormQkvArgs* args) {
  const ModelDesc& model = *plan->model;
  const int32_t tokens = plan->pass->tokenCount;
  normRows(plan, &args->norm, args->x, tokens, model.hiddenSize, plan->normed);
  const Output outputs[3] = {{args->q, args->qBias, args->query, false},
                             {args->k, args->kBias, plan->keys, false},
                             {args->v, args->vBias, plan->values, false}};
  multiply(*plan, plan->normed, tokens, outputs, 3);
  const int32_t queryWidth = model.heads * model.headDim;
  const int32_t keyWidth = model.kvHeads * model.headDim;
  if (args->rope >= 0 || args->qNorm || args->kNorm) {
    forRows(*plan, tokens, elements(1, queryWidth + keyWidth) * sizeof(float),
            [&](int32_t first, int32_t end) {
              for (int32_t t = first; t < end; ++t) {
                finishHeads(*plan, *args, false, t, args->query + elements(t, queryWidth));
                finishHeads(*plan, *args, true, t, plan->keys + elements(t, keyWidth));
              }
            });
  }
  storeRows(*plan, args->layer, plan->keys, plan->values);
}

void attendOp(Plan* plan, const AttendArgs* args) { attend(*plan, *args); }

void projectAdd(Plan* plan, const ProjectAddArgs* args) {
  const Output output = {args->weight, args->bias, args->residual, true};
  multiply(*plan, args->x, plan->pass->tokenCount, &output, 1);
}

void normGateUp(Plan* plan, const NormGateUpArgs* args) {
  const int32_t tokens = plan->pass->tokenCount;
  normRows(plan, &args->norm, args->x, tokens, plan->model->hiddenSize, plan->normed);
  multiplyActivated(*plan, plan->normed, tokens, {args->gate, args->gateBias, nullptr, false},
                    {args->up, args->upBias, args->output, false}, args->activation);
}

void logits(Plan* plan, const LogitsArgs* args) {
  const int32_t size = plan->model->hiddenSize;
  const int32_t rows = plan->pass->logitCount;
  forRows(*plan, rows, elements(1, size) * sizeof(float), [&](int32_t first, int32_t end) {
    for (int32_t row = first; row < end; ++row) {
      const float* x = args->x + elements(plan->pass->logitRows[row], size);
      plan->kernels->pointwise.norm(args->norm, x, size, plan->normed + elements(row, size));
    }
  });
  const Output output = {args->head, args->bias, args->logits, false};
  multiply(*plan, plan->normed, rows, &output, 1);
  if (args->softcap <= 0.0f) return;
  forElements(plan, elements(rows, args->head->rows), [&](size_t first, size_t part) {
    plan->kernels->pointwise.softcap(args->softcap, part, args->logits + first);
  });
}

void experts(Plan* plan, const ExpertsArgs* args) {
  normRows(plan, &args->norm, args->x, plan->pass->tokenCount, plan->model->hiddenSize,
           plan->normed);
  runExperts(*plan, *args);
}

}  // namespace

const Ops* cpuOps() {
  static constexpr Ops kOps = {
      kOpsVersion,   sizeof(Ops), openDevice, deviceInfo, deviceError, closeDevice,
      allocate,      freeMemory,  copyMemory, copyMemory, copyMemory,  sync,
      prepareWeight, freeWeight,  beginPass,  endPass,    embed,       normQkv,
      attendOp,      projectAdd,  normGateUp, logits,     experts,     normRows,
      matmul,        ropeRows,    store,      activate,   add,
  };
  return &kOps;
}

}  // namespace anchorcoder
