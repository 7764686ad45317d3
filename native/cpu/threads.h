// How many threads the machine and its limits allow.
#pragma once

#include <cstdint>
#include <string>

namespace anchorcoder {

// The smallest of: physical cores that the process may run on, and the cgroup's processor quota
// (rounded down, at least 1). At least 1.
int32_t defaultThreads();

// The quota of the process's cgroup (v1 or v2) in whole processors; 0 where there is none. `root`
// stands before every path that is read, for tests.
int32_t quotaThreads(const std::string& root);

// Physical cores that the process may run on; 0 where the system does not say.
int32_t physicalCores(const std::string& root);

}  // namespace anchorcoder
