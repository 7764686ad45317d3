// Reading arguments and making values. What is read here has been validated in lib/; these checks
// keep memory safe whatever arrives.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/ops.h"
#include "environment.h"

namespace anchorcoder {

float readFloat(const Napi::Object& object, const char* name);  // finite
int32_t readInt(const Napi::Object& object, const char* name);
uint64_t readSize(const Napi::Object& object, const char* name);  // 0 to 2^53
bool readBool(const Napi::Object& object, const char* name);
std::string readString(const Napi::Object& object, const char* name);
Napi::Object readObject(const Napi::Object& object, const char* name);
Napi::Array readArray(const Napi::Object& object, const char* name);
Napi::Object objectAt(const Napi::Array& array, uint32_t index, const char* name);
std::vector<uint8_t> readBytes(const Napi::Object& object, const char* name);  // a Uint8Array
DType readWeightType(const Napi::Object& object, const char* name);
std::vector<int32_t> readIds(const Napi::Object& object, const char* name, int32_t vocabSize);

// Throws Error (invalidArgument) unless `value` is a Uint32Array.
std::vector<uint32_t> toUint32s(const Napi::Value& value, const char* name);
int32_t toInt(const Napi::Value& value, const char* name);

// Hands the memory over where the runtime allows it, and copies it elsewhere.
Napi::Value toFloat32Array(Napi::Env env, std::vector<float> values);

template <typename T, typename Source>
Napi::Value toTypedArray(Napi::Env env, const std::vector<Source>& values) {
  auto array = Napi::TypedArrayOf<T>::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array[i] = static_cast<T>(values[i]);
  return array;
}

// Adds a method that turns Error into a JavaScript exception. State travels in the function, not in
// `this`, so calling it on a foreign object is harmless.
template <typename Function>
void setMethod(Napi::Object object, const char* name, Function function) {
  const auto guarded = [function =
                            std::move(function)](const Napi::CallbackInfo& info) -> Napi::Value {
    try {
      return function(info);
    } catch (const Error& error) {
      throw toJavaScript(info.Env(), error);
    } catch (const std::bad_alloc&) {
      throw toJavaScript(info.Env(), Error(ErrorCode::outOfMemory, "There is no memory left"));
    }
  };
  object.Set(name, Napi::Function::New(object.Env(), guarded, name));
}

}  // namespace anchorcoder
