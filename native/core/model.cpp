// Loading of a model's weights, and the forward pass above the device contract.
#include "core/model.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
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
  if (int64_t{config.heads} * config.headDim > kLargest || int64_t{config.vocabSize} > kLargest ||
      config.contextLength > kLargest) {
    throw Error(ErrorCode::modelInvalid, "The model's sizes are too large");
  }
  for (const RopeConfig& rope : config.ropes) {
    if (rope.rotaryDims <= 0 || rope.rotaryDims % 2 != 0 || rope.rotaryDims > config.headDim ||
        rope.inverseFrequencies.size() != static_cast<size_t>(rope.rotaryDims / 2)) {
      throw Error(ErrorCode::modelInvalid, "Expected rotaryDims to be even and at most headDim");
    }
  }
}

}  // namespace

Model::Model(std::shared_ptr<DeviceContext> context, ModelConfig config,
             const std::vector<FileSpec>& files, std::vector<TensorSpec> tensors)
    : context_(std::move(context)),
      config_((check(config), std::move(config))),
      tensors_(std::make_unique<TensorTable>(context_, files, std::move(tensors))),
      mappedBytes_(tensors_->mappedBytes()),
      pass_(std::make_unique<PassBuilder>()) {
  embedding_ = tensors_->matrix("model.embed_tokens.weight", config_.vocabSize, config_.hiddenSize);
  if (tensors_->has("lm_head.weight")) {
    head_ = tensors_->matrix("lm_head.weight", config_.vocabSize, config_.hiddenSize);
  }
  finalNorm_ = tensors_->vector("model.norm.weight", config_.hiddenSize);
  for (int32_t l = 0; l < config_.layers; ++l) layers_.push_back(loadLayer(l));
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
  finalNorm_ = {};
  for (DeviceBuffer* buffer : {&residual_, &query_, &attended_, &hidden_, &deviceLogits_}) {
    *buffer = {};
  }
  tensors_.reset();
  mappedBytes_ = 0;
}

Model::Layer Model::loadLayer(int32_t index) const {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const auto bias = [&](const std::string& name, int64_t size) {
    return tensors_->has(prefix + name) ? tensors_->vector(prefix + name, size) : DeviceBuffer();
  };
  const int64_t hidden = config_.hiddenSize, inner = config_.intermediateSize;
  const int64_t queries = int64_t{config_.heads} * config_.headDim;
  const int64_t keys = int64_t{config_.kvHeads} * config_.headDim;
  Layer layer;
  layer.inputNorm = tensors_->vector(prefix + "input_layernorm.weight", hidden);
  layer.outputNorm = tensors_->vector(prefix + "post_attention_layernorm.weight", hidden);
  layer.q = tensors_->matrix(prefix + "self_attn.q_proj.weight", queries, hidden);
  layer.k = tensors_->matrix(prefix + "self_attn.k_proj.weight", keys, hidden);
  layer.v = tensors_->matrix(prefix + "self_attn.v_proj.weight", keys, hidden);
  layer.o = tensors_->matrix(prefix + "self_attn.o_proj.weight", hidden, queries);
  layer.gate = tensors_->matrix(prefix + "mlp.gate_proj.weight", inner, hidden);
  layer.up = tensors_->matrix(prefix + "mlp.up_proj.weight", inner, hidden);
  layer.down = tensors_->matrix(prefix + "mlp.down_proj.weight", hidden, inner);
  layer.qBias = bias("self_attn.q_proj.bias", queries);
  layer.kBias = bias("self_attn.k_proj.bias", keys);
  layer.vBias = bias("self_attn.v_proj.bias", keys);
  layer.oBias = bias("self_attn.o_proj.bias", hidden);
  layer.gateBias = bias("mlp.gate_proj.bias", inner);
  layer.upBias = bias("mlp.up_proj.bias", inner);
  layer.downBias = bias("mlp.down_proj.bias", hidden);
  return layer;
}

CacheShape Model::cacheShape(DType storage) const {
  return {config_.layers, config_.kvHeads, config_.headDim, storage};
}

NormDesc Model::norm(const DeviceBuffer& weight) const {
  return {NormKind::rms, config_.normEpsilon, weight.floats(), nullptr};
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
  grow(tokens, &scratchTokens_,
       {{&query_, queries}, {&attended_, queries}, {&hidden_, config_.intermediateSize}});
  grow(logits, &scratchLogits_, {{&deviceLogits_, config_.vocabSize}});
}

