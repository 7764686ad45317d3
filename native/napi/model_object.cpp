// NativeModel of types/native.ts, and loading it off the JavaScript thread.
#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "convert.h"
#include "core/device.h"
#include "core/model.h"
#include "cpu/cgroup.h"
#include "cpu/cpu.h"
#include "environment.h"
#include "objects.h"
#include "promise_worker.h"

namespace anchorcoder {

namespace {

struct ModelSpec {
  std::vector<FileSpec> files;
  std::vector<TensorSpec> tensors;
  ModelConfig config;
  int32_t threads;
  std::string instructionSet;
  uint64_t maxMemory;
  uint64_t prefixCacheBytes;
};

TensorSpec toPlainTensor(const Napi::Object& object) {
  TensorSpec tensor;
  tensor.name = readString(object, "name");
  tensor.type = readWeightType(object, "dtype");
  const Napi::Array shape = readArray(object, "shape");
  for (uint32_t i = 0; i < shape.Length(); ++i) {
    tensor.shape.push_back(toInt(shape.Get(i), "shape"));
  }
  const int32_t file = readInt(object, "file");
  if (file < 0) throw Error(ErrorCode::invalidArgument, "Expected file to be 0 or more");
  tensor.file = static_cast<uint32_t>(file);
  tensor.offset = readSize(object, "offset");
  tensor.length = readSize(object, "length");
  if (object.Get("parts").IsUndefined()) return tensor;
  const Napi::Array parts = readArray(object, "parts");
  for (uint32_t i = 0; i < parts.Length(); ++i) {
    const Napi::Object part = objectAt(parts, i, "parts");
    tensor.parts.push_back({readSize(part, "offset"), readSize(part, "length")});
  }
  return tensor;
}

// An adapter's matrices have no adapter of their own.
TensorSpec toTensor(const Napi::Object& object) {
  TensorSpec tensor = toPlainTensor(object);
  if (object.Get("lora").IsUndefined()) return tensor;
  const Napi::Object lora = readObject(object, "lora");
  tensor.lora = std::make_shared<const LoraSpec>(LoraSpec{toPlainTensor(readObject(lora, "a")),
                                                          toPlainTensor(readObject(lora, "b")),
                                                          readFloat(lora, "scale")});
  return tensor;
}

RopeConfig toRope(const Napi::Object& object) {
  RopeConfig rope;
  rope.rotaryDims = readInt(object, "rotaryDims");
  rope.interleaved = readBool(object, "interleaved");
  rope.scale = readFloat(object, "scale");
  const Napi::Value frequencies = object.Get("inverseFrequencies");
  if (!frequencies.IsTypedArray() ||
      frequencies.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    throw Error(ErrorCode::invalidArgument, "Expected inverseFrequencies to be a Float64Array");
  }
  const auto array = frequencies.As<Napi::Float64Array>();
  rope.inverseFrequencies.assign(array.Data(), array.Data() + array.ElementLength());
  return rope;
}

NormKind toNorm(const std::string& name) {
  if (name == "rms") return NormKind::rms;
  if (name == "rmsOnePlus") return NormKind::rmsOnePlus;
  if (name == "layer") return NormKind::layer;
  throw Error(ErrorCode::invalidArgument, "Expected norm to be rms, rmsOnePlus or layer");
}

Activation toActivation(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "geluTanh") return Activation::geluTanh;
  throw Error(ErrorCode::invalidArgument, "Expected activation to be silu, gelu or geluTanh");
}

// What a family adds to the plain sizes.
void readFeatures(const Napi::Object& config, ModelConfig& sizes) {
  sizes.norm = toNorm(readString(config, "norm"));
  sizes.activation = toActivation(readString(config, "activation"));
  sizes.parallelBlock = readBool(config, "parallelBlock");
  sizes.embeddingScale = readFloat(config, "embeddingScale");
  sizes.attentionScale = readFloat(config, "attentionScale");
  sizes.attentionSoftcap = readFloat(config, "attentionSoftcap");
  sizes.logitSoftcap = readFloat(config, "logitSoftcap");
  sizes.originalContext = readInt(config, "originalContext");
  const Napi::Value windows = config.Get("windows");
  if (!windows.IsTypedArray() ||
      windows.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw Error(ErrorCode::invalidArgument, "Expected windows to be an Int32Array");
  }
  const auto sizesOf = windows.As<Napi::Int32Array>();
  sizes.windows.assign(sizesOf.Data(), sizesOf.Data() + sizesOf.ElementLength());
  const std::vector<uint8_t> ropes = readBytes(config, "layerRopes");
  sizes.layerRopes.assign(ropes.begin(), ropes.end());
  if (config.Get("experts").IsNull()) return;
  const Napi::Object experts = readObject(config, "experts");
  sizes.experts = {readInt(experts, "count"), readInt(experts, "perToken"),
                   readInt(experts, "intermediateSize"), readBool(experts, "normalize")};
}

ModelSpec toSpec(const Napi::Object& object) {
  ModelSpec spec;
  const Napi::Array files = readArray(object, "files");
  for (uint32_t i = 0; i < files.Length(); ++i) {
    const Napi::Object file = objectAt(files, i, "files");
    spec.files.push_back({readString(file, "path"), readSize(file, "size")});
  }
  const Napi::Array tensors = readArray(object, "tensors");
  for (uint32_t i = 0; i < tensors.Length(); ++i) {
    spec.tensors.push_back(toTensor(objectAt(tensors, i, "tensors")));
  }
  const Napi::Object config = readObject(object, "config");
  ModelConfig& sizes = spec.config;
  sizes.layers = readInt(config, "layers");
  sizes.hiddenSize = readInt(config, "hiddenSize");
  sizes.intermediateSize = readInt(config, "intermediateSize");
  sizes.heads = readInt(config, "heads");
  sizes.kvHeads = readInt(config, "kvHeads");
  sizes.headDim = readInt(config, "headDim");
  sizes.vocabSize = readInt(config, "vocabSize");
  sizes.contextLength = readInt(config, "contextLength");
  sizes.normEpsilon = readFloat(config, "normEpsilon");
  readFeatures(config, sizes);
  const Napi::Array ropes = readArray(config, "ropes");
  for (uint32_t i = 0; i < ropes.Length(); ++i) {
    sizes.ropes.push_back(toRope(objectAt(ropes, i, "ropes")));
  }
  sizes.compute = readString(object, "compute") == "exact" ? Compute::exact : Compute::bf16;
  spec.threads = readInt(object, "threads");
  spec.instructionSet = readString(object, "instructionSet");
  spec.maxMemory = readSize(object, "maxMemory");
  spec.prefixCacheBytes = readSize(object, "prefixCacheBytes");
  return spec;
}

DType toCacheType(const std::string& name) {
  if (name == "f32") return DType::f32;
  if (name == "f16") return DType::f16;
  if (name == "bf16") return DType::bf16;
  if (name == "int8") return DType::i8;
  throw Error(ErrorCode::invalidArgument, "Expected cacheType to be f32, f16, bf16 or int8");
}

Policy toPolicy(const Napi::Object& object, int32_t vocabSize) {
  Policy policy;
  policy.isAnchor.resize(static_cast<size_t>(vocabSize));
  for (const int32_t id : readIds(object, "anchorIds", vocabSize)) {
    policy.isAnchor[static_cast<size_t>(id)] = 1;
  }
  policy.firstIsAnchor = readBool(object, "firstIsAnchor");
  policy.anchorSeesAnchors = readBool(object, "anchorSeesAnchors");
  policy.line = readBool(object, "line");
  policy.window = readInt(object, "window");
  policy.sinks = readInt(object, "sinks");
  policy.dense = readBytes(object, "dense");
  policy.sourceLayer = readInt(object, "sourceLayer");
  policy.consumersAbove = readInt(object, "consumersAbove");
  policy.multiHeadPositions = readBool(object, "multiHeadPositions");
  policy.insertedAnchor = readInt(object, "insertedAnchor");
  return policy;
}

struct Handle {
  std::shared_ptr<Lease> lease;  // null once disposed

