// Turns a batch of sequences into the arrays of ops.h's Pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/model.h"
#include "core/ops.h"

namespace anchorcoder {

// Reused from pass to pass, so that its vectors are allocated once.
class PassBuilder {
 public:
  // Advances the policy states of the items, reserves their cache rows and fills the arrays. The
  // caller undoes the former with `rollBack` when anything throws.
  void build(const ModelConfig& config, std::span<BatchItem> items);
  void rollBack(std::span<BatchItem> items) noexcept;

  const Pass& pass() const { return pass_; }
  int32_t tokenCount() const { return pass_.tokenCount; }
  // Index into Pass::visibility for a layer.
  int32_t visibility(int32_t layer) const { return layerVisibility_[static_cast<size_t>(layer)]; }
  // Tokens of the pass whose residual row is to be kept, with the item they belong to.
  struct HiddenRow {
    size_t item;
    int32_t token;
    int32_t position;
  };
  const std::vector<HiddenRow>& hiddenRows() const { return hiddenRows_; }
  // The policy of the batch's layer-wise attention: the same for all items.
  const Policy& policy() const { return *policy_; }
  // Whether the batch turns by the second rope: all of its items or none.
  bool longRope() const { return longRope_; }

 private:
  void clear(const ModelConfig& config, std::span<BatchItem> items);
  void addItem(const ModelConfig& config, size_t index, BatchItem& item);
  void addToken(BatchItem& item, std::span<int32_t> keyPositions);
  void addRanges(const ModelConfig& config, std::span<BatchItem> items);
  void addCaches(const ModelConfig& config, std::span<BatchItem> items);
  void addLogitRows(std::span<BatchItem> items);
  void finish();

  Pass pass_{};
  const Policy* policy_ = nullptr;
  bool longRope_ = false;
  std::vector<int32_t> before_;  // (items) cached tokens before the pass
  std::vector<int32_t> ids_, positions_, sequenceStarts_, ropePositions_, queryRope_, keyRope_;
  std::vector<int32_t> keptRow_, logitRows_, keyPositions_;
  std::vector<DType> storage_;
  std::vector<RowRange> anchoredKept_, anchoredRows_;  // (tokens)
  std::vector<uint8_t> seesKept_;                      // (tokens)
  std::vector<LayerCache> caches_;

  // What tokens see in layers of one kind.
  struct Ranges {
    std::vector<uint8_t> dense;  // (sequences) which of them are dense there
    int32_t window;              // of the model's own, 0: none
    std::vector<RowRange> kept, positional;
  };
  void fillRanges(Ranges& ranges, std::span<BatchItem> items);
  std::vector<Ranges> ranges_;
  std::vector<Visibility> visibility_;
  std::vector<int32_t> layerVisibility_;
  std::vector<HiddenRow> hiddenRows_;
};

}  // namespace anchorcoder
