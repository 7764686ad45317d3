// The fused ops of the CPU equal the chains of plain ones bit for bit, and devices open as asked.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "check.h"
#include "ops_fixture.h"

namespace {

using namespace ops_test;  // NOLINT

// Calls fn(set, type, compute, tokens) for what the fused ops are compared on.
template <typename Fn>
void forVariants(Fn&& fn) {
  for (const std::string& set : instructionSets()) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const Compute compute : {Compute::exact, Compute::bf16}) {
        for (const int32_t tokens : {1, 5, 40}) fn(set, type, compute, tokens);
      }
    }
  }
}

TEST(norm_qkv_is_its_chain) {
  forVariants([](const std::string& set, DType type, Compute compute, int32_t tokens) {
    const std::vector<double> frequencies = {1.0, 0.3, 0.05};
    Shape shape = {52, 4, 2, 20, compute, {6, false, 1.0f, frequencies.data()}};
    Bed bed(set, 3, shape, tokens);
    const Matrix q(type, 80, 52, 1), k(type, 40, 52, 2), v(DType::bf16, 40, 52, 3);
    Random random(9);
    const Floats x(random.normals(at(tokens, 52))), norm(random.normals(52)),
        qNorm(random.normals(20)), kNorm(random.normals(20)), bias(random.normals(80));
    const Floats query(at(tokens, 80)), query2(at(tokens, 80)), keys(at(tokens, 40)),
        values(at(tokens, 40)), normed(at(tokens, 52));
    const NormDesc desc = {NormKind::rms, 1e-6f, norm.data(), nullptr};
    const NormQkvArgs args = {
        0,           0,       desc,        bed.weight(q), bed.weight(k), bed.weight(v),
        bias.data(), nullptr, bias.data(), qNorm.data(),  kNorm.data(),  x.data(),
        query.data()};
    bed.run([&](Plan* plan) { ops().normQkv(plan, &args); });
    const std::vector<char> fused = bed.cacheBytes();
    bed.clearCache();
    bed.run([&](Plan* plan) {
      ops().norm(plan, &desc, x.data(), tokens, 52, normed.data());
      ops().matmul(plan, args.q, bias.data(), normed.data(), tokens, query2.data());
      ops().matmul(plan, args.k, nullptr, normed.data(), tokens, keys.data());
      ops().matmul(plan, args.v, bias.data(), normed.data(), tokens, values.data());
      const NormDesc heads = {NormKind::rms, 1e-6f, qNorm.data(), nullptr};
      const NormDesc kvHeads = {NormKind::rms, 1e-6f, kNorm.data(), nullptr};
      ops().norm(plan, &heads, query2.data(), tokens * 4, 20, query2.data());
      ops().norm(plan, &kvHeads, keys.data(), tokens * 2, 20, keys.data());
      ops().rope(plan, 0, false, query2.data());
      ops().rope(plan, 0, true, keys.data());
      ops().storeRows(plan, 0, keys.data(), values.data());
    });
    CHECK(query.equals(query2));
    CHECK(fused == bed.cacheBytes());
  });
}

TEST(project_add_is_its_chain) {
  forVariants([](const std::string& set, DType type, Compute compute, int32_t tokens) {
    Shape shape;
    shape.compute = compute;
    Bed bed(set, 3, shape, tokens);
    const Matrix matrix(type, 64, 100, 1);
    Random random(9);
    const Floats x(random.normals(at(tokens, 100))), bias(random.normals(64));
    const Floats residual(random.normals(at(tokens, 64))), product(residual.size());
    const Floats chain(std::vector<float>(residual.data(), residual.data() + residual.size()));
    const ProjectAddArgs args = {bed.weight(matrix), bias.data(), x.data(), residual.data()};
    bed.run([&](Plan* plan) {
      ops().projectAdd(plan, &args);
      ops().matmul(plan, args.weight, bias.data(), x.data(), tokens, product.data());
      ops().add(plan, product.data(), product.size(), chain.data());
    });
    CHECK(residual.equals(chain));
  });
}

TEST(norm_gate_up_is_its_chain) {
  forVariants([](const std::string& set, DType type, Compute compute, int32_t tokens) {
    for (const bool gated : {true, false}) {
      Shape shape;
      shape.compute = compute;
      Bed bed(set, 3, shape, tokens);
      // One type may need another form of x than the other.
      const Matrix gate(type, 150, 64, 1), up(DType::bf16, 150, 64, 2);
      Random random(9);
      const Floats x(random.normals(at(tokens, 64))), norm(random.normals(64)),
          bias(random.normals(150)), normed(at(tokens, 64));
      const Floats y(at(tokens, 150)), gateRows(y.size()), upRows(y.size()), chain(y.size());
      const NormDesc desc = {NormKind::layer, 1e-5f, norm.data(), norm.data()};
      const NormGateUpArgs args = {desc,           gated ? bed.weight(gate) : nullptr,
                                   bed.weight(up), bias.data(),
                                   bias.data(),    Activation::geluTanh,
                                   x.data(),       y.data()};
      bed.run([&](Plan* plan) {
        ops().normGateUp(plan, &args);
        ops().norm(plan, &desc, x.data(), tokens, 64, normed.data());
        if (gated) {
          ops().matmul(plan, args.gate, bias.data(), normed.data(), tokens, gateRows.data());
        }
        ops().matmul(plan, args.up, bias.data(), normed.data(), tokens, upRows.data());
        ops().activate(plan, Activation::geluTanh, gated ? gateRows.data() : nullptr, upRows.data(),
                       y.size(), chain.data());
      });
      CHECK(y.equals(chain));
    }
  });
}

