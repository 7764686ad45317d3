// The sampler against plain arithmetic: which ids remain, how often each comes out, and logits that
// are no numbers.
#include "core/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "check.h"
#include "core/error.h"

namespace {

using namespace anchorcoder;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Sampler makeSampler(const SamplerOptions& options, size_t vocabSize,
                    const std::vector<int32_t>& banned = {}) {
  return Sampler(options, banned, static_cast<int32_t>(vocabSize));
}

int32_t choose(const SamplerOptions& options, const std::vector<float>& logits,
               int32_t position = 0) {
  return makeSampler(options, logits.size()).sample(logits, position).id;
}

SamplerOptions hot(float temperature = 1.0f, uint64_t seed = 7) {
  SamplerOptions options;
  options.temperature = temperature;
  options.seed = seed;
  return options;
}

std::vector<float> randomLogits(std::mt19937& random, size_t size, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(greedy_takes_the_lowest_of_equal_ids) {
  CHECK_EQ(choose({}, {1, 5, 5, 2}), 1);
  CHECK_EQ(choose({}, {-3, -3, -3}), 0);
  CHECK_EQ(choose({}, {-kInfinity, -2, kInfinity, kInfinity}), 2);
}

TEST(banned_ids_never_come_out) {
  const std::vector<float> logits = {9, 8, 7, 6};
  Sampler greedy = makeSampler({}, 4, {0, 1});
  CHECK_EQ(greedy.sample(logits, 0).id, 2);
  Sampler sampler = makeSampler(hot(5), 4, {0, 3});
  for (int32_t position = 0; position < 500; ++position) {
    const int32_t id = sampler.sample(logits, position).id;
    CHECK(id == 1 || id == 2);
  }
}

TEST(penalty_acts_on_seen_ids_only) {
  SamplerOptions options;
  options.repetitionPenalty = 2;
  Sampler positive = makeSampler(options, 3);
  const std::vector<float> logits = {8, 5, 3};
  CHECK_EQ(positive.sample(logits, 0).id, 0);
  positive.see(0);
  CHECK_EQ(positive.sample(logits, 1).id, 1);  // 4, 5, 3
  positive.see(0);                             // once is enough
  positive.see(1);
  CHECK_EQ(positive.sample(logits, 2).id, 0);  // 4, 2.5, 3
  Sampler negative = makeSampler(options, 2);
  negative.see(0);
  CHECK_EQ(negative.sample(std::vector<float>{-2, -3}, 0).id, 1);  // -4, -3
}

// Ids that may come out, in the order of transformers: top-k, top-p, min-p.
std::set<int32_t> remaining(const SamplerOptions& options, const std::vector<float>& logits) {
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  const auto weight = [&](int32_t id) {
    return std::exp(static_cast<double>((logit(id) - logit(ids[0])) / options.temperature));
  };
  if (options.topK > 0 && static_cast<size_t>(options.topK) < ids.size()) {
    ids.resize(static_cast<size_t>(options.topK));
  }
  if (options.topP < 1) {
    double total = 0, mass = 0;
    for (const int32_t id : ids) total += weight(id);
    size_t count = 0;
    while (count < ids.size() && (count == 0 || mass < static_cast<double>(options.topP) * total)) {
      mass += weight(ids[count++]);
    }
    ids.resize(count);
  }
  std::set<int32_t> left;
  for (const int32_t id : ids) {
    if (weight(id) >= static_cast<double>(options.minP) * (1 - 1e-6)) left.insert(id);
  }
  return left;
}

TEST(filters_leave_the_ids_that_they_should) {
  std::mt19937 random(3);
  for (int32_t round = 0; round < 60; ++round) {
    SamplerOptions options = hot(0.5f + static_cast<float>(random() % 30) / 10);
    if (random() % 2) options.topK = 1 + static_cast<int32_t>(random() % 12);
    if (random() % 2) options.topP = 0.05f + static_cast<float>(random() % 90) / 100;
    if (random() % 2) options.minP = static_cast<float>(random() % 60) / 100;
    const std::vector<float> logits = randomLogits(random, 3 + random() % 200, 1.5f);
    const std::set<int32_t> allowed = remaining(options, logits);
    Sampler sampler = makeSampler(options, logits.size());
    std::set<int32_t> seen;
    for (int32_t position = 0; position < 400; ++position) {
      seen.insert(sampler.sample(logits, position).id);
    }
    CHECK(std::includes(allowed.begin(), allowed.end(), seen.begin(), seen.end()));
    if (allowed.size() <= 3 && options.temperature > 1) CHECK_EQ(seen.size(), allowed.size());
  }
}

// With far more candidates than the first sort takes.
TEST(top_p_of_a_flat_distribution_keeps_many) {
  const std::vector<float> logits(5000, 1.0f);
  SamplerOptions options = hot();
  options.topP = 0.5f;
  Sampler sampler = makeSampler(options, logits.size());
  int32_t largest = 0;
  for (int32_t position = 0; position < 4000; ++position) {
    largest = std::max(largest, sampler.sample(logits, position).id);
  }
  CHECK(largest < 2500 && largest > 2400);
}

TEST(top_k_takes_the_lowest_of_equal_ids) {
  SamplerOptions options = hot();
  options.topK = 2;
  Sampler sampler = makeSampler(options, 4);
  for (int32_t position = 0; position < 200; ++position) {
    CHECK(sampler.sample(std::vector<float>{1, 1, 1, 1}, position).id < 2);
  }
}

// 9 degrees of freedom: 33.7 is exceeded once in 10,000 seeds.
TEST(choices_follow_the_distribution) {
  std::mt19937 random(4);
  for (const float temperature : {0.7f, 1.0f, 2.5f}) {
    const std::vector<float> logits = randomLogits(random, 10, 1);
    std::vector<double> weights;
    double total = 0;
    for (const float logit : logits) {
      weights.push_back(std::exp(static_cast<double>(logit / temperature)));
      total += weights.back();
    }
    constexpr int32_t kDraws = 40000;
    Sampler sampler = makeSampler(hot(temperature, 11), logits.size());
    std::vector<int32_t> counts(logits.size());
    for (int32_t position = 0; position < kDraws; ++position) {
      ++counts[static_cast<size_t>(sampler.sample(logits, position).id)];
    }
    double chi = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      const double expected = kDraws * weights[i] / total;
      chi += std::pow(counts[i] - expected, 2) / expected;
    }
    CHECK(chi < 33.7);
  }
}

// The same, over seeds at one position: neighbouring seeds are not alike.
TEST(seeds_are_independent) {
  const std::vector<float> logits(10, 0.0f);
  std::vector<int32_t> counts(10);
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    ++counts[static_cast<size_t>(choose(hot(1, seed), logits, 5))];
  }
  double chi = 0;
  for (const int32_t count : counts) chi += std::pow(count - 2000.0, 2) / 2000;
  CHECK(chi < 33.7);
}

