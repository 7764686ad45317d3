// Files and tables of tensors that lie: each is refused with a code, nothing is read beyond a file
// and nothing stays behind.
#include "core/model.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "engine_fixture.h"

namespace {

using namespace engine_test;

struct Description {
  ModelConfig config = tinyConfig();
  std::vector<FileSpec> files;
  std::vector<TensorSpec> tensors;

  explicit Description(const ModelFile& file) : files{file.spec()}, tensors(file.tensors) {}

  TensorSpec& tensor(const std::string& part) {
    for (TensorSpec& tensor : tensors) {
      if (tensor.name.find(part) != std::string::npos) return tensor;
    }
    throw std::runtime_error("no tensor " + part);
  }
};

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
constexpr int64_t kMostSigned = std::numeric_limits<int64_t>::max();

// The code that loading fails with; none where it goes well. All memory comes back either way.
std::optional<ErrorCode> load(const Description& description, uint64_t maxBytes = 0) {
  const auto context = DeviceContext::open(cpuOps(), {1, nullptr}, maxBytes);
  const auto code = codeOf([&] {
    const Model model(context, description.config, description.files, description.tensors);
    CHECK(context->heldBytes() >= description.files[0].size);
    CHECK_EQ(model.mappedBytes(), description.files[0].size);
  });
  CHECK_EQ(context->heldBytes(), uint64_t{0});
  CHECK_EQ(context.use_count(), 1);
  return code;
}

const ModelFile& file() {
  static const ModelFile made(tinyConfig());
  return made;
}

template <typename Change>
bool isInvalid(Change change) {
  Description description(file());
  change(description);
  return load(description) == ErrorCode::modelInvalid;
}

TEST(a_whole_model_loads) {
  const Description description(file());
  CHECK(!load(description));
  CHECK(load(description, description.files[0].size + 100) == ErrorCode::outOfMemory);
  CHECK(load(description, 100) == ErrorCode::outOfMemory);
}

TEST(tensors_outside_of_their_file) {
  CHECK(isInvalid([](auto& d) { d.tensor("norm").offset = d.files[0].size; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").offset = d.files[0].size - 1; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").offset = kMost; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").offset = kMost - 127; }));  // wraps to 0
  CHECK(isInvalid([](auto& d) { d.tensor("norm").length = kMost; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").file = 1; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").file = ~0u; }));
  CHECK(isInvalid([](auto& d) { d.files.clear(); }));
  // The last bytes of a file are fine.
  Description description(file());
  description.tensor("norm").offset = description.files[0].size - 128;
  CHECK(!load(description));
}

TEST(shapes_that_do_not_fit_their_bytes) {
  CHECK(isInvalid([](auto& d) { d.tensor("norm").length -= 4; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").type = DType::bf16; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").shape = {31}; }));
  CHECK(isInvalid([](auto& d) {  // whose bytes would fit
    d.tensor("norm").type = DType::i8;
    d.tensor("norm").length = 32;
  }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").shape = {}; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").shape = {-32}; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").shape = {-1, -32}; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").shape = {kMostSigned, kMostSigned}; }));
  // Products that come out right modulo 2^64.
  CHECK(isInvalid(
      [](auto& d) { d.tensor("norm").shape = {int64_t{1} << 32, int64_t{1} << 32, 32}; }));
  CHECK(isInvalid([](auto& d) { d.tensor("norm").shape = {(int64_t{1} << 62) + 32}; }));
  // The right number of bytes in another shape.
  CHECK(isInvalid([](auto& d) { d.tensor("norm").shape = {4, 8}; }));
  CHECK(isInvalid(
      [](auto& d) { std::swap(d.tensor("q_proj").shape[0], d.tensor("k_proj").shape[0]); }));
  CHECK(isInvalid([](auto& d) { d.tensor("gate_proj").shape = {32, 48}; }));
}

TEST(tensors_in_parts) {
  const auto inParts = [](Description& d, std::vector<TensorSpec::Part> parts) {
    d.tensor("q_proj.weight").parts = std::move(parts);
  };
  const uint64_t offset = Description(file()).tensor("q_proj.weight").offset;
  const uint64_t length = 32 * 32 * 4;
  Description description(file());
  inParts(description, {{offset, 100}, {offset + 100, length - 100}});
  CHECK(!load(description));
  CHECK(isInvalid([&](auto& d) { inParts(d, {{offset, length}, {offset, 4}}); }));
  CHECK(isInvalid([&](auto& d) { inParts(d, {{offset, length - 4}}); }));
  CHECK(isInvalid([&](auto& d) { inParts(d, {{offset, length - 8}, {d.files[0].size - 4, 8}}); }));
  CHECK(isInvalid([&](auto& d) { inParts(d, {{offset, length}, {kMost - 3, 4}}); }));
  CHECK(isInvalid([&](auto& d) { inParts(d, {{0, length + 1}, {0, kMost}}); }));
  CHECK(isInvalid([&](auto& d) {
    inParts(d, {{offset, length}});
    d.tensor("q_proj.weight").file = 7;
  }));
  CHECK(isInvalid([&](auto& d) {  // accounts for one part's copy are given back with the rest
    inParts(d, {{offset, length}});
    d.tensors.back().offset = kMost;
  }));
}

