// A promise whose work is done on libuv's pool, where the reads of files wait too: for what is
// rare.
#pragma once

#include <napi.h>

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "core/error.h"
#include "environment.h"

namespace anchorcoder {

class PromiseWorker : public Napi::AsyncWorker {
 public:
  static Napi::Promise start(std::unique_ptr<PromiseWorker> worker) {
    const Napi::Promise promise = worker->deferred_.Promise();
    worker.release()->Queue();  // deletes itself
    return promise;
  }

 protected:
  // `subject` is what there may be no memory for, in a sentence.
  PromiseWorker(Napi::Env env, const char* subject)
      : AsyncWorker(env), deferred_(env), subject_(subject) {}

  // Both may throw Error: the first on the pool, the second on the environment's thread.
  virtual void work() = 0;
  virtual Napi::Value result() = 0;

 private:
  template <typename Call>
  void attempt(Call&& call) {
    try {
      call();
    } catch (const Error& error) {
      failure_ = error;
    } catch (const Napi::Error&) {
      throw;  // the environment is going: there is nobody to tell
    } catch (const std::system_error& error) {
      failure_.emplace(ErrorCode::outOfMemory,
                       std::string("No thread for ") + subject_ + ": " + error.what());
    } catch (const std::exception&) {
      failure_.emplace(ErrorCode::outOfMemory,
                       std::string("There is no memory left for ") + subject_);
    }
  }

  void Execute() final {
    attempt([this] { work(); });
  }

  void OnOK() final {
    Napi::Value value;
    if (!failure_) attempt([&] { value = result(); });
    if (failure_) return deferred_.Reject(toJavaScript(Env(), *failure_).Value());
    deferred_.Resolve(value);
  }

  Napi::Promise::Deferred deferred_;
  const char* subject_;
  std::optional<Error> failure_;
};

}  // namespace anchorcoder
