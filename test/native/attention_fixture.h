// Texts with random queries, keys and values, their cache, and passes over them: what the tests and
// the benchmark of the CPU's attention share.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "core/numeric.h"
#include "core/ops.h"
#include "cpu/attention.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"

namespace attention_test {

using namespace anchorcoder;  // NOLINT: a test's own header

inline size_t at(int32_t index) { return static_cast<size_t>(index); }

// Memory that ends where a page without access begins.
class Guarded {
 public:
  explicit Guarded(size_t bytes, int fill = 0) : bytes_(bytes) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t pages = (bytes + page - 1) / page * page;
    mapped_ = pages + page;
    base_ = static_cast<char*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + pages, page, PROT_NONE);
    data_ = base_ + pages - bytes;
    std::memset(data_, fill, bytes);
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  void* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  char *base_, *data_;
  size_t bytes_, mapped_;
};

struct Shape {
  int32_t heads, kvHeads, headDim;
};

struct Text {
  DType storage;
  int32_t length;
  std::vector<int32_t> anchors;  // positions, in order; 0 is the first
  int32_t firstBlock = 0;        // of the positional segments: blocks before do not exist
};

// Every n-th position an anchor (0 included).
inline std::vector<int32_t> anchorsEvery(int32_t step, int32_t length) {
  std::vector<int32_t> anchors;
  for (int32_t p = 0; p < length; p += step) anchors.push_back(p);
  return anchors;
}

enum Kind : int32_t { kDense, kAnchored, kWindow, kKinds };
inline constexpr int32_t kWindowRows = 70;

// What position p of a text sees.
inline void rangesAt(const Text& text, Kind kind, int32_t p, RowRange* kept, RowRange* positional) {
  *kept = {0, 0};
  const int32_t first = text.firstBlock * kBlockRows;
  *positional = {first, p + 1};
  if (kind == kWindow) positional->lo = std::max(first, p + 1 - kWindowRows);
  if (kind != kAnchored || text.anchors.empty()) return;
  const auto end = std::lower_bound(text.anchors.begin(), text.anchors.end(), p);
  const auto before = static_cast<int32_t>(end - text.anchors.begin());
  if (before == 0) return;
  // The last anchor opens the line and is seen there, unless its block is gone.
  const int32_t open = text.anchors[at(before - 1)];
  *kept = {0, open >= first ? before - 1 : before};
  positional->lo = std::max(first, open);
}

struct Chunk {
  int32_t text, begin, end;
};

struct Case {
  int32_t layer, sourceLayer;
  Kind kind;
  float softcap = 0.0f;
};

// Two layers of cache for each text; layer 0 is the source layer and mirrors its kept rows.
class Fixture {
 public:
  static constexpr int32_t kLayers = 2;

