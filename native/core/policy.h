// Cache policies: which rows a token sees and which ones leave.
//
// Rows of a layer are of two kinds. *Kept* rows never leave: anchors and sinks. All others live in
// a window that ends at the newest token and starts at w, which never moves back. So what token i
// sees in an anchored layer is: the kept rows at positions below w(i), and every row from w(i) to
// i.
//   line:    w(i) = position after the last anchor before i
//   window:  w(i) = i - window + 1
//   both:    the smaller of the two
// This covers AnchorCoder (token-wise anchor attention), AnLLM's mask, SepLLM's layout and
// StreamingLLM. Dense layers see every row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/ops.h"

namespace anchorcoder {

struct Policy {
  std::vector<uint8_t> isAnchor;  // (vocabSize)
  bool firstIsAnchor = false;     // position 0 is an anchor whatever its id
  bool anchorSeesAnchors = true;  // false: AnLLM, an anchor sees its own line only
  bool line = false;
  int32_t window = 0;          // 0: none
  int32_t sinks = 0;           // positions below are kept
  std::vector<uint8_t> dense;  // (layers)
  // (layers) the model's own sliding windows: last tokens that a layer sees, 0: all; empty: none.
  // Kept rows of anchored layers are seen beyond it.
  std::vector<int32_t> modelWindows;
  int32_t sourceLayer = -1;  // layer-wise anchor attention, -1: none
  int32_t consumersAbove = 0;
  bool multiHeadPositions = false;
  int32_t insertedAnchor = -1;  // id that was inserted after newlines, for counting; -1: none

  int32_t modelWindow(int32_t layer) const {
    return modelWindows.empty() ? 0 : modelWindows[static_cast<size_t>(layer)];
  }
  bool isConsumer(int32_t layer) const { return sourceLayer >= 0 && layer > consumersAbove; }
  bool anyAnchored() const;
  // Whether rows leave any layer.
  bool anyLeaves() const;
  // Whether the layer stores its kept rows apart: anchored layers do, and a dense source layer
  // keeps a copy (the mirror) for its anchored consumers.
  bool hasKeptRows(int32_t layer) const;
  bool isMirror(int32_t layer) const {
    return dense[static_cast<size_t>(layer)] != 0 && hasKeptRows(layer);
  }
  // Throws Error (invalidArgument) for what cannot run on `layers` layers.
  void validate(int32_t layers, int32_t vocabSize) const;

  bool operator==(const Policy&) const = default;
};

// Key positions of an anchor at `anchor`, head by head (multi-head positional encoding). `previous`
// is the position of the anchor before it, -1 when there is none. The m tokens between the two get
// heads in proportion to the cube of their place, by largest remainder; an anchor without a line
// keeps its own position.
void anchorKeyPositions(int32_t previous, int32_t anchor, std::span<int32_t> positions);

// What the policy derives from the ids in the cache. Grows token by token, can be cut back.
class PolicyState {
 public:
  explicit PolicyState(const Policy* policy) : policy_(policy) {}
  // A copy for a fork, which has an equal policy of its own.
  PolicyState(const Policy* policy, const PolicyState& other) : PolicyState(other) {
    policy_ = policy;
  }

  const Policy& policy() const { return *policy_; }
  int32_t size() const { return size_; }
  int32_t keptCount() const { return static_cast<int32_t>(kept_.size()); }
  // Tokens whose id is an anchor.
  int32_t anchorCount() const { return anchorCount_; }
  int32_t insertedCount() const { return insertedCount_; }

  // Position after the last token before `position` that closes a line.
  int32_t lineStart(int32_t position) const;
  // First position that a token at `position` sees beside kept rows in anchored layers without a
  // window of the model's own; position <= size().
  int32_t windowStart(int32_t position) const;
  // The same in layer `layer`; `anchoredStart` is windowStart(position).
  int32_t layerStart(int32_t layer, int32_t position, int32_t anchoredStart) const;
  // Kept rows at positions below `position`.
  int32_t keptBelow(int32_t position) const;
  // Whether the token at `position` has closed a line.
  bool closesLine(int32_t position) const;

  struct TokenRows {
    int32_t keptRow;  // row that the token takes among the kept ones, -1: none
    RowRange kept;    // what it sees in anchored layers
    RowRange positional;
    bool seesKept;  // false: an anchor of AnLLM's, which sees its own line only
  };
  // Adds the next token. `keyPositions` (heads) receives the positions that its keys turn by.
  TokenRows add(int32_t id, std::span<int32_t> keyPositions);
  void truncate(int32_t position, std::span<const int32_t> ids);

 private:
  int32_t lastCloserBelow(int32_t position) const;  // -1: none

  const Policy* policy_;
  int32_t size_ = 0;
  int32_t anchorCount_ = 0;
  int32_t insertedCount_ = 0;
  bool firstHoldsAnchor_ = false;  // id at position 0 is an anchor id
  std::vector<int32_t> kept_;      // positions of kept rows, ascending
  std::vector<int32_t> closers_;   // positions that close a line, ascending
};

}  // namespace anchorcoder
