// The CPU's ops against double loops, on every instruction set that this machine has.
#include "check.h"
#include "ops_fixture.h"

namespace {

using namespace ops_test;  // NOLINT

struct ProductCase {
  int32_t rows, outputs, cols;
  DType type;
  Compute compute;
  bool bias, add;
};

std::vector<ProductCase> productCases() {
  std::vector<ProductCase> cases;
  const int32_t sizes[][3] = {{1, 1, 1},    {1, 7, 13},    {2, 13, 60},  {3, 60, 131},
                              {5, 8, 320},  {6, 131, 64},  {7, 96, 576}, {12, 20, 896},
                              {13, 33, 31}, {17, 65, 100}, {64, 70, 33}, {70, 130, 256}};
  for (const auto& size : sizes) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const Compute compute : {Compute::exact, Compute::bf16}) {
        const bool odd = (size[0] + static_cast<int32_t>(type)) % 2 == 1;
        cases.push_back({size[0], size[1], size[2], type, compute, odd, !odd});
      }
    }
  }
  return cases;
}

std::string nameOf(const ProductCase& c, const std::string& set) {
  return set + " " + std::to_string(c.rows) + "x" + std::to_string(c.outputs) + "x" +
         std::to_string(c.cols) + " " + ops_test::nameOf(c.type) +
         (c.compute == Compute::bf16 ? " in bf16" : "");
}

// Largest error in units of what rounding may do to a sum of so many terms.
double productError(const ProductCase& c, const Matrix& weight, const Floats& x,
                    const std::vector<float>& bias, const std::vector<float>& before,
                    const Floats& y) {
  double worst = 0;
  for (int32_t r = 0; r < c.rows; ++r) {
    for (int32_t n = 0; n < c.outputs; ++n) {
      double sum = 0, size = 1e-30;
      for (int32_t k = 0; k < c.cols; ++k) {
        float input = x[at(r, c.cols) + at(k)];
        if (c.compute == Compute::bf16) input = roundToBf16(input);
        sum += static_cast<double>(input) * weight.value(n, k);
        size += std::abs(static_cast<double>(input) * weight.value(n, k));
      }
      const size_t i = at(r, c.outputs) + at(n);
      const double extra = (c.bias ? static_cast<double>(bias[at(n)]) : 0.0) +
                           (c.add ? static_cast<double>(before[i]) : 0.0);
      size += std::abs(extra);
      const double error = std::abs(static_cast<double>(y[i]) - (sum + extra));
      const double unit = size * 6e-8 * (2 + std::sqrt(c.cols));
      worst = std::isnan(error) ? 1e9 : std::max(worst, error / unit);
    }
  }
  return worst;
}

double runProduct(const ProductCase& c, const std::string& set, int32_t threads) {
  Random random(7);
  Shape shape;
  shape.compute = c.compute;
  shape.hidden = c.cols;
  Bed bed(set, threads, shape, c.rows);
  const Matrix matrix(c.type, c.outputs, c.cols, 3);
  const Weight* weight = bed.weight(matrix);
  const Floats x(random.normals(at(c.rows, c.cols)));
  const std::vector<float> bias = random.normals(at(c.outputs));
  const std::vector<float> before = random.normals(at(c.rows, c.outputs));
  const Floats biasCopy(bias);
  const Floats y = c.add ? Floats(before) : Floats(before.size());
  const float* biasOrNull = c.bias ? biasCopy.data() : nullptr;
  bed.run([&](Plan* plan) {
    const ProjectAddArgs args = {weight, biasOrNull, x.data(), y.data()};
    if (c.add) {
      ops().projectAdd(plan, &args);
    } else {
      ops().matmul(plan, weight, biasOrNull, x.data(), c.rows, y.data());
    }
  });
  return productError(c, matrix, x, bias, before, y);
}

TEST(products_match_double_loops) {
  for (const std::string& set : instructionSets()) {
    for (const ProductCase& c : productCases()) {
      const double error = runProduct(c, set, 2);
      if (!(error <= 1)) check::fail(__FILE__, __LINE__, nameOf(c, set) + std::to_string(error));
    }
  }
}

