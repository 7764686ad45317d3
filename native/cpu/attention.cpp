// Shares attention out to threads: a task is some queries of a sequence, the query heads of one KV
// head, and a run of groups of keys. No result depends on how the tasks were cut.
#include "attention.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "plan.h"

namespace anchorcoder {
namespace {

constexpr int32_t kTileQueryRows = 48;       // query rows that read keys while they are in cache
constexpr int32_t kTasksPerThread = 4;       // for balance
constexpr int64_t kLeastTaskWork = 1 << 17;  // products of a task that is worth starting
constexpr size_t kMostPartialFloats = size_t{1} << 25;

// Queries of one sequence that are worked on together.
struct Tile {
  int32_t sequence, firstToken, queries;
  RowRange kept, positional;  // unions of what the queries see
  int32_t groups;             // of all segments
  int32_t chunks;             // tasks per KV head, each with some of the groups
  int64_t work;               // products per KV head
  int32_t firstCounter;       // (kvHeads) if chunks > 1: chunks done
  size_t firstPartial;        // (kvHeads, groups) partials, in floats
};

struct Task {
  int32_t tile, head, chunk;
};

struct Sizes {
  int32_t tiles = 0, tasks = 0, counters = 0;
  size_t partialFloats = 0;
  int64_t work = 0;
};

int32_t roundUp(int32_t value, int32_t step) { return (value + step - 1) / step * step; }
size_t padBytes(size_t bytes) { return (bytes + 63) / 64 * 64; }
bool isEmpty(RowRange range) { return range.lo >= range.hi; }

int32_t groupsOf(RowRange range) {
  return isEmpty(range) ? 0 : (range.hi - 1) / kGroupRows - range.lo / kGroupRows + 1;
}

void widen(RowRange* range, RowRange other) {
  if (isEmpty(other)) return;
  *range = isEmpty(*range) ? other
                           : RowRange{std::min(range->lo, other.lo), std::max(range->hi, other.hi)};
}

int32_t headsPerKv(const ModelDesc& model) { return model.heads / model.kvHeads; }

int32_t countTiles(const Pass& pass, int32_t queries) {
  int32_t tiles = 0;
  for (int32_t s = 0; s < pass.sequenceCount; ++s) {
    const int32_t tokens = pass.sequenceStarts[s + 1] - pass.sequenceStarts[s];
    tiles += (tokens + queries - 1) / queries;
  }
  return tiles;
}

// Large tiles read the cache seldom, small ones keep all threads busy.
int32_t queriesPerTile(const ModelDesc& model, const Pass& pass, int32_t threads) {
  const int32_t group = headsPerKv(model);
  int32_t queries = std::max(1, kTileQueryRows / group);
  while (threads > 1 && queries > 1 && queries * group > kMaxTileRows &&
         countTiles(pass, queries) * model.kvHeads < threads * kTasksPerThread) {
    queries = (queries + 1) / 2;
  }
  return queries;
}

// Floats of one Partial with room for every row of a tile of that many queries.
int32_t partialRows(const ModelDesc& model, int32_t queries) {
  return roundUp(queries * headsPerKv(model), kMaxTileRows);
}
size_t partialFloats(const ModelDesc& model, int32_t rows) {
  return static_cast<size_t>(rows) * static_cast<size_t>(valueStride(model.headDim)) +
         static_cast<size_t>(roundUp(2 * rows, 16));
}
Partial partialAt(int32_t rows, float* at) { return {at, at + rows, at + roundUp(2 * rows, 16)}; }
Partial rowsFrom(const Partial& partial, int32_t row, int32_t stride) {
  return {partial.maxima + row, partial.sums + row,
          partial.output + static_cast<ptrdiff_t>(row) * stride};
}

// Cuts the pass in tiles. `layers` is 2 where a source layer joins, else 1.
void makeTiles(const ModelDesc& model, const Pass& pass, const Visibility& visibility,
               int32_t layers, int32_t queries, Tile* tiles, Sizes* sizes) {
  for (int32_t s = 0; s < pass.sequenceCount; ++s) {
    const int32_t end = pass.sequenceStarts[s + 1];
    for (int32_t token = pass.sequenceStarts[s]; token < end; token += queries) {
      Tile tile = {};
      tile.sequence = s;
      tile.firstToken = token;
      tile.queries = std::min(queries, end - token);
      for (int32_t i = token; i < token + tile.queries; ++i) {
        widen(&tile.kept, visibility.kept[i]);
        widen(&tile.positional, visibility.positional[i]);
      }
      tile.groups = layers * (groupsOf(tile.kept) + groupsOf(tile.positional));
      const int64_t keys = tile.kept.hi - tile.kept.lo + tile.positional.hi - tile.positional.lo;
      // A key costs something even where few rows use it.
      tile.work = layers * keys * model.headDim * (tile.queries * headsPerKv(model) + 4);
      sizes->work += tile.work * model.kvHeads;
      tiles[sizes->tiles++] = tile;
    }
  }
}

// Lets several tasks share the keys of a tile where there would be too few tasks otherwise.
void splitTiles(const ModelDesc& model, int32_t queries, int32_t threads, Tile* tiles,
                Sizes* sizes) {
  const int64_t target = std::max(sizes->work / (threads * kTasksPerThread), kLeastTaskWork);
  const size_t each = partialFloats(model, partialRows(model, queries));
  for (int32_t t = 0; t < sizes->tiles; ++t) {
    Tile& tile = tiles[t];
    tile.chunks = 1;
    const size_t floats = each * static_cast<size_t>(tile.groups * model.kvHeads);
    if (threads > 1 && sizes->partialFloats + floats <= kMostPartialFloats) {
      const int64_t wanted = (tile.work + target / 2) / target;
      tile.chunks = static_cast<int32_t>(std::clamp<int64_t>(wanted, 1, std::max(1, tile.groups)));
    }
    if (tile.chunks > 1) {
      tile.firstCounter = sizes->counters;
      tile.firstPartial = sizes->partialFloats;
      sizes->counters += model.kvHeads;
      sizes->partialFloats += floats;
    }
    sizes->tasks += tile.chunks * model.kvHeads;
  }
}

// Tasks that share keys lie side by side; of a sequence's tiles the last, which see most, first.
void makeTasks(const ModelDesc& model, const Tile* tiles, int32_t tileCount, Task* tasks) {
  int32_t next = 0;
  for (int32_t first = 0; first < tileCount;) {
    int32_t end = first + 1;
    while (end < tileCount && tiles[end].sequence == tiles[first].sequence) ++end;
    for (int32_t head = 0; head < model.kvHeads; ++head) {
      for (int32_t tile = end - 1; tile >= first; --tile) {
        for (int32_t chunk = 0; chunk < tiles[tile].chunks; ++chunk) {
          tasks[next++] = {tile, head, chunk};
        }
      }
    }
    first = end;
  }
}

// Where everything lies in Plan::attentionScratch. A thread's part: packed queries, their state,
// the partial of one call and its scores.
struct Layout {
  size_t tiles, tasks, counters, partials, threads;  // offsets in bytes
  size_t query, state, partial, scores;              // offsets in floats within a thread's part
  size_t threadFloats;
  size_t bytes;
};

Layout layOut(const ModelDesc& model, int32_t queries, const Sizes& sizes, int32_t threads) {
  const auto floats = [](size_t count) { return (count + 15) / 16 * 16; };
  Layout at = {};
  at.tasks = padBytes(static_cast<size_t>(sizes.tiles) * sizeof(Tile));
  at.counters = at.tasks + padBytes(static_cast<size_t>(sizes.tasks) * sizeof(Task));
  at.partials = at.counters + padBytes(static_cast<size_t>(sizes.counters) * sizeof(int32_t));
  at.threads = at.partials + padBytes(sizes.partialFloats * sizeof(float));
  const int32_t rows = partialRows(model, queries);
  at.state = floats(static_cast<size_t>(rows) * static_cast<size_t>(model.headDim));
  at.partial = at.state + floats(partialFloats(model, rows));
  at.scores = at.partial + floats(partialFloats(model, kMaxTileRows));
  at.threadFloats = at.scores + static_cast<size_t>(kMaxTileRows * kScoreStride);
  at.bytes = at.threads + static_cast<size_t>(threads) * at.threadFloats * sizeof(float);
  return at;
}

// One call of `attend`.
class Attention {
 public:
  Attention(Plan& plan, const AttendArgs& args)
      : plan_(plan),
        args_(args),
        model_(*plan.model),
        pass_(*plan.pass),
        kernels_(*plan.kernels->attention),
        group_(headsPerKv(model_)),
        stride_(valueStride(model_.headDim)),
        queries_(queriesPerTile(model_, pass_, plan.threads)),
        rows_(partialRows(model_, queries_)),
        scratch_(static_cast<char*>(plan.attentionScratch)) {}

