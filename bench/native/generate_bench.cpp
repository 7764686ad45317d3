// The loop that a generation cannot do without: a pass, a choice, no other thread and no
// JavaScript. bench/overhead.mjs starts it and compares.
//
//   generate_bench SPECIFICATION     then "PROMPT TOKENS" lines on stdin, each a round: reads the
//                                    first PROMPT ids and generates TOKENS; answers
//                                    "seconds id id ...", where the seconds begin at the first id.
//
// The specification is a list of words; see `readSpec` for their order.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/sampler.h"
#include "core/session.h"
#include "cpu/cpu.h"

namespace {

using namespace anchorcoder;  // NOLINT
using Clock = std::chrono::steady_clock;

struct Spec {
  int32_t threads = 0;
  ModelConfig config{};
  std::vector<FileSpec> files;
  std::vector<TensorSpec> tensors;
  Policy policy;
  int32_t contextLength = 0;
  DType storage = DType::f32;
  std::vector<uint32_t> ids;
};

template <typename T>
T next(std::istream& in) {
  T value;
  if (!(in >> value)) throw Error(ErrorCode::invalidArgument, "The specification ends early");
  return value;
}

template <typename T>
std::vector<T> nextList(std::istream& in) {
  std::vector<T> list(next<size_t>(in));
  for (T& value : list) value = next<T>(in);
  return list;
}

DType nextType(std::istream& in) {
  const auto name = next<std::string>(in);
  if (name == "F32" || name == "f32") return DType::f32;
  if (name == "F16" || name == "f16") return DType::f16;
  if (name == "BF16" || name == "bf16") return DType::bf16;
  if (name == "int8") return DType::i8;
  throw Error(ErrorCode::invalidArgument, "Unknown type " + name);
}

void readConfig(std::istream& in, ModelConfig* config) {
  for (int32_t* size :
       {&config->layers, &config->hiddenSize, &config->intermediateSize, &config->heads,
        &config->kvHeads, &config->headDim, &config->vocabSize, &config->contextLength}) {
    *size = next<int32_t>(in);
  }
  config->normEpsilon = next<float>(in);
  config->compute = next<std::string>(in) == "exact" ? Compute::exact : Compute::bf16;
  RopeConfig rope;
  rope.rotaryDims = next<int32_t>(in);
  rope.interleaved = next<int32_t>(in) != 0;
  rope.scale = next<float>(in);
  rope.inverseFrequencies = nextList<double>(in);
  config->ropes.push_back(std::move(rope));
}

void readPolicy(std::istream& in, Policy* policy, int32_t vocabSize) {
  policy->isAnchor.resize(static_cast<size_t>(vocabSize));
  for (const auto id : nextList<size_t>(in)) policy->isAnchor.at(id) = 1;
  for (bool* flag : {&policy->firstIsAnchor, &policy->anchorSeesAnchors, &policy->line,
                     &policy->multiHeadPositions}) {
    *flag = next<int32_t>(in) != 0;
  }
  for (int32_t* number :
       {&policy->window, &policy->sinks, &policy->sourceLayer, &policy->consumersAbove}) {
    *number = next<int32_t>(in);
  }
  for (const auto dense : nextList<int32_t>(in)) policy->dense.push_back(dense != 0);
}

Spec readSpec(const char* path) {
  std::ifstream in(path);
  Spec spec;
  spec.threads = next<int32_t>(in);
  readConfig(in, &spec.config);
  const auto files = next<size_t>(in);
  for (size_t i = 0; i < files; ++i) {
    const auto size = next<uint64_t>(in);
    std::string name;
    std::getline(in >> std::ws, name);
    spec.files.push_back({std::move(name), size});
  }
  const auto tensors = next<size_t>(in);
  for (size_t i = 0; i < tensors; ++i) {
    TensorSpec tensor;
    tensor.name = next<std::string>(in);
    tensor.type = nextType(in);
    tensor.file = next<uint32_t>(in);
    tensor.offset = next<uint64_t>(in);
    tensor.length = next<uint64_t>(in);
    tensor.shape = nextList<int64_t>(in);
    spec.tensors.push_back(std::move(tensor));
  }
  readPolicy(in, &spec.policy, spec.config.vocabSize);
  spec.contextLength = next<int32_t>(in);
  spec.storage = nextType(in);
  spec.ids = nextList<uint32_t>(in);
  return spec;
}

// Runs what is pending, and gives the last token's logits.
std::span<const float> step(Model& model, Session& session) {
  const int32_t tokens = session.pending();
  BatchItem item{&session.sequence(), tokens, nullptr, tokens - 1};
  const auto logits = model.forward({&item, 1}, nullptr);
  session.commit(session.cached());
  return logits;
}

double generate(const std::shared_ptr<Model>& model, const Spec& spec, size_t prompt,
                int32_t tokens, std::vector<int32_t>* out) {
  Session session(model, spec.policy, spec.contextLength, spec.storage);
  Sampler sampler(SamplerOptions{}, {}, spec.config.vocabSize);
  auto& ids = session.sequence().ids;
  for (size_t i = 0; i < prompt; ++i) ids.push_back(static_cast<int32_t>(spec.ids.at(i)));
  Clock::time_point first;
  for (int32_t i = 0; i < tokens; ++i) {
    const auto logits = step(*model, session);
    const int32_t id = sampler.sample(logits, session.position()).id;
    if (i == 0) first = Clock::now();
    ids.push_back(id);
    out->push_back(id);
  }
  return std::chrono::duration<double>(Clock::now() - first).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: generate_bench SPECIFICATION\n"), 2;
  try {
    const Spec spec = readSpec(argv[1]);
    OpenOptions options{};
    options.threads = spec.threads;
    const auto context = DeviceContext::open(cpuOps(), options, 0);
    const auto model = std::make_shared<Model>(context, spec.config, spec.files, spec.tensors);
    size_t prompt = 0;
    int32_t tokens = 0;
    while (std::cin >> prompt >> tokens) {
      std::vector<int32_t> ids;
      const double seconds = generate(model, spec, prompt, tokens, &ids);
      std::printf("%.9f", seconds);
      for (const int32_t id : ids) std::printf(" %d", id);
      std::printf("\n");
      std::fflush(stdout);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
