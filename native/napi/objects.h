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
// NativeAddon.countNonFinite.
Napi::Value countNonFinite(const Napi::CallbackInfo& info);

// Shared by the functions of one object and the promises that they made. With the last of them
// goes the session, and a generation that nobody can read any more.
struct SessionHandle {
  SessionHandle(std::shared_ptr<Lease> leased, std::shared_ptr<Session> opened)
      : lease(std::move(leased)), session(std::move(opened)) {}
  ~SessionHandle() { dispose(); }
  SessionHandle(const SessionHandle&) = delete;
  SessionHandle& operator=(const SessionHandle&) = delete;

  Executor& executor() const { return *lease->executor; }
  // Held by the caller: reading arguments may run JavaScript that disposes.
  std::shared_ptr<Session> open() const {
    if (!session) throw Error(ErrorCode::disposed, "The session has been disposed");
    return session;
  }
  void dispose() noexcept {
    if (const auto closing = std::exchange(session, nullptr)) executor().dispose(closing);
  }

  const std::shared_ptr<Lease> lease;
  std::shared_ptr<Session> session;  // null once disposed
};

// A NativeSession, NativeSnapshot and NativeRestore of types/native.ts.
Napi::Object sessionObject(Napi::Env env, std::shared_ptr<Lease> lease,
                           std::shared_ptr<Session> session);
// `session` is a fork of its own.
Napi::Object snapshotObject(Napi::Env env, std::shared_ptr<Lease> lease,
                            std::shared_ptr<Session> session);
Napi::Object restoreObject(Napi::Env env, std::shared_ptr<Lease> lease,
                           std::shared_ptr<Session> session);

}  // namespace anchorcoder