TEST(large_products_match_double_loops) {
  for (const std::string& set : instructionSets()) {
    for (const DType type : {DType::f32, DType::bf16}) {
      for (const Compute compute : {Compute::exact, Compute::bf16}) {
        const ProductCase c = {37, 21, 8200, type, compute, false, false};
        const double error = runProduct(c, set, 3);
        if (!(error <= 1)) check::fail(__FILE__, __LINE__, nameOf(c, set) + std::to_string(error));
      }
    }
  }
}

// The same row alone, in batches and at other places, with any number of threads.
void checkRowsAlone(const std::string& set, DType type, Compute compute, int32_t cols,
                    int32_t outputs) {
  Random random(11);
  constexpr int32_t kRows = 70;
  const Matrix matrix(type, outputs, cols, 5);
  const std::vector<float> x = random.normals(at(kRows, cols));
  Floats whole(at(kRows, outputs));
  Shape shape;
  shape.compute = compute;
  shape.hidden = cols;
  for (int32_t threads = 1; threads <= 4; ++threads) {
    Bed bed(set, threads, shape, threads == 2 ? 3 : kRows);  // 3: rounding takes several turns
    const Weight* weight = bed.weight(matrix);
    bed.run([&](Plan* plan) {
      for (const int32_t rows : {70, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 29, 69}) {
        const int32_t first = std::min(rows * 3, kRows - rows);
        const Floats part(
            std::vector<float>(x.begin() + static_cast<long>(at(first, cols)),
                               x.begin() + static_cast<long>(at(first + rows, cols))));
        const Floats y(at(rows, outputs));
        ops().matmul(plan, weight, nullptr, part.data(), rows, y.data());
        if (rows == kRows && threads == 1) std::copy_n(y.data(), y.size(), whole.data());
        CHECK(y.equals(whole.data() + at(first, outputs), y.size()));
      }
    });
  }
}

TEST(a_row_does_not_depend_on_its_neighbours) {
  for (const std::string& set : instructionSets()) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const Compute compute : {Compute::exact, Compute::bf16}) {
        checkRowsAlone(set, type, compute, 131, 37);
        checkRowsAlone(set, type, compute, 320, 96);
      }
    }
  }
}

TEST(norms_match_double_loops) {
  for (const std::string& set : instructionSets()) {
    for (const NormKind kind : {NormKind::rms, NormKind::rmsOnePlus, NormKind::layer}) {
      for (const int32_t size : {1, 7, 13, 60, 64, 131, 576, 896}) {
        Random random(3);
        const Floats x(random.normals(at(5, size))), weight(random.normals(at(size))),
            bias(random.normals(at(size))), y(at(5, size));
        const NormDesc desc = {kind, 1e-5f, weight.data(),
                               kind == NormKind::layer ? bias.data() : nullptr};
        Bed bed(set, 2, Shape(), 3);
        bed.run([&](Plan* plan) { ops().norm(plan, &desc, x.data(), 5, size, y.data()); });
        for (int32_t r = 0; r < 5; ++r) {
          double mean = 0, square = 0;
          const float* row = x.data() + at(r, size);
          for (int32_t i = 0; i < size; ++i) mean += static_cast<double>(row[i]) / size;
          if (kind != NormKind::layer) mean = 0;
          for (int32_t i = 0; i < size; ++i) square += std::pow(row[i] - mean, 2) / size;
          for (int32_t i = 0; i < size; ++i) {
            const double scale =
                static_cast<double>(weight[at(i)]) + (kind == NormKind::rmsOnePlus ? 1 : 0);
            const double value = (row[i] - mean) / std::sqrt(square + 1e-5) * scale +
                                 (desc.bias ? static_cast<double>(bias[at(i)]) : 0);
            CHECK_NEAR(y[at(r, size) + at(i)], value, 2e-6 * (1 + std::abs(value)));
          }
        }
      }
    }
  }
}

