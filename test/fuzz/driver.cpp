// Runs a fuzzer without libFuzzer: inputs that a seed makes, or those of files.
//   NAME_fuzz --seconds N [--seed S] [--save FOLDER]    NAME_fuzz FILE...
// Equal seeds give equal inputs. The input that fails is saved, and its path printed.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "fuzz.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kLongest = 2048, kKept = 64;
constexpr unsigned kSecondsPerInput = 120;

Bytes current;         // the input under way
std::string savePath;  // where it goes when it fails

void save() {
  static bool saved = false;
  if (saved || savePath.empty()) return;
  saved = true;
  const int file = ::open(savePath.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const bool written =
      file >= 0 && ::write(file, current.data(), current.size()) >= 0 && ::close(file) == 0;
  std::fprintf(stderr, "the input that failed %s %s\n", written ? "is" : "cannot be saved in",
               savePath.c_str());
}

void onSignal(int signal) {
  std::fprintf(stderr, "signal %d\n", signal);
  save();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// Inputs from nothing, and from earlier ones by small changes.
class Maker {
 public:
  explicit Maker(uint64_t seed) : random_(seed) {}

  Bytes next() {
    Bytes bytes = kept_.empty() || below(3) == 0 ? fresh() : changed();
    if (kept_.size() < kKept) {
      kept_.push_back(bytes);
    } else {
      kept_[below(kKept)] = bytes;
    }
    return bytes;
  }

 private:
  size_t below(size_t limit) { return static_cast<size_t>(random_() % limit); }
  uint8_t byte() { return static_cast<uint8_t>(random_()); }

  Bytes fresh() {
    Bytes bytes(1 + (below(kLongest) >> below(8)));
    for (uint8_t& value : bytes) value = byte();
    return bytes;
  }

  Bytes changed() {
    Bytes bytes = kept_[below(kept_.size())];
    for (size_t count = 1 + below(6); count > 0; --count) {
      const size_t at = below(bytes.size());
      const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      switch (below(5)) {
        case 0:
          bytes[at] = byte();
          break;
        case 1:
          bytes[at] = static_cast<uint8_t>(bytes[at] ^ (1u << below(8)));
          break;
        case 2:
          bytes.insert(place, byte());
          break;
        case 3:
          if (bytes.size() > 1) bytes.erase(place);
          break;
        default: {  // the rest of another one
          const Bytes& other = kept_[below(kept_.size())];
          bytes.resize(at);
          const auto from = static_cast<std::ptrdiff_t>(std::min(at, other.size()));
          bytes.insert(bytes.end(), other.begin() + from, other.end());
          if (bytes.empty()) bytes.push_back(byte());
        }
      }
    }
    bytes.resize(std::min(bytes.size(), kLongest));
    return bytes;
  }

  std::mt19937_64 random_;
  std::vector<Bytes> kept_;
};

void run() {
  ::alarm(kSecondsPerInput);
  // A block of its own size, so that reading past it is seen.
  const Bytes exact(current);
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

int replay(int count, char** paths) {
  for (int i = 0; i < count; ++i) {
    std::ifstream file(paths[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "%s cannot be read\n", paths[i]);
      return 2;
    }
    current.assign(std::istreambuf_iterator<char>(file), {});
    run();
    std::printf("%s: fine\n", paths[i]);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  double seconds = 0;
  uint64_t seed = std::random_device()();
  std::string folder = ".";
  int first = 1;
  for (; first + 1 < count && std::strncmp(arguments[first], "--", 2) == 0; first += 2) {
    const std::string name = arguments[first];
    const char* value = arguments[first + 1];
    if (name == "--seconds") seconds = std::strtod(value, nullptr);
    if (name == "--seed") seed = std::strtoull(value, nullptr, 10);
    if (name == "--save") folder = value;
  }
  for (const int signal : {SIGABRT, SIGALRM}) std::signal(signal, onSignal);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(save);
#endif
  if (first < count) return replay(count - first, arguments + first);

  std::string name = arguments[0];
  name = name.substr(name.rfind('/') + 1);
  std::printf("%s: seed %llu\n", name.c_str(), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  Maker maker(seed);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  uint64_t inputs = 0;
  for (; inputs == 0 || Clock::now() < end; ++inputs) {
    current = maker.next();
    savePath = folder + "/" + name + "-" + std::to_string(seed) + "-" + std::to_string(inputs);
    run();
  }
  std::printf("%s: %llu inputs, none failed\n", name.c_str(),
              static_cast<unsigned long long>(inputs));
}
