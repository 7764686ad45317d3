// The forward pass above the device contract.
#include <algorithm>
#include <new>

#include "core/error.h"
#include "core/model.h"
#include "core/pass.h"

namespace anchorcoder {

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
  const size_t logits =
      static_cast<size_t>(pass.logitCount) * static_cast<size_t>(config_.vocabSize);
  logitsAccount_.growTo(logits * sizeof(float), "the logits");
  logits_.resize(std::max(logits_.size(), logits));
  uploadSavedRows(items);

  const Ops& ops = context_->ops();
  Plan* plan = nullptr;
  context_->check(ops.beginPass(context_->device(), &desc_, &pass, &plan), "Starting a pass");
  if (pass.tokenCount > 0) {
    ops.embed(plan, embedding_.get(), config_.embeddingScale, residual_.floats());
    for (int32_t l = 0; l < config_.layers; ++l) runLayer(plan, l);
  }
  if (pass.logitCount > 0) {
    const Weight* head = head_.get() ? head_.get() : embedding_.get();
    const LogitsArgs args{norm(finalNorm_),   head,
                          headBias_.floats(), config_.logitSoftcap,
                          residual_.floats(), deviceLogits_.floats()};
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

NormDesc Model::norm(const NormWeights& weights) const {
  return {config_.norm, config_.normEpsilon, weights.weight.floats(), weights.bias.floats()};
}

void Model::runLayer(Plan* plan, int32_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  runAttention(plan, index);
  // In a parallel block the MLP reads the residual before attention is added to it.
  if (config_.parallelBlock) runGateUp(plan, layer);
  addOutput(plan, layer.o, layer.attentionOutputNorm, attended_.floats());
  if (layer.experts) return runExperts(plan, layer);
  if (!config_.parallelBlock) runGateUp(plan, layer);
  addOutput(plan, layer.down, layer.mlpOutputNorm, hidden_.floats());
}

void Model::runAttention(Plan* plan, int32_t index) {
  const Ops& ops = context_->ops();
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const Policy& policy = pass_->policy();
  const int32_t rope = pass_->longRope() ? 1 : config_.layerRopes[static_cast<size_t>(index)];
  const NormQkvArgs qkv{index,
                        config_.ropes.empty() ? -1 : rope,
                        norm(layer.inputNorm),
                        layer.q.weight.get(),
                        layer.k.weight.get(),
                        layer.v.weight.get(),
                        layer.q.bias.floats(),
                        layer.k.bias.floats(),
                        layer.v.bias.floats(),
                        layer.qNorm.floats(),
                        layer.kNorm.floats(),
                        residual_.floats(),
                        query_.floats()};
  ops.normQkv(plan, &qkv);
  const AttendArgs attend{index,
                          policy.isConsumer(index) ? policy.sourceLayer : -1,
                          pass_->visibility(index),
                          config_.attentionScale,
                          config_.attentionSoftcap,
                          query_.floats(),
                          attended_.floats()};
  ops.attend(plan, &attend);
}

void Model::runGateUp(Plan* plan, const Layer& layer) {
  const NormGateUpArgs args{norm(config_.parallelBlock ? layer.inputNorm : layer.mlpNorm),
                            layer.gate.weight.get(),
                            layer.up.weight.get(),
                            layer.gate.bias.floats(),
                            layer.up.bias.floats(),
                            config_.activation,
                            residual_.floats(),
                            hidden_.floats()};
  context_->ops().normGateUp(plan, &args);
}

void Model::runExperts(Plan* plan, const Layer& layer) {
  const Experts& experts = *layer.experts;
  const ExpertsArgs args{norm(layer.mlpNorm),       experts.router.get(),
                         experts.gates.data(),      experts.ups.data(),
                         experts.downs.data(),      config_.experts.count,
                         config_.experts.perToken,  config_.experts.intermediateSize,
                         config_.experts.normalize, config_.activation,
                         residual_.floats(),        residual_.floats(),
                         scores_.floats(),          hidden_.floats(),
                         gathered_.floats(),        projected_.floats()};
  context_->ops().experts(plan, &args);
}

// residual += linear x, or the norm of it where the layer has one.
void Model::addOutput(Plan* plan, const Linear& linear, const NormWeights& outputNorm,
                      const float* x) {
  const Ops& ops = context_->ops();
  if (!outputNorm.weight.get()) {
    const ProjectAddArgs args{linear.weight.get(), linear.bias.floats(), x, residual_.floats()};
    return ops.projectAdd(plan, &args);
  }
  const int32_t tokens = pass_->tokenCount(), size = config_.hiddenSize;
  float* output = projected_.floats();
  ops.matmul(plan, linear.weight.get(), linear.bias.floats(), x, tokens, output);
  const NormDesc desc = norm(outputNorm);
  ops.norm(plan, &desc, output, tokens, size, output);
  ops.add(plan, output, static_cast<size_t>(tokens) * static_cast<size_t>(size),
          residual_.floats());
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