  void run() {
    Sizes sizes;
    tiles_ = reinterpret_cast<Tile*>(scratch_);
    makeTiles(model_, pass_, pass_.visibility[args_.visibility], args_.sourceLayer >= 0 ? 2 : 1,
              queries_, tiles_, &sizes);
    splitTiles(model_, queries_, plan_.threads, tiles_, &sizes);
    layout_ = layOut(model_, queries_, sizes, plan_.threads);
    tasks_ = reinterpret_cast<Task*>(scratch_ + layout_.tasks);
    counters_ = reinterpret_cast<int32_t*>(scratch_ + layout_.counters);
    partials_ = reinterpret_cast<float*>(scratch_ + layout_.partials);
    makeTasks(model_, tiles_, sizes.tiles, tasks_);
    std::fill_n(counters_, sizes.counters, 0);
    const int64_t useful = 1 + sizes.work / kLeastTaskWork;
    const auto threads = static_cast<int32_t>(std::min<int64_t>(plan_.threads, useful));
    plan_.pool->parallelFor(threads, sizes.tasks, [this](int32_t task, int32_t thread) {
      runTask(tasks_[task], thread);
    });
  }

 private:
  // A run of keys within one group of one segment.
  struct Keys {
    const SegmentTable* table;
    const RowRange* ranges;  // (tokens)
    int32_t group;           // number within the segment
  };

