// Reads affinity and core topology on Linux; elsewhere the standard library's count.
#include "threads.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <thread>

#include "cgroup.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace anchorcoder {

int32_t quotaThreads(const std::string& root) {
  const double processors = processorLimit(root);
  if (processors == 0) return 0;
  return static_cast<int32_t>(std::clamp(processors, 1.0, 1024.0));
}

int32_t physicalCores(const std::string& root) {
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  std::set<std::string> cores;  // each by the list of processors that share it
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<size_t>(cpu), &allowed)) continue;
    std::ifstream file(root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!(file >> siblings)) siblings = "cpu" + std::to_string(cpu);
    cores.insert(siblings);
  }
  return static_cast<int32_t>(cores.size());
#else
  static_cast<void>(root);
  return 0;
#endif
}

int32_t defaultThreads() {
  int32_t threads = physicalCores("");
  if (threads == 0) threads = static_cast<int32_t>(std::thread::hardware_concurrency());
  const int32_t quota = quotaThreads("");
  if (quota > 0) threads = std::min(threads, quota);
  return std::max(threads, 1);
}

}  // namespace anchorcoder
