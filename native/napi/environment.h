// What one JavaScript environment (main thread or worker thread) needs beside its objects: a way
// back from other threads, and the executors to wait for before it goes.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "core/executor.h"

namespace anchorcoder {

// Runs tasks on the environment's thread. May outlive the environment: tasks are dropped then.
class Channel {
 public:
  using Task = std::function<void(Napi::Env)>;

  explicit Channel(Napi::Env env);
  void post(Task task);  // from any thread
  // On the environment's thread: promises under way keep the process alive.
  void hold(Napi::Env env);
  void release(Napi::Env env);
  void close();

 private:
  static void call(napi_env env, napi_value callback, void* context, void* data);

  std::mutex mutex_;
  napi_threadsafe_function function_ = nullptr;  // null once closed
  int holds_ = 0;
};

class Environment {
 public:
  explicit Environment(Napi::Env env);
  static Environment& of(Napi::Env env);

  const std::shared_ptr<Channel>& channel() const { return channel_; }
  std::shared_ptr<Executor> createExecutor(std::shared_ptr<Model> model, uint64_t prefixBytes);
  // Forgets executors whose thread has ended.
  void reap();

 private:
  static void cleanUp(Environment* self);

  std::shared_ptr<Channel> channel_;
  std::vector<std::shared_ptr<Executor>> executors_;
};

// A promise that is settled from another thread.
class Settler {
 public:
  explicit Settler(Napi::Env env);

  Napi::Promise promise() const { return deferred_->Promise(); }
  // Makes the value on the environment's thread.
  void resolve(std::function<Napi::Value(Napi::Env)> make) const;
  void reject(const Error& error) const;

 private:
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Napi::Promise::Deferred> deferred_;
};

Napi::Error toJavaScript(Napi::Env env, const Error& error);

}  // namespace anchorcoder
