// Writing keys and values into cache blocks, compiled once per instruction set (see kernels.h).

namespace anchorcoder {
namespace {
namespace rows {

// Part of a row: all lanes, or the first `count` at a row's end.
inline Floats loadLanes(const float* x, int32_t count) {
  return count < kLanes ? loadPart(x, count) : load(x);
}

inline Floats largestMagnitudes(const float* x, int32_t size) {
  Floats largest = {};
  for (int32_t d = 0; d < size; d += kLanes) {
    largest = larger(magnitude(loadLanes(x + d, size - d)), largest);  // passes over a NaN
  }
  return largest;
}

// The bits of quantizeInt8.
inline Ints quantizeLanes(Floats x, float inverse) {
  const Floats scaled = x * inverse;
  const Floats above = scaled > -127.0f ? scaled : broadcast(-127.0f);
  const Floats inside = smaller(above, broadcast(127.0f));
  return (Ints)(inside + 12582912.0f) - 0x4b400000;  // 1.5 * 2^23 rounds, nearest even
}

// Writes lanes of a stored type to places `step` elements apart.
template <typename Lanes, typename Element>
inline void scatter(Lanes lanes, int32_t count, int32_t step, Element* to) {
  const int32_t written = count < kLanes ? count : kLanes;
  for (int32_t i = 0; i < written; ++i) to[i * step] = static_cast<Element>(lanes[i]);
}

// The row of a key is a column of its block (step = kBlockRows), that of a value is contiguous.
template <DType T>
inline void storeVector(const float* x, int32_t size, int32_t step, void* to, float* scale) {
  float inverse = 0.0f;
  if constexpr (T == DType::i8) {
    *scale = int8Scale(largestLane(largestMagnitudes(x, size)));
    inverse = 1.0f / *scale;
    if (!(inverse <= 3.4e38f)) inverse = 0.0f;  // a row of zeros, or too small to tell from it
  }
  for (int32_t d = 0; d < size; d += kLanes) {
    const int32_t at = d * step, count = size - d;
    const Floats lanes = loadLanes(x + d, count);
    if constexpr (T == DType::f32) {
      scatter(lanes, count, step, static_cast<float*>(to) + at);
    } else if constexpr (T == DType::f16) {
      // An infinity would reach rows that don't see this one, as 0 times infinity.
      const Floats most = broadcast(65504.0f);
      const Floats above = lanes < -most ? -most : lanes;
      const Floats inside = above > most ? most : above;
      scatter(toF16(inside), count, step, static_cast<uint16_t*>(to) + at);
    } else if constexpr (T == DType::bf16) {
      scatter(toBf16(lanes), count, step, static_cast<uint16_t*>(to) + at);
    } else {
      scatter(quantizeLanes(lanes, inverse), count, step, static_cast<int8_t*>(to) + at);
    }
  }
}

template <DType T>
void storeRowAs(const float* key, const float* value, int32_t headDim, int32_t row, void* block) {
  constexpr size_t size = dtypeBytes(T);
  char* bytes = static_cast<char*>(block);
  float* scales = nullptr;
  if constexpr (T == DType::i8) {
    scales = reinterpret_cast<float*>(bytes + blockScaleOffset(T, headDim)) + row;
  }
  const auto r = static_cast<size_t>(row);
  char* valueRow =
      bytes + blockValueOffset(T, headDim) + r * static_cast<size_t>(valueStride(headDim)) * size;
  storeVector<T>(key, headDim, kBlockRows, bytes + r * size, scales);
  storeVector<T>(value, headDim, 1, valueRow, scales ? scales + kBlockRows : nullptr);
}

}  // namespace rows

void storeRow(DType storage, const float* key, const float* value, int32_t headDim, int32_t row,
              void* block) {
  switch (storage) {
    case DType::f32:
      return rows::storeRowAs<DType::f32>(key, value, headDim, row, block);
    case DType::f16:
      return rows::storeRowAs<DType::f16>(key, value, headDim, row, block);
    case DType::bf16:
      return rows::storeRowAs<DType::bf16>(key, value, headDim, row, block);
    case DType::i8:
      return rows::storeRowAs<DType::i8>(key, value, headDim, row, block);
  }
}

}  // namespace
}  // namespace anchorcoder
