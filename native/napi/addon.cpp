// What the addon exports to JavaScript.
#include <napi.h>

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("version", Napi::String::New(env, ANCHORCODER_VERSION));
  return exports;
}

}  // namespace

NODE_API_MODULE(anchorcoder, init)