  // Group `index` of a tile, counted through the segments in the order of the softmax.
  Keys keysOf(const Tile& tile, int32_t index) const {
    const Visibility& visibility = pass_.visibility[args_.visibility];
    const int32_t kept = groupsOf(tile.kept), positional = groupsOf(tile.positional);
    const bool source = index >= kept + positional;
    if (source) index -= kept + positional;
    const int32_t layer = source ? args_.sourceLayer : args_.layer;
    const LayerCache& cache = pass_.caches[layer * pass_.sequenceCount + tile.sequence];
    if (index < kept) return {&cache.kept, visibility.kept, tile.kept.lo / kGroupRows + index};
    return {&cache.positional, visibility.positional,
            tile.positional.lo / kGroupRows + index - kept};
  }

  // What rows [first, first + count) of a tile see of a group; returns the union.
  RowRange rangesOf(const Tile& tile, const Keys& keys, int32_t first, int32_t count,
                    RowRange* ranges) const {
    const int32_t base = keys.group * kGroupRows;
    RowRange span = {0, 0};
    for (int32_t r = 0; r < count; ++r) {
      const RowRange range = keys.ranges[tile.firstToken + (first + r) / group_];
      ranges[r] = {std::max(range.lo - base, 0), std::min(range.hi - base, kGroupRows)};
      widen(&span, ranges[r]);
    }
    return span;
  }

  float* threadPart(int32_t thread) const {
    return reinterpret_cast<float*>(scratch_ + layout_.threads) +
           static_cast<size_t>(thread) * layout_.threadFloats;
  }

  void packQueries(const Tile& tile, int32_t head, float* packed) const {
    const int32_t rows = tile.queries * group_;
    for (int32_t first = 0; first < rows; first += kernels_.tileRows) {
      const int32_t count = std::min(kernels_.tileRows, rows - first);
      const float* pointers[kMaxTileRows];
      for (int32_t r = 0; r < count; ++r) {
        pointers[r] = args_.query + offsetOf(tile, head, first + r);
      }
      kernels_.pack(pointers, count, model_.headDim, args_.scale,
                    packed + static_cast<ptrdiff_t>(first) * model_.headDim);
    }
  }

  // Where row `row` of a tile lies in query and output.
  size_t offsetOf(const Tile& tile, int32_t head, int32_t row) const {
    const auto token = static_cast<size_t>(tile.firstToken + row / group_);
    const auto column = static_cast<size_t>(head * group_ + row % group_);
    return (token * static_cast<size_t>(model_.heads) + column) *
           static_cast<size_t>(model_.headDim);
  }

  Partial storedPartial(const Tile& tile, int32_t head, int32_t group) const {
    const auto index = static_cast<size_t>(head * tile.groups + group);
    return partialAt(rows_, partials_ + tile.firstPartial + index * partialFloats(model_, rows_));
  }

