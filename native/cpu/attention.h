// Attention on the CPU: what a set of kernels provides, and the ops that share it out to threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/ops.h"

namespace anchorcoder {

struct Plan;

// The most query rows (query x head that shares the KV head) of one kernel call in any set.
inline constexpr int32_t kMaxTileRows = 12;
// Row stride of a buffer of scores: a group of keys, padded against cache set conflicts.
inline constexpr int32_t kScoreStride = kGroupRows + 16;

// Softmax state of query rows, not normalised. A row that saw no key has sum 0 and an
// output without meaning.
struct Partial {
  float* maxima;  // (rows) largest score
  float* sums;    // (rows) sum of p = exp(score - maximum)
  float* output;  // (rows, valueStride) sum of p * value
};

// Some query rows against the keys of one group (kGroupRows) of one segment.
struct AttentionTile {
  const float* query;         // packed by `pack`
  int32_t rows;               // 1 ... tileRows
  const RowRange* ranges;     // (rows) what each row sees, counted from the group's first key
  RowRange span;              // holds all ranges, not empty
  const void* const* blocks;  // of the keys of `span`, from the block of span.lo on
  DType storage;
  int32_t headDim;
  float softcap;   // 0: none
  float* scores;   // (kMaxTileRows, kScoreStride) of scratch
  Partial result;  // room for kMaxTileRows rows; a row without a key gets sum 0 and any output
};

struct AttentionKernels {
  int32_t tileRows;  // the most rows of a tile, at most kMaxTileRows
  // packed: kMaxTileRows * headDim floats of room; rows[r] points to (headDim).
  void (*pack)(const float* const* rows, int32_t count, int32_t headDim, float scale,
               float* packed);
  void (*partial)(const AttentionTile& tile);
  // Joins `from`, which comes behind, to `into`. Both (count, stride).
  void (*merge)(const Partial& from, int32_t count, int32_t stride, const Partial& into);
  // output (headDim) of one row: its sum of values over its sum of weights, 0 for a row without.
  void (*finish)(const float* values, float sum, int32_t headDim, float* output);
  // Writes one key and one value (headDim) as row `row` of a block.
  void (*storeRow)(DType storage, const float* key, const float* value, int32_t headDim,
                   int32_t row, void* block);
};

void attend(Plan& plan, const AttendArgs& args);

// k, v: (tokens, kvHeads, headDim), k already turned.
void storeRows(Plan& plan, int32_t layer, const float* k, const float* v);

// What Plan::attentionScratch must hold for every call of `attend` in the pass.
size_t attentionScratchBytes(const ModelDesc& model, const Pass& pass, int32_t threads);

}  // namespace anchorcoder
