// The instruction sets of this machine and the kernels compiled for them.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace anchorcoder {

// Names of the sets that this machine has, best first: "avx512bf16", "avx512", "avx2", "base".
std::vector<std::string> instructionSets();

// The kernels of the set with that name, or null where there is none or the machine lacks it.
const Kernels* findKernels(const std::string& name);

}  // namespace anchorcoder
