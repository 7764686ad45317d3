// Attention of a tile of query rows over one group of keys, compiled once per instruction set (see
// kernels.h).
//
// In a score a lane is a key and the sum runs over the head's dimensions in order; in an output a
// lane is a dimension and the sum runs over the keys in order. So the bits of a row depend neither
// on the rows beside it nor on how keys and dimensions are shared out to registers. A key outside
// a row's range gets weight 0, which adds exactly nothing.

namespace anchorcoder {
namespace {

void storeRow(DType storage, const float* key, const float* value, int32_t headDim, int32_t row,
              void* block);  // rows.inl

namespace attention {

inline constexpr bool kManyRegisters = ISA >= 2;  // 32 instead of 16
inline constexpr int32_t kTileRows = kManyRegisters ? 12 : 6;
// The fewest vectors of a step; values come in multiples of 16 floats, keys of 32.
inline constexpr int32_t kLeastVectors = kManyRegisters ? 1 : 2;
inline constexpr int32_t kLeastKeys = kLeastVectors * kLanes;

// Vectors of keys, or of dimensions, per step of R rows: enough accumulators to hide the latency,
// few enough for the registers.
constexpr int32_t vectorsFor(int32_t rows) {
  if (kManyRegisters) return rows <= 2 ? 8 : rows <= 4 ? 4 : 2;
  return rows == 1 ? 8 : rows == 2 ? 4 : 2;
}

// Kernels exist for these numbers of rows; others work on rows of zeros too.
constexpr int32_t paddedRows(int32_t rows) {
  if (rows <= 4) return rows;
  if (rows <= 6) return 6;
  return kManyRegisters && rows <= 8 ? 8 : kTileRows;
}

inline Floats fromBytes(const char* p) {
#if ISA >= 2
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif ISA == 1
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  Ints lanes = {};
  for (int32_t i = 0; i < kLanes; ++i) lanes[i] = static_cast<int8_t>(p[i]);
  return __builtin_convertvector(lanes, Floats);
#endif
}

// kLanes stored elements from element `at` on; an int8 without its scale.
template <DType T>
inline Floats loadStored(const char* base, int32_t at) {
  const char* p = base + static_cast<ptrdiff_t>(at) * static_cast<ptrdiff_t>(dtypeBytes(T));
  if constexpr (T == DType::f32) return load(p);
  if constexpr (T == DType::f16) return fromF16(loadHalves(p));
  if constexpr (T == DType::bf16) return fromBf16(loadHalves(p));
  if constexpr (T == DType::i8) return fromBytes(p);
}

// The block that holds key `key` of the tile's group.
inline const char* blockOf(const AttentionTile& tile, int32_t key) {
  return static_cast<const char*>(tile.blocks[key / kBlockRows - tile.span.lo / kBlockRows]);
}

void pack(const float* const* rows, int32_t count, int32_t headDim, float scale, float* packed) {
  const int32_t padded = paddedRows(count);
  for (int32_t d = 0; d < headDim; ++d) {
    for (int32_t r = 0; r < padded; ++r) {
      packed[d * padded + r] = r < count ? rows[r][d] * scale : 0.0f;
    }
  }
}

// Scores of R rows with C vectors of keys from `key` on. Two neighbours share a block.
template <DType T, int32_t R, int32_t C>
inline void scoreVectors(const AttentionTile& tile, int32_t key) {
  const char* keysOf[C];
#pragma GCC unroll 16
  for (int32_t c = 0; c < C; c += 2) {
    const int32_t first = key + c * kLanes;
    keysOf[c] = blockOf(tile, first) + static_cast<size_t>(first % kBlockRows) * dtypeBytes(T);
  }
  Floats sums[R][C] = {};
  const float* query = tile.query;
  for (int32_t d = 0; d < tile.headDim; ++d, query += R) {
    Floats keys[C];
#pragma GCC unroll 16
    for (int32_t c = 0; c < C; ++c) {
      keys[c] = loadStored<T>(keysOf[c / 2 * 2], d * kBlockRows + c % 2 * kLanes);
    }
#pragma GCC unroll 16
    for (int32_t r = 0; r < R; ++r) {
      const Floats q = broadcast(query[r]);
#pragma GCC unroll 16
      for (int32_t c = 0; c < C; ++c) sums[r][c] = multiplyAdd(q, keys[c], sums[r][c]);
    }
  }
#pragma GCC unroll 16
  for (int32_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int32_t c = 0; c < C; ++c) {
      store(tile.scores + r * kScoreStride + key + c * kLanes, sums[r][c]);
    }
  }
}

template <DType T, int32_t R, int32_t C>
inline void scoreKeys(const AttentionTile& tile, int32_t key, int32_t end) {
  for (; key + C * kLanes <= end; key += C * kLanes) scoreVectors<T, R, C>(tile, key);
  if constexpr (C > kLeastVectors) scoreKeys<T, R, C / 2>(tile, key, end);
}

// Weighted values of R rows in C vectors of dimensions from `column` on.
template <DType T, int32_t R, int32_t C>
inline void sumColumns(const AttentionTile& tile, int32_t stride, int32_t column) {
  Floats sums[R][C] = {};
  for (int32_t key = tile.span.lo; key < tile.span.hi;) {
    const int32_t blockEnd = (key / kBlockRows + 1) * kBlockRows;
    const int32_t end = blockEnd < tile.span.hi ? blockEnd : tile.span.hi;
    const char* values = blockOf(tile, key) + blockValueOffset(T, tile.headDim);
    int32_t at = key % kBlockRows * stride + column;
    for (; key < end; ++key, at += stride) {
      Floats row[C];
#pragma GCC unroll 16
      for (int32_t c = 0; c < C; ++c) row[c] = loadStored<T>(values, at + c * kLanes);
#pragma GCC unroll 16
      for (int32_t r = 0; r < R; ++r) {
        const Floats weight = broadcast(tile.scores[r * kScoreStride + key]);
#pragma GCC unroll 16
        for (int32_t c = 0; c < C; ++c) sums[r][c] = multiplyAdd(weight, row[c], sums[r][c]);
      }
    }
  }
#pragma GCC unroll 16
  for (int32_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int32_t c = 0; c < C; ++c) {
      // + 0 makes of -0, which trailing weights of 0 may or may not have done, a 0.
      store(tile.result.output + r * stride + column + c * kLanes, sums[r][c] + 0.0f);
    }
  }
}

template <DType T, int32_t R, int32_t C>
inline void sumValues(const AttentionTile& tile, int32_t stride, int32_t column) {
  for (; column + C * kLanes <= stride; column += C * kLanes) {
    sumColumns<T, R, C>(tile, stride, column);
  }
  if constexpr (C > kLeastVectors) sumValues<T, R, C / 2>(tile, stride, column);
}

// Multiplies a row of scores or weights by the scales of its keys (0) or values (1).
inline void applyScales(const AttentionTile& tile, int32_t part, RowRange keys, float* row) {
  const size_t offset = blockScaleOffset(DType::i8, tile.headDim) +
                        static_cast<size_t>(part * kBlockRows) * sizeof(float);
  for (int32_t key = keys.lo; key < keys.hi; key += kLanes) {
    const char* scales = blockOf(tile, key) + offset;
    store(row + key, load(row + key) * loadStored<DType::f32>(scales, key % kBlockRows));
  }
}

inline void fill(float* row, int32_t from, int32_t to, float value) {
  for (int32_t i = from; i < to; ++i) row[i] = value;
}

// e^x of x <= 0, as `exponential` but without what large x need. 0 where that is no normal number.
inline Floats weightOf(Floats x) {
  const Floats lowest = broadcast(-87.33654f);
  const Floats inside = x < lowest ? lowest : x;  // a NaN stays
  // Adding 1.5 * 2^23 rounds to an integer, whose bits are then the lowest of the sum.
  const Floats shifted = multiplyAdd(inside, broadcast(1.44269504f), broadcast(12582912.0f));
  const Floats n = shifted - 12582912.0f;
  Floats r = multiplyAdd(n, broadcast(-0.693359375f), inside);  // ln 2 in two parts
  r = multiplyAdd(n, broadcast(2.12194440e-4f), r);
  Floats p = broadcast(0.0013814596459269524f);
  p = multiplyAdd(p, r, broadcast(0.0083687175065279f));
  p = multiplyAdd(p, r, broadcast(0.04166838899254799f));
  p = multiplyAdd(p, r, broadcast(0.1666652113199234f));
  p = multiplyAdd(p, r, broadcast(0.4999999403953552f));
  p = multiplyAdd(p * r, r, r) + 1.0f;
  const Floats scaled = p * (Floats)(((Bits)shifted << 23) + 0x3f800000u);
  return x < lowest ? Floats{} : scaled;
}

// Turns the scores of one row into weights; `keys` are those that have been scored.
inline void softmaxRow(const AttentionTile& tile, RowRange range, RowRange keys, float* row,
                       float* maximum, float* sum) {
  if (range.lo >= range.hi) {
    *maximum = -__builtin_inff();
    *sum = 0.0f;
    return;
  }
  if (tile.softcap > 0.0f) {
    for (int32_t key = keys.lo; key < keys.hi; key += kLanes) {
      store(row + key, tile.softcap * hyperbolicTangent(load(row + key) / tile.softcap));
    }
  }
  fill(row, keys.lo, range.lo, -__builtin_inff());  // their weight becomes exactly 0
  fill(row, range.hi, keys.hi, -__builtin_inff());
  Floats largest = broadcast(-__builtin_inff());
  for (int32_t key = keys.lo; key < keys.hi; key += kLanes) {
    largest = larger(load(row + key), largest);
  }
  *maximum = largestLane(largest);
  Floats total = {};  // lane i: the keys i, i + kLanes, ... of the group
  for (int32_t key = keys.lo; key < keys.hi; key += kLanes) {
    const Floats weight = weightOf(load(row + key) - *maximum);
    store(row + key, weight);
    total += weight;
  }
  *sum = sumLanes(total);
}

template <DType T, int32_t R>
void partialOf(const AttentionTile& tile) {
  const RowRange keys = {tile.span.lo / kLeastKeys * kLeastKeys,
                         (tile.span.hi + kLeastKeys - 1) / kLeastKeys * kLeastKeys};
  int32_t key = keys.lo;
  if (key % (2 * kLanes) != 0) {  // steps of several vectors start with a pair
    scoreVectors<T, R, 1>(tile, key);
    key += kLanes;
  }
  scoreKeys<T, R, vectorsFor(R)>(tile, key, keys.hi);
  for (int32_t r = 0; r < tile.rows; ++r) {
    float* row = tile.scores + r * kScoreStride;
    if (T == DType::i8) applyScales(tile, 0, keys, row);
    softmaxRow(tile, tile.ranges[r], keys, row, tile.result.maxima + r, tile.result.sums + r);
    if (T == DType::i8) applyScales(tile, 1, keys, row);
  }
  sumValues<T, R, vectorsFor(R)>(tile, valueStride(tile.headDim), 0);
}

template <DType T>
void partialAs(const AttentionTile& tile) {
  switch (paddedRows(tile.rows)) {
    case 1:
      return partialOf<T, 1>(tile);
    case 2:
      return partialOf<T, 2>(tile);
    case 3:
      return partialOf<T, 3>(tile);
    case 4:
      return partialOf<T, 4>(tile);
    case 6:
      return partialOf<T, 6>(tile);
    case 8:
      if constexpr (kManyRegisters) return partialOf<T, 8>(tile);
      [[fallthrough]];
    default:
      return partialOf<T, kTileRows>(tile);
  }
}

void partial(const AttentionTile& tile) {
  switch (tile.storage) {
    case DType::f32:
      return partialAs<DType::f32>(tile);
    case DType::f16:
      return partialAs<DType::f16>(tile);
    case DType::bf16:
      return partialAs<DType::bf16>(tile);
    case DType::i8:
      return partialAs<DType::i8>(tile);
  }
}

void merge(const Partial& from, int32_t count, int32_t stride, const Partial& into) {
  for (int32_t r = 0; r < count; ++r) {
    if (from.sums[r] == 0.0f) continue;
    const float* source = from.output + r * stride;
    float* target = into.output + r * stride;
    if (into.sums[r] == 0.0f) {
      into.maxima[r] = from.maxima[r];
      into.sums[r] = from.sums[r];
      for (int32_t d = 0; d < stride; d += kLanes) store(target + d, load(source + d));
      continue;
    }
    const float maximum = from.maxima[r] > into.maxima[r] ? from.maxima[r] : into.maxima[r];
    const Floats old = exponential(broadcast(into.maxima[r] - maximum));
    const Floats added = exponential(broadcast(from.maxima[r] - maximum));
    into.maxima[r] = maximum;
    into.sums[r] = into.sums[r] * old[0] + from.sums[r] * added[0];
    for (int32_t d = 0; d < stride; d += kLanes) {
      store(target + d, multiplyAdd(load(source + d), added, load(target + d) * old));
    }
  }
}

void finish(const float* values, float sum, int32_t headDim, float* output) {
  if (sum == 0.0f) return fill(output, 0, headDim, 0.0f);
  const float inverse = 1.0f / sum;
  int32_t d = 0;
  for (; d + kLanes <= headDim; d += kLanes) store(output + d, load(values + d) * inverse);
  if (d < headDim) storePart(output + d, load(values + d) * inverse, headDim - d);
}

}  // namespace attention

AttentionKernels attentionKernels() {
  return {attention::kTileRows, attention::pack,   attention::partial,
          attention::merge,     attention::finish, storeRow};
}

}  // namespace
}  // namespace anchorcoder
