// Model files, mapped and never copied whole, and the tensors in them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/device.h"
#include "core/ops.h"

namespace anchorcoder {

struct FileSpec {
  std::string path;
  uint64_t size;
};

struct LoraSpec;

struct TensorSpec {
  std::string name;
  DType type;
  std::vector<int64_t> shape;
  uint32_t file;
  uint64_t offset;
  uint64_t length;
  // Where the rows lie in several places of the file: offset and length of each, in order. Such a
  // tensor is copied together.
  struct Part {
    uint64_t offset;
    uint64_t length;
  };
  std::vector<Part> parts;
  std::shared_ptr<const LoraSpec> lora = nullptr;  // none
};

// An adapter's change of a matrix (rows, cols), to be merged into a copy of it.
struct LoraSpec {
  TensorSpec a;  // (rank, cols)
  TensorSpec b;  // (rows, rank)
  float scale;
};

// A read-only mapping of a whole file. A file that another program truncates afterwards makes the
// process fault when the lost part is read (SIGBUS); the size is checked right before mapping.
class MappedFile {
 public:
  explicit MappedFile(const FileSpec& spec);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// A matrix as the device multiplies with it.
class PreparedWeight {
 public:
  PreparedWeight() = default;
  PreparedWeight(std::shared_ptr<DeviceContext> context, const WeightDesc& desc, const void* bytes);
  PreparedWeight(PreparedWeight&& other) noexcept { swap(other); }
  PreparedWeight& operator=(PreparedWeight&& other) noexcept {
    swap(other);
    return *this;
  }
  ~PreparedWeight();

  const Weight* get() const { return weight_; }

 private:
  void swap(PreparedWeight& other) noexcept;

  std::shared_ptr<DeviceContext> context_;
  Weight* weight_ = nullptr;
};

// The tensors of a model by name, every bound checked.
class TensorTable {
 public:
  // Throws Error (modelNotFound, modelInvalid).
  TensorTable(std::shared_ptr<DeviceContext> context, const std::vector<FileSpec>& files,
              std::vector<TensorSpec> tensors);
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  // Rows of a matrix, 0 where it is missing.
  int64_t rows(const std::string& name) const;
  // Throws Error (modelInvalid) where the tensor is missing or has another shape.
  PreparedWeight matrix(const std::string& name, int64_t rows, int64_t cols) const;
  DeviceBuffer vector(const std::string& name, int64_t size) const;  // as f32
  uint64_t mappedBytes() const { return mappedBytes_; }

 private:
  const TensorSpec& find(const std::string& name, const std::vector<int64_t>& shape) const;
  void check(const TensorSpec& tensor) const;
  std::vector<uint8_t> copy(const TensorSpec& tensor) const;
  std::vector<float> floats(const TensorSpec& tensor) const;
  void gather(const TensorSpec& tensor);
  void merge(const TensorSpec& tensor);
  const uint8_t* bytes(const TensorSpec& tensor) const;

  std::shared_ptr<DeviceContext> context_;
  DeviceAccount account_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::unordered_map<std::string, TensorSpec> tensors_;
  // Tensors that were copied together, or with an adapter merged in, by name.
  std::unordered_map<std::string, std::vector<uint8_t>> gathered_;
  uint64_t mappedBytes_ = 0;
};

}  // namespace anchorcoder