  // Held by the caller: reading arguments may run JavaScript that disposes.
  std::shared_ptr<Lease> open() const {
    if (!lease) throw Error(ErrorCode::disposed, "The model has been disposed");
    return lease;
  }
};
using SharedHandle = std::shared_ptr<Handle>;

Napi::Value createSession(const SharedHandle& handle, const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw Error(ErrorCode::invalidArgument, "Expected a specification");
  const auto spec = info[0].As<Napi::Object>();
  const auto lease = handle->open();
  const int32_t vocabSize = lease->executor->model()->config().vocabSize;
  auto session = lease->executor->createSession(
      toPolicy(readObject(spec, "policy"), vocabSize), readInt(spec, "contextLength"),
      toCacheType(readString(spec, "cacheType")), readBool(spec, "usesPrefixes"));
  return sessionObject(info.Env(), lease, std::move(session));
}

// Rebuilds a policy's state and takes memory for the rows: off the JavaScript thread.
class RestoreWorker : public PromiseWorker {
 public:
  RestoreWorker(Napi::Env env, std::shared_ptr<Lease> lease, const Napi::Object& spec)
      : PromiseWorker(env, "the session"), lease_(std::move(lease)) {
    const int32_t vocabSize = lease_->executor->model()->config().vocabSize;
    policy_ = toPolicy(readObject(spec, "policy"), vocabSize);
    contextLength_ = readInt(spec, "contextLength");
    storage_ = toCacheType(readString(spec, "cacheType"));
    state_.ids = readIds(spec, "ids", vocabSize);
    state_.cached = readInt(spec, "cached");
    state_.released = readPositions(spec, "released");
    state_.saved = readPositions(spec, "saved");
    state_.rowBytes = readSize(spec, "rowBytes");
  }

