// The device contract: everything that a device must be able to do, as one versioned table of
// plain functions over plain structs. The CPU fills one; a CUDA library fills another. The forward
// pass (core/model.cpp) is written once above it and knows no device.
//
// Shapes stand behind each field; the last dimension is contiguous. "Device memory" means memory
// from `alloc`. Arrays of a Pass are host memory that stays valid until `endPass` returns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace anchorcoder {

inline constexpr uint32_t kOpsVersion = 2;

// A cache block holds this many rows (one key and one value each) of one KV head.
inline constexpr int32_t kBlockRows = 32;
// Attention forms one partial softmax per this many rows, counted by row number within a segment,
// and merges the partials in order. So a result does not depend on how a text was cut in chunks.
inline constexpr int32_t kGroupRows = 256;

enum class DType : uint8_t { f32, f16, bf16, i8 };

// exact: activations stay f32. bf16: the activations that enter a product with weights are rounded
// to bf16 (nearest, ties to even); sums are f32 in both.
enum class Compute : uint8_t { exact, bf16 };

enum class Status : int32_t { ok = 0, outOfMemory = 1, unsupported = 2, failed = 3 };

enum class NormKind : uint8_t { rms, rmsOnePlus, layer };
enum class Activation : uint8_t { silu, gelu, geluTanh };

struct Device;  // opaque
struct Weight;  // opaque: a matrix in the form that the device multiplies with
struct Plan;    // opaque: one pass under way

struct OpenOptions {
  int32_t threads;             // 0: what the machine and its limits allow
  const char* instructionSet;  // null: the best that the machine has (CPU only)
};

struct DeviceInfo {
  char name[128];           // "CPU, 8 threads"
  char instructionSet[32];  // "base", "avx2", "avx512", "avx512bf16"; "sm_90" on a GPU
  int32_t threads;          // worker threads; 0 on a GPU
  uint64_t memoryBytes;     // 0 where unknown
};

struct WeightDesc {
  DType type;    // f32, f16 or bf16
  int32_t rows;  // outputs
  int32_t cols;  // inputs
};

struct NormDesc {
  NormKind kind;
  float epsilon;
  const float* weight;  // device (size)
  const float* bias;    // device (size), null without
};

// Rotary position encoding. Angle of pair j at position p is p * inverseFrequencies[j]; cosine and
// sine are multiplied by `scale` (yarn's attention factor, 1 elsewhere).
struct RopeDesc {
  int32_t rotaryDims;  // even, at most headDim; the rest of a head passes unchanged
  bool interleaved;    // pairs (2j, 2j + 1) instead of (j, j + rotaryDims / 2)
  float scale;
  const double* inverseFrequencies;  // host (rotaryDims / 2)
};

struct ModelDesc {
  int32_t layers, hiddenSize, heads, kvHeads, headDim, vocabSize;
  Compute compute;
  const RopeDesc* ropes;  // host (ropeCount)
  int32_t ropeCount;
};

// Rows [lo, hi) of a segment.
struct RowRange {
  int32_t lo, hi;
};

// One segment of one sequence in one layer: a table of blocks for every KV head.
// Row r of head h lies in block blocks[h * stride + r / kBlockRows - firstBlock].
struct SegmentTable {
  void* const* blocks;  // host (kvHeads, stride) of device memory; null where the segment is absent
  int32_t stride;
  int32_t firstBlock;  // blocks before it have been released
};

// A layer's cache of one sequence. `positional` holds the row of position p as row p; `kept` holds
// the rows that never leave, in order of position (absent where the layer keeps every row).
struct LayerCache {
  SegmentTable positional;
  SegmentTable kept;
};

// Which rows a token sees in the layers of one kind: `kept` rows and `positional` rows, disjoint in
// position. Both are null-free arrays (tokens); a kind without kept rows has empty ranges.
struct Visibility {
  const RowRange* kept;
  const RowRange* positional;
};

// One ragged batch. Tokens of one sequence are adjacent and in order of position.
struct Pass {
  int32_t tokenCount, sequenceCount, ropeCount, visibilityCount, logitCount;
  const int32_t* ids;             // (tokens)
  const int32_t* positions;       // (tokens)
  const int32_t* sequenceStarts;  // (sequences + 1) first token of each sequence
  const DType* storage;           // (sequences) type of the cached rows
  const int32_t* ropePositions;   // (ropeCount) distinct positions that queries and keys turn by
  const int32_t* queryRope;       // (tokens) index into ropePositions
  const int32_t* keyRope;         // (tokens, kvHeads) the same for keys: anchors differ by head
  const int32_t* keptRow;         // (tokens) row in the `kept` segments, or -1
  const Visibility* visibility;   // (visibilityCount)
  const LayerCache* caches;       // (layers, sequences)
  // (logitCount) rows of x whose logits are wanted: tokens of the pass, or rows behind them.
  const int32_t* logitRows;
};

struct NormQkvArgs {
  int32_t layer;
  int32_t rope;  // index into ModelDesc::ropes, -1: none
  NormDesc norm;
  const Weight *q, *k, *v;
  const float *qBias, *kBias, *vBias;  // device, null without
  const float *qNorm, *kNorm;          // device (headDim), RMS per head before RoPE; null without
  const float* x;                      // device (tokens, hiddenSize)
  float* query;                        // out, device (tokens, heads, headDim)
};

struct AttendArgs {
  int32_t layer;
  int32_t sourceLayer;  // its rows join the same softmax under the same ranges; -1: none
  int32_t visibility;   // index into Pass::visibility
  float scale;          // of the scores, usually 1 / sqrt(headDim)
  float softcap;        // 0: none; else scores become softcap * tanh(score / softcap)
  const float* query;   // device (tokens, heads, headDim)
  float* output;        // device (tokens, heads, headDim)
};

