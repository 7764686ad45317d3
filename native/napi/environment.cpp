// The way back to JavaScript, and the order in which an environment goes.
#include "environment.h"

#include <algorithm>
#include <utility>

namespace anchorcoder {

Channel::Channel(Napi::Env env) {
  const napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "anchorcoder"),
                                      0, 1, nullptr, nullptr, nullptr, call, &function_);
  if (status != napi_ok) throw Napi::Error::New(env, "Cannot create a thread-safe function");
  // It starts referenced and would keep the process alive.
  napi_unref_threadsafe_function(env, function_);
}

void Channel::post(Task task) {
  const std::lock_guard lock(mutex_);
  if (!function_) return;
  auto owned = std::make_unique<Task>(std::move(task));
  if (napi_call_threadsafe_function(function_, owned.get(), napi_tsfn_nonblocking) == napi_ok) {
    static_cast<void>(owned.release());
  }
}

void Channel::call(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Task> task(static_cast<Task*>(data));
  if (!env) return;  // the environment is going
  const Napi::HandleScope scope(env);
  try {
    (*task)(Napi::Env(env));
  } catch (const Napi::Error&) {
    // The environment is being terminated and runs no JavaScript any more: nobody waits.
  }
}

void Channel::hold(Napi::Env env) {
  const std::lock_guard lock(mutex_);
  if (function_ && holds_++ == 0) napi_ref_threadsafe_function(env, function_);
}

void Channel::release(Napi::Env env) {
  const std::lock_guard lock(mutex_);
  if (function_ && --holds_ == 0) napi_unref_threadsafe_function(env, function_);
}

void Channel::close() {
  const std::lock_guard lock(mutex_);
  if (!function_) return;
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
  function_ = nullptr;
}

Environment::Environment(Napi::Env env) : channel_(std::make_shared<Channel>(env)) {
  // A cleanup hook and not the destructor: teardown waits for the thread-safe function's release,
  // and the destructor would wait for teardown.
  env.AddCleanupHook(cleanUp, this);
}

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

void Environment::cleanUp(Environment* self) {
  // Closed first, so that no executor calls a function that is going.
  self->channel_->close();
  for (const auto& executor : self->executors_) executor->stop();
  // Objects that JavaScript still holds keep executors alive; their threads must not go on.
  for (const auto& executor : self->executors_) executor->join();
  self->executors_.clear();
}

std::shared_ptr<Executor> Environment::createExecutor(std::shared_ptr<Model> model,
                                                      uint64_t prefixBytes) {
  const auto stopped = [channel = channel_] {
    channel->post([](Napi::Env env) { of(env).reap(); });
  };
  auto executor = std::make_shared<Executor>(std::move(model), stopped, prefixBytes);
  executors_.push_back(executor);
  return executor;
}

void Environment::reap() {
  std::erase_if(executors_, [](const auto& executor) { return executor->finished(); });
}

Settler::Settler(Napi::Env env)
    : channel_(Environment::of(env).channel()),
      deferred_(std::make_shared<Napi::Promise::Deferred>(env)) {
  channel_->hold(env);
}

void Settler::resolve(std::function<Napi::Value(Napi::Env)> make) const {
  channel_->post([channel = channel_, deferred = deferred_, make = std::move(make)](Napi::Env env) {
    channel->release(env);
    try {
      deferred->Resolve(make(env));
    } catch (const Napi::Error& error) {
      deferred->Reject(error.Value());
    } catch (const std::bad_alloc&) {
      const Error error(ErrorCode::outOfMemory, "There is no memory left for the result");
      deferred->Reject(toJavaScript(env, error).Value());
    }
  });
}

void Settler::reject(const Error& error) const {
  channel_->post([channel = channel_, deferred = deferred_, error](Napi::Env env) {
    channel->release(env);
    deferred->Reject(toJavaScript(env, error).Value());
  });
}

Napi::Error toJavaScript(Napi::Env env, const Error& error) {
  Napi::Error converted = Napi::Error::New(env, error.what());
  converted.Set("code", Napi::String::New(env, errorCodeName(error.code)));
  return converted;
}

}  // namespace anchorcoder
