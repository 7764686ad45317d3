// countNonFinite of types/native.ts, off the JavaScript thread.
#include "core/scan.h"

#include <memory>

#include "convert.h"
#include "objects.h"
#include "promise_worker.h"

namespace anchorcoder {

namespace {

class ScanWorker : public PromiseWorker {
 public:
  ScanWorker(Napi::Env env, const Napi::Object& spec)
      : PromiseWorker(env, "reading weights"),
        file_{readString(spec, "path"), readSize(spec, "size")},
        type_(readWeightType(spec, "dtype")),
        offset_(readSize(spec, "offset")),
        length_(readSize(spec, "length")) {}

 private:
  void work() override { found_ = countNonFinite(file_, type_, offset_, length_); }
  Napi::Value result() override {
    Napi::Object object = Napi::Object::New(Env());
    object.Set("nan", static_cast<double>(found_.nan));
    object.Set("infinite", static_cast<double>(found_.infinite));
    return object;
  }

  FileSpec file_;
  DType type_;
  uint64_t offset_, length_;
  NonFinite found_;
};

}  // namespace

Napi::Value countNonFinite(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw Error(ErrorCode::invalidArgument, "Expected a specification");
  return PromiseWorker::start(std::make_unique<ScanWorker>(info.Env(), info[0].As<Napi::Object>()));
}

}  // namespace anchorcoder
