// A device that has been opened, with an account of the memory taken from it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/ops.h"

namespace anchorcoder {

// Thread-safe. Memory taken through it keeps it alive.
class DeviceContext : public std::enable_shared_from_this<DeviceContext> {
 public:
  // `maxBytes` 0: no limit; `limit` is what errors call it. Throws Error (device).
  static std::shared_ptr<DeviceContext> open(const Ops* ops, const OpenOptions& options,
                                             uint64_t maxBytes, const char* limit = "maxMemory");
  ~DeviceContext();
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;

  const Ops& ops() const { return *ops_; }
  Device* device() const { return device_; }
  const DeviceInfo& info() const { return info_; }

  // Zeroed and aligned to 64 bytes. Throws Error (outOfMemory), naming `what`.
  void* allocate(size_t bytes, const char* what);
  void release(void* memory, size_t bytes) noexcept;
  // Counts memory that is not taken from the device (mapped files) against the limit.
  void account(uint64_t bytes, const char* what);
  void unaccount(uint64_t bytes) noexcept { held_ -= bytes; }

  uint64_t heldBytes() const { return held_; }
  std::atomic<uint64_t> cacheBytes{0};  // of them, blocks of caches
  // Throws Error unless `status` is ok.
  void check(Status status, const char* what) const;

 private:
  DeviceContext(const Ops* ops, Device* device, uint64_t maxBytes, const char* limit);

  const Ops* ops_;
  Device* device_;
  DeviceInfo info_{};
  uint64_t maxBytes_;
  const char* limit_;  // a literal
  std::atomic<uint64_t> held_{0};
};

// Bytes of others that were counted against the limit; given back at its end.
class DeviceAccount {
 public:
  explicit DeviceAccount(std::shared_ptr<DeviceContext> context) : context_(std::move(context)) {}
  ~DeviceAccount() { context_->unaccount(bytes_); }
  DeviceAccount(const DeviceAccount&) = delete;
  DeviceAccount& operator=(const DeviceAccount&) = delete;

  void add(uint64_t bytes, const char* what) {
    context_->account(bytes, what);
    bytes_ += bytes;
  }
  // The same, from nothing to `bytes`, unless more is counted already.
  void growTo(uint64_t bytes, const char* what) {
    if (bytes > bytes_) add(bytes - bytes_, what);
  }
  void clear() noexcept {
    context_->unaccount(bytes_);
    bytes_ = 0;
  }

 private:
  std::shared_ptr<DeviceContext> context_;
  uint64_t bytes_ = 0;
};

// Device memory with one owner.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::shared_ptr<DeviceContext> context, size_t bytes, const char* what)
      : context_(std::move(context)), bytes_(bytes), memory_(context_->allocate(bytes, what)) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer() {
    if (memory_) context_->release(memory_, bytes_);
  }

  void* get() const { return memory_; }
  float* floats() const { return static_cast<float*>(memory_); }
  size_t bytes() const { return bytes_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(bytes_, other.bytes_);
    std::swap(memory_, other.memory_);
  }

  std::shared_ptr<DeviceContext> context_;
  size_t bytes_ = 0;
  void* memory_ = nullptr;
};

}  // namespace anchorcoder
