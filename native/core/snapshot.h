// The rows of a session as a stream of bytes: what a snapshot holds beside its SessionState.
//
// Saved residual rows come first, f32 (hiddenSize) each, by position. Then, layer by layer, the
// kept rows and the positional ones that are still held; in a segment block by block, in a block
// head by head: K (headDim, rows), V (rows, valueStride), and for int8 the scales of both (rows),
// for those rows of the block that are held. Nothing of a row that has left, or that was cut off,
// is in the stream, so equal states give equal bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/session.h"

namespace anchorcoder {

// Reads or writes the stream from its beginning. The session must not change meanwhile.
class RowStream {
 public:
  explicit RowStream(Session& session);

  uint64_t bytes() const { return bytes_; }  // of the whole stream
  // Fills `out`; less only at the end. Returns the number of bytes. Throws Error (device).
  size_t read(std::span<uint8_t> out);
  // Takes what the stream has room for, `in` at most. Returns the number of bytes.
  size_t write(std::span<const uint8_t> in);
  bool done() const { return done_ == bytes_; }

 private:
  // Rows [from, to) of one block of one head, or one saved row.
  struct Unit {
    float* saved = nullptr;
    void* block = nullptr;
    int32_t from = 0, to = 0;
  };
  struct Range {  // of a segment
    SegmentTable table;
    int32_t from, to;
  };

  Unit unit() const;
  size_t unitBytes(const Unit& unit) const;
  void advance();
  void load(const Unit& unit);
  void store(const Unit& unit);
  template <bool toStream>
  void copyRows(const Unit& unit, uint8_t* block, uint8_t* packed) const;

  Session& session_;
  CacheShape shape_;
  std::vector<Range> ranges_;
  uint64_t bytes_ = 0, done_ = 0;
  // The unit under way: saved row number, else range, block and head; and its bytes.
  size_t saved_ = 0, range_ = 0;
  int32_t block_ = 0, head_ = 0;
  std::vector<uint8_t> packed_, whole_;
  size_t within_ = 0;
};

}  // namespace anchorcoder
