// A loop is published in one atomic word, which workers enter and leave by changing it. A worker
// that the system does not run never enters, so nobody waits for it.
#include "pool.h"

#include <chrono>
#include <csignal>
#include <system_error>

namespace anchorcoder {
namespace {

// state: epoch of the loop (32 bits), places still vacant (16), workers inside (15), open (1).
constexpr uint64_t kOpen = 1;
constexpr uint64_t kOneInside = 2;
constexpr uint64_t kOneVacant = uint64_t{1} << 16;
constexpr int32_t kMostWorkers = 1023;

uint32_t epochOf(uint64_t state) { return static_cast<uint32_t>(state >> 32); }
int32_t vacantOf(uint64_t state) { return static_cast<int32_t>((state >> 16) & 0xffff); }
bool someInside(uint64_t state) { return (state & 0xfffe) != 0; }

thread_local int32_t taskThread = -1;

// Long enough to bridge the gap between the ops of a pass, short enough to cost no one a core.
constexpr auto kSpinTime = std::chrono::microseconds(60);

void pauseBriefly() {
#if defined(__x86_64__)
  for (int32_t i = 0; i < 16; ++i) __builtin_ia32_pause();
#endif
}

// Waits for `done` for a short time, leaving the core to whoever else wants it.
template <typename Done>
bool spinUntil(Done&& done) {
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  for (;;) {
    for (int32_t i = 0; i < 8; ++i) {
      if (done()) return true;
      pauseBriefly();
    }
    if (std::chrono::steady_clock::now() > end) return done();
    std::this_thread::yield();
  }
}

}  // namespace

int32_t Pool::currentThread() { return taskThread; }

Pool::~Pool() {
  {
    const std::lock_guard lock(parking_);
    stop_.store(true);
  }
  loopStarted_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

std::shared_ptr<Pool> Pool::shared() {
  static std::mutex mutex;
  static std::weak_ptr<Pool> current;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Pool> pool = current.lock();
  if (!pool) current = pool = std::make_shared<Pool>();
  return pool;
}

int32_t Pool::reserve(int32_t threads) {
  const std::lock_guard lock(loop_);
  const auto wanted = static_cast<size_t>(threads < kMostWorkers ? threads - 1 : kMostWorkers);
  // Signals are the host's business: its handlers shall not run on a worker.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    while (threads > 1 && workers_.size() < wanted) workers_.emplace_back([this] { work(); });
  } catch (const std::exception&) {
    // The system gives no more threads; the loops run on those there are.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return static_cast<int32_t>(workers_.size()) + 1;
}

void Pool::beginTurn() {
  std::unique_lock lock(turns_);
  if (turnDepth_ > 0 && turnOwner_ == std::this_thread::get_id()) {
    ++turnDepth_;
    return;
  }
  const uint64_t ticket = nextTicket_++;
  turnEnded_.wait(lock, [&] { return servedTicket_ == ticket; });
  turnOwner_ = std::this_thread::get_id();
  turnDepth_ = 1;
}

void Pool::endTurn() {
  const std::lock_guard lock(turns_);
  if (--turnDepth_ > 0) return;
  ++servedTicket_;
  turnEnded_.notify_all();
}

void Pool::run(int32_t threads, int32_t tasks, Call call, void* context) {
  const std::lock_guard lock(loop_);
  int32_t helpers = threads < tasks ? threads - 1 : tasks - 1;
  const auto workers = static_cast<int32_t>(workers_.size());
  if (helpers > workers) helpers = workers;
  call_ = call;
  context_ = context;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  const uint64_t epoch = epochOf(state_.load(std::memory_order_relaxed)) + uint64_t{1};
  state_.store((epoch << 32) | static_cast<uint64_t>(helpers) * kOneVacant | kOpen);
  wake(helpers);
  takeTasks(0);
  state_.fetch_and(~kOpen);
  waitForWorkers();
}

void Pool::takeTasks(int32_t thread) {
  taskThread = thread;
  for (;;) {
    const int32_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) break;
    call_(context_, task, thread);
  }
  taskThread = -1;
}

void Pool::wake(int32_t count) {
  // Either the worker that parks sees the new epoch, or we see that it parks.
  const int32_t parked = parked_.load();
  if (parked == 0) return;
  {
    const std::lock_guard lock(parking_);
  }
  for (int32_t i = 0; i < count && i < parked; ++i) loopStarted_.notify_one();
}

void Pool::waitForWorkers() {
  const auto done = [this] { return !someInside(state_.load()); };
  if (spinUntil(done)) return;
  std::unique_lock lock(parking_);
  callerWaits_.store(true);
  workersLeft_.wait(lock, done);
  callerWaits_.store(false);
}

bool Pool::waitForLoop(uint32_t seen, bool spin) {
  const auto started = [&] { return stop_.load() || epochOf(state_.load()) != seen; };
  if (!spin || !spinUntil(started)) {
    std::unique_lock lock(parking_);
    parked_.fetch_add(1);
    loopStarted_.wait(lock, started);
    parked_.fetch_sub(1);
  }
  return !stop_.load();
}

void Pool::work() {
  uint32_t seen = 0;
  bool entered = true;
  while (waitForLoop(seen, entered)) {
    uint64_t state = state_.load();
    seen = epochOf(state);
    entered = false;
    while (!entered && (state & kOpen) && vacantOf(state) > 0 && epochOf(state) == seen) {
      entered = state_.compare_exchange_weak(state, state - kOneVacant + kOneInside);
    }
    if (!entered) continue;
    takeTasks(vacantOf(state));
    const uint64_t left = state_.fetch_sub(kOneInside) - kOneInside;
    if (!someInside(left) && callerWaits_.load()) {
      const std::lock_guard lock(parking_);
      workersLeft_.notify_one();
    }
  }
}

}  // namespace anchorcoder
