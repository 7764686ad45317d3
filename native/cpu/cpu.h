// The CPU as a device.
#pragma once

#include <string>
#include <vector>

#include "../core/ops.h"

namespace anchorcoder {

const Ops* cpuOps();

// Names of the instruction sets that this machine has, best first.
std::vector<std::string> instructionSets();

}  // namespace anchorcoder
