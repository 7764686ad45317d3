// Attention of the CPU on every instruction set of the machine, against plain loops in double, and
// its bits under every way to cut the work.
#include "attention_fixture.h"
#include "check.h"
#include "cpu/dispatch.h"

using namespace attention_test;

namespace {

using Outputs = std::vector<std::vector<std::vector<float>>>;

// Error of an output relative to the largest output of its head and token. Scores of these tests
// are some units large, which costs about as many roundings of exp.
constexpr double kComputeBound = 4e-6;

const std::vector<Case> kAllCases = {
    {0, -1, kDense}, {1, -1, kAnchored}, {1, 0, kAnchored},     {0, -1, kWindow},
    {1, 0, kDense},  {1, 0, kWindow},    {1, 0, kDense, 0.75f},
};

std::vector<Chunk> wholeTexts(const Fixture& fixture) {
  std::vector<Chunk> chunks;
  for (size_t t = 0; t < fixture.texts().size(); ++t) {
    const Text& text = fixture.texts()[t];
    chunks.push_back({static_cast<int32_t>(t), text.firstBlock * kBlockRows, text.length});
  }
  return chunks;
}

// One token's outputs of one head (headDim), from the stored rows.
std::vector<double> reference(const Fixture& f, const Case& c, int32_t text, int32_t p,
                              int32_t head) {
  const Shape& s = f.shape();
  const int32_t kvHead = head / (s.heads / s.kvHeads);
  const AttendArgs args = f.argsOf(c);
  RowRange ranges[2];
  rangesAt(f.texts()[at(text)], c.kind, p, &ranges[0], &ranges[1]);
  std::vector<double> output(at(s.headDim), 0.0);
  double sum = 0.0;
  for (const int32_t layer : {c.layer, c.sourceLayer}) {
    for (int32_t part = 0; part < 2 && layer >= 0; ++part) {
      for (int32_t row = ranges[part].lo; row < ranges[part].hi; ++row) {
        const auto stored = [&](bool value, int32_t d) {
          return f.stored(text, layer, part == 0, value, kvHead, row, d);
        };
        double score = 0.0;
        for (int32_t d = 0; d < s.headDim; ++d) {
          score += f.query(text)[(p * s.heads + head) * s.headDim + d] * stored(false, d);
        }
        score *= args.scale;
        if (c.softcap > 0.0f) score = c.softcap * std::tanh(score / c.softcap);
        const double weight = std::exp(score);
        sum += weight;
        for (int32_t d = 0; d < s.headDim; ++d) output[at(d)] += weight * stored(true, d);
      }
    }
  }
  for (double& x : output) x = sum > 0.0 ? x / sum : 0.0;
  return output;
}

// Largest error of the tokens from `first` on, every `step`-th.
double largestError(const Fixture& f, const std::vector<Case>& cases, const Outputs& outputs,
                    int32_t step) {
  const Shape& s = f.shape();
  double worst = 0.0;
  for (size_t c = 0; c < cases.size(); ++c) {
    for (size_t t = 0; t < f.texts().size(); ++t) {
      const Text& text = f.texts()[t];
      for (int32_t p = text.length - 1; p >= text.firstBlock * kBlockRows; p -= step) {
        for (int32_t head = 0; head < s.heads; ++head) {
          const auto expected = reference(f, cases[c], static_cast<int32_t>(t), p, head);
          const float* actual = outputs[c][t].data() + (p * s.heads + head) * s.headDim;
          double largest = 1e-30, error = 0.0;
          for (int32_t d = 0; d < s.headDim; ++d) {
            largest = std::max(largest, std::abs(expected[at(d)]));
            const double difference = std::abs(expected[at(d)] - static_cast<double>(actual[d]));
            error = difference <= error ? error : difference;  // a NaN stays
          }
          const double relative = error / largest;
          worst = relative <= worst ? worst : relative;
        }
      }
    }
  }
  return worst;
}

template <typename Fn>
void onEverySet(const Fn& fn) {
  for (const std::string& name : instructionSets()) {
    const int before = check::failures();
    fn(*findKernels(name));
    if (check::failures() > before) std::fprintf(stderr, "  on %s\n", name.c_str());
  }
}

constexpr DType kStorages[] = {DType::f32, DType::f16, DType::bf16, DType::i8};

bool sameBits(const Outputs& a, const Outputs& b) {
  for (size_t c = 0; c < a.size(); ++c) {
    for (size_t t = 0; t < a[c].size(); ++t) {
      if (std::memcmp(a[c][t].data(), b[c][t].data(), a[c][t].size() * sizeof(float)) != 0) {
        return false;
      }
    }
  }
  return true;
}

// Runs all texts in chunks of `size` tokens, all texts together, over a fresh cache.
Outputs runInChunks(Fixture* f, const Kernels& kernels, int32_t threads, int32_t size,
                    const std::vector<Case>& cases) {
  Outputs outputs = f->emptyOutputs(cases.size());
  f->poison();
  bool more = true;
  for (int32_t begin = 0; more; begin += size) {
    std::vector<Chunk> chunks;
    for (const Chunk& whole : wholeTexts(*f)) {
      const int32_t first = whole.begin + begin;
      if (first < whole.end)
        chunks.push_back({whole.text, first, std::min(first + size, whole.end)});
    }
    more = !chunks.empty();
    if (more) f->run(kernels, threads, chunks, cases, true, &outputs);
  }
  return outputs;
}

}  // namespace

