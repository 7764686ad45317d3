// What sessions have read, kept for later ones that begin alike. Rows are shared, not copied, and
// the least recently used prefix goes first.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/session.h"

namespace anchorcoder {

struct PrefixStats {
  uint64_t bytes = 0;  // of all blocks and saved rows held, each counted once
  uint32_t entries = 0;
  uint64_t hits = 0, misses = 0;  // sessions that began with a known prefix, and others
  uint64_t reusedTokens = 0;
};

// Thread-safe; the sessions that are handed in belong to the caller.
class PrefixCache {
 public:
  explicit PrefixCache(uint64_t maxBytes) : maxBytes_(maxBytes) {}

  bool enabled() const { return maxBytes_ > 0; }
  // Lets a session without rows begin with the longest known prefix of its ids.
  void adopt(Session& session);
  // Remembers the rows that a session holds, in place of prefixes that it contains.
  void add(const Session& session);
  // Drops half of what is held, an entry at least; false: there was nothing.
  bool shrink();
  void clear();
  PrefixStats stats() const;

 private:
  using Entries = std::list<std::shared_ptr<Session>>;

  int32_t reach(const Session& entry, const Session& session) const;
  bool contains(const Session& longer, const Session& entry) const;
  void count(const Session& entry, int32_t by);
  // These move entries to `gone`, to be freed once the lock is released: that may take long.
  Entries::iterator drop(Entries::iterator entry, Entries& gone);
  void shrinkTo(uint64_t bytes, Entries& gone);
  void forget(Entries& gone);

  const uint64_t maxBytes_;
  mutable std::mutex mutex_;
  Entries entries_;  // forks of sessions, most recently used first
  BlockCounts blocks_;
  std::unordered_map<const void*, int32_t> savedRows_;  // holders of each
  PrefixStats stats_;
};

}  // namespace anchorcoder
