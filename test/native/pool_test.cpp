// The worker pool under many callers, misuse and shutdown; run under the thread sanitizer too.
#include "cpu/pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"

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

}  // namespace
