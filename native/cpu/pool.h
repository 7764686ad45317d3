// The worker threads of the process, shared by all devices: their loops take turns.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
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
  // A loop inside a task runs on the task's own thread.
  template <typename Fn>
  void parallelFor(int32_t threads, int32_t tasks, Fn&& fn) {
    const int32_t current = currentThread();
    if (threads <= 1 || tasks <= 1 || current >= 0) {
      for (int32_t task = 0; task < tasks; ++task) fn(task, current >= 0 ? current : 0);
      return;
    }
    const auto call = [](void* context, int32_t task, int32_t thread) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(task, thread);
    };
    run(threads, tasks, call, const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // Passes take turns: from `beginTurn` to `endTurn` no other thread is between the two. First
  // come, first served. A thread that has the turn may begin again.
  void beginTurn();
  void endTurn();

  // The pool of the process. It ends, and its threads with it, when its last holder lets go.
  static std::shared_ptr<Pool> shared();

 private:
  using Call = void (*)(void* context, int32_t task, int32_t thread);

  static int32_t currentThread();  // -1 outside of tasks
  void run(int32_t threads, int32_t tasks, Call call, void* context);
  void work();
  bool waitForLoop(uint32_t seen, bool spin);
  void takeTasks(int32_t thread);
  void wake(int32_t count);
  void waitForWorkers();

  std::mutex turns_;
  std::condition_variable turnEnded_;
  uint64_t nextTicket_ = 0;
  uint64_t servedTicket_ = 0;
  std::thread::id turnOwner_;
  int32_t turnDepth_ = 0;

  std::mutex loop_;  // held by the thread whose loop runs, also where it has no turn

  // The loop under way; written only while `state_` is closed and nobody is inside.
  Call call_ = nullptr;
  void* context_ = nullptr;
  int32_t tasks_ = 0;

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
