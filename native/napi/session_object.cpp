// NativeSession of types/native.ts.
#include <utility>

#include "convert.h"
#include "environment.h"
#include "objects.h"

namespace anchorcoder {

namespace {

using SharedHandle = std::shared_ptr<SessionHandle>;

// What the garbage collector is told that a session's object holds, so that sessions which nobody
// disposes don't pile up unseen. On the JavaScript thread alone.
class ExternalMemory {
 public:
  static std::shared_ptr<ExternalMemory> of(const Napi::Object& object) {
    auto memory = std::make_shared<ExternalMemory>();
    object.AddFinalizer(
        [](Napi::Env env, std::shared_ptr<ExternalMemory>* held) {
          (*held)->report(env, 0);
          (*held)->gone_ = true;
          delete held;
        },
        new std::shared_ptr<ExternalMemory>(memory));
    return memory;
  }

  void report(Napi::Env env, uint64_t bytes) {
    // Of an object that is gone its functions may be left.
    if (gone_) return;
    const auto now = static_cast<int64_t>(bytes);
    Napi::MemoryManagement::AdjustExternalMemory(env, now - reported_);
    reported_ = now;
  }

 private:
  int64_t reported_ = 0;
  bool gone_ = false;
};

LogitsWanted toLogitsWanted(const Napi::Value& value) {
  const std::string text = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (text == "none") return LogitsWanted::none;
  if (text == "last") return LogitsWanted::last;
  if (text == "all") return LogitsWanted::all;
  throw Error(ErrorCode::invalidArgument, "Expected logits to be none, last or all");
}

// A promise that `start` settles later, or fails at once.
template <typename Start>
Napi::Value promise(Napi::Env env, Start&& start) {
  const Settler settler(env);
  try {
    start(settler);
  } catch (const Error& error) {
    settler.reject(error);
  } catch (const std::exception&) {
    settler.reject(Error(ErrorCode::outOfMemory, "There is no memory left"));
  }
  return settler.promise();
}

Napi::Value append(const SharedHandle& handle, const Napi::CallbackInfo& info) {
  const auto ids = toUint32s(info[0], "ids");
  const LogitsWanted wanted = toLogitsWanted(info[1]);
  const auto session = handle->open();
  return promise(info.Env(), [&](const Settler& settler) {
    handle->executor().append(
        session, ids, wanted,
        [handle, settler, wanted](std::vector<float> logits, const Error* error) {
          if (error) return settler.reject(*error);
          auto values = std::make_shared<std::vector<float>>(std::move(logits));
          settler.resolve([values, wanted](Napi::Env env) -> Napi::Value {
            if (wanted == LogitsWanted::none) return env.Undefined();
            return toFloat32Array(env, std::move(*values));
          });
        });
  });
}

GenerateOptions toGenerateOptions(const Napi::Object& spec, int32_t vocabSize) {
  GenerateOptions options;
  options.maxTokens = readInt(spec, "maxTokens");
  options.sampler.temperature = readFloat(spec, "temperature");
  options.sampler.topK = readInt(spec, "topK");
  options.sampler.topP = readFloat(spec, "topP");
  options.sampler.minP = readFloat(spec, "minP");
  options.sampler.repetitionPenalty = readFloat(spec, "repetitionPenalty");
  options.sampler.logprobs = readBool(spec, "logprobs");
  options.sampler.topLogprobs = readInt(spec, "topLogprobs");
  const Napi::Value seed = spec.Get("seed");
  if (!seed.IsBigInt()) throw Error(ErrorCode::invalidArgument, "Expected seed to be a bigint");
  bool lossless = false;
  options.sampler.seed = seed.As<Napi::BigInt>().Uint64Value(&lossless);
  options.eosIds = readIds(spec, "eosIds", vocabSize);
  options.bannedIds = readIds(spec, "bannedIds", vocabSize);
  options.newlineIds = readIds(spec, "newlineIds", vocabSize);
  options.forcedAnchor = readInt(spec, "forcedAnchor");
  if (options.forcedAnchor >= vocabSize) {
    throw Error(ErrorCode::invalidArgument, "Expected forcedAnchor to be an id of the vocabulary");
  }
  return options;
}

const char* finishText(Finish finish) {
  return finish == Finish::stop ? "stop" : finish == Finish::length ? "length" : "";
}

Napi::Value batchObject(Napi::Env env, const GeneratedBatch& batch, bool logprobs) {
  std::vector<int32_t> ids, ends, topIds;
  std::vector<float> own, anchors, top;
  for (const GeneratedToken& token : batch.tokens) {
    ids.push_back(token.id);
    ends.push_back(token.end);
    if (!logprobs) continue;
    own.push_back(token.sample.logprob);
    anchors.push_back(token.anchorLogprob);
    for (const TokenLogprob& alternative : token.sample.top) {
      topIds.push_back(alternative.id);
      top.push_back(alternative.logprob);
    }
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("ids", toTypedArray<uint32_t>(env, ids));
  object.Set("ends", toTypedArray<uint32_t>(env, ends));
  object.Set("logprobs", toTypedArray<float>(env, own));
  object.Set("anchorLogprobs", toTypedArray<float>(env, anchors));
  object.Set("topIds", toTypedArray<uint32_t>(env, topIds));
  object.Set("topLogprobs", toTypedArray<float>(env, top));
  object.Set("finish", Napi::String::New(env, finishText(batch.finish)));
  return object;
}

Napi::Value startGenerate(const SharedHandle& handle, const std::shared_ptr<bool>& logprobs,
                          const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw Error(ErrorCode::invalidArgument, "Expected a specification");
  const auto session = handle->open();
  const int32_t vocabSize = session->model().config().vocabSize;
  GenerateOptions options = toGenerateOptions(info[0].As<Napi::Object>(), vocabSize);
  const bool wanted = options.sampler.logprobs;
  handle->executor().startGenerate(session, std::move(options));
  *logprobs = wanted;
  return info.Env().Undefined();
}

Napi::Value read(const SharedHandle& handle, const std::shared_ptr<bool>& logprobs,
                 const Napi::CallbackInfo& info) {
  const int32_t commit = toInt(info[0], "commit");
  const auto session = handle->open();
  return promise(info.Env(), [&](const Settler& settler) {
    handle->executor().read(
        session, commit,
        [handle, settler, wanted = *logprobs](GeneratedBatch batch, const Error* error) {
          if (error) return settler.reject(*error);
          auto shared = std::make_shared<GeneratedBatch>(std::move(batch));
          settler.resolve(
              [shared, wanted](Napi::Env env) { return batchObject(env, *shared, wanted); });
        });
  });
}

Napi::Value endGenerate(const SharedHandle& handle, const Napi::CallbackInfo& info) {
  const int32_t position = toInt(info[0], "position");
  const auto session = handle->open();
  return promise(info.Env(), [&](const Settler& settler) {
    handle->executor().endGenerate(session, position, [handle, settler](const Error* error) {
      if (error) return settler.reject(*error);
      settler.resolve([](Napi::Env env) { return env.Undefined(); });
    });
  });
}

Napi::Value statsObject(Napi::Env env, const SessionStats& stats) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("position", stats.position);
  object.Set("cached", stats.cached);
  object.Set("anchors", stats.anchors);
  object.Set("insertedAnchors", stats.insertedAnchors);
  object.Set("rows", toTypedArray<uint32_t>(env, stats.rows));
  object.Set("mirrorRows", stats.mirrorRows);
  object.Set("bytes", static_cast<double>(stats.bytes));
  object.Set("rowBytes", static_cast<double>(stats.rowBytes));
  object.Set("reused", stats.reused);
  return object;
}

}  // namespace

Napi::Object sessionObject(Napi::Env env, std::shared_ptr<Lease> lease,
                           std::shared_ptr<Session> session) {
  const auto handle = std::make_shared<SessionHandle>(std::move(lease), std::move(session));
  const auto logprobs = std::make_shared<bool>(false);
  Napi::Object object = Napi::Object::New(env);
  using Info = const Napi::CallbackInfo&;
  setMethod(object, "append", [handle](Info info) { return append(handle, info); });
  setMethod(object, "startGenerate",
            [handle, logprobs](Info info) { return startGenerate(handle, logprobs, info); });
  setMethod(object, "read", [handle, logprobs](Info info) { return read(handle, logprobs, info); });
  const auto external = ExternalMemory::of(object);
  setMethod(object, "endGenerate", [handle, external](Info info) {
    external->report(info.Env(), handle->open()->stats().bytes);
    return endGenerate(handle, info);
  });
  setMethod(object, "abort", [handle](Info info) {
    if (handle->session) handle->executor().abort(handle->session);
    return info.Env().Undefined();
  });
  setMethod(object, "truncate", [handle](Info info) {
    handle->executor().truncate(handle->open(), toInt(info[0], "position"));
    return info.Env().Undefined();
  });
  setMethod(object, "fork", [handle](Info info) -> Napi::Value {
    const int32_t position = toInt(info[0], "position");
    const int32_t context = toInt(info[1], "contextLength");
    auto copy = handle->executor().fork(handle->open(), position, context);
    return sessionObject(info.Env(), handle->lease, std::move(copy));
  });
  setMethod(object, "snapshot", [handle](Info info) -> Napi::Value {
    const auto source = handle->open();
    auto copy = handle->executor().fork(source, source->stats().position);
    return snapshotObject(info.Env(), handle->lease, std::move(copy));
  });
  setMethod(object, "ids", [handle](Info info) {
    return toTypedArray<uint32_t>(info.Env(), handle->executor().ids(handle->open()));
  });
  // Asked for at the beginning, and after every text that was read.
  setMethod(object, "stats", [handle, external](Info info) {
    const SessionStats stats = handle->open()->stats();
    external->report(info.Env(), stats.bytes);
    return statsObject(info.Env(), stats);
  });
  setMethod(object, "dispose", [handle, external](Info info) {
    external->report(info.Env(), 0);
    handle->dispose();
    return info.Env().Undefined();
  });
  object.DefineProperty(
      Napi::PropertyDescriptor::Accessor(env, object, "cached", [handle](Info info) -> Napi::Value {
        const int32_t cached = handle->session ? handle->session->progress.load() : 0;
        return Napi::Number::New(info.Env(), cached);
      }));
  return object;
}

}  // namespace anchorcoder