  // The partials of one group for all rows of a tile. `state` takes them in; without it each group
  // has its own place.
  void runGroup(const Tile& tile, int32_t head, int32_t index, float* own, const Partial* state) {
    const Keys keys = keysOf(tile, index);
    const Partial target = state ? *state : storedPartial(tile, head, index);
    const Partial spare = partialAt(kMaxTileRows, own + layout_.partial);
    RowRange ranges[kMaxTileRows];
    AttentionTile call = {};
    call.ranges = ranges;
    call.storage = pass_.storage[tile.sequence];
    call.headDim = model_.headDim;
    call.softcap = args_.softcap;
    call.scores = own + layout_.scores;
    const int32_t rows = tile.queries * group_;
    for (int32_t first = 0; first < rows; first += kernels_.tileRows) {
      call.rows = std::min(kernels_.tileRows, rows - first);
      const Partial result = rowsFrom(target, first, stride_);
      call.span = rangesOf(tile, keys, first, call.rows, ranges);
      if (isEmpty(call.span)) {
        if (!state) std::fill_n(result.sums, call.rows, 0.0f);
        continue;
      }
      const bool fresh = !state || std::all_of(result.sums, result.sums + call.rows,
                                               [](float sum) { return sum == 0.0f; });
      const int32_t block = (keys.group * kGroupRows + call.span.lo) / kBlockRows;
      call.query = own + layout_.query + static_cast<ptrdiff_t>(first) * model_.headDim;
      call.blocks = keys.table->blocks + static_cast<ptrdiff_t>(head) * keys.table->stride +
                    (block - keys.table->firstBlock);
      call.result = fresh ? result : spare;
      kernels_.partial(call);
      if (!fresh) kernels_.merge(spare, call.rows, stride_, result);
    }
  }

  void finishRows(const Tile& tile, int32_t head, const Partial& state) {
    for (int32_t r = 0; r < tile.queries * group_; ++r) {
      kernels_.finish(state.output + static_cast<ptrdiff_t>(r) * stride_, state.sums[r],
                      model_.headDim, args_.output + offsetOf(tile, head, r));
    }
  }

  void runTask(const Task& task, int32_t thread) {
    const Tile& tile = tiles_[task.tile];
    float* own = threadPart(thread);
    packQueries(tile, task.head, own + layout_.query);
    const Partial state = partialAt(rows_, own + layout_.state);
    const int32_t rows = tile.queries * group_;
    std::fill_n(state.sums, rows, 0.0f);
    if (tile.chunks == 1) {
      for (int32_t g = 0; g < tile.groups; ++g) runGroup(tile, task.head, g, own, &state);
      return finishRows(tile, task.head, state);
    }
    const int32_t begin = tile.groups * task.chunk / tile.chunks;
    const int32_t end = tile.groups * (task.chunk + 1) / tile.chunks;
    for (int32_t g = begin; g < end; ++g) runGroup(tile, task.head, g, own, nullptr);
    // Who ends last merges all, in the order of the groups.
    std::atomic_ref<int32_t> done(counters_[tile.firstCounter + task.head]);
    if (done.fetch_add(1, std::memory_order_acq_rel) != tile.chunks - 1) return;
    for (int32_t g = 0; g < tile.groups; ++g) {
      kernels_.merge(storedPartial(tile, task.head, g), rows, stride_, state);
    }
    finishRows(tile, task.head, state);
  }

  Plan& plan_;
  const AttendArgs& args_;
  const ModelDesc& model_;
  const Pass& pass_;
  const AttentionKernels& kernels_;
  const int32_t group_, stride_, queries_, rows_;
  char* const scratch_;
  Layout layout_ = {};
  Tile* tiles_ = nullptr;
  Task* tasks_ = nullptr;
  int32_t* counters_ = nullptr;
  float* partials_ = nullptr;
};

}  // namespace

void attend(Plan& plan, const AttendArgs& args) { Attention(plan, args).run(); }

size_t attentionScratchBytes(const ModelDesc& model, const Pass& pass, int32_t threads) {
  const int32_t queries = queriesPerTile(model, pass, threads);
  std::vector<Tile> tiles(static_cast<size_t>(countTiles(pass, queries)));
  size_t most = 0;
  for (int32_t v = 0; v < pass.visibilityCount; ++v) {
    for (const int32_t layers : {1, 2}) {
      Sizes sizes;
      makeTiles(model, pass, pass.visibility[v], layers, queries, tiles.data(), &sizes);
      splitTiles(model, queries, threads, tiles.data(), &sizes);
      most = std::max(most, layOut(model, queries, sizes, threads).bytes);
    }
  }
  return most;
}

}  // namespace anchorcoder
