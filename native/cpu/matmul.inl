// Products with weights: K lies along the lanes, so that row-major weights are read in place.
//
// Every sum has one accumulator per lane, runs over K in steps of a vector, takes the last partial
// step padded with zeros and adds the lanes by one tree. Tiles only say which sums go together.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace anchorcoder {
namespace {

#if ISA >= 2
inline constexpr int32_t kProductRows = 6;
#elif ISA == 1
inline constexpr int32_t kProductRows = 3;
#else
inline constexpr int32_t kProductRows = 2;
#endif
inline constexpr int32_t kProductColumns = 4;

// A format says how a vector of x and one of weights are read and multiplied.
struct FormatF32 {
  static constexpr int32_t kStep = kLanes;
  static constexpr size_t kBytes = 4;   // of a weight
  static constexpr size_t kXBytes = 4;  // of an element of x
  static constexpr bool kWiden = true;  // worth turning into aligned f32 for many rows
  static Floats loadX(const char* p) { return load(p); }
  static Floats loadXPart(const char* p, int32_t n) { return loadPart(p, n); }
  static Floats loadWeights(const char* p) { return load(p); }
  static Floats loadWeightsPart(const char* p, int32_t n) { return loadPart(p, n); }
  static Floats multiply(Floats x, Floats w, Floats sum) { return multiplyAdd(x, w, sum); }
};

struct FormatF16 : FormatF32 {
  static constexpr size_t kBytes = 2;
  static Floats loadWeights(const char* p) { return fromF16(loadHalves(p)); }
  static Floats loadWeightsPart(const char* p, int32_t n) { return fromF16(loadHalvesPart(p, n)); }
};

struct FormatBf16 : FormatF32 {
  static constexpr size_t kBytes = 2;
  static Floats loadWeights(const char* p) { return fromBf16(loadHalves(p)); }
  static Floats loadWeightsPart(const char* p, int32_t n) { return fromBf16(loadHalvesPart(p, n)); }
};

#if ISA >= 3
// Both sides bf16: a lane takes two products at a time.
struct FormatPairs {
  static constexpr int32_t kStep = 2 * kLanes;
  static constexpr size_t kBytes = 2;
  static constexpr size_t kXBytes = 2;
  static constexpr bool kWiden = false;
  static Floats loadX(const char* p) { return load(p); }
  static Floats loadXPart(const char* p, int32_t n) {
    return (Floats)_mm512_maskz_loadu_epi16((1u << n) - 1u, p);
  }
  static Floats loadWeights(const char* p) { return load(p); }
  static Floats loadWeightsPart(const char* p, int32_t n) { return loadXPart(p, n); }
  static Floats multiply(Floats x, Floats w, Floats sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
  }
};
#endif

// One tile: rows of x times up to Columns rows of weights.
struct Tile {
  const char* x;
  size_t xStride;  // bytes
  const char* weight;
  size_t weightStride;  // bytes
  const float* bias;
  float* y;
  int64_t yStride;
  int32_t cols;
  int32_t columns;  // wanted ones; the others repeat the last
  bool add;
  // What is asked for from memory meanwhile: as many bytes as the tile's weights, which come from
  // memory in order. Null: nothing.
  const char* ahead;
};

inline void finishFour(const Tile& tile, int32_t first, Four sums, float* y) {
  const int32_t count = tile.columns - first;
  if (count >= 4) {
    if (tile.bias) sums += *reinterpret_cast<const FourAnywhere*>(tile.bias + first);
    // Not `auto*`, which forgets the alignment.
    FourAnywhere* out = reinterpret_cast<FourAnywhere*>(y + first);
    *out = tile.add ? *out + sums : sums;
    return;
  }
  for (int32_t c = 0; c < count; ++c) {
    const float sum = tile.bias ? sums[c] + tile.bias[first + c] : sums[c];
    y[first + c] = tile.add ? y[first + c] + sum : sum;
  }
}

// The hardware follows rows of weights, but begins anew with each, which for short ones costs half
// the bandwidth. Addresses behind the weights are harmless: such a request is dropped.
inline constexpr size_t kLeastAhead = 12 * 1024;  // covers the latency of memory

template <int32_t Bytes>
inline void prefetch(const char* p) {
#pragma GCC unroll 8
  for (int32_t i = 0; i < Bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

template <typename Format, int32_t Rows, int32_t Columns, bool Ahead>
void multiplyTile(const Tile& tile) {
  const char* weights[Columns];
  for (int32_t c = 0; c < Columns; ++c) {
    const int32_t wanted = c < tile.columns ? c : tile.columns - 1;
    weights[c] = tile.weight + static_cast<size_t>(wanted) * tile.weightStride;
  }
  Floats sums[Rows][Columns] = {};
  const int32_t whole = tile.cols / Format::kStep * Format::kStep;
  const char* x = tile.x;
  const char* ahead = tile.ahead;
  size_t offset = 0;
  for (int32_t k = 0; k < whole; k += Format::kStep) {
    if constexpr (Ahead) {
      constexpr int32_t kAhead = Format::kStep * static_cast<int32_t>(Format::kBytes) * Columns;
      prefetch<kAhead>(ahead);
      ahead += kAhead;
    }
    Floats xs[Rows];
#pragma GCC unroll 8
    for (int32_t r = 0; r < Rows; ++r) {
      xs[r] = Format::loadX(x + static_cast<size_t>(r) * tile.xStride);
    }
#pragma GCC unroll 8
    for (int32_t c = 0; c < Columns; ++c) {
      const Floats w = Format::loadWeights(weights[c] + offset);
#pragma GCC unroll 8
      for (int32_t r = 0; r < Rows; ++r) sums[r][c] = Format::multiply(xs[r], w, sums[r][c]);
    }
    x += static_cast<size_t>(Format::kStep) * Format::kXBytes;
    offset += static_cast<size_t>(Format::kStep) * Format::kBytes;
  }
  if (whole < tile.cols) {
    const int32_t rest = tile.cols - whole;
    Floats xs[Rows];
#pragma GCC unroll 8
    for (int32_t r = 0; r < Rows; ++r) {
      xs[r] = Format::loadXPart(x + static_cast<size_t>(r) * tile.xStride, rest);
    }
#pragma GCC unroll 8
    for (int32_t c = 0; c < Columns; ++c) {
      const Floats w = Format::loadWeightsPart(weights[c] + offset, rest);
#pragma GCC unroll 8
      for (int32_t r = 0; r < Rows; ++r) sums[r][c] = Format::multiply(xs[r], w, sums[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int32_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int32_t c = 0; c < Columns; c += 4) {
      const Four four = sumLanes4(sums[r][c], sums[r][c + 1], sums[r][c + 2], sums[r][c + 3]);
      finishFour(tile, c, four, tile.y + r * tile.yStride);
    }
  }
}

template <typename Format, bool Ahead>
void multiplyRows(const Tile& tile, int32_t rows) {
  constexpr int32_t kColumns = kProductColumns;
  switch (rows) {
    case 1:
      return multiplyTile<Format, 1, kColumns, Ahead>(tile);
    case 2:
      return multiplyTile<Format, 2, kColumns, Ahead>(tile);
#if ISA >= 1
    case 3:
      return multiplyTile<Format, 3, kColumns, Ahead>(tile);
#endif
#if ISA >= 2
    case 4:
      return multiplyTile<Format, 4, kColumns, Ahead>(tile);
    case 5:
      return multiplyTile<Format, 5, kColumns, Ahead>(tile);
    case 6:
      return multiplyTile<Format, 6, kColumns, Ahead>(tile);
#endif
    default:
      return;
  }
}

// All rows times the tile's columns, in groups of about equal height. The first one reads the
// weights from memory.
template <typename Format>
void multiplyColumns(const Product& p, Tile tile) {
  const int32_t groups = (p.rows + kProductRows - 1) / kProductRows;
  const char* x = tile.x;
  float* y = tile.y;
  for (int32_t group = 0, row = 0; group < groups; ++group) {
    const int32_t height = (p.rows - row) / (groups - group);
    tile.x = x + static_cast<size_t>(row) * tile.xStride;
    tile.y = y + row * tile.yStride;
    if (group == 0) {
      multiplyRows<Format, true>(tile, height);
    } else {
      multiplyRows<Format, false>(tile, height);
    }
    row += height;
  }
}

// Few rows: weights are read once, from memory, and turned into f32 on the way.
template <typename Format>
void multiplyInPlace(const Product& p, Tile tile) {
  const int32_t step = p.rows == 1 ? 2 * kProductColumns : kProductColumns;
  const char* weight = tile.weight;
  const size_t stepBytes = static_cast<size_t>(step) * tile.weightStride;
  const size_t distance = stepBytes < kLeastAhead ? kLeastAhead : stepBytes;
  for (int32_t n = 0; n < p.outputs; n += step) {
    tile.columns = p.outputs - n < step ? p.outputs - n : step;
    tile.weight = weight + static_cast<size_t>(n) * tile.weightStride;
    tile.ahead = tile.weight + distance;
    tile.bias = p.bias ? p.bias + n : nullptr;
    tile.y = p.y + n;
    if (p.rows == 1) {
      multiplyTile<Format, 1, 2 * kProductColumns, true>(tile);
    } else {
      multiplyColumns<Format>(p, tile);
    }
  }
}

template <typename Format>
void widenWeights(const char* from, int32_t cols, float* to) {
  int32_t k = 0;
  for (; k + kLanes <= cols; k += kLanes) {
    store(to + k, Format::loadWeights(from + static_cast<size_t>(k) * Format::kBytes));
  }
  if (k < cols) {
    const Floats rest =
        Format::loadWeightsPart(from + static_cast<size_t>(k) * Format::kBytes, cols - k);
    storePart(to + k, rest, cols - k);
  }
}

// Rows outermost: a group of them stays in the first cache while `columns` rows of weights, which
// fit the second, stream by.
template <typename Format>
void multiplyBlock(const Product& p, Tile tile, int32_t columns) {
  const int32_t groups = (p.rows + kProductRows - 1) / kProductRows;
  const Tile block = tile;
  for (int32_t group = 0, row = 0; group < groups; ++group) {
    const int32_t height = (p.rows - row) / (groups - group);
    tile.x = block.x + static_cast<size_t>(row) * block.xStride;
    for (int32_t n = 0; n < columns; n += kProductColumns) {
      tile.columns = columns - n < kProductColumns ? columns - n : kProductColumns;
      tile.weight = block.weight + static_cast<size_t>(n) * block.weightStride;
      tile.bias = block.bias ? block.bias + n : nullptr;
      tile.y = block.y + row * block.yStride + n;
      multiplyRows<Format, false>(tile, height);
    }
    row += height;
  }
}

template <typename Format>
void multiplyProduct(const Product& p) {
  Tile tile = {};
  tile.x = static_cast<const char*>(p.x);
  tile.xStride = static_cast<size_t>(p.cols) * Format::kXBytes;
  tile.weight = static_cast<const char*>(p.weight);
  tile.weightStride = static_cast<size_t>(p.cols) * Format::kBytes;
  tile.yStride = p.yStride;
  tile.cols = p.cols;
  tile.add = p.add;
  if (p.rows <= kFewRows || !p.panel) return multiplyInPlace<Format>(p, tile);
  const int32_t panelColumns = productPanelColumns(p.cols, Format::kWiden ? 4 : 2);
  const auto panelStride = static_cast<size_t>(productPanelStride(p.cols));
  const char* weight = tile.weight;
  const size_t weightStride = tile.weightStride;
  for (int32_t n = 0; n < p.outputs; n += panelColumns) {
    const int32_t columns = p.outputs - n < panelColumns ? p.outputs - n : panelColumns;
    tile.weight = weight + static_cast<size_t>(n) * weightStride;
    tile.bias = p.bias ? p.bias + n : nullptr;
    tile.y = p.y + n;
    if constexpr (Format::kWiden) {
      for (int32_t c = 0; c < columns; ++c) {
        widenWeights<Format>(tile.weight + static_cast<size_t>(c) * weightStride, p.cols,
                             p.panel + static_cast<size_t>(c) * panelStride);
      }
      tile.weight = reinterpret_cast<const char*>(p.panel);
      tile.weightStride = panelStride * sizeof(float);
      multiplyBlock<FormatF32>(p, tile, columns);
    } else {
      multiplyBlock<Format>(p, tile, columns);
    }
  }
}

inline void roundRowToBf16(const float* x, size_t count, float* y) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, roundBf16(load(x + i)));
  const auto rest = static_cast<int32_t>(count - i);
  if (rest > 0) storePart(y + i, roundBf16(loadPart(x + i, rest)), rest);
}

inline void convertRowToBf16(const float* x, size_t count, uint16_t* y) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) storeHalves(y + i, toBf16(load(x + i)));
  const auto rest = static_cast<int32_t>(count - i);
  if (rest > 0) storeHalvesPart(y + i, toBf16(loadPart(x + i, rest)), rest);
}

inline MatmulKernels matmulKernels() {
  MatmulKernels kernels = {};
  kernels.products[static_cast<int>(DType::f32)] = multiplyProduct<FormatF32>;
  kernels.products[static_cast<int>(DType::f16)] = multiplyProduct<FormatF16>;
  kernels.products[static_cast<int>(DType::bf16)] = multiplyProduct<FormatBf16>;
#if ISA >= 3
  kernels.pairs = multiplyProduct<FormatPairs>;
#endif
  kernels.roundToBf16 = roundRowToBf16;
  kernels.convertToBf16 = convertRowToBf16;
  return kernels;
}

}  // namespace
}  // namespace anchorcoder
