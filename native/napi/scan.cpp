// countNonFinite of types/native.ts, off the JavaScript thread.
#include "core/scan.h"

#include <optional>
#include <utility>

#include "convert.h"
#include "objects.h"

namespace anchorcoder {

namespace {

class ScanWorker : public Napi::AsyncWorker {
 public:
  ScanWorker(Napi::Env env, FileSpec file, DType type, uint64_t offset, uint64_t length)
      : AsyncWorker(env),
        deferred_(env),
        file_(std::move(file)),
        type_(type),
        offset_(offset),
        length_(length) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      found_ = countNonFinite(file_, type_, offset_, length_);
    } catch (const Error& error) {
      failure_ = error;
    } catch (const std::exception& error) {
      failure_.emplace(ErrorCode::outOfMemory, error.what());
    }
  }

  void OnOK() override {
    if (failure_) return deferred_.Reject(toJavaScript(Env(), *failure_).Value());
    Napi::Object object = Napi::Object::New(Env());
    object.Set("nan", static_cast<double>(found_.nan));
    object.Set("infinite", static_cast<double>(found_.infinite));
    deferred_.Resolve(object);
  }

 private:
  Napi::Promise::Deferred deferred_;
  FileSpec file_;
  DType type_;
  uint64_t offset_, length_;
  NonFinite found_;
  std::optional<Error> failure_;
};

}  // namespace

Napi::Value countNonFinite(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw Error(ErrorCode::invalidArgument, "Expected a specification");
  const auto spec = info[0].As<Napi::Object>();
  FileSpec file{readString(spec, "path"), readSize(spec, "size")};
  const DType type = readWeightType(spec, "dtype");
  const uint64_t offset = readSize(spec, "offset"), length = readSize(spec, "length");
  auto* worker = new ScanWorker(info.Env(), std::move(file), type, offset, length);
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace anchorcoder