TEST(rope_turns_pairs) {
  for (const std::string& set : instructionSets()) {
    for (const int32_t rotary : {2, 14, 32, 40}) {
      for (const bool interleaved : {false, true}) {
        constexpr int32_t kTokens = 5, kDim = 40;
        std::vector<double> frequencies;
        for (int32_t j = 0; j < rotary / 2; ++j) frequencies.push_back(std::pow(0.7, j));
        Shape shape;
        shape.headDim = kDim;
        shape.rope = {rotary, interleaved, 1.25f, frequencies.data()};
        Bed bed(set, 2, shape, kTokens);
        Random random(1);
        for (const bool keys : {false, true}) {
          const int32_t heads = keys ? shape.kvHeads : shape.heads;
          const std::vector<float> before = random.normals(at(kTokens * heads, kDim));
          const Floats x(before);
          bed.run([&](Plan* plan) { ops().rope(plan, 0, keys, x.data()); });
          for (int32_t row = 0; row < kTokens * heads; ++row) {
            const int32_t t = row / heads, h = row % heads;
            const int32_t index =
                keys ? bed.pass.keyRope[at(t, heads) + at(h)] : bed.pass.queryRope[t];
            const int32_t position = bed.pass.ropePositions[index];
            for (int32_t i = 0; i < kDim; ++i) {
              const int32_t half = rotary / 2;
              const int32_t j = interleaved ? i / 2 : i % half;
              const bool first = interleaved ? i % 2 == 0 : i < half;
              const int32_t other = interleaved ? i ^ 1 : first ? i + half : i - half;
              const double own = before[at(row, kDim) + at(i)];
              double value = own;
              if (i < rotary) {
                const double angle = position * frequencies[at(j)];
                const double partner = before[at(row, kDim) + at(other)];
                const double turned = first ? -partner : partner;
                value = 1.25 * (own * std::cos(angle) + turned * std::sin(angle));
              }
              CHECK_NEAR(x[at(row, kDim) + at(i)], value, 1e-6);
            }
          }
        }
      }
    }
  }
}

double activated(Activation activation, double x) {
  if (activation == Activation::silu) return x / (1 + std::exp(-x));
  if (activation == Activation::gelu) return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
  const double inner = std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
  return x / (1 + std::exp(-2 * inner));  // 0.5 x (1 + tanh inner)
}

TEST(activations_match_the_functions) {
  for (const std::string& set : instructionSets()) {
    Bed bed(set, 2, Shape(), 3);
    for (const Activation activation : {Activation::silu, Activation::gelu, Activation::geluTanh}) {
      std::vector<float> inputs;
      for (int32_t i = -5000; i <= 5000; ++i) inputs.push_back(static_cast<float>(i) * 0.004f);
      inputs.insert(inputs.end(), {-100.0f, 100.0f, -88.0f, 88.5f, 0.0f, -1e20f});
      const Floats x(inputs), y(inputs.size()), product(inputs.size());
      bed.run([&](Plan* plan) {
        ops().activate(plan, activation, nullptr, x.data(), x.size(), y.data());
        ops().activate(plan, activation, x.data(), x.data(), x.size(), product.data());
      });
      for (size_t i = 0; i < inputs.size(); ++i) {
        const double value = activated(activation, static_cast<double>(inputs[i]));
        // The argument of an exponential is rounded too.
        const double bound = 3e-7 * std::abs(value) * (1 + 0.5 * inputs[i] * inputs[i]);
        if (inputs[i] > -1e10f) CHECK_NEAR(y[i], value, bound + 1e-15);
        CHECK_EQ(std::isnan(y[i]), false);
        const float expected = y[i] * inputs[i];
        CHECK_EQ(std::memcmp(&expected, &product.data()[i], 4), 0);
      }
    }
  }
}

TEST(embed_and_add) {
  for (const std::string& set : instructionSets()) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      Shape shape;
      shape.hidden = 61;
      Bed bed(set, 2, shape, 9);
      const Matrix matrix(type, 100, 61, 2);
      const Weight* table = bed.weight(matrix);
      const Floats x(at(9, 61));
      Random random(4);
      const std::vector<float> before = random.normals(x.size());
      const Floats y(before);
      bed.run([&](Plan* plan) {
        ops().embed(plan, table, 3.0f, x.data());
        ops().add(plan, x.data(), x.size(), y.data());
      });
      for (int32_t i = 0; i < 9 * 61; ++i) {
        const auto value = static_cast<float>(matrix.value(bed.pass.ids[i / 61], i % 61)) * 3.0f;
        CHECK_EQ(x[at(i)], value);
        CHECK_EQ(y[at(i)], before[at(i)] + value);
      }
    }
  }
}

}  // namespace
