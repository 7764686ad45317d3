// A loaded model: sizes, weights, and the forward pass over a ragged batch.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/cache.h"
#include "core/device.h"
#include "core/policy.h"
#include "core/weights.h"

namespace anchorcoder {

struct RopeConfig {
  int32_t rotaryDims;
  bool interleaved;
  float scale;
  std::vector<double> inverseFrequencies;  // (rotaryDims / 2)
};

// See NativeModelSpec in types/native.ts for the meaning of each.
struct ModelConfig {
  int32_t layers, hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize;
  int32_t contextLength;
  float normEpsilon;
  NormKind norm = NormKind::rms;
  Activation activation = Activation::silu;
  bool parallelBlock = false;
  float embeddingScale = 1.0f;
  float attentionScale = 0.0f;    // 0: 1 / sqrt(headDim)
  float attentionSoftcap = 0.0f;  // 0: none
  float logitSoftcap = 0.0f;      // 0: none
  std::vector<int32_t> windows;   // (layers) 0: none; empty: none at all
  std::vector<RopeConfig> ropes;
  std::vector<int32_t> layerRopes;  // (layers) index into ropes; empty: the first
  int32_t originalContext = 0;      // longer sessions turn by ropes[1]; 0: all by layerRopes
  struct Experts {
    int32_t count = 0;  // 0: none
    int32_t perToken = 0;
    int32_t intermediateSize = 0;
    bool normalize = false;
  } experts;
  Compute compute;
};

// One sequence as the forward pass sees it: its ids, and what is cached of them.
struct Sequence {
  Sequence(const Policy* policy, SequenceCache rows) : state(policy), cache(std::move(rows)) {}

  std::vector<int32_t> ids;  // of the text, pending ones included
  PolicyState state;         // of the tokens in the cache
  SequenceCache cache;
  bool longRope = false;  // turns by ropes[1] (ModelConfig::originalContext)

  int32_t cached() const { return state.size(); }
};

// What one sequence contributes to a pass.
struct BatchItem {
  Sequence* sequence;
  int32_t tokens;            // ids to run, from cached() on; may be 0
  const float* savedHidden;  // host (hiddenSize): logits of this row come first; null: none
  int32_t firstLogit;        // logits are wanted from this token of the item on; tokens: none

  int32_t logitCount() const { return (savedHidden ? 1 : 0) + tokens - firstLogit; }
};

// Receives residual rows after the last layer; see Session.
class HiddenSink {
 public:
  virtual ~HiddenSink() = default;
  // `row` (hiddenSize) of the token at `position` of item number `item`.
  virtual void hidden(size_t item, int32_t position, std::span<const float> row) = 0;
};

class PassBuilder;

// Not thread-safe: one thread runs `forward`.
class Model {
 public:
  // Throws Error (modelInvalid, outOfMemory).
  Model(std::shared_ptr<DeviceContext> context, ModelConfig config,
        const std::vector<FileSpec>& files, std::vector<TensorSpec> tensors);
  ~Model();

  const ModelConfig& config() const { return config_; }
  const std::shared_ptr<DeviceContext>& context() const { return context_; }
  uint64_t mappedBytes() const { return mappedBytes_; }
  // Frees the weights and the scratch; `forward` must not be called any more.
  void unload();
  // Gives up what `forward` keeps between passes, its last logits among it. It takes what it needs
  // again: less, where a pass is smaller than the largest so far.
  void freeScratch() noexcept;
  CacheShape cacheShape(DType storage) const;

  // Runs the items as one pass. Their policies may differ but for the source layer and its
  // consumers. Appends the rows to the caches and returns logits (sum of logitCount, vocabSize) in
  // order of items and tokens, valid until the next call. Residual rows of the last token of each
  // item, and of tokens that close a line, go to `sink`. After an Error every sequence is as
  // before.
  std::span<const float> forward(std::span<BatchItem> items, HiddenSink* sink);

 private:
  struct NormWeights {
    DeviceBuffer weight, bias;  // (size), empty without
  };
  struct Linear {
    PreparedWeight weight;
    DeviceBuffer bias;  // (outputs), empty without
  };
  struct Experts {
    PreparedWeight router;
    std::vector<PreparedWeight> weights;
    std::vector<const Weight*> gates, ups, downs;  // (experts)
  };
  struct Layer {
    NormWeights inputNorm, mlpNorm, attentionOutputNorm, mlpOutputNorm;
    DeviceBuffer qNorm, kNorm;  // (headDim), empty without
    Linear q, k, v, o, gate, up, down;
    std::unique_ptr<Experts> experts;  // instead of gate, up and down
  };

  Layer loadLayer(int32_t index) const;
  DeviceBuffer optional(const std::string& name, int64_t size) const;
  NormWeights loadNorm(const std::string& name, bool required) const;
  Linear loadLinear(const std::string& name, int64_t outputs, int64_t inputs) const;
  std::unique_ptr<Experts> loadExperts(const std::string& prefix) const;

  NormDesc norm(const NormWeights& weights) const;
  void reserveScratch(int32_t tokens, int32_t rows, int32_t logits);
  void uploadSavedRows(std::span<BatchItem> items);
  void runLayer(Plan* plan, int32_t index);
  void runAttention(Plan* plan, int32_t index);
  void runGateUp(Plan* plan, const Layer& layer);
  void runExperts(Plan* plan, const Layer& layer);
  void addOutput(Plan* plan, const Linear& linear, const NormWeights& outputNorm, const float* x);
  void run(std::span<BatchItem> items);
  void deliver(HiddenSink* sink);

  std::shared_ptr<DeviceContext> context_;
  ModelConfig config_;
  std::unique_ptr<TensorTable> tensors_;
  std::atomic<uint64_t> mappedBytes_{0};
  ModelDesc desc_{};
  std::vector<RopeDesc> ropes_;
  PreparedWeight embedding_, head_;
  DeviceBuffer headBias_;  // (vocabSize), empty without
  NormWeights finalNorm_;
  std::vector<Layer> layers_;

  std::unique_ptr<PassBuilder> pass_;
  int32_t scratchTokens_ = 0, scratchRows_ = 0, scratchLogits_ = 0;
  DeviceBuffer residual_;   // (scratchRows_, hiddenSize): tokens, then saved rows
  DeviceBuffer query_;      // (scratchTokens_, heads, headDim)
  DeviceBuffer attended_;   // (scratchTokens_, heads, headDim)
  DeviceBuffer hidden_;     // (scratchTokens_, intermediateSize)
  DeviceBuffer projected_;  // (scratchTokens_, hiddenSize), for norms of outputs and experts
  DeviceBuffer gathered_;   // (scratchTokens_, hiddenSize), for experts
  DeviceBuffer scores_;     // (scratchTokens_, experts)
  bool normsOutputs_ = false;
  DeviceBuffer deviceLogits_;  // (scratchLogits_, vocabSize)
  std::vector<float> logits_;
  DeviceAccount logitsAccount_;
};

}  // namespace anchorcoder
