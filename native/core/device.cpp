// Opening a device and accounting for its memory.
#include "core/device.h"

#include <string>

#include "core/error.h"

namespace anchorcoder {

std::shared_ptr<DeviceContext> DeviceContext::open(const Ops* ops, const OpenOptions& options,
                                                   uint64_t maxBytes, const char* limit) {
  if (ops->version != kOpsVersion || ops->size != sizeof(Ops)) {
    throw Error(ErrorCode::device, "Expected a device of contract version " +
                                       std::to_string(kOpsVersion) + ", but it has version " +
                                       std::to_string(ops->version));
  }
  Device* device = nullptr;
  const Status status = ops->open(&options, &device);
  if (status != Status::ok) {
    std::string reason = ops->lastError(nullptr);
    throw Error(status == Status::outOfMemory ? ErrorCode::outOfMemory : ErrorCode::device,
                reason.empty() ? "The device cannot be opened" : reason);
  }
  return std::shared_ptr<DeviceContext>(new DeviceContext(ops, device, maxBytes, limit));
}

DeviceContext::DeviceContext(const Ops* ops, Device* device, uint64_t maxBytes, const char* limit)
    : ops_(ops), device_(device), maxBytes_(maxBytes), limit_(limit) {
  ops_->info(device_, &info_);
}

DeviceContext::~DeviceContext() { ops_->close(device_); }

void DeviceContext::account(uint64_t bytes, const char* what) {
  const uint64_t before = held_.fetch_add(bytes);
  if (maxBytes_ != 0 && (bytes > maxBytes_ || before > maxBytes_ - bytes)) {
    held_ -= bytes;
    throw Error(ErrorCode::outOfMemory, std::string("Expected ") + what + " to fit " + limit_ +
                                            " (" + std::to_string(maxBytes_) + " bytes), but " +
                                            std::to_string(before) + " bytes are in use and " +
                                            std::to_string(bytes) + " more are needed");
  }
}

void* DeviceContext::allocate(size_t bytes, const char* what) {
  account(bytes, what);
  void* memory = ops_->alloc(device_, bytes);
  if (!memory) {
    held_ -= bytes;
    throw Error(ErrorCode::outOfMemory, std::string("The device has no memory left for ") + what +
                                            " (" + std::to_string(bytes) + " bytes)");
  }
  return memory;
}

void DeviceContext::release(void* memory, size_t bytes) noexcept {
  ops_->free(device_, memory);
  held_ -= bytes;
}

void DeviceContext::check(Status status, const char* what) const {
  if (status == Status::ok) return;
  const std::string reason = ops_->lastError(device_);
  throw Error(status == Status::outOfMemory ? ErrorCode::outOfMemory : ErrorCode::device,
              std::string(what) + ": " + (reason.empty() ? "the device failed" : reason));
}

}  // namespace anchorcoder