TEST(logits_are_their_chain) {
  forVariants([](const std::string& set, DType type, Compute compute, int32_t tokens) {
    Shape shape;
    shape.compute = compute;
    Bed bed(set, 3, shape, tokens);
    // Rows behind the tokens, and more of them than there are tokens.
    bed.logitRows.insert(bed.logitRows.end(), {tokens, tokens + 2, tokens + 1, tokens});
    bed.pass.logitRows = bed.logitRows.data();
    bed.pass.logitCount = static_cast<int32_t>(bed.logitRows.size());
    const int32_t rows = bed.pass.logitCount;
    const Matrix head(type, 333, 64, 1);
    Random random(9);
    const Floats x(random.normals(at(tokens + 3, 64))), norm(random.normals(64));
    const Floats normed(at(tokens + 3, 64)), gathered(at(rows, 64)), y(at(rows, 333)),
        chain(y.size());
    const NormDesc desc = {NormKind::rmsOnePlus, 1e-5f, norm.data(), nullptr};
    const LogitsArgs args = {desc, bed.weight(head), nullptr, 0.0f, x.data(), y.data()};
    bed.run([&](Plan* plan) {
      ops().logits(plan, &args);
      ops().norm(plan, &desc, x.data(), tokens + 3, 64, normed.data());
      for (int32_t i = 0; i < rows; ++i) {
        std::copy_n(normed.data() + at(bed.logitRows[at(i)], 64), 64, gathered.data() + at(i, 64));
      }
      ops().matmul(plan, args.head, nullptr, gathered.data(), rows, chain.data());
    });
    CHECK(y.equals(chain));
  });
}

TEST(logits_are_capped) {
  for (const std::string& set : instructionSets()) {
    Bed bed(set, 2, Shape(), 3);
    bed.logitRows = {2, 0};
    bed.pass.logitRows = bed.logitRows.data();
    bed.pass.logitCount = 2;
    const Matrix head(DType::f32, 333, 64, 1);
    Random random(4);
    const Floats x(random.normals(at(3, 64))), norm(random.normals(64));
    const Floats plain(at(2, 333)), capped(at(2, 333));
    const NormDesc desc = {NormKind::rms, 1e-5f, norm.data(), nullptr};
    const LogitsArgs args = {desc, bed.weight(head), nullptr, 0.0f, x.data(), plain.data()};
    LogitsArgs withCap = args;
    withCap.softcap = 3.0f;
    withCap.logits = capped.data();
    bed.run([&](Plan* plan) {
      ops().logits(plan, &args);
      ops().logits(plan, &withCap);
    });
    for (size_t i = 0; i < plain.size(); ++i) {
      CHECK_NEAR(capped.data()[i], 3.0 * std::tanh(double{plain.data()[i]} / 3.0), 1e-6);
    }
  }
}

// The experts of one token by plain ops, their choice and weights by double loops.
std::vector<double> expertsOf(Plan* plan, const ExpertsArgs& args, int32_t token, int32_t size) {
  const Floats normed(at(1, size)), scores(at(1, args.count)), gate(at(1, args.intermediateSize)),
      up(gate.size()), inner(gate.size()), output(at(1, size));
  const float* x = args.x + at(token, size);
  std::vector<double> sum(x, x + size);
  ops().norm(plan, &args.norm, x, 1, size, normed.data());
  ops().matmul(plan, args.router, nullptr, normed.data(), 1, scores.data());
  std::vector<int32_t> order(at(1, args.count));
  for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return scores.data()[a] > scores.data()[b]; });
  double total = 0, chosen = 0;
  for (int32_t k = 0; k < args.count; ++k) {
    const double part = std::exp(double{scores.data()[order[at(1, k)]]});
    total += part;
    if (k < args.perToken) chosen += part;
  }
  for (int32_t k = 0; k < args.perToken; ++k) {
    const int32_t e = order[at(1, k)];
    const double weight = std::exp(double{scores.data()[e]}) / (args.normalize ? chosen : total);
    ops().matmul(plan, args.gates[e], nullptr, normed.data(), 1, gate.data());
    ops().matmul(plan, args.ups[e], nullptr, normed.data(), 1, up.data());
    ops().activate(plan, args.activation, gate.data(), up.data(), gate.size(), inner.data());
    ops().matmul(plan, args.downs[e], nullptr, inner.data(), 1, output.data());
    for (int32_t i = 0; i < size; ++i) sum[at(1, i)] += weight * double{output.data()[i]};
  }
  return sum;
}