 private:
  static std::vector<int32_t> readPositions(const Napi::Object& object, const char* name) {
    return readIds(object, name, std::numeric_limits<int32_t>::max());
  }

  void work() override {
    session_ = lease_->executor->restore(policy_, contextLength_, storage_, state_);
  }
  Napi::Value result() override { return restoreObject(Env(), lease_, std::move(session_)); }

  std::shared_ptr<Lease> lease_;
  Policy policy_;
  int32_t contextLength_;
  DType storage_;
  SessionState state_;
  std::shared_ptr<Session> session_;
};

Napi::Value restore(const SharedHandle& handle, const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw Error(ErrorCode::invalidArgument, "Expected a specification");
  return PromiseWorker::start(
      std::make_unique<RestoreWorker>(info.Env(), handle->open(), info[0].As<Napi::Object>()));
}

Napi::Value memory(const SharedHandle& handle, const Napi::CallbackInfo& info) {
  const auto lease = handle->open();
  Executor& executor = *lease->executor;
  const DeviceContext& context = *executor.model()->context();
  const uint64_t mapped = executor.model()->mappedBytes(), caches = context.cacheBytes;
  Napi::Object object = Napi::Object::New(info.Env());
  // The numbers may change between two reads of them.
  const uint64_t held = std::max<uint64_t>(context.heldBytes(), mapped + caches);
  object.Set("mapped", static_cast<double>(mapped));
  object.Set("weights", static_cast<double>(held - mapped - caches));
  object.Set("caches", static_cast<double>(caches));
  object.Set("sessions", static_cast<double>(executor.sessionCount()));
  const PrefixStats prefixes = executor.prefixStats();
  object.Set("prefixBytes", static_cast<double>(prefixes.bytes));
  object.Set("prefixEntries", static_cast<double>(prefixes.entries));
  object.Set("prefixHits", static_cast<double>(prefixes.hits));
  object.Set("prefixMisses", static_cast<double>(prefixes.misses));
  object.Set("reusedTokens", static_cast<double>(prefixes.reusedTokens));
  return object;
}

Napi::Object modelObject(Napi::Env env, std::shared_ptr<Model> model, uint64_t prefixBytes) {
  const DeviceInfo& device = model->context()->info();
  auto lease =
      std::make_shared<Lease>(Environment::of(env).createExecutor(std::move(model), prefixBytes));
  const auto handle = std::make_shared<Handle>(Handle{std::move(lease)});
  Napi::Object object = Napi::Object::New(env);
  using Info = const Napi::CallbackInfo&;
  object.Set("instructionSet", Napi::String::New(env, device.instructionSet));
  object.Set("threads", device.threads);
  setMethod(object, "createSession", [handle](Info info) { return createSession(handle, info); });
  setMethod(object, "restore", [handle](Info info) { return restore(handle, info); });
  setMethod(object, "memory", [handle](Info info) { return memory(handle, info); });
  setMethod(object, "dispose", [handle](Info info) {
    if (handle->lease) handle->lease->executor->stop();
    handle->lease = nullptr;
    return info.Env().Undefined();
  });
  return object;
}

class LoadWorker : public PromiseWorker {
 public:
  LoadWorker(Napi::Env env, ModelSpec spec)
      : PromiseWorker(env, "the model"), spec_(std::move(spec)) {}

 private:
  void work() override {
    const char* set = spec_.instructionSet.empty() ? nullptr : spec_.instructionSet.c_str();
    const bool asked = spec_.maxMemory != 0;
    auto context = DeviceContext::open(cpuOps(), {spec_.threads, set},
                                       asked ? spec_.maxMemory : memoryLeft(""),
                                       asked ? "maxMemory" : "what the cgroup's limit leaves");
    model_ = std::make_shared<Model>(std::move(context), std::move(spec_.config), spec_.files,
                                     std::move(spec_.tensors));
  }
  Napi::Value result() override {
    return modelObject(Env(), std::move(model_), spec_.prefixCacheBytes);
  }

  ModelSpec spec_;
  std::shared_ptr<Model> model_;
};

}  // namespace

Napi::Value loadModel(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw Error(ErrorCode::invalidArgument, "Expected a specification");
  ModelSpec spec = toSpec(info[0].As<Napi::Object>());
  return PromiseWorker::start(std::make_unique<LoadWorker>(info.Env(), std::move(spec)));
}

}  // namespace anchorcoder
