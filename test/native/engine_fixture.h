// A small random model in a temporary file, a device that fails when told to, and calls on sessions
// that wait for their answers: what the tests of the engine share.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "core/device.h"
#include "core/error.h"
#include "core/executor.h"
#include "core/model.h"
#include "cpu/cpu.h"

namespace engine_test {

using namespace anchorcoder;  // NOLINT: a test's own header

inline constexpr int32_t kVocab = 40, kContext = 600;
inline constexpr int32_t kAnchor = 3, kNewline = 5;
inline constexpr int32_t kLayers = 4;

inline ModelConfig tinyConfig() {
  ModelConfig config{};
  config.layers = kLayers;
  config.hiddenSize = 32;
  config.intermediateSize = 48;
  config.heads = 4;
  config.kvHeads = 2;
  config.headDim = 8;
  config.vocabSize = kVocab;
  config.contextLength = kContext;
  config.normEpsilon = 1e-5f;
  config.compute = Compute::exact;
  config.ropes.push_back({8, false, 1.0f, {1.0, 0.1, 0.01, 0.001}});
  return config;
}

// Weights of a ModelConfig, in one file without a header.
class ModelFile {
 public:
  explicit ModelFile(const ModelConfig& config) {
    static std::atomic<int> count{0};
    const auto folder = std::filesystem::temp_directory_path();
    const std::string name =
        "anchorcoder-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
    path = (folder / name).string();
    const int64_t hidden = config.hiddenSize, inner = config.intermediateSize;
    const int64_t queries = int64_t{config.heads} * config.headDim;
    const int64_t keys = int64_t{config.kvHeads} * config.headDim;
    add("model.embed_tokens.weight", {config.vocabSize, hidden}, 1);
    add("lm_head.weight", {config.vocabSize, hidden}, 0.4f);
    add("model.norm.weight", {hidden}, 0.1f, 1);
    for (int32_t l = 0; l < config.layers; ++l) {
      const std::string prefix = "model.layers." + std::to_string(l) + ".";
      add(prefix + "input_layernorm.weight", {hidden}, 0.1f, 1);
      add(prefix + "post_attention_layernorm.weight", {hidden}, 0.1f, 1);
      add(prefix + "self_attn.q_proj.weight", {queries, hidden}, 0.3f);
      add(prefix + "self_attn.k_proj.weight", {keys, hidden}, 0.3f);
      add(prefix + "self_attn.v_proj.weight", {keys, hidden}, 0.3f);
      add(prefix + "self_attn.o_proj.weight", {hidden, queries}, 0.3f);
      add(prefix + "self_attn.q_proj.bias", {queries}, 0.1f);
      add(prefix + "mlp.gate_proj.weight", {inner, hidden}, 0.2f);
      add(prefix + "mlp.up_proj.weight", {inner, hidden}, 0.2f);
      add(prefix + "mlp.down_proj.weight", {hidden, inner}, 0.2f);
    }
    std::FILE* file = std::fopen(path.c_str(), "wb");
    std::fwrite(values_.data(), sizeof(float), values_.size(), file);
    std::fclose(file);
  }
  ~ModelFile() { std::filesystem::remove(path); }
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  FileSpec spec() const { return {path, values_.size() * sizeof(float)}; }

  std::string path;
  std::vector<TensorSpec> tensors;

 private:
  void add(const std::string& name, std::vector<int64_t> shape, float spread, float mean = 0) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    const uint64_t offset = values_.size() * sizeof(float);
    std::normal_distribution<float> normal(mean, spread);
    for (int64_t i = 0; i < count; ++i) values_.push_back(normal(random_));
    tensors.push_back({name,
                       DType::f32,
                       std::move(shape),
                       0,
                       offset,
                       static_cast<uint64_t>(count) * sizeof(float),
                       {}});
  }

  std::mt19937 random_{17};
  std::vector<float> values_;
};

// The CPU, whose next calls fail or take their time.
struct Faults {
  // Calls until the one that fails, below 0: none does.
  static inline std::atomic<int32_t> alloc{-1}, copy{-1}, begin{-1}, end{-1}, download{-1};
  static inline std::atomic<int32_t> passMicroseconds{0};

