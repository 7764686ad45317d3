// Stands before the C library's pthread_cond_clockwait, under the version that the prebuilt addon
// asks for, and says when it is called. The check of the package preloads it.
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>

extern "C" int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                      clockid_t clock, const timespec* until) {
  static std::atomic<bool> isSaid{false};
  static const auto real = reinterpret_cast<decltype(&pthread_cond_clockwait)>(
      dlvsym(RTLD_NEXT, "pthread_cond_clockwait", "GLIBC_2.30"));
  if (clock == CLOCK_MONOTONIC && !isSaid.exchange(true)) {
    constexpr char kText[] = "waits by the steady clock\n";
    if (write(STDOUT_FILENO, kText, sizeof kText - 1) < 0) return -1;
  }
  return real(condition, mutex, clock, until);
}