TEST(attends_like_plain_loops_for_every_storage_and_head_size) {
  onEverySet([](const Kernels& kernels) {
    const Shape shapes[] = {{4, 4, 8},  {6, 2, 12}, {3, 1, 20},  {9, 3, 64},  {5, 1, 80},
                            {2, 2, 96}, {7, 1, 66}, {14, 2, 64}, {8, 1, 128}, {2, 1, 256}};
    int seed = 0;
    for (const Shape& shape : shapes) {
      for (const DType storage : kStorages) {
        Fixture f(shape, {{storage, 45, anchorsEvery(7, 45)}, {storage, 33, {0}}}, ++seed);
        f.poison();
        Outputs outputs = f.emptyOutputs(kAllCases.size());
        f.run(kernels, 1, wholeTexts(f), kAllCases, true, &outputs);
        CHECK_NEAR(largestError(f, kAllCases, outputs, 5), 0.0, kComputeBound);
      }
    }
  });
}

TEST(attends_over_more_rows_than_a_group) {
  onEverySet([](const Kernels& kernels) {
    for (const DType storage : kStorages) {
      // Lines of 300 tokens, 400 anchors, and both with a window.
      Fixture f({4, 2, 32},
                {{storage, 1100, anchorsEvery(300, 1100)}, {storage, 700, anchorsEvery(2, 700)}});
      f.poison();
      Outputs outputs = f.emptyOutputs(kAllCases.size());
      f.run(kernels, 1, wholeTexts(f), kAllCases, true, &outputs);
      CHECK_NEAR(largestError(f, kAllCases, outputs, 197), 0.0, kComputeBound);
    }
  });
}

TEST(sequences_of_several_storages_share_a_pass) {
  onEverySet([](const Kernels& kernels) {
    Fixture f({6, 2, 40}, {{DType::f32, 70, anchorsEvery(9, 70)},
                           {DType::i8, 1, {0}},
                           {DType::bf16, 301, anchorsEvery(11, 301)},
                           {DType::f16, 64, {}},
                           {DType::i8, 90, anchorsEvery(1, 90)}});
    f.poison();
    Outputs outputs = f.emptyOutputs(kAllCases.size());
    f.run(kernels, 2, wholeTexts(f), kAllCases, true, &outputs);
    CHECK_NEAR(largestError(f, kAllCases, outputs, 13), 0.0, kComputeBound);
  });
}

TEST(released_blocks_are_never_read) {
  onEverySet([](const Kernels& kernels) {
    // 260 rows are gone: the first group is partly there.
    Fixture f({4, 1, 24}, {{DType::bf16, 400, anchorsEvery(10, 400), 9},
                           {DType::f32, 600, anchorsEvery(31, 600), 17}});
    for (const int32_t threads : {1, 4}) {
      Outputs outputs = f.emptyOutputs(kAllCases.size());
      f.run(kernels, threads, wholeTexts(f), kAllCases, true, &outputs);
      CHECK_NEAR(largestError(f, kAllCases, outputs, 7), 0.0, kComputeBound);
    }
  });
}

