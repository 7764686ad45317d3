// Every expert runs once over the rows that chose it. A row's outputs are added in order of the
// experts' numbers, so that no sum depends on which rows stand beside it.
#include "experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "plan.h"
#include "product.h"

namespace anchorcoder {
namespace {

constexpr float kNotChosen = -1.0f;

// Turns the scores of one token into probabilities of the chosen experts and kNotChosen elsewhere.
void chooseExperts(const ExpertsArgs& args, float* scores) {
  const float largest = *std::max_element(scores, scores + args.count);
  float total = 0.0f;
  for (int32_t e = 0; e < args.count; ++e) {
    scores[e] = std::exp(scores[e] - largest);
    total += scores[e];
  }
  float chosenTotal = 0.0f;
  for (int32_t k = 0; k < args.perToken; ++k) {
    // The chosen ones are marked by their sign; 0 has one too.
    int32_t best = -1;
    for (int32_t e = 0; e < args.count; ++e) {
      if (std::signbit(scores[e])) continue;
      if (best < 0 || scores[e] > scores[best]) best = e;
    }
    if (best < 0) break;  // fewer numbers than experts: the rest is not a number
    chosenTotal += scores[best];
    scores[best] = -scores[best];
  }
  const float divisor = args.normalize ? chosenTotal : total;
  for (int32_t e = 0; e < args.count; ++e) {
    scores[e] = std::signbit(scores[e]) ? -scores[e] / divisor : kNotChosen;
  }
}

void runExpert(Plan& plan, const ExpertsArgs& args, int32_t expert) {
  const int32_t tokens = plan.pass->tokenCount;
  const auto size = static_cast<size_t>(plan.model->hiddenSize);
  const auto weightOf = [&](int32_t token) {
    return args.scores[static_cast<size_t>(token) * static_cast<size_t>(args.count) +
                       static_cast<size_t>(expert)];
  };
  int32_t rows = 0;
  for (int32_t token = 0; token < tokens; ++token) {
    if (!(weightOf(token) >= 0.0f)) continue;
    std::memcpy(args.gathered + static_cast<size_t>(rows++) * size,
                plan.normed + static_cast<size_t>(token) * size, size * sizeof(float));
  }
  if (rows == 0) return;
  multiplyActivated(plan, args.gathered, rows, {args.gates[expert], nullptr, nullptr, false},
                    {args.ups[expert], nullptr, args.inner, false}, args.activation);
  const Output output = {args.downs[expert], nullptr, args.outputs, false};
  multiply(plan, args.inner, rows, &output, 1);
  const float* from = args.outputs;
  for (int32_t token = 0; token < tokens; ++token) {
    const float weight = weightOf(token);
    if (!(weight >= 0.0f)) continue;
    float* to = args.residual + static_cast<size_t>(token) * size;
    for (size_t i = 0; i < size; ++i) to[i] += weight * from[i];
    from += size;
  }
}

}  // namespace

void runExperts(Plan& plan, const ExpertsArgs& args) {
  const int32_t tokens = plan.pass->tokenCount;
  const Output scores = {args.router, nullptr, args.scores, false};
  multiply(plan, plan.normed, tokens, &scores, 1);
  const auto count = static_cast<size_t>(args.count);
  forRows(plan, tokens, count * sizeof(float), [&](int32_t first, int32_t end) {
    for (int32_t token = first; token < end; ++token) {
      chooseExperts(args, args.scores + static_cast<size_t>(token) * count);
    }
  });
  for (int32_t expert = 0; expert < args.count; ++expert) runExpert(plan, args, expert);
}

}  // namespace anchorcoder
