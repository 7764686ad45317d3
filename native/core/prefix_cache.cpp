// Finding, counting and dropping prefixes.
#include "core/prefix_cache.h"

#include <algorithm>
#include <iterator>
#include <span>

namespace anchorcoder {

namespace {

int32_t commonLength(std::span<const int32_t> a, std::span<const int32_t> b) {
  return static_cast<int32_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                              a.begin());
}

}  // namespace

// Tokens of `session` whose rows `entry` can give, 0: none.
int32_t PrefixCache::reach(const Session& entry, const Session& session) const {
  if (!entry.agreesWith(session)) return 0;
  const int32_t common = commonLength(entry.ids(), session.ids());
  const int32_t at = entry.forkPoint(common);
  // The last token's logits come from its saved row, or from running it again.
  const bool whole = at == session.position();
  return whole && !entry.hasHidden(at - 1) ? entry.forkPoint(at - 1) : at;
}

void PrefixCache::adopt(Session& session) {
  const std::lock_guard lock(mutex_);
  auto best = entries_.end();
  int32_t most = 0;
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const int32_t at = reach(**entry, session);
    if (at > most) {
      most = at;
      best = entry;
    }
  }
  if (most == 0) {
    ++stats_.misses;
    return;
  }
  session.beginLike(**best, most);
  entries_.splice(entries_.begin(), entries_, best);
  ++stats_.hits;
  stats_.reusedTokens += static_cast<uint64_t>(most);
}

// Whether `longer` can stand in for `entry`, but for a part of its last line.
bool PrefixCache::contains(const Session& longer, const Session& entry) const {
  const int32_t length = entry.cached();
  if (length > longer.cached() || !longer.agreesWith(entry)) return false;
  const int32_t at = longer.forkPoint(length);
  return at > 0 && at >= entry.sequence().state.lineStart(length) &&
         commonLength(longer.ids(), entry.ids()) >= length;
}

void PrefixCache::add(const Session& session) {
  if (session.cached() == 0) return;
  Entries gone;
  const std::lock_guard lock(mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (contains(**entry, session)) return entries_.splice(entries_.begin(), entries_, entry);
  }
  entries_.push_front(session.fork(session.cached()));
  try {
    count(*entries_.front(), 1);
  } catch (...) {
    // There is no memory, and the counts are no longer known.
    forget(gone);
    throw;
  }
  for (auto other = std::next(entries_.begin()); other != entries_.end();) {
    other = contains(*entries_.front(), **other) ? drop(other, gone) : std::next(other);
  }
  shrinkTo(maxBytes_, gone);
}

void PrefixCache::count(const Session& entry, int32_t by) {
  const SequenceCache& cache = entry.sequence().cache;
  const auto size = [&] { return blocks_.size() * cache.shape().columnBytes(); };
  // Modulo 2^64, so that it may shrink.
  const uint64_t before = size();
  cache.count(blocks_, by);
  stats_.bytes += size() - before;
  for (const Session::SavedRow& saved : entry.savedRows()) {
    const uint64_t rowBytes = saved.row->bytes();
    const auto at = savedRows_.try_emplace(saved.row.get(), 0).first;
    if (at->second == 0) stats_.bytes += rowBytes;
    at->second += by;
    if (at->second > 0) continue;
    stats_.bytes -= rowBytes;
    savedRows_.erase(at);
  }
}

PrefixCache::Entries::iterator PrefixCache::drop(Entries::iterator entry, Entries& gone) {
  count(**entry, -1);
  const auto next = std::next(entry);
  gone.splice(gone.end(), entries_, entry);
  return next;
}

void PrefixCache::shrinkTo(uint64_t bytes, Entries& gone) {
  while (stats_.bytes > bytes && !entries_.empty()) drop(std::prev(entries_.end()), gone);
}

void PrefixCache::forget(Entries& gone) {
  gone.splice(gone.end(), entries_);
  blocks_.clear();
  savedRows_.clear();
  stats_.bytes = 0;
}

bool PrefixCache::shrink() {
  Entries gone;
  const std::lock_guard lock(mutex_);
  if (entries_.empty()) return false;
  const uint64_t half = stats_.bytes / 2;
  // Entries may hold nothing, and who asks until there are none has to come to an end.
  drop(std::prev(entries_.end()), gone);
  shrinkTo(half, gone);
  return true;
}

void PrefixCache::clear() {
  Entries gone;
  const std::lock_guard lock(mutex_);
  forget(gone);
}

PrefixStats PrefixCache::stats() const {
  const std::lock_guard lock(mutex_);
  PrefixStats stats = stats_;
  stats.entries = static_cast<uint32_t>(entries_.size());
  return stats;
}

}  // namespace anchorcoder