TEST(bits_do_not_depend_on_chunks_or_threads) {
  onEverySet([](const Kernels& kernels) {
    const Shape shapes[] = {{6, 2, 20}, {3, 3, 64}, {9, 1, 16}};
    for (const Shape& shape : shapes) {
      Fixture f(shape, {{DType::bf16, 270, anchorsEvery(13, 270)},
                        {DType::i8, 61, anchorsEvery(5, 61)},
                        {DType::f32, 300, anchorsEvery(1, 300)},
                        {DType::f16, 33, {0, 1, 2, 30}}});
      const Outputs expected = runInChunks(&f, kernels, 1, 1000, kAllCases);
      for (const int32_t size : {1, 7, 33, 256}) {
        if (size == 1 && shape.headDim == 64) continue;  // slow under sanitizers
        CHECK(sameBits(expected, runInChunks(&f, kernels, 1, size, kAllCases)));
      }
      for (const int32_t threads : {2, 3, 4}) {
        CHECK(sameBits(expected, runInChunks(&f, kernels, threads, 1000, kAllCases)));
      }
      CHECK(sameBits(expected, runInChunks(&f, kernels, 4, 50, kAllCases)));
    }
  });
}

TEST(bits_of_a_long_decode_do_not_depend_on_threads_or_neighbours) {
  onEverySet([](const Kernels& kernels) {
    const std::vector<Case> cases = {{0, -1, kDense}, {1, 0, kDense}, {1, 0, kAnchored}};
    Fixture f({7, 1, 64}, {{DType::bf16, 5000, anchorsEvery(4, 5000)}, {DType::i8, 3000, {0}}});
    Outputs expected = f.emptyOutputs(cases.size());
    f.run(kernels, 1, wholeTexts(f), {}, true, &expected);
    f.run(kernels, 1, {{0, 4950, 5000}, {1, 2950, 3000}}, cases, false, &expected);
    const Chunk last[] = {{0, 4999, 5000}, {1, 2999, 3000}};
    for (const int32_t threads : {1, 2, 3, 4, 16}) {
      Outputs alone = expected, together = expected;
      f.run(kernels, threads, {last[0]}, cases, false, &alone);
      f.run(kernels, threads, {last[1]}, cases, false, &alone);
      f.run(kernels, threads, {last[1], last[0]}, cases, false, &together);
      CHECK(sameBits(expected, alone));
      CHECK(sameBits(expected, together));
    }
  });
}

TEST(a_group_that_only_some_tokens_of_a_split_tile_see) {
  onEverySet([](const Kernels& kernels) {
    // Position 255 does not see the second group of rows, 256 does.
    Fixture f({6, 1, 256}, {{DType::f32, 300, {0}}});
    Outputs expected = f.emptyOutputs(1);
    f.run(kernels, 1, wholeTexts(f), {{1, 0, kDense}}, true, &expected);
    Outputs outputs = expected;
    f.run(kernels, 4, {{0, 255, 257}}, {{1, 0, kDense}}, false, &outputs);
    CHECK(sameBits(expected, outputs));
  });
}

TEST(a_token_that_sees_nothing_gets_zeros) {
  onEverySet([](const Kernels& kernels) {
    // The window of position 0 .. 3 lies in blocks that do not exist.
    const ModelDesc model = {1, 8, 1, 1, 8, 1, Compute::exact, nullptr, 0};
    const RowRange none[] = {{0, 0}, {5, 5}};
    const Visibility visibility = {none, none};
    const LayerCache cache = {};
    const int32_t positions[] = {0, 1}, starts[] = {0, 2};
    const DType storage = DType::f32;
    Pass pass = {};
    pass.tokenCount = 2;
    pass.sequenceCount = pass.visibilityCount = 1;
    pass.positions = positions;
    pass.sequenceStarts = starts;
    pass.storage = &storage;
    pass.visibility = &visibility;
    pass.caches = &cache;
    Pool pool;
    const Guarded scratch(attentionScratchBytes(model, pass, 1), 0xff);
    const Guarded output(16 * sizeof(float), 0xff), query(16 * sizeof(float));
    Plan plan = {};
    plan.model = &model;
    plan.pass = &pass;
    plan.kernels = &kernels;
    plan.pool = &pool;
    plan.threads = 1;
    plan.attentionScratch = scratch.data();
    attend(plan, {0, -1, 0, 1.0f, 0.0f, query.floats(), output.floats()});
    for (int32_t d = 0; d < 16; ++d) CHECK_EQ(output.floats()[d], 0.0f);
  });
}

