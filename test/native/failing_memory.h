// The operators `new` and `delete` of a test program that decides which allocations fail. For its
// one source file.
#pragma once

#include <cstdlib>
#include <new>

// Defined by the test; called for every allocation of the program, on any thread.
bool allocationFails();

namespace failing_memory {

// Not inlined, or the compiler takes malloc and free for a mismatch of operators.
[[gnu::noinline]] inline void* take(size_t bytes) {
  void* memory = allocationFails() ? nullptr : std::malloc(bytes > 0 ? bytes : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}

[[gnu::noinline]] inline void give(void* memory) { std::free(memory); }

}  // namespace failing_memory

// NOLINTBEGIN: the program's own operators
void* operator new(size_t bytes) { return failing_memory::take(bytes); }
void* operator new[](size_t bytes) { return failing_memory::take(bytes); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return allocationFails() ? nullptr : std::malloc(bytes);
}
void operator delete(void* memory) noexcept { failing_memory::give(memory); }
void operator delete[](void* memory) noexcept { failing_memory::give(memory); }
void operator delete(void* memory, size_t) noexcept { failing_memory::give(memory); }
void operator delete[](void* memory, size_t) noexcept { failing_memory::give(memory); }
// NOLINTEND
