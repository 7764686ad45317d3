// Filters and the draw.
#include "core/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"

namespace anchorcoder {

namespace {

uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

double uniform(uint64_t seed, int32_t position) {
  const uint64_t bits = mix(mix(seed) ^ static_cast<uint64_t>(position));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

constexpr float kNever = -std::numeric_limits<float>::infinity();

// A NaN counts as an id that never comes: comparisons with it would leave sorting without an order.
float ordered(float logit) { return std::isnan(logit) ? kNever : logit; }

double logSumExp(std::span<const float> logits) {
  float largest = kNever;
  for (const float logit : logits) largest = std::max(largest, ordered(logit));
  if (largest == kNever) return 0;  // so that the logarithm of every probability is -infinity
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(ordered(logit) - largest));
  return static_cast<double>(largest) + std::log(sum);
}

double logProbabilityOf(float logit, double total) {
  return static_cast<double>(ordered(logit)) - total;
}

SamplerOptions checked(const SamplerOptions& options) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw Error(ErrorCode::invalidArgument, std::string("Expected ") + what);
  };
  require(std::isfinite(options.temperature) && options.temperature >= 0.0f,
          "temperature to be 0 or more");
  require(options.topK >= 0, "topK to be 0 or more");
  require(options.topP >= 0.0f && options.topP <= 1.0f, "topP to be from 0 to 1");
  require(options.minP >= 0.0f && options.minP <= 1.0f, "minP to be from 0 to 1");
  require(std::isfinite(options.repetitionPenalty) && options.repetitionPenalty > 0.0f,
          "repetitionPenalty to be more than 0");
  require(options.topLogprobs >= 0, "topLogprobs to be 0 or more");
  return options;
}

}  // namespace

float logProbability(std::span<const float> logits, int32_t id) {
  return static_cast<float>(logProbabilityOf(logits[static_cast<size_t>(id)], logSumExp(logits)));
}

Sampler::Sampler(const SamplerOptions& options, std::span<const int32_t> bannedIds,
                 int32_t vocabSize)
    : options_(checked(options)),
      banned_(bannedIds.begin(), bannedIds.end()),
      seen_(static_cast<size_t>(vocabSize)),
      logits_(static_cast<size_t>(vocabSize)) {}

Sample Sampler::sample(std::span<const float> logits, int32_t position) {
  std::transform(logits.begin(), logits.end(), logits_.begin(), ordered);
  if (options_.repetitionPenalty != 1.0f) {
    for (size_t id = 0; id < logits_.size(); ++id) {
      if (!seen_[id]) continue;
      float& logit = logits_[id];
      logit = logit > 0 ? logit / options_.repetitionPenalty : logit * options_.repetitionPenalty;
    }
  }
  for (const int32_t id : banned_) logits_[static_cast<size_t>(id)] = kNever;
  Sample sample{};
  const auto best = std::max_element(logits_.begin(), logits_.end());
  if (options_.temperature == 0.0f || !std::isfinite(*best)) {
    sample.id = static_cast<int32_t>(best - logits_.begin());
  } else {
    sample.id = choose(position, *best);
  }
  if (!options_.logprobs) return sample;

  const double total = logSumExp(logits);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(logProbabilityOf(logits[static_cast<size_t>(id)], total));
  };
  sample.logprob = logprob(sample.id);
  if (options_.topLogprobs > 0) {
    candidates_.clear();
    for (size_t id = 0; id < logits.size(); ++id) {
      candidates_.push_back({ordered(logits[id]), static_cast<int32_t>(id)});
    }
    const size_t count = std::min(static_cast<size_t>(options_.topLogprobs), candidates_.size());
    sortBest(count);
    for (size_t i = 0; i < count; ++i) {
      sample.top.push_back({candidates_[i].id, logprob(candidates_[i].id)});
    }
  }
  return sample;
}

// Puts the best `count` candidates first, in order.
void Sampler::sortBest(size_t count) {
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count),
                    candidates_.end(), better);
}

// Sorts as many candidates as it takes to reach topP of the mass; returns how many.
size_t Sampler::cutTopP() {
  double total = 0;
  for (const Candidate& candidate : candidates_) {
    total += std::exp(static_cast<double>(candidate.logit));
  }
  for (size_t sorted = std::min<size_t>(64, candidates_.size());;
       sorted = std::min(sorted * 8, candidates_.size())) {
    sortBest(sorted);
    double mass = 0;
    for (size_t i = 0; i < sorted; ++i) {
      mass += std::exp(static_cast<double>(candidates_[i].logit));
      if (mass >= static_cast<double>(options_.topP) * total) return i + 1;
    }
    if (sorted == candidates_.size()) return sorted;
  }
}

int32_t Sampler::choose(int32_t position, float largest) {
  candidates_.clear();
  for (size_t id = 0; id < logits_.size(); ++id) {
    if (!std::isfinite(logits_[id])) continue;
    // Below the largest, so that no temperature, however small, takes it out of range.
    const float logit = (logits_[id] - largest) / options_.temperature;
    candidates_.push_back({logit, static_cast<int32_t>(id)});
  }
  const auto topK = static_cast<size_t>(options_.topK);
  if (topK > 0 && topK < candidates_.size()) {
    sortBest(topK);
    candidates_.resize(topK);
  }
  if (options_.topP < 1.0f) candidates_.resize(cutTopP());
  if (options_.minP > 0.0f) {
    const float lowest = std::log(options_.minP);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < lowest; });
  }
  double total = 0;
  for (const Candidate& candidate : candidates_) {
    total += std::exp(static_cast<double>(candidate.logit));
  }
  double left = uniform(options_.seed, position) * total;
  for (const Candidate& candidate : candidates_) {
    left -= std::exp(static_cast<double>(candidate.logit));
    if (left < 0) return candidate.id;
  }
  return candidates_.back().id;
}

}  // namespace anchorcoder
