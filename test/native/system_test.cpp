// What the system allows a process: processors, quotas and memory, read from files as it shows
// them.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "check.h"
#include "cpu/cgroup.h"
#include "cpu/threads.h"

namespace {

// A folder of files as the system would show them.
class FakeRoot {
 public:
  FakeRoot() {
    root_ = (std::filesystem::temp_directory_path() / "anchorcoder-system-XXXXXX").string();
    if (!mkdtemp(root_.data())) std::abort();
  }
  ~FakeRoot() { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  const std::string& path() const { return root_; }

 private:
  std::string root_;
};

TEST(reads_the_quota_of_cgroups_v2) {
  const FakeRoot root;
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 0);
  root.write("/proc/self/cgroup", "0::/a/b\n");
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 0);
  root.write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 0);
  root.write("/sys/fs/cgroup/a/cpu.max", "350000 100000\n");
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 3);
  root.write("/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 1);
}

TEST(reads_the_quota_of_a_container) {
  const FakeRoot root;
  root.write("/proc/self/cgroup", "0::/../../not/mounted\n");
  root.write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 2);
}

TEST(reads_the_quota_of_cgroups_v1) {
  const FakeRoot root;
  root.write("/proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/x\n");
  root.write("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1\n");
  root.write("/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 0);
  root.write("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "400000\n");
  CHECK_EQ(anchorcoder::quotaThreads(root.path()), 4);
}

TEST(reads_the_memory_limit_of_cgroups_v2) {
  const FakeRoot root;
  CHECK_EQ(anchorcoder::memoryLimit(root.path()), 0u);
  root.write("/proc/self/cgroup", "0::/a/b\n");
  root.write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  root.write("/sys/fs/cgroup/a/b/memory.high", "max\n");
  CHECK_EQ(anchorcoder::memoryLimit(root.path()), 0u);
  root.write("/sys/fs/cgroup/a/memory.max", "9000000\n");
  CHECK_EQ(anchorcoder::memoryLimit(root.path()), 9000000u);
  root.write("/sys/fs/cgroup/a/b/memory.high", "8000000\n");
  CHECK_EQ(anchorcoder::memoryLimit(root.path()), 8000000u);
  root.write("/sys/fs/cgroup/a/b/memory.max", "0\n");
  CHECK_EQ(anchorcoder::memoryLimit(root.path()), 1u);
}

TEST(reads_the_memory_limit_of_cgroups_v1) {
  const FakeRoot root;
  root.write("/proc/self/cgroup", "5:memory:/x/y\n4:cpu,cpuacct:/x\n");
  root.write("/sys/fs/cgroup/memory/x/y/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK_EQ(anchorcoder::memoryLimit(root.path()), 0u);
  // Within a container the group's own folder is the mount itself.
  root.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "5000000000\n");
  CHECK_EQ(anchorcoder::memoryLimit(root.path()), 5000000000u);
}

TEST(memory_that_the_process_holds_is_taken_from_the_limit) {
  const FakeRoot root;
  root.write("/proc/self/status", "Name:\tnode\nRssAnon:\t    1000 kB\nRssFile:\t 700 kB\n");
  CHECK_EQ(anchorcoder::memoryLeft(root.path()), 0u);
  root.write("/proc/self/cgroup", "0::/\n");
  root.write("/sys/fs/cgroup/memory.max", "3000000\n");
  CHECK_EQ(anchorcoder::memoryLeft(root.path()), 1976000u);
  root.write("/sys/fs/cgroup/memory.max", "1024000\n");
  CHECK_EQ(anchorcoder::memoryLeft(root.path()), 1u);
}

TEST(hyperthreads_count_once) {
  const FakeRoot root;
  const int32_t real = anchorcoder::physicalCores("");
  CHECK(real >= 1);
  for (int cpu = 0; cpu < 1024; ++cpu) {
    root.write(
        "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
        "0-1023\n");
  }
  CHECK_EQ(anchorcoder::physicalCores(root.path()), 1);
  CHECK(anchorcoder::defaultThreads() >= 1);
  CHECK(anchorcoder::defaultThreads() <= real);
}

}  // namespace
