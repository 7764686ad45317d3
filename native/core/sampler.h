// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace anchorcoder {

struct SamplerOptions {
  float temperature = 0.0f;        // 0: greedy
  int32_t topK = 0;                // 0: off
  float topP = 1.0f;               // 1: off
  float minP = 0.0f;               // 0: off
  float repetitionPenalty = 1.0f;  // 1: off
  uint64_t seed = 0;
  bool logprobs = false;
  int32_t topLogprobs = 0;
};

struct TokenLogprob {
  int32_t id;
  float logprob;
};

struct Sample {
  int32_t id;
  float logprob;                  // of the model itself, before penalty, temperature and filters
  std::vector<TokenLogprob> top;  // (topLogprobs) most probable first
};

// Natural logarithm of the softmax of `logits` at `id`.
float logProbability(std::span<const float> logits, int32_t id);

// The order is that of Hugging Face transformers: repetition penalty, temperature, top-k, top-p,
// min-p. Equal logits: the lower id first. The random number of a choice depends on the seed and
// the position alone, so a text that is cut back and generated again comes out the same. A logit
// that is not a number counts as minus infinity; where nothing else is left the lowest id comes
// out.
class Sampler {
 public:
  // Throws Error (invalidArgument) for numbers that make no sense.
  Sampler(const SamplerOptions& options, std::span<const int32_t> bannedIds, int32_t vocabSize);

  // Marks an id as seen, for the repetition penalty.
  void see(int32_t id) { seen_[static_cast<size_t>(id)] = 1; }
  Sample sample(std::span<const float> logits, int32_t position);

 private:
  int32_t choose(int32_t position, float largest);
  void sortBest(size_t count);
  size_t cutTopP();

  SamplerOptions options_;
  std::vector<int32_t> banned_;
  std::vector<uint8_t> seen_;  // (vocabSize)
  struct Candidate {
    float logit;
    int32_t id;
  };
  std::vector<Candidate> candidates_;
  std::vector<float> logits_;  // (vocabSize)
};

}  // namespace anchorcoder
