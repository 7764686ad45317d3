// Policies and types of rows drawn from an input.
#pragma once

#include "engine_fixture.h"
#include "fuzz.h"

namespace fuzz {

inline anchorcoder::Policy somePolicy(Input& input, int32_t layers) {
  const auto known = engine_test::allPolicies();
  const uint32_t which = input.below(static_cast<uint32_t>(known.size()) + 4);
  if (which < known.size()) return known[which];
  anchorcoder::Policy policy = engine_test::fullPolicy();
  if (input.flag()) policy.isAnchor[engine_test::kNewline] = 1;
  if (input.below(4) == 0) policy.isAnchor.assign(engine_test::kVocab, 0);
  policy.firstIsAnchor = input.flag();
  policy.anchorSeesAnchors = input.flag();
  policy.line = input.flag();
  policy.window = input.flag() ? input.from(0, 70) : 0;
  policy.sinks = input.flag() ? input.from(0, 40) : 0;
  for (uint8_t& dense : policy.dense) dense = input.flag() ? 1 : 0;
  policy.multiHeadPositions = input.flag();
  if (input.flag()) return policy;
  policy.sourceLayer = input.from(0, layers);
  policy.consumersAbove = input.from(policy.sourceLayer, layers);
  return policy;
}

inline anchorcoder::DType someStorage(Input& input) {
  using anchorcoder::DType;
  constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16, DType::i8};
  return kTypes[input.below(4)];
}

}  // namespace fuzz