  static bool strikes(std::atomic<int32_t>& calls) { return calls >= 0 && calls-- == 0; }
  static void clear() {
    for (auto* calls : {&alloc, &copy, &begin, &end, &download}) *calls = -1;
    passMicroseconds = 0;
  }
  static const Ops* ops() {
    static const Ops kOps = [] {
      Ops ops = *cpuOps();
      ops.alloc = [](Device* device, size_t bytes) {
        return strikes(alloc) ? nullptr : cpuOps()->alloc(device, bytes);
      };
      ops.copy = [](Device* device, void* to, const void* from, size_t bytes) {
        return strikes(copy) ? Status::failed : cpuOps()->copy(device, to, from, bytes);
      };
      ops.download = [](Device* device, void* to, const void* from, size_t bytes) {
        return strikes(download) ? Status::failed : cpuOps()->download(device, to, from, bytes);
      };
      ops.beginPass = [](Device* device, const ModelDesc* model, const Pass* pass, Plan** plan) {
        if (strikes(begin)) return Status::outOfMemory;
        return cpuOps()->beginPass(device, model, pass, plan);
      };
      ops.endPass = [](Plan* plan) {
        const Status status = cpuOps()->endPass(plan);
        if (passMicroseconds > 0) {
          std::this_thread::sleep_for(std::chrono::microseconds(passMicroseconds));
        }
        return strikes(end) ? Status::failed : status;
      };
      return ops;
    }();
    return &kOps;
  }
};

