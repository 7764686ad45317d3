// Times the CPU's attention: decode and prefill, dense and anchored, every storage and instruction
// set. Usage: attention_bench [instruction set] [threads]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../test/native/attention_fixture.h"
#include "cpu/dispatch.h"

using namespace attention_test;

namespace {

const char* nameOf(DType type) {
  const char* names[] = {"f32", "f16", "bf16", "i8"};
  return names[static_cast<int>(type)];
}

// Best of many runs, in seconds.
template <typename Fn>
double best(const Fn& fn) {
  using Clock = std::chrono::steady_clock;
  double fastest = 1e30, total = 0.0;
  for (int i = 0; i < 3 || (total < 0.3 && i < 2000); ++i) {
    const auto start = Clock::now();
    fn();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fastest = std::min(fastest, seconds);
    total += seconds;
  }
  return fastest;
}

struct Bench {
  const char* name;
  Shape shape;
  int32_t sequences, length, tokens;  // the last `tokens` of each text are the pass
  Case what;
};

void run(const Kernels& kernels, int32_t threads, const Bench& bench, DType storage) {
  const Text text = {storage, bench.length, anchorsEvery(10, bench.length)};
  Fixture f(bench.shape, std::vector<Text>(at(bench.sequences), text));
  std::vector<Chunk> all, chunks;
  for (int32_t s = 0; s < bench.sequences; ++s) {
    all.push_back({s, 0, bench.length});
    chunks.push_back({s, bench.length - bench.tokens, bench.length});
  }
  auto outputs = f.emptyOutputs(0);
  f.run(kernels, threads, all, {}, true, &outputs);

  const ModelDesc model = {Fixture::kLayers,
                           0,
                           bench.shape.heads,
                           bench.shape.kvHeads,
                           bench.shape.headDim,
                           0,
                           Compute::exact,
                           nullptr,
                           0};
  Pool pool;
  pool.reserve(threads);
  Plan plan = {};
  plan.model = &model;
  plan.pass = &f.makePass(chunks);
  plan.kernels = &kernels;
  plan.pool = &pool;
  plan.threads = threads;
  const Guarded scratch(attentionScratchBytes(model, *plan.pass, threads));
  plan.attentionScratch = scratch.data();
  const size_t row = at(bench.shape.heads * bench.shape.headDim);
  const Guarded query(at(plan.pass->tokenCount) * row * sizeof(float)), output(query.bytes());
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < query.bytes() / sizeof(float); ++i) query.floats()[i] = normal(random);
  AttendArgs args = f.argsOf(bench.what);
  args.query = query.floats();
  args.output = output.floats();

  double seen = 0.0;  // rows, over all tokens
  const Visibility& visibility = plan.pass->visibility[args.visibility];
  for (int32_t i = 0; i < plan.pass->tokenCount; ++i) {
    seen += visibility.kept[i].hi - visibility.kept[i].lo;
    seen += visibility.positional[i].hi - visibility.positional[i].lo;
  }
  if (args.sourceLayer >= 0) seen *= 2.0;
  const double seconds = best([&] { attend(plan, args); });
  const double flops = 4.0 * seen * bench.shape.heads * bench.shape.headDim;
  const double read = seen * bench.shape.kvHeads *
                      static_cast<double>(blockBytes(storage, bench.shape.headDim)) / kBlockRows;
  std::printf("%-10s %d thr  %-26s %2dx%-2dx%-3d %-4s %9.1f us %7.1f GFLOP/s", kernels.name,
              threads, bench.name, bench.shape.heads, bench.shape.kvHeads, bench.shape.headDim,
              nameOf(storage), seconds * 1e6, flops / seconds * 1e-9);
  if (bench.tokens == 1) std::printf(" %6.1f GB/s", read / seconds * 1e-9);
  std::printf("\n");
}

}  // namespace

int main(int count, char** arguments) {
  const std::string wanted = count > 1 ? arguments[1] : "";
  const Shape small = {9, 3, 64}, qwen = {12, 2, 128}, llama = {8, 8, 128};
  const Case dense = {0, -1, kDense}, anchored = {1, -1, kAnchored}, joined = {1, 0, kAnchored};
  const Bench benches[] = {
      {"decode 512", small, 1, 512, 1, dense},
      {"decode 2048", small, 1, 2048, 1, dense},
      {"decode 2048", qwen, 1, 2048, 1, dense},
      {"decode 2048", llama, 1, 2048, 1, dense},
      {"decode 8192", qwen, 1, 8192, 1, dense},
      {"decode 8192 anchored", qwen, 1, 8192, 1, anchored},
      {"decode 8 x 2048", small, 8, 2048, 1, dense},
      {"decode 8 x 2048 joined", small, 8, 2048, 1, joined},
      {"prefill 512", small, 1, 512, 512, dense},
      {"prefill 512", qwen, 1, 512, 512, dense},
      {"prefill 2048", qwen, 1, 2048, 2048, dense},
      {"prefill 2048", llama, 1, 2048, 2048, dense},
      {"prefill 2048 anchored", qwen, 1, 2048, 2048, anchored},
      {"prefill 2048 joined", qwen, 1, 2048, 2048, joined},
      {"prefill 2048 anchored", llama, 1, 2048, 2048, anchored},
      {"prefill 512 of 4096", small, 1, 4096, 512, dense},
  };
  for (const std::string& name : instructionSets()) {
    if (!wanted.empty() && wanted != name) continue;
    for (const int32_t threads : {1, 2, 4}) {
      if (count > 2 && threads != std::atoi(arguments[2])) continue;
      for (const Bench& bench : benches) {
        for (const DType storage : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
          run(*findKernels(name), threads, bench, storage);
        }
      }
    }
  }
}
