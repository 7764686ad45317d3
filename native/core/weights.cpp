// Mapping of model files and lookup of their tensors.
#include "core/weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/adapter.h"
#include "core/elements.h"
#include "core/error.h"

namespace anchorcoder {

namespace {

std::string shapeText(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + ")";
}

// Product of the shape, or -1 where it is negative or does not fit.
int64_t elementCount(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(count, size, &count)) return -1;
  }
  return count;
}

}  // namespace

MappedFile::MappedFile(const FileSpec& spec) : size_(spec.size) {
  // Opening a pipe would wait for its writer.
  const int file = ::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    throw Error(ErrorCode::modelNotFound, "Cannot open " + spec.path + ": " + std::strerror(errno));
  }
  struct stat status{};
  const bool known = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  if (!known || static_cast<uint64_t>(status.st_size) != spec.size) {
    ::close(file);
    throw Error(ErrorCode::modelInvalid, "Expected " + spec.path + " to have " +
                                             std::to_string(spec.size) +
                                             " bytes as when its header was read, but it has " +
                                             std::to_string(known ? status.st_size : 0));
  }
  void* memory = spec.size ? ::mmap(nullptr, spec.size, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
  const int reason = errno;
  ::close(file);
  if (memory == MAP_FAILED) {
    throw Error(ErrorCode::outOfMemory, "Cannot map " + spec.path + ": " + std::strerror(reason));
  }
  data_ = static_cast<const uint8_t*>(memory);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

PreparedWeight::PreparedWeight(std::shared_ptr<DeviceContext> context, const WeightDesc& desc,
                               const void* bytes)
    : context_(std::move(context)) {
  context_->check(context_->ops().prepareWeight(context_->device(), &desc, bytes, &weight_),
                  "Preparing a weight");
}

PreparedWeight::~PreparedWeight() {
  if (weight_) context_->ops().freeWeight(context_->device(), weight_);
}

void PreparedWeight::swap(PreparedWeight& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(weight_, other.weight_);
}

TensorTable::TensorTable(std::shared_ptr<DeviceContext> context, const std::vector<FileSpec>& files,
                         std::vector<TensorSpec> tensors)
    : context_(std::move(context)), account_(context_) {
  for (const FileSpec& file : files) {
    files_.push_back(std::make_unique<MappedFile>(file));
  }
  for (TensorSpec& tensor : tensors) {
    check(tensor);
    if (!tensor.parts.empty()) gather(tensor);
    if (tensor.lora) merge(tensor);
    std::string name = tensor.name;
    if (!tensors_.emplace(name, std::move(tensor)).second) {
      throw Error(ErrorCode::modelInvalid, "Tensor \"" + name + "\" stands twice in the table");
    }
  }
  uint64_t mapped = 0;
  for (const auto& file : files_) mapped += file->size();
  account_.add(mapped, "the weights");
  mappedBytes_ = mapped;
}

void TensorTable::check(const TensorSpec& tensor) const {
  if (tensor.type == DType::i8) {  // a type of cached rows, with scales that weights don't have
    throw Error(ErrorCode::modelInvalid,
                "Expected tensor \"" + tensor.name + "\" to be of type F32, F16 or BF16");
  }
  const auto inFile = [&](uint64_t offset, uint64_t length) {
    uint64_t end = 0;
    return tensor.file < files_.size() && !__builtin_add_overflow(offset, length, &end) &&
           end <= files_[tensor.file]->size();
  };
  bool inside = tensor.parts.empty() ? inFile(tensor.offset, tensor.length) : true;
  uint64_t total = 0;
  for (const auto& part : tensor.parts) {
    inside = inside && inFile(part.offset, part.length) &&
             !__builtin_add_overflow(total, part.length, &total);
  }
  const int64_t count = elementCount(tensor.shape);
  uint64_t expected = 0;
  const bool fits =
      count >= 0 &&
      !__builtin_mul_overflow(static_cast<uint64_t>(count), dtypeBytes(tensor.type), &expected) &&
      expected == tensor.length && (tensor.parts.empty() || total == expected);
  if (inside && fits) return;
  throw Error(ErrorCode::modelInvalid,
              "Expected tensor \"" + tensor.name + "\" of shape " + shapeText(tensor.shape) +
                  " to lie inside its file with " + std::to_string(expected) + " bytes");
}

std::vector<uint8_t> TensorTable::copy(const TensorSpec& tensor) const {
  const uint8_t* file = files_[tensor.file]->data();
  std::vector<uint8_t> memory;
  memory.reserve(tensor.length);
  const auto add = [&](uint64_t offset, uint64_t length) {
    memory.insert(memory.end(), file + offset, file + offset + length);
  };
  if (tensor.parts.empty()) add(tensor.offset, tensor.length);
  for (const auto& part : tensor.parts) add(part.offset, part.length);
  return memory;
}

std::vector<float> TensorTable::floats(const TensorSpec& tensor) const {
  const std::vector<uint8_t> memory = copy(tensor);
  std::vector<float> values(memory.size() / dtypeBytes(tensor.type));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = loadElement(tensor.type, memory.data(), i);
  }
  return values;
}