TEST(extreme_scores_stay_finite_and_right) {
  onEverySet([](const Kernels& kernels) {
    for (const float factor : {1e-20f, 300.0f, 1e15f}) {
      Fixture f({2, 1, 16}, {{DType::f32, 600, {0}}});
      for (int32_t i = 0; i < 600 * 16; ++i) const_cast<float*>(f.k(0, 0))[i] *= factor;
      Outputs outputs = f.emptyOutputs(1);
      f.run(kernels, 2, wholeTexts(f), {{0, -1, kDense}}, true, &outputs);
      bool finite = true;
      for (const float x : outputs[0][0]) finite = finite && std::isfinite(x);
      CHECK(finite);
      // Position 0 sees one row, whose value it must return.
      for (int32_t d = 0; d < 16; ++d) CHECK_EQ(outputs[0][0][at(d)], f.v(0, 0)[d]);
    }
  });
}

// The stored bytes themselves, from the scalar rules of numeric.h.
TEST(rows_are_stored_by_the_rules_of_the_formats) {
  onEverySet([](const Kernels& kernels) {
    for (const int32_t dim : {2, 12, 20, 64, 66}) {
      for (const DType storage : kStorages) {
        const int32_t length = 100;
        Fixture f({2, 2, dim}, {{storage, length, anchorsEvery(3, length)}}, dim);
        float* k = const_cast<float*>(f.k(0, 0));
        k[1] = 1e-42f, k[dim] = 7e4f, k[dim + 1] = -65519.0f, k[2 * dim] = 1e-7f;
        std::fill_n(k + 3 * dim, dim, 0.0f);
        Outputs outputs = f.emptyOutputs(0);
        for (const int32_t threads : {1, 2})
          f.run(kernels, threads, wholeTexts(f), {}, true, &outputs);
        for (int32_t i = 0; i < 2 * length; ++i) {
          for (const bool value : {false, true}) {
            const float* row = (value ? f.v(0, 0) : f.k(0, 0)) + i * dim;
            float largest = 0.0f;
            for (int32_t d = 0; d < dim; ++d) largest = std::max(largest, std::abs(row[d]));
            const float scale = int8Scale(largest);
            for (int32_t d = 0; d < dim; ++d) {
              const double expected =
                  storage == DType::f32 ? row[d]
                  : storage == DType::f16
                      ? f16ToFloat(floatToF16(std::clamp(row[d], -65504.0f, 65504.0f)))
                  : storage == DType::bf16 ? bf16ToFloat(floatToBf16(row[d]))
                                           : static_cast<double>(quantizeInt8(
                                                 row[d], scale == 0.0f ? 0.0f : 1.0f / scale)) *
                                                 scale;
              CHECK_EQ(f.stored(0, 0, false, value, i % 2, i / 2, d), expected);
              if (i / 2 % 3 != 0) continue;
              CHECK_EQ(f.stored(0, 0, true, value, i % 2, i / 2 / 3, d), expected);
            }
          }
        }
        // The padding of a value stays zero.
        for (int32_t d = dim; d < valueStride(dim); ++d) {
          CHECK_EQ(f.stored(0, 0, false, true, 1, 40, d), 0.0);
        }
      }
    }
  });
}

TEST(storage_errors_stay_within_their_bounds) {
  // Of the output, relative to its largest element, against a cache in f32.
  const double bounds[] = {0.0, 4e-3, 3e-2, 4e-2};
  const Kernels& kernels = *findKernels(instructionSets()[0]);
  Outputs exact;
  for (const DType storage : kStorages) {
    Fixture f({4, 2, 64}, {{storage, 500, anchorsEvery(10, 500)}});
    const std::vector<Case> cases = {{0, -1, kDense}, {1, 0, kAnchored}};
    Outputs outputs = f.emptyOutputs(cases.size());
    f.run(kernels, 2, wholeTexts(f), cases, true, &outputs);
    if (storage == DType::f32) exact = outputs;
    double worst = 0.0;
    for (size_t c = 0; c < cases.size(); ++c) {
      for (size_t row = 0; row < 500 * 4; ++row) {
        double largest = 0.0, error = 0.0;
        for (size_t d = row * 64; d < row * 64 + 64; ++d) {
          const double x = static_cast<double>(exact[c][0][d]);
          largest = std::max(largest, std::abs(x));
          error = std::max(error, std::abs(x - static_cast<double>(outputs[c][0][d])));
        }
        worst = std::max(worst, error / largest);
      }
    }
    CHECK_NEAR(worst, 0.0, bounds[static_cast<int>(storage)]);
  }
}
