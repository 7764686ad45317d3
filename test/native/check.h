// The frame of a native test program, which is one file: TEST(name) { CHECK(...); }.
// A failed check prints itself and the test goes on; an argument runs only the tests it names.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline bool add(const char* name, void (*run)()) {
  cases().push_back({name, run});
  return true;
}

inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  ++failures();
}

template <typename A, typename B>
void equal(const char* file, int line, const char* text, const A& a, const B& b) {
  if (a == b) return;
  std::ostringstream out;
  out.precision(9);
  out << text << ": " << a << " is not " << b;
  fail(file, line, out.str());
}

// Written so that a NaN fails.
inline void near(const char* file, int line, const char* text, double a, double b, double bound) {
  if (std::abs(a - b) <= bound) return;
  std::ostringstream out;
  out.precision(9);
  out << text << ": " << a << " and " << b << " differ by more than " << bound;
  fail(file, line, out.str());
}

inline int main(int count, char** arguments) {
  int ran = 0;
  int failed = 0;
  for (const Case& test : cases()) {
    if (count > 1 && std::strstr(test.name, arguments[1]) == nullptr) continue;
    const int before = failures();
    try {
      test.run();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("threw: ") + error.what());
    }
    const bool passed = failures() == before;
    std::printf("%s %s\n", passed ? "ok    " : "FAILED", test.name);
    ++ran;
    if (!passed) ++failed;
  }
  std::printf("%d tests, %d failed\n", ran, failed);
  return failed > 0 || ran == 0 ? 1 : 0;
}

}  // namespace check

#define TEST(name)                                                                  \
  static void test_##name();                                                        \
  [[maybe_unused]] static const bool added_##name = check::add(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(a, b) check::equal(__FILE__, __LINE__, #a " == " #b, a, b)
#define CHECK_NEAR(a, b, bound) check::near(__FILE__, __LINE__, #a " ~ " #b, a, b, bound)

#define CHECK_THROWS(expression)                                               \
  do {                                                                         \
    bool threw = false;                                                        \
    try {                                                                      \
      (void)(expression);                                                      \
    } catch (const std::exception&) {                                          \
      threw = true;                                                            \
    }                                                                          \
    if (!threw) check::fail(__FILE__, __LINE__, #expression " threw nothing"); \
  } while (false)

#ifndef ANCHORCODER_FUZZ  // whose main is another
int main(int count, char** arguments) { return check::main(count, arguments); }
#endif
