// Mixtures of experts on the CPU.
#pragma once

#include "../core/ops.h"

namespace anchorcoder {

struct Plan;

// The norm of all rows of x has been taken into Plan::normed.
void runExperts(Plan& plan, const ExpertsArgs& args);

}  // namespace anchorcoder
