// The objects that JavaScript gets: plain ones whose functions hold what they work on.
#pragma once

#include <napi.h>

#include <memory>
#include <utility>

#include "core/executor.h"

namespace anchorcoder {

// Shared by a model's object and those of its sessions. When all of them are gone, disposed or
// collected, the model stops; its environment keeps the executor until its thread has ended.
struct Lease {
  explicit Lease(std::shared_ptr<Executor> leased) : executor(std::move(leased)) {}
  ~Lease() { executor->stop(); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  const std::shared_ptr<Executor> executor;
};

// A promise of a NativeModel (types/native.ts).
Napi::Value loadModel(const Napi::CallbackInfo& info);

Napi::Object sessionObject(Napi::Env env, std::shared_ptr<Lease> lease,
                           std::shared_ptr<Session> session);

}  // namespace anchorcoder
