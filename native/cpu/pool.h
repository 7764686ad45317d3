// The worker threads of the process, shared by all devices: their loops take turns.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace anchorcoder {

class Pool {
 public:
  // Starts no thread yet; `reserve` does.
  Pool() = default;
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Makes loops of up to `threads` threads (the caller counts as one) possible. Returns how many
  // there are, which is less where the system gives no more.
  int32_t reserve(int32_t threads);

  // Calls fn(task, thread) for every task in [0, tasks), each once, and returns when all are done.
  // `thread` < threads tells the threads of one loop apart, for scratch. The tasks must not throw.
  // A loop inside a task runs on the task's own thread with thread = 0.
  template <typename Fn>
  void parallelFor(int32_t threads, int32_t tasks, Fn&& fn) {
    if (threads <= 1 || tasks <= 1 || insideTask()) {
      for (int32_t task = 0; task < tasks; ++task) fn(task, 0);
      return;
    }
    const auto call = [](void* context, int32_t task, int32_t thread) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(task, thread);
    };
    run(threads, tasks, call, const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // The pool of the process. It ends, and its threads with it, when its last holder lets go.
  static std::shared_ptr<Pool> shared();

 private:
  using Call = void (*)(void* context, int32_t task, int32_t thread);

  static bool insideTask();
  void run(int32_t threads, int32_t tasks, Call call, void* context);
  void work();
  bool waitForLoop(uint32_t seen);
  void takeTasks(int32_t thread);
  void wake(int32_t count);
  void waitForWorkers();

  std::mutex turn_;  // held by the thread whose loop runs

  // The loop under way; written only while `state_` is closed and nobody is inside.
  Call call_ = nullptr;
  void* context_ = nullptr;
  int32_t tasks_ = 0;
  int32_t limit_ = 0;  // workers that may enter

  alignas(64) std::atomic<uint64_t> state_{0};  // see pool.cpp
  alignas(64) std::atomic<int32_t> next_{0};    // first task that nobody has taken

  alignas(64) std::atomic<int32_t> parked_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> callerWaits_{false};
  std::mutex parking_;
  std::condition_variable loopStarted_;
  std::condition_variable workersLeft_;
  std::vector<std::thread> workers_;
};

}  // namespace anchorcoder
