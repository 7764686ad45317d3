// Counting of NaN and infinities by their bits.
#include "core/scan.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace anchorcoder {

namespace {

// A number whose exponent is all ones is infinite where nothing else is set, else NaN. In chunks
// whose counts fit the element's own width or more, so that compilers count in vectors.
template <typename Bits>
NonFinite countBits(const uint8_t* bytes, uint64_t count, Bits exponent, Bits magnitude) {
  constexpr uint64_t kChunk = 4096;
  Bits chunk[kChunk];
  NonFinite found;
  for (uint64_t done = 0; done < count; done += kChunk) {
    const uint64_t size = std::min(kChunk, count - done);
    std::memcpy(chunk, bytes + done * sizeof(Bits), size * sizeof(Bits));
    uint32_t nan = 0, infinite = 0;
    for (uint64_t i = 0; i < size; ++i) {
      const Bits value = chunk[i] & magnitude;
      nan += value > exponent;
      infinite += value == exponent;
    }
    found.nan += nan;
    found.infinite += infinite;
  }
  return found;
}

}  // namespace

NonFinite countNonFinite(DType type, const uint8_t* bytes, uint64_t count) {
  switch (type) {
    case DType::f32:
      return countBits<uint32_t>(bytes, count, 0x7f800000u, 0x7fffffffu);
    case DType::bf16:
      return countBits<uint16_t>(bytes, count, 0x7f80u, 0x7fffu);
    case DType::f16:
      return countBits<uint16_t>(bytes, count, 0x7c00u, 0x7fffu);
    case DType::i8:
      break;
  }
  return {};
}

NonFinite countNonFinite(const FileSpec& file, DType type, uint64_t offset, uint64_t length) {
  const MappedFile mapped(file);
  uint64_t end = 0;
  const size_t size = dtypeBytes(type);
  if (__builtin_add_overflow(offset, length, &end) || end > mapped.size() || length % size != 0) {
    throw Error(ErrorCode::modelInvalid, "Expected " + std::to_string(length) + " bytes at " +
                                             std::to_string(offset) + " to be elements inside " +
                                             file.path);
  }
  return length == 0 ? NonFinite{} : countNonFinite(type, mapped.data() + offset, length / size);
}

}  // namespace anchorcoder
