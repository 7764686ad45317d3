// The one exception type of the engine: a stable code and a sentence.
#pragma once

#include <stdexcept>
#include <string>

namespace anchorcoder {

enum class ErrorCode {
  invalidArgument,
  modelNotFound,
  modelInvalid,
  contextLength,
  position,
  busy,
  disposed,
  aborted,
  outOfMemory,
  device,
};

// The name that JavaScript sees, one of ErrorCode in types/api.ts.
inline const char* errorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalidArgument:
      return "ERR_INVALID_ARGUMENT";
    case ErrorCode::modelNotFound:
      return "ERR_MODEL_NOT_FOUND";
    case ErrorCode::modelInvalid:
      return "ERR_MODEL_INVALID";
    case ErrorCode::contextLength:
      return "ERR_CONTEXT_LENGTH";
    case ErrorCode::position:
      return "ERR_POSITION";
    case ErrorCode::busy:
      return "ERR_BUSY";
    case ErrorCode::disposed:
      return "ERR_DISPOSED";
    case ErrorCode::aborted:
      return "ERR_ABORTED";
    case ErrorCode::outOfMemory:
      return "ERR_OUT_OF_MEMORY";
    case ErrorCode::device:
      return "ERR_DEVICE";
  }
  return "ERR_DEVICE";
}

class Error : public std::runtime_error {
 public:
  Error(ErrorCode errorCode, const std::string& message)
      : std::runtime_error(message), code(errorCode) {}
  ErrorCode code;
};

}  // namespace anchorcoder
