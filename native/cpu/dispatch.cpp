// Asks cpuid, and the system by way of xgetbv, which kernels can run.
#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace anchorcoder {
namespace {

struct Entry {
  const char* name;
  bool (*available)();
  const Kernels& (*kernels)();
};

#if defined(__x86_64__)
// Not every compiler knows this one by name. It needs of the system what avx2 does.
bool hasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

// The compiler's check covers what the system saves on a context switch.
bool hasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && hasF16c();
}

bool hasAvx512() {
  return hasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool hasAvx512bf16() { return hasAvx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

constexpr Entry kEntries[] = {
#if defined(__x86_64__)
    {"avx512bf16", hasAvx512bf16, avx512bf16Kernels},
    {"avx512", hasAvx512, avx512Kernels},
    {"avx2", hasAvx2, avx2Kernels},
#endif
    {"base", [] { return true; }, baseKernels},
};

}  // namespace

std::vector<std::string> instructionSets() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) {
    if (entry.available()) names.emplace_back(entry.name);
  }
  return names;
}

const Kernels* findKernels(const std::string& name) {
  for (const Entry& entry : kEntries) {
    if (name == entry.name && entry.available()) return &entry.kernels();
  }
  return nullptr;
}

}  // namespace anchorcoder