void TensorTable::gather(const TensorSpec& tensor) {
  account_.add(tensor.length, "the weights");
  gathered_[tensor.name] = copy(tensor);
}

void TensorTable::merge(const TensorSpec& tensor) {
  const LoraSpec& lora = *tensor.lora;
  check(lora.a);
  check(lora.b);
  const auto& shape = tensor.shape;
  const int64_t rank = lora.a.shape.empty() ? 0 : lora.a.shape[0];
  if (shape.size() != 2 || rank < 1 || lora.a.shape != std::vector<int64_t>{rank, shape[1]} ||
      lora.b.shape != std::vector<int64_t>{shape[0], rank}) {
    throw Error(ErrorCode::modelInvalid, "Expected the adapter of \"" + tensor.name +
                                             "\" to have shapes (rank, cols) and "
                                             "(rows, rank), but it has " +
                                             shapeText(lora.a.shape) + " and " +
                                             shapeText(lora.b.shape) + " for " + shapeText(shape));
  }
  if (tensor.parts.empty()) gather(tensor);
  const std::vector<float> a = floats(lora.a), b = floats(lora.b);
  addLowRank(tensor.type, gathered_[tensor.name].data(), shape[0], shape[1],
             {a, b, rank, lora.scale}, context_->info().threads);
}

int64_t TensorTable::rows(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() || found->second.shape.empty() ? 0 : found->second.shape[0];
}

const TensorSpec& TensorTable::find(const std::string& name,
                                    const std::vector<int64_t>& shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw Error(ErrorCode::modelInvalid, "Tensor \"" + name + "\" is missing");
  }
  if (found->second.shape != shape) {
    throw Error(ErrorCode::modelInvalid, "Expected tensor \"" + name + "\" to have shape " +
                                             shapeText(shape) + ", but it has " +
                                             shapeText(found->second.shape));
  }
  return found->second;
}

const uint8_t* TensorTable::bytes(const TensorSpec& tensor) const {
  const auto gathered = gathered_.find(tensor.name);
  if (gathered != gathered_.end()) return gathered->second.data();
  return files_[tensor.file]->data() + tensor.offset;
}

PreparedWeight TensorTable::matrix(const std::string& name, int64_t rows, int64_t cols) const {
  const TensorSpec& tensor = find(name, {rows, cols});
  const WeightDesc desc{tensor.type, static_cast<int32_t>(rows), static_cast<int32_t>(cols)};
  return PreparedWeight(context_, desc, bytes(tensor));
}

DeviceBuffer TensorTable::vector(const std::string& name, int64_t size) const {
  const TensorSpec& tensor = find(name, {size});
  std::vector<float> values(static_cast<size_t>(size));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = loadElement(tensor.type, bytes(tensor), i);
  }
  DeviceBuffer buffer(context_, values.size() * sizeof(float), "the weights");
  context_->check(context_->ops().upload(context_->device(), buffer.get(), values.data(),
                                         values.size() * sizeof(float)),
                  "Uploading a weight");
  return buffer;
}

}  // namespace anchorcoder
