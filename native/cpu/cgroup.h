// The limits that Linux's control groups set for the process.
#pragma once

#include <cstdint>
#include <string>

namespace anchorcoder {

// `root` stands before every path that is read, for tests.

// The processors that the process's group (v1 or v2) may use; 0: no limit.
double processorLimit(const std::string& root);

// Bytes that the process's group (v1 or v2) may hold: beyond them the system reclaims, then kills.
// 0: no limit.
uint64_t memoryLimit(const std::string& root);

// What is left of it for the process, whose own memory without mapped files counts as taken. At
// least 1 where there is a limit; 0: none.
uint64_t memoryLeft(const std::string& root);

}  // namespace anchorcoder