TEST(a_choice_depends_on_seed_and_position_alone) {
  std::mt19937 random(5);
  const std::vector<float> logits = randomLogits(random, 50, 1);
  Sampler one = makeSampler(hot(1, 9), 50), other = makeSampler(hot(1, 9), 50);
  std::map<int32_t, int32_t> chosen;
  for (int32_t position = 0; position < 60; ++position) {
    chosen[position] = one.sample(logits, position).id;
  }
  for (int32_t position = 59; position >= 0; --position) {
    CHECK_EQ(other.sample(logits, position).id, chosen[position]);
  }
  int32_t same = 0;
  for (int32_t position = 0; position < 60; ++position) {
    if (choose(hot(1, 10), logits, position) == chosen[position]) ++same;
  }
  CHECK(same < 30);
}

TEST(a_temperature_near_zero_is_greedy) {
  const std::vector<float> logits = {1, 3, 2.999f, -1e30f, 3e38f, -3e38f};
  for (const float temperature : {1e-3f, 1e-20f, 1e-38f, 1e-45f}) {
    for (int32_t position = 0; position < 20; ++position) {
      CHECK_EQ(choose(hot(temperature), logits, position), 4);
    }
  }
}

TEST(logits_that_are_no_numbers) {
  CHECK_EQ(choose({}, {kNan, 1, 2}), 2);
  CHECK_EQ(choose({}, {kNan, kNan}), 0);
  CHECK_EQ(choose({}, {-kInfinity, -kInfinity}), 0);
  CHECK_EQ(choose(hot(), {kNan, -kInfinity, kNan}), 0);
  CHECK_EQ(choose(hot(), {0, kInfinity, 5}), 1);
  SamplerOptions options = hot(0.8f);
  options.topK = 20;
  options.topP = 0.9f;
  options.minP = 0.01f;
  options.repetitionPenalty = 1.3f;
  options.logprobs = true;
  options.topLogprobs = 40;
  std::mt19937 random(6);
  for (int32_t round = 0; round < 300; ++round) {
    std::vector<float> logits = randomLogits(random, 1 + random() % 100, 3);
    for (float& logit : logits) {
      const float odd[] = {kNan, kInfinity, -kInfinity, 3.4e38f, -3.4e38f, 1e-45f, -0.0f};
      if (random() % 3 == 0) logit = odd[random() % 7];
    }
    Sampler sampler = makeSampler(options, logits.size());
    for (size_t id = 0; id < logits.size(); id += 3) sampler.see(static_cast<int32_t>(id));
    const Sample sample = sampler.sample(logits, round);
    CHECK(sample.id >= 0 && static_cast<size_t>(sample.id) < logits.size());
    CHECK_EQ(sample.top.size(), std::min<size_t>(40, logits.size()));
    std::set<int32_t> ids;
    for (const TokenLogprob& top : sample.top) ids.insert(top.id);
    CHECK_EQ(ids.size(), sample.top.size());
  }
}

