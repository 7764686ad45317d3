// NativeSnapshot and NativeRestore of types/native.ts: the rows of a session, in and out.
#include <memory>
#include <utility>

#include "convert.h"
#include "core/snapshot.h"
#include "objects.h"

namespace anchorcoder {

namespace {

// The stream goes before the session that it walks over.
struct Streaming {
  Streaming(std::shared_ptr<Lease> lease, const std::shared_ptr<Session>& session)
      : handle(std::move(lease), session), rows(handle.executor().openRows(session)) {}

  SessionHandle handle;
  RowStream rows;
};

Napi::Uint8Array toBytes(const Napi::Value& value) {
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
    return value.As<Napi::Uint8Array>();
  }
  throw Error(ErrorCode::invalidArgument, "Expected a Uint8Array");
}

}  // namespace

Napi::Object snapshotObject(Napi::Env env, std::shared_ptr<Lease> lease,
                            std::shared_ptr<Session> session) {
  const auto streaming = std::make_shared<Streaming>(std::move(lease), session);
  const SessionState state = streaming->handle.executor().state(session);
  Napi::Object object = Napi::Object::New(env);
  using Info = const Napi::CallbackInfo&;
  object.Set("ids", toTypedArray<uint32_t>(env, state.ids));
  object.Set("cached", state.cached);
  object.Set("released", toTypedArray<uint32_t>(env, state.released));
  object.Set("saved", toTypedArray<uint32_t>(env, state.saved));
  object.Set("rowBytes", static_cast<double>(state.rowBytes));
  setMethod(object, "read", [streaming](Info info) -> Napi::Value {
    SessionHandle& handle = streaming->handle;
    auto bytes = toBytes(info[0]);
    const size_t count = handle.executor().readRows(handle.open(), streaming->rows,
                                                    {bytes.Data(), bytes.ElementLength()});
    return Napi::Number::New(info.Env(), static_cast<double>(count));
  });
  setMethod(object, "dispose", [streaming](Info info) {
    streaming->handle.dispose();
    return info.Env().Undefined();
  });
  return object;
}

Napi::Object restoreObject(Napi::Env env, std::shared_ptr<Lease> lease,
                           std::shared_ptr<Session> session) {
  const auto streaming = std::make_shared<Streaming>(std::move(lease), session);
  Napi::Object object = Napi::Object::New(env);
  using Info = const Napi::CallbackInfo&;
  setMethod(object, "write", [streaming](Info info) {
    SessionHandle& handle = streaming->handle;
    const auto bytes = toBytes(info[0]);
    const auto target = handle.open();
    const size_t count =
        handle.executor().writeRows(target, streaming->rows, {bytes.Data(), bytes.ElementLength()});
    if (count == bytes.ElementLength()) return info.Env().Undefined();
    throw Error(ErrorCode::invalidArgument, "Expected no more bytes than the rows have");
  });
  setMethod(object, "finish", [streaming](Info info) -> Napi::Value {
    SessionHandle& handle = streaming->handle;
    auto restored = handle.open();
    if (!streaming->rows.done()) {
      throw Error(ErrorCode::invalidArgument, "Expected all bytes of the rows to be written");
    }
    Napi::Object result = sessionObject(info.Env(), handle.lease, std::move(restored));
    handle.session = nullptr;  // it is the result's now
    return result;
  });
  setMethod(object, "dispose", [streaming](Info info) {
    streaming->handle.dispose();
    return info.Env().Undefined();
  });
  return object;
}

}  // namespace anchorcoder