// The answer to one call.
template <typename T>
class Answer {
 public:
  void give(T value, const Error* error) {
    const std::lock_guard lock(mutex_);
    CHECK(!given_);  // once and no more
    given_ = true;
    value_ = std::move(value);
    if (error) error_ = *error;
    here_.notify_all();
  }
  bool isHere() {
    const std::lock_guard lock(mutex_);
    return given_;
  }
  // Throws what the call failed with. A call that is never answered ends the program.
  T wait() {
    std::unique_lock lock(mutex_);
    if (!here_.wait_for(lock, std::chrono::seconds(120), [this] { return given_; })) {
      std::fprintf(stderr, "a call was not answered\n");
      std::abort();
    }
    if (error_) throw *error_;
    return std::move(value_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable here_;
  bool given_ = false;
  T value_{};
  std::optional<Error> error_;
};

using SessionPointer = std::shared_ptr<Session>;
using Floats = std::vector<float>;
using Ids = std::vector<uint32_t>;

struct Engine {
  explicit Engine(int32_t threads = 1, uint64_t maxBytes = 0,
                  const ModelConfig& config = tinyConfig(), uint64_t prefixBytes = 0) {
    static const ModelFile file(tinyConfig());
    auto context = DeviceContext::open(Faults::ops(), {threads, nullptr}, maxBytes);
    model = std::make_shared<Model>(std::move(context), config, std::vector<FileSpec>{file.spec()},
                                    file.tensors);
    executor = std::make_shared<Executor>(model, std::function<void()>(), prefixBytes);
  }
  explicit Engine(std::shared_ptr<Model> loaded)
      : model(std::move(loaded)), executor(std::make_shared<Executor>(model)) {}

  SessionPointer open(Policy policy, DType storage = DType::f32) {
    return executor->createSession(std::move(policy), kContext, storage);
  }

  std::shared_ptr<Answer<Floats>> startAppend(const SessionPointer& session, const Ids& ids,
                                              LogitsWanted wanted = LogitsWanted::none) {
    auto answer = std::make_shared<Answer<Floats>>();
    executor->append(session, ids, wanted, [answer](Floats logits, const Error* error) {
      answer->give(std::move(logits), error);
    });
    return answer;
  }
  Floats append(const SessionPointer& session, const Ids& ids,
                LogitsWanted wanted = LogitsWanted::none) {
    return startAppend(session, ids, wanted)->wait();
  }

  std::shared_ptr<Answer<GeneratedBatch>> startRead(const SessionPointer& session,
                                                    int32_t commit = 0) {
    auto answer = std::make_shared<Answer<GeneratedBatch>>();
    executor->read(session, commit, [answer](GeneratedBatch batch, const Error* error) {
      answer->give(std::move(batch), error);
    });
    return answer;
  }
  GeneratedBatch read(const SessionPointer& session, int32_t commit = 0) {
    return startRead(session, commit)->wait();
  }

  std::shared_ptr<Answer<int>> startEnd(const SessionPointer& session, int32_t position) {
    auto answer = std::make_shared<Answer<int>>();
    executor->endGenerate(session, position,
                          [answer](const Error* error) { answer->give(0, error); });
    return answer;
  }
  void end(const SessionPointer& session, int32_t position) { startEnd(session, position)->wait(); }

  // Reads at least `count` tokens or to the finish, and ends right behind `count` of them, or
  // behind those that came before a failure.
  std::vector<GeneratedToken> generate(const SessionPointer& session, GenerateOptions options,
                                       size_t count) {
    auto position = static_cast<int32_t>(executor->ids(session).size());
    executor->startGenerate(session, std::move(options));
    std::vector<GeneratedToken> tokens;
    try {
      while (tokens.size() < count) {
        GeneratedBatch batch = read(session, position);
        for (GeneratedToken& token : batch.tokens) tokens.push_back(std::move(token));
        if (!tokens.empty()) position = tokens[std::min(count, tokens.size()) - 1].end;
        if (batch.finish != Finish::none) break;
      }
    } catch (const Error&) {
      end(session, position);
      throw;
    }
    if (tokens.size() > count) tokens.resize(count);
    end(session, position);
    return tokens;
  }

  std::shared_ptr<Model> model;
  std::shared_ptr<Executor> executor;
};

inline Policy fullPolicy() {
  Policy policy;
  policy.isAnchor.assign(kVocab, 0);
  policy.isAnchor[kAnchor] = 1;
  policy.dense.assign(kLayers, 1);
  return policy;
}

inline Policy anchorPolicy() {
  Policy policy = fullPolicy();
  policy.firstIsAnchor = policy.line = policy.multiHeadPositions = true;
  policy.dense = {1, 0, 0, 1};
  policy.insertedAnchor = kAnchor;
  return policy;
}

// Policies of every kind, three of them with layer-wise attention.
inline std::vector<Policy> allPolicies() {
  std::vector<Policy> all{fullPolicy(), anchorPolicy()};
  const auto add = [&](auto change) {
    all.push_back(anchorPolicy());
    change(all.back());
  };
  add([](Policy& policy) { policy.sourceLayer = policy.consumersAbove = 0; });
  add([](Policy& policy) {
    policy.dense = {0, 0, 0, 0};
    policy.sourceLayer = policy.consumersAbove = 1;
  });
  add([](Policy& policy) {  // StreamingLLM
    policy.isAnchor.assign(kVocab, 0);
    policy.firstIsAnchor = policy.line = false;
    policy.window = 40;
    policy.sinks = 3;
    policy.dense = {0, 0, 0, 0};
  });
  add([](Policy& policy) {  // AnLLM
    policy.firstIsAnchor = policy.anchorSeesAnchors = policy.multiHeadPositions = false;
    policy.dense = {0, 0, 0, 0};
  });
  add([](Policy& policy) {
    policy.window = 9;
    policy.sinks = 2;
    policy.dense = {1, 0, 1, 0};
    policy.sourceLayer = 0;
    policy.consumersAbove = 2;
  });
  return all;
}

// A text with an anchor after every newline, in lines of up to `longest` words.
inline Ids randomText(uint32_t seed, size_t length, uint32_t longest = 40) {
  std::mt19937 random(seed);
  Ids ids;
  while (ids.size() < length) {
    for (auto words = random() % longest; words > 0; --words) {
      ids.push_back(static_cast<uint32_t>(6 + random() % (kVocab - 6)));
    }
    ids.push_back(kNewline);
    ids.push_back(kAnchor);
  }
  ids.resize(length);
  return ids;
}

// Sampling that depends on every bit of the logits, with anchors that are forced.
inline GenerateOptions livelyOptions(uint64_t seed = 5, int32_t maxTokens = 1000) {
  GenerateOptions options;
  options.maxTokens = maxTokens;
  options.sampler.temperature = 1.5f;
  options.sampler.repetitionPenalty = 1.1f;
  options.sampler.seed = seed;
  options.sampler.logprobs = true;
  options.sampler.topLogprobs = 2;
  options.bannedIds = {kAnchor, 0, 1, 2, 4};
  options.forcedAnchor = kAnchor;
  options.newlineIds = {kNewline};
  return options;
}

inline bool sameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Everything but the last token's anchor, which may not have been run.
inline bool sameTokens(const std::vector<GeneratedToken>& a, const std::vector<GeneratedToken>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto bits = [](const GeneratedToken& token) {
      Floats values{token.sample.logprob};
      for (const TokenLogprob& top : token.sample.top) {
        values.push_back(static_cast<float>(top.id));
        values.push_back(top.logprob);
      }
      return values;
    };
    if (a[i].id != b[i].id || a[i].end != b[i].end || !sameBits(bits(a[i]), bits(b[i]))) {
      return false;
    }
  }
  return true;
}

inline std::optional<ErrorCode> codeOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code;
  }
  return std::nullopt;
}

}  // namespace engine_test
