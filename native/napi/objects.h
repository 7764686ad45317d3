// The objects that JavaScript gets: plain ones whose functions hold what they work on.
#pragma once

#include <napi.h>

#include <memory>

#include "core/executor.h"

namespace anchorcoder {

// A promise of a NativeModel (types/native.ts).
Napi::Value loadModel(const Napi::CallbackInfo& info);

Napi::Object sessionObject(Napi::Env env, std::shared_ptr<Executor> executor,
                           std::shared_ptr<Session> session);

}  // namespace anchorcoder
