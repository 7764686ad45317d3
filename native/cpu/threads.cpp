// Reads affinity, core topology and cgroup limits on Linux; elsewhere the standard library's count.
#include "threads.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace anchorcoder {
namespace {

// Processors that `quota` of each `period` amounts to, kept as the smallest seen; 0 is none.
void takeSmaller(double quota, double period, double* processors) {
  if (!(quota > 0) || !(period > 0)) return;
  const double share = quota / period;
  if (*processors == 0 || share < *processors) *processors = share;
}

// A group's limit binds along with those of all groups above it. Inside a container the path may
// name groups that are not mounted; those are passed over.
template <typename Read>
void climb(const std::string& mount, std::string group, Read&& read) {
  for (;;) {
    read(mount + group);
    const size_t slash = group.find_last_of('/');
    if (group.empty() || slash == std::string::npos) break;
    group.resize(slash);
  }
}

void readV2(const std::string& folder, double* processors) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  if (file >> quota >> period) takeSmaller(quota, period, processors);  // "max" fails to parse
}

void readV1(const std::string& folder, double* processors) {
  std::ifstream quotaFile(folder + "/cpu.cfs_quota_us"), periodFile(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (quotaFile >> quota && periodFile >> period) takeSmaller(quota, period, processors);
}

bool names(const std::string& controllers, const std::string& wanted) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == wanted) return true;
  }
  return false;
}

}  // namespace

int32_t quotaThreads(const std::string& root) {
  double processors = 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  // hierarchy:controllers:path, where v2 has no controllers.
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    const std::string mount = root + "/sys/fs/cgroup";
    if (controllers.empty()) {
      climb(mount, path, [&](const std::string& folder) { readV2(folder, &processors); });
    } else if (names(controllers, "cpu")) {
      climb(mount + "/cpu", path, [&](const std::string& folder) { readV1(folder, &processors); });
    }
  }
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
