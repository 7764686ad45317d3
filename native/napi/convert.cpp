// Argument checks and typed arrays.
#include "convert.h"

#include <cmath>
#include <limits>
#include <memory>

namespace anchorcoder {

namespace {

[[noreturn]] void expected(const char* name, const char* what) {
  throw Error(ErrorCode::invalidArgument, std::string("Expected ") + name + " to be " + what);
}

double readNumber(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber()) expected(name, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

}  // namespace

float readFloat(const Napi::Object& object, const char* name) {
  const double number = readNumber(object, name);
  if (!(std::abs(number) <= static_cast<double>(std::numeric_limits<float>::max()))) {
    expected(name, "a finite number of 32 bits");
  }
  return static_cast<float>(number);
}

int32_t toInt(const Napi::Value& value, const char* name) {
  if (!value.IsNumber()) expected(name, "a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(std::abs(number) <= 2147483647.0) || number != std::trunc(number)) {
    expected(name, "a whole number of 32 bits");
  }
  return static_cast<int32_t>(number);
}

int32_t readInt(const Napi::Object& object, const char* name) {
  return toInt(object.Get(name), name);
}

uint64_t readSize(const Napi::Object& object, const char* name) {
  const double number = readNumber(object, name);
  if (!(number >= 0 && number <= 9007199254740991.0) || number != std::trunc(number)) {
    expected(name, "a whole number from 0 up");
  }
  return static_cast<uint64_t>(number);
}

bool readBool(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsBoolean()) expected(name, "a boolean");
  return value.As<Napi::Boolean>();
}

std::string readString(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsString()) expected(name, "a string");
  return value.As<Napi::String>();
}

Napi::Object readObject(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsObject()) expected(name, "an object");
  return value.As<Napi::Object>();
}

Napi::Array readArray(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsArray()) expected(name, "an array");
  return value.As<Napi::Array>();
}

Napi::Object objectAt(const Napi::Array& array, uint32_t index, const char* name) {
  const Napi::Value value = array.Get(index);
  if (!value.IsObject()) expected(name, "an array of objects");
  return value.As<Napi::Object>();
}

std::vector<uint32_t> toUint32s(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint32_array) {
    expected(name, "a Uint32Array");
  }
  const auto array = value.As<Napi::Uint32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<uint8_t> readBytes(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    expected(name, "a Uint8Array");
  }
  const auto array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

DType readWeightType(const Napi::Object& object, const char* name) {
  const std::string type = readString(object, name);
  if (type == "F32") return DType::f32;
  if (type == "F16") return DType::f16;
  if (type == "BF16") return DType::bf16;
  expected(name, "F32, F16 or BF16");
}

std::vector<int32_t> readIds(const Napi::Object& object, const char* name, int32_t vocabSize) {
  std::vector<int32_t> ids;
  for (const uint32_t id : toUint32s(object.Get(name), name)) {
    if (id >= static_cast<uint32_t>(vocabSize)) expected(name, "ids of the vocabulary");
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

Napi::Value toFloat32Array(Napi::Env env, std::vector<float> values) {
  const size_t count = values.size();
  if (count > 0) {
    auto owned = std::make_unique<std::vector<float>>(std::move(values));
    napi_value buffer = nullptr;
    const napi_status status = napi_create_external_arraybuffer(
        env, owned->data(), count * sizeof(float),
        [](napi_env, void*, void* hint) { delete static_cast<std::vector<float>*>(hint); },
        owned.get(), &buffer);
    if (status == napi_ok) {
      static_cast<void>(owned.release());
      return Napi::Float32Array::New(env, count, Napi::ArrayBuffer(env, buffer), 0);
    }
    values = std::move(*owned);
  }
  return toTypedArray<float>(env, values);
}

}  // namespace anchorcoder