TEST(tables_that_are_not_complete) {
  CHECK(isInvalid([](auto& d) { d.tensors.clear(); }));
  CHECK(isInvalid([](auto& d) { d.tensors.push_back(d.tensors[0]); }));
  // Biases and the head may be missing, and gates only all together.
  const Description whole(file());
  for (size_t i = 0; i < whole.tensors.size(); ++i) {
    Description description(file());
    const std::string name = description.tensors[i].name;
    description.tensors.erase(description.tensors.begin() + static_cast<std::ptrdiff_t>(i));
    const bool optional = name.find("bias") != std::string::npos || name == "lm_head.weight";
    CHECK(load(description) == (optional ? std::nullopt : std::optional(ErrorCode::modelInvalid)));
  }
  Description plain(file());
  std::erase_if(plain.tensors, [](const TensorSpec& tensor) {
    return tensor.name.find("gate_proj") != std::string::npos;
  });
  CHECK(!load(plain));
}

TEST(sizes_that_make_no_sense) {
  for (auto member :
       {&ModelConfig::layers, &ModelConfig::hiddenSize, &ModelConfig::intermediateSize,
        &ModelConfig::heads, &ModelConfig::kvHeads, &ModelConfig::headDim, &ModelConfig::vocabSize,
        &ModelConfig::contextLength}) {
    for (const int32_t value :
         {0, -1, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
      CHECK(isInvalid([&](auto& d) { d.config.*member = value; }));
    }
  }
  CHECK(isInvalid([](auto& d) { d.config.kvHeads = 3; }));
  CHECK(isInvalid([](auto& d) { d.config.layers = kLayers + 1; }));
  CHECK(isInvalid([](auto& d) { d.config.ropes[0].rotaryDims = 10; }));
  CHECK(isInvalid([](auto& d) { d.config.ropes[0].rotaryDims = 3; }));
  CHECK(isInvalid([](auto& d) { d.config.ropes[0].rotaryDims = -8; }));
  CHECK(isInvalid([](auto& d) { d.config.ropes[0].inverseFrequencies.pop_back(); }));
  CHECK(isInvalid([](auto& d) { d.config.windows = {1, 2, 3}; }));
  CHECK(isInvalid([](auto& d) { d.config.windows = {1, 2, 3, -1}; }));
  CHECK(isInvalid([](auto& d) { d.config.layerRopes = {0, 0, 0, 1}; }));
  CHECK(isInvalid([](auto& d) { d.config.layerRopes = {0, 0, 0, -1}; }));
  CHECK(isInvalid([](auto& d) { d.config.originalContext = 5; }));
  CHECK(isInvalid([](auto& d) { d.config.experts = {4, 5, 8, false}; }));
  CHECK(isInvalid([](auto& d) { d.config.experts = {-4, 1, 8, false}; }));
  CHECK(isInvalid([](auto& d) {
    d.config.experts = {4, 2, 8, false};
    d.config.parallelBlock = true;
  }));
  CHECK(isInvalid([](auto& d) {  // a router, but no experts
    d.tensor("up_proj").name = "model.layers.0.mlp.router.weight";
  }));
  CHECK(isInvalid([](auto& d) {
    d.tensors.push_back({"model.layers.0.mlp.router.weight", DType::f32, {0, 32}, 0, 0, 0, {}});
  }));
}

// Random lies: refused or, where they hit nothing that matters, run.
TEST(random_tables) {
  std::mt19937 random(21);
  int32_t loaded = 0;
  for (int32_t round = 0; round < 2000; ++round) {
    Description description(file());
    for (auto changes = random() % 3; changes <= 2; ++changes) {
      TensorSpec& tensor = description.tensors[random() % description.tensors.size()];
      const uint64_t values[] = {
          0, 1, 3, kMost, kMost / 2, uint64_t{1} << 32, random(), description.files[0].size};
      const uint64_t value = values[random() % 8];
      switch (random() % 5) {
        case 0:
          tensor.offset = value;
          break;
        case 1:
          tensor.length = value;
          break;
        case 2:
          tensor.file = static_cast<uint32_t>(value);
          break;
        case 3:
          tensor.shape[random() % tensor.shape.size()] = static_cast<int64_t>(value);
          break;
        default:
          tensor.parts.assign(random() % 4, {value, tensor.length});
      }
    }
    const auto code = load(description);
    if (!code) ++loaded;
    CHECK(!code || *code == ErrorCode::modelInvalid);
  }
  CHECK(loaded > 0 && loaded < 1000);
}

// An offset that no type would be aligned at: the weights are read in place.
TEST(a_file_at_odd_offsets) {
  const std::string path = file().path + "-odd";
  for (const uint64_t shift : {1, 2, 7}) {
    Description description(file());
    {
      std::vector<char> bytes(description.files[0].size + shift);
      std::FILE* from = std::fopen(file().path.c_str(), "rb");
      CHECK_EQ(std::fread(bytes.data() + shift, 1, bytes.size() - shift, from),
               bytes.size() - shift);
      std::fclose(from);
      std::FILE* to = std::fopen(path.c_str(), "wb");
      std::fwrite(bytes.data(), 1, bytes.size(), to);
      std::fclose(to);
    }
    const auto logits = [](const Description& d) {
      auto context = DeviceContext::open(cpuOps(), {1, nullptr}, 0);
      auto model = std::make_shared<Model>(context, d.config, d.files, d.tensors);
      Engine engine(model);
      return engine.append(engine.open(anchorPolicy()), randomText(1, 30), LogitsWanted::all);
    };
    const Floats expected = logits(description);
    description.files[0] = {path, description.files[0].size + shift};
    for (TensorSpec& tensor : description.tensors) tensor.offset += shift;
    CHECK(sameBits(logits(description), expected));
  }
  std::filesystem::remove(path);
}

TEST(files_that_are_not_what_they_were) {
  const std::string path = file().path + "-other";
  Description description(file());
  description.files[0].path = path;
  CHECK(load(description) == ErrorCode::modelNotFound);
  std::filesystem::copy_file(file().path, path);
  CHECK(!load(description));
  std::filesystem::resize_file(path, description.files[0].size - 1);
  CHECK(load(description) == ErrorCode::modelInvalid);
  std::filesystem::resize_file(path, description.files[0].size + 1);
  CHECK(load(description) == ErrorCode::modelInvalid);
  std::filesystem::resize_file(path, 0);
  CHECK(load(description) == ErrorCode::modelInvalid);
  description.files[0].size = 0;
  CHECK(load(description) == ErrorCode::modelInvalid);
  std::filesystem::remove(path);

  // Not files at all; a pipe without a writer must not be waited for.
  description.files[0] = {std::filesystem::temp_directory_path().string(), 4096};
  CHECK(load(description) == ErrorCode::modelInvalid);
  CHECK_EQ(::mkfifo(path.c_str(), 0600), 0);
  description.files[0] = {path, 0};
  CHECK(load(description) == ErrorCode::modelInvalid);
  std::filesystem::remove(path);
  description.files[0] = {"/dev/null", 0};
  CHECK(load(description) == ErrorCode::modelInvalid);
}

TEST(devices_that_cannot_be_opened) {
  const auto open = [](int32_t threads, const char* set) {
    return codeOf([&] { DeviceContext::open(cpuOps(), {threads, set}, 0); });
  };
  CHECK(!open(0, nullptr));
  CHECK(!open(-5, nullptr));
  CHECK(open(1, "no such set") == ErrorCode::device);
  Ops old = *cpuOps();
  old.version = 0;
  CHECK(codeOf([&] { DeviceContext::open(&old, {1, nullptr}, 0); }) == ErrorCode::device);
}

TEST(sessions_that_cannot_be_opened) {
  Engine engine;
  const auto open = [&](Policy policy, int32_t context) {
    return codeOf([&] { engine.executor->createSession(std::move(policy), context, DType::f32); });
  };
  CHECK(!open(fullPolicy(), kContext));
  CHECK(open(fullPolicy(), kContext + 1) == ErrorCode::invalidArgument);
  CHECK(open(fullPolicy(), 0) == ErrorCode::invalidArgument);
  CHECK(open(fullPolicy(), -1) == ErrorCode::invalidArgument);
  Policy policy = fullPolicy();
  policy.dense.pop_back();
  CHECK(open(policy, 10) == ErrorCode::invalidArgument);
}

}  // namespace