TEST(log_probabilities_are_of_the_model_itself) {
  SamplerOptions options = hot(3);
  options.repetitionPenalty = 4;
  options.topK = 2;
  options.logprobs = true;
  options.topLogprobs = 3;
  Sampler sampler = makeSampler(options, 4, {0});
  sampler.see(1);
  const std::vector<float> logits = {4, 2, 1, 3};
  const Sample sample = sampler.sample(logits, 0);
  const double total = std::log(std::exp(4.0) + std::exp(2.0) + std::exp(1.0) + std::exp(3.0));
  CHECK_NEAR(sample.logprob, logits[static_cast<size_t>(sample.id)] - total, 1e-6);
  CHECK_NEAR(logProbability(logits, 2), 1 - total, 1e-6);
  CHECK_EQ(sample.top.size(), size_t{3});
  const int32_t order[] = {0, 3, 1};
  for (size_t i = 0; i < 3; ++i) {
    CHECK_EQ(sample.top[i].id, order[i]);
    CHECK_NEAR(sample.top[i].logprob, logits[static_cast<size_t>(order[i])] - total, 1e-6);
  }
  options.topLogprobs = 9;
  CHECK_EQ(makeSampler(options, 4).sample(logits, 0).top.size(), size_t{4});
  options.logprobs = false;
  CHECK_EQ(makeSampler(options, 4).sample(logits, 0).top.size(), size_t{0});
}

// NaN counts as an id that never comes, in probabilities too.
TEST(log_probabilities_leave_out_what_is_no_number) {
  SamplerOptions options;
  options.logprobs = true;
  options.topLogprobs = 2;
  const std::vector<float> some = {kNan, 1.0f, 1.0f, kNan};
  const Sample sample = makeSampler(options, 4).sample(some, 0);
  CHECK_EQ(sample.id, 1);
  CHECK(std::abs(sample.logprob - std::log(0.5f)) < 1e-6f);
  CHECK_EQ(sample.top.size(), size_t{2});
  CHECK(std::abs(sample.top[1].logprob - std::log(0.5f)) < 1e-6f);
  CHECK_EQ(logProbability(some, 0), -kInfinity);
  const std::vector<float> none = {kNan, kNan, kNan, kNan};
  for (const float temperature : {0.0f, 1.0f}) {
    options.temperature = temperature;
    const Sample any = makeSampler(options, 4).sample(none, 0);
    CHECK(any.id >= 0 && any.id < 4);
    CHECK_EQ(any.logprob, -kInfinity);
  }
}

bool isRefused(void (*change)(SamplerOptions&)) {
  SamplerOptions options;
  change(options);
  try {
    makeSampler(options, 4);
  } catch (const Error& error) {
    return error.code == ErrorCode::invalidArgument;
  }
  return false;
}

TEST(numbers_out_of_range_are_refused) {
  CHECK(!isRefused([](SamplerOptions&) {}));
  CHECK(isRefused([](SamplerOptions& o) { o.temperature = -1; }));
  CHECK(isRefused([](SamplerOptions& o) { o.temperature = kNan; }));
  CHECK(isRefused([](SamplerOptions& o) { o.temperature = kInfinity; }));
  CHECK(isRefused([](SamplerOptions& o) { o.topK = -1; }));
  CHECK(isRefused([](SamplerOptions& o) { o.topP = 1.1f; }));
  CHECK(isRefused([](SamplerOptions& o) { o.topP = kNan; }));
  CHECK(isRefused([](SamplerOptions& o) { o.minP = 1.5f; }));
  CHECK(isRefused([](SamplerOptions& o) { o.minP = kNan; }));
  CHECK(isRefused([](SamplerOptions& o) { o.repetitionPenalty = 0; }));
  CHECK(isRefused([](SamplerOptions& o) { o.repetitionPenalty = kNan; }));
  CHECK(isRefused([](SamplerOptions& o) { o.topLogprobs = -1; }));
}

}  // namespace