  Fixture(Shape shape, std::vector<Text> texts, int seed = 1)
      : shape_(shape), texts_(std::move(texts)) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    std::normal_distribution<float> normal;
    for (const Text& text : texts_) {
      Data data;
      const auto fillRows = [&](std::vector<float>* rows, int32_t heads) {
        rows->resize(at(text.length * heads * shape.headDim));
        for (float& x : *rows) x = normal(random);
      };
      fillRows(&data.query, shape.heads);
      for (int32_t l = 0; l < kLayers; ++l) {
        fillRows(&data.k[l], shape.kvHeads);
        fillRows(&data.v[l], shape.kvHeads);
        data.positional[l] = makeSegment(text, text.length, text.firstBlock);
        data.kept[l] = makeSegment(text, static_cast<int32_t>(text.anchors.size()), 0);
      }
      data_.push_back(std::move(data));
    }
  }

  // Runs the chunks as one pass: stores their rows where wanted, then one `attend` per case into
  // outputs[case][text] (length, heads, headDim).
  void run(const Kernels& kernels, int32_t threads, const std::vector<Chunk>& chunks,
           const std::vector<Case>& cases, bool store,
           std::vector<std::vector<std::vector<float>>>* outputs) {
    makePass(chunks);
    const Shape& s = shape_;
    ModelDesc model = {};
    model.layers = kLayers;
    model.heads = s.heads;
    model.kvHeads = s.kvHeads;
    model.headDim = s.headDim;
    pool_.reserve(threads);
    Plan plan = {};
    plan.model = &model;
    plan.pass = &pass_;
    plan.kernels = &kernels;
    plan.pool = &pool_;
    plan.threads = threads;
    const Guarded scratch(attentionScratchBytes(model, pass_, threads), 0xff);
    plan.attentionScratch = scratch.data();
    if (store) {
      for (int32_t l = 0; l < kLayers; ++l) {
        const auto k = gather(chunks, s.kvHeads, [&](const Data& d) { return d.k[l].data(); });
        const auto v = gather(chunks, s.kvHeads, [&](const Data& d) { return d.v[l].data(); });
        storeRows(plan, l, k->floats(), v->floats());
      }
    }
    const auto query = gather(chunks, s.heads, [](const Data& d) { return d.query.data(); });
    for (size_t c = 0; c < cases.size(); ++c) {
      const Guarded output(query->bytes(), 0xff);
      AttendArgs args = argsOf(cases[c]);
      args.query = query->floats();
      args.output = output.floats();
      attend(plan, args);
      scatter(chunks, output.floats(), &(*outputs)[c]);
    }
  }

  // For a benchmark: the pass of these chunks.
  const Pass& makePass(const std::vector<Chunk>& chunks);
  AttendArgs argsOf(const Case& c) const {
    AttendArgs args = {};
    args.layer = c.layer;
    args.sourceLayer = c.sourceLayer;
    args.visibility = c.kind;
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape_.headDim));
    args.softcap = c.softcap;
    return args;
  }

  std::vector<std::vector<std::vector<float>>> emptyOutputs(size_t cases) const {
    std::vector<std::vector<float>> one;
    for (const Text& text : texts_) {
      one.emplace_back(at(text.length * shape_.heads * shape_.headDim), -1.0f);
    }
    return std::vector<std::vector<std::vector<float>>>(cases, one);
  }

  // Fills every row of every block with large finite numbers, as dead rows might hold.
  void poison();
  // Element d of a stored key or value.
  double stored(int32_t text, int32_t layer, bool kept, bool value, int32_t head, int32_t row,
                int32_t d) const;
  // Block of a row, for tests that look at its bytes.
  const char* block(int32_t text, int32_t layer, bool kept, int32_t head, int32_t row) const {
    const Segment& segment = kept ? data_[at(text)].kept[layer] : data_[at(text)].positional[layer];
    return static_cast<const char*>(
        segment.table[at(head * segment.stride + row / kBlockRows - segment.firstBlock)]);
  }

  const Shape& shape() const { return shape_; }
  const std::vector<Text>& texts() const { return texts_; }
  const float* query(int32_t text) const { return data_[at(text)].query.data(); }
  const float* k(int32_t text, int32_t layer) const { return data_[at(text)].k[layer].data(); }
  const float* v(int32_t text, int32_t layer) const { return data_[at(text)].v[layer].data(); }

 private:
  struct Segment {
    std::vector<std::unique_ptr<Guarded>> memory;
    std::vector<void*> table;  // (kvHeads, stride)
    int32_t stride = 0, firstBlock = 0;
  };
  struct Data {
    std::vector<float> query, k[kLayers], v[kLayers];
    Segment positional[kLayers], kept[kLayers];
  };

  Segment makeSegment(const Text& text, int32_t rows, int32_t firstBlock) const {
    Segment segment;
    segment.firstBlock = firstBlock;
    segment.stride = std::max((rows + kBlockRows - 1) / kBlockRows - firstBlock, 0);
    for (int32_t b = 0; b < shape_.kvHeads * segment.stride; ++b) {
      segment.memory.push_back(std::make_unique<Guarded>(blockBytes(text.storage, shape_.headDim)));
      segment.table.push_back(segment.memory.back()->data());
    }
    return segment;
  }

  template <typename Rows>
  std::unique_ptr<Guarded> gather(const std::vector<Chunk>& chunks, int32_t heads,
                                  const Rows& rowsOf) const {
    const size_t row = at(heads * shape_.headDim);
    auto all = std::make_unique<Guarded>(at(pass_.tokenCount) * row * sizeof(float));
    float* to = all->floats();
    for (const Chunk& c : chunks) {
      to =
          std::copy_n(rowsOf(data_[at(c.text)]) + at(c.begin) * row, at(c.end - c.begin) * row, to);
    }
    return all;
  }

  void scatter(const std::vector<Chunk>& chunks, const float* from,
               std::vector<std::vector<float>>* to) const {
    const size_t row = at(shape_.heads * shape_.headDim);
    for (const Chunk& c : chunks) {
      std::copy_n(from, at(c.end - c.begin) * row, (*to)[at(c.text)].data() + at(c.begin) * row);
      from += at(c.end - c.begin) * row;
    }
  }

  Shape shape_;
  std::vector<Text> texts_;
  std::vector<Data> data_;
  Pool pool_;

  Pass pass_ = {};
  std::vector<int32_t> positions_, starts_, keptRows_;
  std::vector<DType> storage_;
  std::vector<RowRange> kept_[kKinds], positional_[kKinds];
  std::vector<Visibility> visibility_;
  std::vector<LayerCache> caches_;
};

