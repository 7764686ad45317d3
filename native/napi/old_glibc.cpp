// Lets one binary run on C libraries that are older than the one it is linked with.
//
// A linker binds a function to its newest version, and a C library without that version refuses
// the whole addon, however little has changed. These definitions stand before the C library's,
// for the addon alone, and lead to versions that every one has. Part of prebuilt binaries only;
// scripts/binary.mjs checks what is left.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>

#if !defined(__linux__) || !defined(__GLIBC__) || !defined(__x86_64__)
#error "A portable build is for glibc on x64; build without --portable."
#endif

// The same function under its first version.
#define ANCHORCODER_FIRST_VERSION(name)                                                         \
  __asm__(".symver anchorcoder_" #name ", " #name                                               \
          "@GLIBC_2.2.5\n"                                                                      \
          ".pushsection .text\n.globl " #name "\n.hidden " #name "\n.type " #name               \
          ", @function\n" #name ":\njmp anchorcoder_" #name "@PLT\n.size " #name ", . - " #name \
          "\n.popsection")

// Moved from libpthread (2.32, 2.34) and libdl (2.34), which are always there: node itself is
// linked with them.
ANCHORCODER_FIRST_VERSION(dlvsym);
ANCHORCODER_FIRST_VERSION(pthread_create);
ANCHORCODER_FIRST_VERSION(pthread_detach);
ANCHORCODER_FIRST_VERSION(pthread_getspecific);
ANCHORCODER_FIRST_VERSION(pthread_join);
ANCHORCODER_FIRST_VERSION(pthread_key_create);
ANCHORCODER_FIRST_VERSION(pthread_key_delete);
ANCHORCODER_FIRST_VERSION(pthread_once);
ANCHORCODER_FIRST_VERSION(pthread_setspecific);
ANCHORCODER_FIRST_VERSION(pthread_sigmask);
// The newer ones (2.29) only leave out an error handler of programs from before C99.
ANCHORCODER_FIRST_VERSION(exp);
ANCHORCODER_FIRST_VERSION(log);

extern "C" {

// Since 2.32 the standard library asks it whether counters may do without atomic operations.
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;

// Since 2.33; before, <sys/stat.h> made it of this.
int __fxstat64(int version, int file, struct stat64* status) noexcept;

__attribute__((visibility("hidden"))) int fstat64(int file, struct stat64* status) noexcept {
  constexpr int kX64 = 1;  // the layout of struct stat
  return __fxstat64(kX64, file, status);
}

// Since 2.30. Without it a wait goes by the wall clock: the standard library's waits loop, so a
// jump forwards only wakes them, but one that is set back while it lasts makes it longer.
__attribute__((visibility("hidden"))) int pthread_cond_clockwait(pthread_cond_t* condition,
                                                                 pthread_mutex_t* mutex,
                                                                 clockid_t clock,
                                                                 const timespec* until) {
  // Not the definition here, which is hidden.
  static const auto real = reinterpret_cast<decltype(&pthread_cond_clockwait)>(
      dlvsym(RTLD_DEFAULT, "pthread_cond_clockwait", "GLIBC_2.30"));
  if (real) return real(condition, mutex, clock, until);

  constexpr int64_t kSecond = 1'000'000'000;
  timespec now{}, wall{};
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &wall);
  int64_t seconds = int64_t{until->tv_sec} - now.tv_sec + wall.tv_sec;
  int64_t nanoseconds = int64_t{until->tv_nsec} - now.tv_nsec + wall.tv_nsec;
  for (; nanoseconds >= kSecond; nanoseconds -= kSecond) ++seconds;
  for (; nanoseconds < 0; nanoseconds += kSecond) --seconds;
  const timespec deadline{seconds, nanoseconds};
  return pthread_cond_timedwait(condition, mutex, &deadline);
}

// Since 2.36; the standard library's std::random_device prefers it.
__attribute__((visibility("hidden"))) uint32_t arc4random() noexcept {
  uint32_t value = 0;
  if (getentropy(&value, sizeof value) != 0) std::abort();
  return value;
}

}  // extern "C"
