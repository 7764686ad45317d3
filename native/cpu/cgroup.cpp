// Reads cgroup files of both versions.
#include "cgroup.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

namespace anchorcoder {
namespace {

bool names(const std::string& controllers, const std::string& wanted) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == wanted) return true;
  }
  return false;
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

// Calls one of them with every folder that may limit the process.
template <typename ReadV1, typename ReadV2>
void readGroups(const std::string& root, const std::string& controller, ReadV1&& readV1,
                ReadV2&& readV2) {
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
      climb(mount, path, readV2);
    } else if (names(controllers, controller)) {
      climb(mount + "/" + controller, path, readV1);
    }
  }
}

}  // namespace

double processorLimit(const std::string& root) {
  double processors = 0;
  const auto take = [&](double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return;
    const double share = quota / period;
    if (processors == 0 || share < processors) processors = share;
  };
  readGroups(
      root, "cpu",
      [&](const std::string& folder) {
        std::ifstream quotaFile(folder + "/cpu.cfs_quota_us");
        std::ifstream periodFile(folder + "/cpu.cfs_period_us");
        double quota = 0, period = 0;
        if (quotaFile >> quota && periodFile >> period) take(quota, period);
      },
      [&](const std::string& folder) {
        std::ifstream file(folder + "/cpu.max");
        double quota = 0, period = 0;
        if (file >> quota >> period) take(quota, period);  // "max" fails to parse
      });
  return processors;
}

uint64_t memoryLimit(const std::string& root) {
  // Version 1 says "no limit" with the largest number of pages.
  constexpr uint64_t kNone = uint64_t{1} << 62;
  uint64_t limit = kNone;
  const auto take = [&](const std::string& path) {
    std::ifstream file(path);
    uint64_t bytes = 0;
    if (file >> bytes) limit = std::min(limit, std::max<uint64_t>(bytes, 1));  // not "max"
  };
  readGroups(
      root, "memory", [&](const std::string& folder) { take(folder + "/memory.limit_in_bytes"); },
      [&](const std::string& folder) {
        take(folder + "/memory.max");
        take(folder + "/memory.high");
      });
  return limit == kNone ? 0 : limit;
}

uint64_t memoryLeft(const std::string& root) {
  const uint64_t limit = memoryLimit(root);
  if (limit == 0) return 0;
  uint64_t held = 0;
  std::ifstream status(root + "/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream fields(line);
    std::string name;
    uint64_t kilobytes = 0;
    if (fields >> name >> kilobytes && name == "RssAnon:") held = kilobytes * 1024;
  }
  return held < limit ? limit - held : 1;
}

}  // namespace anchorcoder
