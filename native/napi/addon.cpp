// What the addon exports to JavaScript: NativeAddon of types/native.ts.
#include <napi.h>

#include <algorithm>

#include "convert.h"
#include "cpu/cpu.h"
#include "cpu/threads.h"
#include "environment.h"
#include "objects.h"

namespace {

using namespace anchorcoder;

Napi::Value instructionSetNames(const Napi::CallbackInfo& info) {
  auto sets = instructionSets();
  std::reverse(sets.begin(), sets.end());  // best last
  Napi::Array names = Napi::Array::New(info.Env(), sets.size());
  for (uint32_t i = 0; i < names.Length(); ++i) {
    names.Set(i, Napi::String::New(info.Env(), sets[i]));
  }
  return names;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  exports.Set("version", Napi::String::New(env, ANCHORCODER_VERSION));
  setMethod(exports, "instructionSets", instructionSetNames);
  setMethod(exports, "defaultThreads", [](const Napi::CallbackInfo& info) -> Napi::Value {
    return Napi::Number::New(info.Env(), defaultThreads());
  });
  setMethod(exports, "loadModel", loadModel);
  setMethod(exports, "countNonFinite",
            [](const Napi::CallbackInfo& info) { return countNonFinite(info); });
  return exports;
}

}  // namespace

NODE_API_MODULE(anchorcoder, init)