struct ProjectAddArgs {
  const Weight* weight;
  const float* bias;  // device (rows), null without
  const float* x;     // device (tokens, cols)
  float* residual;    // in and out, device (tokens, rows)
};

struct NormGateUpArgs {
  NormDesc norm;
  const Weight *gate, *up;  // gate null: output = activation(up x)
  const float *gateBias, *upBias;
  Activation activation;
  const float* x;  // device (tokens, hiddenSize)
  float* output;   // device (tokens, up rows): activation(gate x) * (up x)
};

struct LogitsArgs {
  NormDesc norm;
  const Weight* head;
  const float* bias;  // device (vocabSize), null without
  float softcap;      // 0: none; else logits become softcap * tanh(logit / softcap)
  const float* x;     // device (tokens, hiddenSize)
  float* logits;      // out, device (logitCount, vocabSize)
};

// A mixture of experts instead of one MLP: every token runs `perToken` of them, those of the
// highest probability (softmax over all), and their outputs are added in order of their number,
// each times its probability.
struct ExpertsArgs {
  NormDesc norm;
  const Weight* router;                                    // (count, hiddenSize)
  const Weight *const *gates, *const *ups, *const *downs;  // host (count)
  int32_t count, perToken, intermediateSize;
  bool normalize;  // the chosen probabilities are divided by their sum
  Activation activation;
  const float* x;   // device (tokens, hiddenSize)
  float* residual;  // in and out, device (tokens, hiddenSize); may be x
  // Scratch, device: (tokens, count), (tokens, intermediateSize), 2 x (tokens, hiddenSize).
  float *scores, *inner, *gathered, *outputs;
};

// Every call takes the device or the plan it belongs to. Calls on a plan are enqueued in order; an
// error in one of them is reported by `endPass`. Only one plan is open on a device at a time.
struct Ops {
  uint32_t version;  // kOpsVersion, checked before anything else is read
  uint32_t size;     // sizeof(Ops)

  Status (*open)(const OpenOptions* options, Device** device);
  void (*info)(Device* device, DeviceInfo* info);
  const char* (*lastError)(Device* device);
  void (*close)(Device* device);

  // Memory is aligned to 64 bytes and zeroed. Returns null when there is none left.
  void* (*alloc)(Device* device, size_t bytes);
  void (*free)(Device* device, void* memory);
  Status (*upload)(Device* device, void* to, const void* from, size_t bytes);
  Status (*download)(Device* device, void* to, const void* from, size_t bytes);
  Status (*copy)(Device* device, void* to, const void* from, size_t bytes);
  Status (*sync)(Device* device);

  // `bytes` is host memory at any alignment that outlives the weight (the CPU reads it in place).
  Status (*prepareWeight)(Device* device, const WeightDesc* desc, const void* bytes, Weight** out);
  void (*freeWeight)(Device* device, Weight* weight);

  Status (*beginPass)(Device* device, const ModelDesc* model, const Pass* pass, Plan** plan);
  Status (*endPass)(Plan* plan);

  // Fused steps of a layer.
  void (*embed)(Plan*, const Weight* table, float scale, float* x);  // x: (tokens, hiddenSize)
  void (*normQkv)(Plan*, const NormQkvArgs*);  // also writes K and V into the layer's cache
  void (*attend)(Plan*, const AttendArgs*);
  void (*projectAdd)(Plan*, const ProjectAddArgs*);
  void (*normGateUp)(Plan*, const NormGateUpArgs*);
  void (*logits)(Plan*, const LogitsArgs*);
  void (*experts)(Plan*, const ExpertsArgs*);

  // Plain forms: for models of an odd shape, and the oracle of the fused ones. `rows` may differ
  // from the pass's token count except where a row is a token of the pass.
  void (*norm)(Plan*, const NormDesc*, const float* x, int32_t rows, int32_t size, float* y);
  void (*matmul)(Plan*, const Weight*, const float* bias, const float* x, int32_t rows, float* y);
  void (*rope)(Plan*, int32_t rope, bool keys, float* x);  // x: (tokens, heads or kvHeads, headDim)
  void (*storeRows)(Plan*, int32_t layer, const float* k,
                    const float* v);  // (tokens, kvHeads, headDim)
  void (*activate)(Plan*, Activation, const float* gate, const float* up, size_t count, float* y);
  void (*add)(Plan*, const float* x, size_t count, float* y);  // y += x
};

// Layout of a cache block, the same on every device:
//   K   (headDim, kBlockRows)         transposed, so that a lane is a key
//   V   (kBlockRows, valueStride)     rows padded with zeros to a multiple of 16 elements
//   i8 only: float keyScale (kBlockRows), float valueScale (kBlockRows); element = q * scale
inline constexpr size_t dtypeBytes(DType type) {
  return type == DType::f32 ? 4 : type == DType::i8 ? 1 : 2;
}
inline constexpr int32_t valueStride(int32_t headDim) { return (headDim + 15) / 16 * 16; }
inline constexpr size_t blockValueOffset(DType type, int32_t headDim) {
  return static_cast<size_t>(headDim) * kBlockRows * dtypeBytes(type);
}
inline constexpr size_t blockScaleOffset(DType type, int32_t headDim) {
  return blockValueOffset(type, headDim) +
         static_cast<size_t>(valueStride(headDim)) * kBlockRows * dtypeBytes(type);
}
inline constexpr size_t blockBytes(DType type, int32_t headDim) {
  return blockScaleOffset(type, headDim) +
         (type == DType::i8 ? 2 * sizeof(float) * static_cast<size_t>(kBlockRows) : 0);
}

}  // namespace anchorcoder