std::span<const float> Model::forward(std::span<BatchItem> items, HiddenSink* sink) {
  try {
    pass_->build(config_, items);
    run(items);
    deliver(sink);
  } catch (const std::bad_alloc&) {
    pass_->rollBack(items);
    throw Error(ErrorCode::outOfMemory, "There is no memory left for a pass");
  } catch (...) {
    pass_->rollBack(items);
    throw;
  }
  return {logits_.data(),
          static_cast<size_t>(pass_->pass().logitCount) * static_cast<size_t>(config_.vocabSize)};
}

void Model::run(std::span<BatchItem> items) {
  const Pass& pass = pass_->pass();
  const auto saved = static_cast<int32_t>(std::count_if(
      items.begin(), items.end(), [](const BatchItem& item) { return item.savedHidden; }));
  reserveScratch(pass.tokenCount, pass.tokenCount + saved, pass.logitCount);
  logits_.resize(std::max(logits_.size(), static_cast<size_t>(pass.logitCount) *
                                              static_cast<size_t>(config_.vocabSize)));
  uploadSavedRows(items);

  const Ops& ops = context_->ops();
  Plan* plan = nullptr;
  context_->check(ops.beginPass(context_->device(), &desc_, &pass, &plan), "Starting a pass");
  if (pass.tokenCount > 0) {
    ops.embed(plan, embedding_.get(), 1.0f, residual_.floats());
    for (int32_t l = 0; l < config_.layers; ++l) runLayer(plan, l);
  }
  if (pass.logitCount > 0) {
    const Weight* head = head_.get() ? head_.get() : embedding_.get();
    const LogitsArgs args{norm(finalNorm_), head, nullptr, residual_.floats(),
                          deviceLogits_.floats()};
    ops.logits(plan, &args);
  }
  context_->check(ops.endPass(plan), "Running a pass");
  if (pass.logitCount > 0) {
    const size_t bytes = static_cast<size_t>(pass.logitCount) *
                         static_cast<size_t>(config_.vocabSize) * sizeof(float);
    context_->check(ops.download(context_->device(), logits_.data(), deviceLogits_.get(), bytes),
                    "Fetching logits");
  }
}

void Model::runLayer(Plan* plan, int32_t index) {
  const Ops& ops = context_->ops();
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const Policy& policy = pass_->policy();
  float* x = residual_.floats();

  const NormQkvArgs qkv{index,
                        config_.ropes.empty() ? -1 : 0,
                        norm(layer.inputNorm),
                        layer.q.get(),
                        layer.k.get(),
                        layer.v.get(),
                        layer.qBias.floats(),
                        layer.kBias.floats(),
                        layer.vBias.floats(),
                        nullptr,
                        nullptr,
                        x,
                        query_.floats()};
  ops.normQkv(plan, &qkv);

  const AttendArgs attend{index,
                          policy.isConsumer(index) ? policy.sourceLayer : -1,
                          pass_->visibility(index),
                          1.0f / std::sqrt(static_cast<float>(config_.headDim)),
                          0.0f,
                          query_.floats(),
                          attended_.floats()};
  ops.attend(plan, &attend);

  const ProjectAddArgs output{layer.o.get(), layer.oBias.floats(), attended_.floats(), x};
  ops.projectAdd(plan, &output);

  const NormGateUpArgs gateUp{norm(layer.outputNorm),
                              layer.gate.get(),
                              layer.up.get(),
                              layer.gateBias.floats(),
                              layer.upBias.floats(),
                              Activation::silu,
                              x,
                              hidden_.floats()};
  ops.normGateUp(plan, &gateUp);

  const ProjectAddArgs down{layer.down.get(), layer.downBias.floats(), hidden_.floats(), x};
  ops.projectAdd(plan, &down);
}

void Model::uploadSavedRows(std::span<BatchItem> items) {
  auto row = static_cast<size_t>(pass_->pass().tokenCount);
  const auto size = static_cast<size_t>(config_.hiddenSize);
  for (const BatchItem& item : items) {
    if (!item.savedHidden) continue;
    float* to = residual_.floats() + row++ * size;
    context_->check(
        context_->ops().upload(context_->device(), to, item.savedHidden, size * sizeof(float)),
        "Uploading a saved row");
  }
}

void Model::deliver(HiddenSink* sink) {
  if (!sink) return;
  std::vector<float> row(static_cast<size_t>(config_.hiddenSize));
  for (const auto& hidden : pass_->hiddenRows()) {
    const float* from = residual_.floats() + static_cast<size_t>(hidden.token) * row.size();
    context_->check(
        context_->ops().download(context_->device(), row.data(), from, row.size() * sizeof(float)),
        "Fetching a hidden row");
    sink->hidden(hidden.item, hidden.position, row);
  }
}

}  // namespace anchorcoder
