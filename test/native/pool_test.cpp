// The worker pool under many callers, misuse and shutdown (run under the thread sanitizer too), and
// how many threads it gets.
#include "cpu/pool.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/cgroup.h"
#include "cpu/threads.h"

namespace {

using anchorcoder::Pool;

// Every task once, with plain memory written by tasks and read by the caller.
void checkLoop(Pool& pool, int32_t threads, int32_t tasks) {
  std::vector<int32_t> calls(static_cast<size_t>(tasks), 0);
  std::vector<int32_t> perThread(static_cast<size_t>(threads), 0);
  pool.parallelFor(threads, tasks, [&](int32_t task, int32_t thread) {
    ++calls[static_cast<size_t>(task)];
    ++perThread[static_cast<size_t>(thread)];  // a race if two tasks ran as one thread at once
  });
  int32_t sum = 0;
  for (const int32_t count : perThread) sum += count;
  CHECK_EQ(sum, tasks);
  for (const int32_t count : calls) CHECK_EQ(count, 1);
}

TEST(runs_every_task_once) {
  Pool pool;
  CHECK_EQ(pool.reserve(4), 4);
  for (int32_t round = 0; round < 300; ++round) {
    for (const int32_t threads : {1, 2, 4, 9}) checkLoop(pool, threads, round % 37);
  }
}

TEST(works_without_workers) {
  Pool pool;
  checkLoop(pool, 4, 100);
  CHECK_EQ(pool.reserve(1), 1);
  CHECK_EQ(pool.reserve(0), 1);
  checkLoop(pool, 4, 100);
}

TEST(wakes_parked_workers) {
  Pool pool;
  pool.reserve(4);
  for (int32_t round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    checkLoop(pool, 4, 64);
  }
}

TEST(grows_while_in_use) {
  Pool pool;
  std::thread user([&] {
    for (int32_t round = 0; round < 200; ++round) checkLoop(pool, 6, 20);
  });
  for (int32_t threads = 2; threads <= 6; ++threads) CHECK_EQ(pool.reserve(threads), threads);
  CHECK_EQ(pool.reserve(3), 6);
  user.join();
}

TEST(many_callers_take_turns) {
  Pool pool;
  pool.reserve(3);
  std::vector<std::thread> callers;
  std::atomic<int32_t> inTurn{0};
  for (int32_t caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&, caller] {
      for (int32_t round = 0; round < 60; ++round) {
        if (caller % 2 == 0) {  // a pass: several loops in one turn
          pool.beginTurn();
          CHECK_EQ(inTurn.fetch_add(1), 0);
          pool.beginTurn();
          checkLoop(pool, 3, 17);
          pool.endTurn();
          checkLoop(pool, 2, 5);
          inTurn.fetch_sub(1);
          pool.endTurn();
        } else {
          checkLoop(pool, 3, 11);
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(a_loop_inside_a_task_stays_on_its_thread) {
  Pool pool;
  pool.reserve(4);
  for (int32_t round = 0; round < 50; ++round) {
    std::vector<int32_t> counts(8, 0);
    pool.parallelFor(4, 8, [&](int32_t task, int32_t thread) {
      const std::thread::id own = std::this_thread::get_id();
      pool.parallelFor(4, 10, [&](int32_t, int32_t inner) {
        if (own == std::this_thread::get_id() && inner == thread) {
          ++counts[static_cast<size_t>(task)];
        }
      });
    });
    for (const int32_t count : counts) CHECK_EQ(count, 10);
  }
}

TEST(uneven_tasks_and_more_threads_than_cores) {
  Pool pool;
  const auto cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  const int32_t threads = pool.reserve(cores * 4);
  std::atomic<int64_t> sum{0};
  for (int32_t round = 0; round < 50; ++round) {
    pool.parallelFor(threads, 40, [&](int32_t task, int32_t) {
      volatile int64_t work = 0;
      for (int32_t i = 0; i < task * 50; ++i) work = work + 1;
      sum += work;
    });
  }
  CHECK_EQ(sum.load(), int64_t{50} * 50 * 780);
}

TEST(starts_and_stops_often) {
  for (int32_t round = 0; round < 50; ++round) {
    Pool pool;
    pool.reserve(3);
    if (round % 2 == 0) checkLoop(pool, 3, 9);
  }
}

TEST(the_shared_pool_lives_as_long_as_its_holders) {
  std::weak_ptr<Pool> watch;
  {
    const std::shared_ptr<Pool> first = Pool::shared();
    const std::shared_ptr<Pool> second = Pool::shared();
    CHECK(first == second);
    watch = first;
    first->reserve(2);
    checkLoop(*second, 2, 10);
  }
  CHECK(watch.expired());
  CHECK(Pool::shared() != nullptr);
}

// A folder of files as the system would show them.
class FakeRoot {
 public:
  FakeRoot() {
    char name[] = "/tmp/anchorcoder-pool-XXXXXX";
    root_ = mkdtemp(name);
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
