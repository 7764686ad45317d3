// Tensor tables as loading hands them over, against files of any size: what comes of it is a model
// that runs, or an Error that says why not.
#include <sys/mman.h>
#include <unistd.h>

#include "engine_fixture.h"
#include "fuzz.h"

using namespace engine_test;  // NOLINT
using fuzz::Input;

namespace {

constexpr uint64_t kMostBytes = uint64_t{64} << 20;

ModelConfig smallConfig() {
  ModelConfig config = tinyConfig();
  config.layers = 2;
  config.hiddenSize = 8;
  config.intermediateSize = 12;
  config.heads = 2;
  config.kvHeads = 1;
  config.headDim = 4;
  config.vocabSize = 12;
  config.contextLength = 64;
  config.ropes = {{4, false, 1.0f, {1.0, 0.1}}};
  return config;
}

// A file that is nowhere but in memory.
class MemoryFile {
 public:
  explicit MemoryFile(const std::vector<uint8_t>& bytes)
      : descriptor_(::memfd_create("weights", MFD_CLOEXEC)) {
    REQUIRE(descriptor_ >= 0);
    REQUIRE(::write(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

std::vector<uint8_t> contentOf(const ModelFile& file) {
  std::vector<uint8_t> bytes(file.spec().size);
  std::FILE* stream = std::fopen(file.path.c_str(), "rb");
  REQUIRE(stream && std::fread(bytes.data(), 1, bytes.size(), stream) == bytes.size());
  std::fclose(stream);
  return bytes;
}

uint64_t nearSize(Input& input, uint64_t good) {
  return static_cast<uint64_t>(input.near(static_cast<int64_t>(good)));
}

// Splits a tensor into the places that it lies in, or into those of something else.
void split(Input& input, TensorSpec& tensor) {
  uint64_t left = tensor.length, offset = tensor.offset;
  for (uint32_t count = input.below(5); count > 0; --count) {
    const uint64_t length = count == 1 ? left : input.below(static_cast<uint32_t>(left & 4095) + 1);
    tensor.parts.push_back({offset, length});
    offset += length;
    left -= std::min(left, length);
  }
  if (input.flag() || tensor.parts.empty()) return;
  auto& part = tensor.parts[input.below(static_cast<uint32_t>(tensor.parts.size()))];
  (input.flag() ? part.offset : part.length) = nearSize(input, part.offset);
}

void damage(Input& input, std::vector<TensorSpec>& tensors) {
  if (tensors.empty()) return;
  const uint32_t which = input.below(static_cast<uint32_t>(tensors.size()));
  TensorSpec& tensor = tensors[which];
  switch (input.below(10)) {
    case 0:
      tensor.offset = nearSize(input, tensor.offset);
      break;
    case 1:
      tensor.length = nearSize(input, tensor.length);
      break;
    case 2:
      tensor.file = static_cast<uint32_t>(input.near(0));
      break;
    case 3:
      tensor.type = static_cast<DType>(input.below(4));
      break;
    case 4:
      if (tensor.shape.empty()) break;
      tensor.shape[input.below(static_cast<uint32_t>(tensor.shape.size()))] = input.near(8);
      break;
    case 5:
      tensor.shape.push_back(input.near(1));
      break;
    case 6:
      tensor.shape.clear();
      break;
    case 7:
      tensors.push_back(tensors[input.below(static_cast<uint32_t>(tensors.size()))]);
      break;
    case 8:
      tensors.erase(tensors.begin() + which);
      break;
    default:
      split(input, tensor);
  }
  // Where only the type or the shape changed, a table that agrees with itself is worth more.
  if (!input.flag() || which >= tensors.size()) return;
  TensorSpec& agreeing = tensors[which];
  int64_t count = 1;
  for (const int64_t size : agreeing.shape) {
    if (size < 0 || __builtin_mul_overflow(count, size, &count)) return;
  }
  agreeing.length = static_cast<uint64_t>(count) * dtypeBytes(agreeing.type);
}

// Reads and generates: only Errors may come of what the weights hold.
void use(const std::shared_ptr<Model>& model) {
  Engine engine(model);
  Policy policy;
  policy.isAnchor.assign(12, 0);
  policy.isAnchor[3] = 1;
  policy.firstIsAnchor = policy.line = true;
  policy.dense = {1, 0};
  for (const DType storage : {DType::f32, DType::i8}) {
    try {
      const auto session = engine.executor->createSession(policy, 64, storage);
      engine.append(session, {1, 2, 3, 4, 5, 6}, LogitsWanted::all);
      GenerateOptions options;
      options.maxTokens = 6;
      options.sampler.temperature = 1;
      options.sampler.topP = 0.9f;
      options.sampler.logprobs = true;
      options.sampler.topLogprobs = 3;
      engine.generate(session, options, 6);
    } catch (const Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ModelFile good(smallConfig());
  static const std::vector<uint8_t> content = contentOf(good);
  Input input(data, size);

  std::vector<TensorSpec> tensors = good.tensors;
  for (uint32_t count = input.below(5); count > 0; --count) damage(input, tensors);
  std::vector<uint8_t> bytes = content;
  if (input.below(4) == 0) bytes.resize(input.below(static_cast<uint32_t>(content.size()) + 99));
  // Numbers that are none, among others.
  for (uint32_t count = input.below(8); count > 0 && !bytes.empty(); --count) {
    const uint32_t at = input.below(static_cast<uint32_t>(bytes.size()));
    const uint32_t value = input.flag() ? 0x7fc00000u : input.word();
    std::memcpy(bytes.data() + at, &value, std::min<size_t>(4, bytes.size() - at));
  }
  const MemoryFile file(bytes), other(input.bytes(input.below(40)));
  std::vector<FileSpec> files{{file.path(), bytes.size()}};
  if (input.below(8) == 0) files[0].size = nearSize(input, bytes.size());
  if (input.flag()) files.push_back({other.path(), input.below(40)});

  std::shared_ptr<DeviceContext> context = DeviceContext::open(cpuOps(), {1, nullptr}, kMostBytes);
  try {
    use(std::make_shared<Model>(context, smallConfig(), files, std::move(tensors)));
  } catch (const Error& error) {
    REQUIRE(error.what()[0] != '\0');
  }
  REQUIRE(context->heldBytes() == 0);
  return 0;
}