TEST(experts_are_their_chain) {
  forVariants([](const std::string& set, DType type, Compute compute, int32_t tokens) {
    constexpr int32_t kCount = 5, kInner = 40, kSize = 64;
    Shape shape;
    shape.compute = compute;
    Bed bed(set, 3, shape, tokens);
    const Matrix router(type, kCount, kSize, 1);
    std::vector<std::unique_ptr<Matrix>> matrices;
    std::vector<const Weight*> gates, ups, downs;
    for (uint32_t e = 0; e < kCount; ++e) {
      for (auto* list : {&gates, &ups}) {
        matrices.push_back(std::make_unique<Matrix>(type, kInner, kSize, 10 * e + 2));
        list->push_back(bed.weight(*matrices.back()));
      }
      matrices.push_back(std::make_unique<Matrix>(type, kSize, kInner, 10 * e + 4));
      downs.push_back(bed.weight(*matrices.back()));
    }
    Random random(9);
    const Floats x(random.normals(at(tokens, kSize))), norm(random.normals(kSize));
    const Floats scores(at(tokens, kCount)), inner(at(tokens, kInner)), gathered(at(tokens, kSize)),
        outputs(at(tokens, kSize));
    const NormDesc desc = {NormKind::rms, 1e-5f, norm.data(), nullptr};
    for (const bool normalize : {true, false}) {
      const Floats residual(std::vector<float>(x.data(), x.data() + x.size()));
      const ExpertsArgs args = {desc,
                                bed.weight(router),
                                gates.data(),
                                ups.data(),
                                downs.data(),
                                kCount,
                                2,
                                kInner,
                                normalize,
                                Activation::silu,
                                x.data(),
                                residual.data(),
                                scores.data(),
                                inner.data(),
                                gathered.data(),
                                outputs.data()};
      bed.run([&](Plan* plan) {
        ops().experts(plan, &args);
        for (int32_t token = 0; token < tokens; ++token) {
          const std::vector<double> expected = expertsOf(plan, args, token, kSize);
          double largest = 0;
          for (const double value : expected) largest = std::max(largest, std::abs(value));
          for (int32_t i = 0; i < kSize; ++i) {
            CHECK_NEAR(residual.data()[at(token, kSize) + at(1, i)], expected[at(1, i)],
                       1e-6 * largest);
          }
        }
      });
    }
  });
}

TEST(devices_open_as_asked) {
  Device* device = nullptr;
  const OpenOptions unknown = {1, "sse9"};
  CHECK(ops().open(&unknown, &device) == Status::unsupported);
  CHECK(device == nullptr);
  CHECK(std::string(ops().lastError(nullptr)).find("sse9") != std::string::npos);
  for (const std::string& set : instructionSets()) {
    setenv("ANCHOR_ISA", set.c_str(), 1);
    const OpenOptions options = {2, nullptr};
    CHECK(ops().open(&options, &device) == Status::ok);
    DeviceInfo info;
    ops().info(device, &info);
    CHECK_EQ(std::string(info.instructionSet), set);
    CHECK_EQ(info.threads, 2);
    ops().close(device);
  }
  unsetenv("ANCHOR_ISA");
  const OpenOptions automatic = {0, nullptr};
  CHECK(ops().open(&automatic, &device) == Status::ok);
  DeviceInfo info;
  ops().info(device, &info);
  CHECK_EQ(std::string(info.instructionSet), instructionSets().front());
  CHECK(info.threads >= 1);
  ops().close(device);
}

TEST(memory_is_aligned_and_zeroed) {
  Bed bed("base", 1, Shape(), 1);
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{1} << 20}) {
    char* memory = static_cast<char*>(ops().alloc(bed.device, bytes));
    CHECK_EQ(reinterpret_cast<uintptr_t>(memory) % 64, uintptr_t{0});
    CHECK(std::all_of(memory, memory + bytes, [](char c) { return c == 0; }));
    ops().free(bed.device, memory);
  }
  CHECK(ops().alloc(bed.device, SIZE_MAX - 8) == nullptr);
  CHECK(ops().alloc(bed.device, size_t{1} << 62) == nullptr);
}

TEST(only_one_pass_is_open_on_a_device) {
  Bed bed("base", 2, Shape(), 4);
  Bed other("base", 2, Shape(), 4);
  bed.run([&](Plan*) {
    const ModelDesc model = {1, 64, 4, 2, 16, 1000, Compute::exact, nullptr, 0};
    Plan* second = nullptr;
    CHECK(ops().beginPass(bed.device, &model, &bed.pass, &second) == Status::failed);
    other.run([](Plan* plan) { CHECK(plan != nullptr); });  // another device's is fine
  });
}

}  // namespace