inline const Pass& Fixture::makePass(const std::vector<Chunk>& chunks) {
  positions_.clear(), starts_.clear(), keptRows_.clear(), storage_.clear();
  visibility_.clear(), caches_.clear();
  for (int32_t kind = 0; kind < kKinds; ++kind) kept_[kind].clear(), positional_[kind].clear();
  starts_.push_back(0);
  for (const Chunk& c : chunks) {
    const Text& text = texts_[at(c.text)];
    for (int32_t p = c.begin; p < c.end; ++p) {
      const auto anchor = std::lower_bound(text.anchors.begin(), text.anchors.end(), p);
      const bool isAnchor = anchor != text.anchors.end() && *anchor == p;
      positions_.push_back(p);
      keptRows_.push_back(isAnchor ? static_cast<int32_t>(anchor - text.anchors.begin()) : -1);
      for (int32_t kind = 0; kind < kKinds; ++kind) {
        RowRange kept, positional;
        rangesAt(text, static_cast<Kind>(kind), p, &kept, &positional);
        kept_[kind].push_back(kept);
        positional_[kind].push_back(positional);
      }
    }
    starts_.push_back(static_cast<int32_t>(positions_.size()));
    storage_.push_back(text.storage);
  }
  for (int32_t kind = 0; kind < kKinds; ++kind) {
    visibility_.push_back({kept_[kind].data(), positional_[kind].data()});
  }
  for (int32_t l = 0; l < kLayers; ++l) {
    for (const Chunk& c : chunks) {
      const auto table = [](const Segment& s) {
        return SegmentTable{s.stride > 0 ? s.table.data() : nullptr, s.stride, s.firstBlock};
      };
      caches_.push_back({table(data_[at(c.text)].positional[l]), table(data_[at(c.text)].kept[l])});
    }
  }
  pass_ = {};
  pass_.tokenCount = static_cast<int32_t>(positions_.size());
  pass_.sequenceCount = static_cast<int32_t>(chunks.size());
  pass_.visibilityCount = kKinds;
  pass_.positions = positions_.data();
  pass_.sequenceStarts = starts_.data();
  pass_.storage = storage_.data();
  pass_.keptRow = keptRows_.data();
  pass_.visibility = visibility_.data();
  pass_.caches = caches_.data();
  return pass_;
}

inline void Fixture::poison() {
  const int32_t dim = shape_.headDim, stride = valueStride(dim);
  for (size_t t = 0; t < texts_.size(); ++t) {
    const DType type = texts_[t].storage;
    const auto fillBlock = [&](char* block) {
      const auto put = [&](size_t offset, int32_t index, float sign) {
        char* to = block + offset + at(index) * dtypeBytes(type);
        const float f32 = sign * 3e38f;
        const uint16_t f16 = floatToF16(sign * 65504.0f), bf16 = floatToBf16(f32);
        const int8_t i8 = sign > 0 ? 127 : -127;
        const void* from = type == DType::f32   ? static_cast<const void*>(&f32)
                           : type == DType::f16 ? &f16
                           : type == DType::i8  ? static_cast<const void*>(&i8)
                                                : &bf16;
        std::memcpy(to, from, dtypeBytes(type));
      };
      for (int32_t i = 0; i < dim * kBlockRows; ++i) put(0, i, i % 3 ? 1.0f : -1.0f);
      for (int32_t i = 0; i < dim * kBlockRows; ++i) {
        put(blockValueOffset(type, dim), i / dim * stride + i % dim, i % 3 ? 1.0f : -1.0f);
      }
      if (type != DType::i8) return;
      std::fill_n(reinterpret_cast<float*>(block + blockScaleOffset(type, dim)), 2 * kBlockRows,
                  3e38f);
    };
    for (int32_t l = 0; l < kLayers; ++l) {
      for (void* block : data_[t].positional[l].table) fillBlock(static_cast<char*>(block));
      for (void* block : data_[t].kept[l].table) fillBlock(static_cast<char*>(block));
    }
  }
}

inline double Fixture::stored(int32_t text, int32_t layer, bool kept, bool value, int32_t head,
                              int32_t row, int32_t d) const {
  const DType type = texts_[at(text)].storage;
  const int32_t dim = shape_.headDim, r = row % kBlockRows;
  const char* bytes = block(text, layer, kept, head, row);
  const size_t index = value ? at(r * valueStride(dim) + d) : at(d * kBlockRows + r);
  const char* from = bytes + (value ? blockValueOffset(type, dim) : 0) + index * dtypeBytes(type);
  if (type == DType::i8) {
    float scale;
    std::memcpy(&scale, bytes + blockScaleOffset(type, dim) + at(r + (value ? kBlockRows : 0)) * 4,
                4);
    return static_cast<double>(*reinterpret_cast<const int8_t*>(from)) * scale;
  }
  if (type == DType::f32) {
    float f;
    std::memcpy(&f, from, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  return type == DType::f16 ? f16ToFloat(bits) : bf16ToFloat(bits);
}

}  // namespace attention_test
