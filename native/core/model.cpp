// Loading of a model's weights.
#include "core/model.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/pass.h"

namespace anchorcoder {

namespace {

void requirePositive(const char* name, int32_t value) {
  if (value <= 0) {
    throw Error(
        ErrorCode::modelInvalid,
        std::string("Expected ") + name + " to be 1 or more, but it is " + std::to_string(value));
  }
}

void check(const ModelConfig& config) {
  requirePositive("layers", config.layers);
  requirePositive("hiddenSize", config.hiddenSize);
  requirePositive("intermediateSize", config.intermediateSize);
  requirePositive("heads", config.heads);
  requirePositive("kvHeads", config.kvHeads);
  requirePositive("headDim", config.headDim);
  requirePositive("vocabSize", config.vocabSize);
  requirePositive("contextLength", config.contextLength);
  if (config.heads % config.kvHeads != 0) {
    throw Error(ErrorCode::modelInvalid, "Expected heads (" + std::to_string(config.heads) +
                                             ") to be a multiple of kvHeads (" +
                                             std::to_string(config.kvHeads) + ")");
  }
  constexpr int64_t kLargest = int64_t{1} << 30;
  constexpr int32_t kMostLayers = 1 << 16;
  if (int64_t{config.heads} * config.headDim > kLargest || int64_t{config.vocabSize} > kLargest ||
      config.contextLength > kLargest || config.layers > kMostLayers) {
    throw Error(ErrorCode::modelInvalid, "The model's sizes are too large");
  }
  if (config.parallelBlock && config.experts.count > 0) {
    throw Error(ErrorCode::modelInvalid, "Expected parallel blocks to have no experts");
  }
  const auto layers = static_cast<size_t>(config.layers);
  const auto fits = [&](const auto& list) { return list.empty() || list.size() == layers; };
  if (!fits(config.windows) || !fits(config.layerRopes)) {
    throw Error(ErrorCode::modelInvalid, "Expected a window and a rope for every layer");
  }
  for (const int32_t window : config.windows) {
    if (window < 0) throw Error(ErrorCode::modelInvalid, "Expected windows of 0 or more tokens");
  }
  for (const int32_t rope : config.layerRopes) {
    if (rope < 0 || static_cast<size_t>(rope) >= std::max<size_t>(1, config.ropes.size())) {
      throw Error(ErrorCode::modelInvalid, "Expected layerRopes to name ropes");
    }
  }
  if (config.originalContext > 0 && config.ropes.size() != 2) {
    throw Error(ErrorCode::modelInvalid, "Expected two ropes beside originalContext");
  }
  const ModelConfig::Experts& experts = config.experts;
  if (experts.count != 0 && (experts.count < 0 || experts.perToken < 1 ||
                             experts.perToken > experts.count || experts.intermediateSize < 1)) {
    throw Error(ErrorCode::modelInvalid, "Expected perToken to be from 1 to the experts' number");
  }
  for (const RopeConfig& rope : config.ropes) {
    if (rope.rotaryDims <= 0 || rope.rotaryDims % 2 != 0 || rope.rotaryDims > config.headDim ||
        rope.inverseFrequencies.size() != static_cast<size_t>(rope.rotaryDims / 2)) {
      throw Error(ErrorCode::modelInvalid, "Expected rotaryDims to be even and at most headDim");
    }
  }
}

// Fills in what may be left out.
ModelConfig completed(ModelConfig config) {
  check(config);
  const auto layers = static_cast<size_t>(config.layers);
  if (config.windows.empty()) config.windows.assign(layers, 0);
  if (config.layerRopes.empty()) config.layerRopes.assign(layers, 0);
  if (config.attentionScale == 0.0f) {
    config.attentionScale = 1.0f / std::sqrt(static_cast<float>(config.headDim));
  }
  return config;
}

}  // namespace

Model::Model(std::shared_ptr<DeviceContext> context, ModelConfig config,
             const std::vector<FileSpec>& files, std::vector<TensorSpec> tensors)
    : context_(std::move(context)),
      config_(completed(std::move(config))),
      tensors_(std::make_unique<TensorTable>(context_, files, std::move(tensors))),
      mappedBytes_(tensors_->mappedBytes()),
      pass_(std::make_unique<PassBuilder>()),
      logitsAccount_(context_) {
  embedding_ = tensors_->matrix("model.embed_tokens.weight", config_.vocabSize, config_.hiddenSize);
  if (tensors_->has("lm_head.weight")) {
    head_ = tensors_->matrix("lm_head.weight", config_.vocabSize, config_.hiddenSize);
  }
  headBias_ = optional("lm_head.bias", config_.vocabSize);
  finalNorm_ = loadNorm("model.norm", true);
  std::optional<bool> gated;
  for (int32_t l = 0; l < config_.layers; ++l) {
    layers_.push_back(loadLayer(l));
    // No class mixes both kinds, so a gate that is missing once was lost.
    const Layer& layer = layers_.back();
    const bool hasGate = layer.gate.weight.get() != nullptr;
    if (!layer.experts && gated.value_or(hasGate) != hasGate) {
      throw Error(ErrorCode::modelInvalid, "Expected a gate_proj in every layer or in none");
    }
    if (!layer.experts) gated = hasGate;
    normsOutputs_ = normsOutputs_ || layers_.back().attentionOutputNorm.weight.get() ||
                    layers_.back().mlpOutputNorm.weight.get();
  }
  for (const RopeConfig& rope : config_.ropes) {
    ropes_.push_back(
        {rope.rotaryDims, rope.interleaved, rope.scale, rope.inverseFrequencies.data()});
  }
  desc_ = {config_.layers,  config_.hiddenSize, config_.heads,
           config_.kvHeads, config_.headDim,    config_.vocabSize,
           config_.compute, ropes_.data(),      static_cast<int32_t>(ropes_.size())};
}

Model::~Model() = default;

void Model::unload() {
  layers_.clear();
  embedding_ = {};
  head_ = {};
  headBias_ = {};
  finalNorm_ = {};
  freeScratch();
  tensors_.reset();
  mappedBytes_ = 0;
}

void Model::freeScratch() noexcept {
  for (DeviceBuffer* buffer : {&residual_, &query_, &attended_, &hidden_, &projected_, &gathered_,
                               &scores_, &deviceLogits_}) {
    *buffer = {};
  }
  scratchTokens_ = scratchRows_ = scratchLogits_ = 0;
  std::vector<float>().swap(logits_);  // an empty list would leave its capacity
  logitsAccount_.clear();
}

DeviceBuffer Model::optional(const std::string& name, int64_t size) const {
  return tensors_->has(name) ? tensors_->vector(name, size) : DeviceBuffer();
}

Model::NormWeights Model::loadNorm(const std::string& name, bool required) const {
  const int64_t size = config_.hiddenSize;
  if (!required && !tensors_->has(name + ".weight")) return {};
  return {tensors_->vector(name + ".weight", size), optional(name + ".bias", size)};
}

Model::Linear Model::loadLinear(const std::string& name, int64_t outputs, int64_t inputs) const {
  return {tensors_->matrix(name + ".weight", outputs, inputs), optional(name + ".bias", outputs)};
}

std::unique_ptr<Model::Experts> Model::loadExperts(const std::string& prefix) const {
  const int64_t hidden = config_.hiddenSize, inner = config_.experts.intermediateSize;
  auto experts = std::make_unique<Experts>();
  experts->router = tensors_->matrix(prefix + "router.weight", config_.experts.count, hidden);
  const auto add = [&](const std::string& name, int64_t outputs, int64_t inputs) {
    experts->weights.push_back(tensors_->matrix(name + ".weight", outputs, inputs));
    return experts->weights.back().get();
  };
  for (int32_t e = 0; e < config_.experts.count; ++e) {
    const std::string expert = prefix + "experts." + std::to_string(e) + ".";
    experts->gates.push_back(add(expert + "gate_proj", inner, hidden));
    experts->ups.push_back(add(expert + "up_proj", inner, hidden));
    experts->downs.push_back(add(expert + "down_proj", hidden, inner));
  }
  return experts;
}

Model::Layer Model::loadLayer(int32_t index) const {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const int64_t hidden = config_.hiddenSize, inner = config_.intermediateSize;
  const int64_t queries = int64_t{config_.heads} * config_.headDim;
  const int64_t keys = int64_t{config_.kvHeads} * config_.headDim;
  Layer layer;
  layer.inputNorm = loadNorm(prefix + "input_layernorm", true);
  layer.mlpNorm = loadNorm(prefix + "post_attention_layernorm", !config_.parallelBlock);
  layer.attentionOutputNorm = loadNorm(prefix + "attention_output_norm", false);
  layer.mlpOutputNorm = loadNorm(prefix + "mlp_output_norm", false);
  layer.q = loadLinear(attention + "q_proj", queries, hidden);
  layer.k = loadLinear(attention + "k_proj", keys, hidden);
  layer.v = loadLinear(attention + "v_proj", keys, hidden);
  layer.o = loadLinear(attention + "o_proj", hidden, queries);
  layer.qNorm = optional(attention + "q_norm.weight", config_.headDim);
  layer.kNorm = optional(attention + "k_norm.weight", config_.headDim);
  if (tensors_->has(mlp + "router.weight")) {
    requirePositive("experts", config_.experts.count);
    layer.experts = loadExperts(mlp);
    return layer;
  }
  if (tensors_->has(mlp + "gate_proj.weight")) {
    layer.gate = loadLinear(mlp + "gate_proj", inner, hidden);
  }
  layer.up = loadLinear(mlp + "up_proj", inner, hidden);
  layer.down = loadLinear(mlp + "down_proj", hidden, inner);
  return layer;
}

CacheShape Model::cacheShape(DType storage) const {
  return {config_.layers, config_.kvHeads, config_.headDim, storage};
}

void Model::reserveScratch(int32_t tokens, int32_t rows, int32_t logits) {
  // The old ones go first, so that growing takes no more than what is asked for.
  const auto grow = [&](int32_t wanted, int32_t* have,
                        std::initializer_list<std::pair<DeviceBuffer*, int64_t>> buffers) {
    if (wanted <= *have) return;
    *have = 0;
    for (const auto& [buffer, size] : buffers) *buffer = {};
    for (const auto& [buffer, size] : buffers) {
      *buffer =
          DeviceBuffer(context_, static_cast<size_t>(wanted * size) * sizeof(float), "a pass");
    }
    *have = wanted;
  };
  const int64_t queries = int64_t{config_.heads} * config_.headDim;
  grow(rows, &scratchRows_, {{&residual_, config_.hiddenSize}});
  const ModelConfig::Experts& experts = config_.experts;
  grow(tokens, &scratchTokens_,
       {{&query_, queries},
        {&attended_, queries},
        {&hidden_, std::max(config_.intermediateSize, experts.intermediateSize)},
        {&projected_, normsOutputs_ || experts.count > 0 ? config_.hiddenSize : 0},
        {&gathered_, experts.count > 0 ? config_.hiddenSize : 0},
        {&scores_, experts.count}});
  grow(logits, &scratchLogits_, {{&deviceLogits_, config_.vocabSize}});
}

}  // namespace anchorcoder
