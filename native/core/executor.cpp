// The calls that other threads make.
#include "core/executor.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/job.h"

namespace anchorcoder {

namespace {

constexpr uint64_t kMostBytesFreedByCaller = uint64_t{4} << 20;

Error disposedError(const char* what) {
  return Error(ErrorCode::disposed, std::string("The ") + what + " has been disposed");
}

}  // namespace

// Makes a session the caller's for as long as it lives, or until a job takes it over.
class Executor::Claim {
 public:
  Claim(Executor& executor, const std::shared_ptr<Session>& session) : executor_(executor) {
    const Lock lock(executor_.mutex_);
    if (executor_.stopping_) throw disposedError("model");
    if (session->disposed) throw disposedError("session");
    if (session->busy.exchange(true)) {
      throw Error(ErrorCode::busy, "The session is in the middle of another call");
    }
    session_ = session;
  }
  ~Claim() {
    if (!session_) return;
    const Lock lock(executor_.mutex_);
    // Who disposed it meanwhile left it to us.
    if (session_->disposed) session_->clear();
    session_->busy = false;
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

  void handOver() { session_ = nullptr; }

 private:
  Executor& executor_;
  std::shared_ptr<Session> session_;
};

Executor::Executor(std::shared_ptr<Model> model, std::function<void()> stopped,
                   uint64_t prefixBytes)
    : model_(std::move(model)),
      prefixes_(prefixBytes),
      stopped_(std::move(stopped)),
      noMemory_(ErrorCode::outOfMemory, "There is no memory left"),
      sessionGone_(disposedError("session")) {
  thread_ = std::thread([this] { loop(); });
}

Executor::~Executor() {
  stop();
  join();
}

void Executor::join() {
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<Session> Executor::createSession(Policy policy, int32_t contextLength,
                                                 DType storage, bool usesPrefixes) {
  auto session = std::make_shared<Session>(model_, std::move(policy), contextLength, storage);
  session->usesPrefixes = usesPrefixes && prefixes_.enabled();
  addSession(session);
  return session;
}

std::shared_ptr<Session> Executor::fork(const std::shared_ptr<Session>& session, int32_t at,
                                        int32_t contextLength) {
  const Claim claim(*this, session);
  auto copy = session->fork(at, contextLength > 0 ? contextLength : session->contextLength());
  addSession(copy);
  return copy;
}

std::shared_ptr<Session> Executor::restore(const Policy& policy, int32_t contextLength,
                                           DType storage, const SessionState& state) {
  for (bool allFreed = false;;) {
    try {
      auto session = std::make_shared<Session>(model_, policy, contextLength, storage, state);
      addSession(session);
      return session;
    } catch (const Error& error) {
      if (error.code != ErrorCode::outOfMemory) throw;
      // Once nothing waits to be freed, what nobody asks for at present gives way.
      if (allFreed && !prefixes_.shrink()) throw;
    }
    if (!allFreed) freeEverything();
    allFreed = true;
  }
}

SessionState Executor::state(const std::shared_ptr<Session>& session) {
  const Claim claim(*this, session);
  return session->state();
}

RowStream Executor::openRows(const std::shared_ptr<Session>& session) {
  const Claim claim(*this, session);
  return RowStream(*session);
}

size_t Executor::readRows(const std::shared_ptr<Session>& session, RowStream& rows,
                          std::span<uint8_t> out) {
  const Claim claim(*this, session);
  return rows.read(out);
}

size_t Executor::writeRows(const std::shared_ptr<Session>& session, RowStream& rows,
                           std::span<const uint8_t> in) {
  const Claim claim(*this, session);
  return rows.write(in);
}

void Executor::addSession(const std::shared_ptr<Session>& session) {
  const Lock lock(mutex_);
  if (stopping_) throw disposedError("model");
  std::erase_if(sessions_, [](const auto& other) { return other.expired(); });
  sessions_.push_back(session);
}

// Both may have changed since the session was claimed: another thread may dispose.
void Executor::enqueue(const std::shared_ptr<Job>& job) {
  {
    const Lock lock(mutex_);
    Session& session = *job->session;
    if (stopping_) throw disposedError("model");
    if (session.disposed) throw disposedError("session");
    jobs_.push_back(job);
    session.job = job;
  }
  wake_.notify_all();
}

// A call that fails leaves the text as it was, `length` ids.
void Executor::enqueueOrCut(std::shared_ptr<Job> job, size_t length) {
  Session& session = *job->session;
  try {
    enqueue(job);
  } catch (...) {
    session.sequence().ids.resize(length);
    session.publish();
    throw;
  }
}

void Executor::append(const std::shared_ptr<Session>& session, std::span<const uint32_t> ids,
                      LogitsWanted logits, AppendDone done) try {
  Claim claim(*this, session);
  session->checkAppend(ids);
  if (ids.empty() && session->position() == 0) {
    throw Error(ErrorCode::invalidArgument,
                "Expected at least one id, because the session is empty");
  }
  auto job = std::make_shared<Job>(Job::Kind::append, session);
  job->logits = logits;
  job->firstNew = session->position();
  // Every token's logits need every token's pass.
  job->seeksPrefix = session->usesPrefixes && session->cached() == 0 && logits != LogitsWanted::all;
  job->appended = std::move(done);
  if (logits == LogitsWanted::all) {
    job->collected.reserve(ids.size() * static_cast<size_t>(model_->config().vocabSize));
  }
  auto& text = session->sequence().ids;
  text.insert(text.end(), ids.begin(), ids.end());
  session->publish();
  enqueueOrCut(std::move(job), text.size() - ids.size());
  claim.handOver();
} catch (const std::bad_alloc&) {
  throw Error(ErrorCode::outOfMemory, "There is no memory left for the logits or the ids");
}

void Executor::startGenerate(const std::shared_ptr<Session>& session, GenerateOptions options) {
  Claim claim(*this, session);
  if (session->position() == 0) {
    throw Error(ErrorCode::invalidArgument,
                "Expected a session with at least one token to generate from");
  }
  const int32_t vocabSize = model_->config().vocabSize;
  auto job = std::make_shared<Job>(Job::Kind::generate, session);
  job->commit = session->position();
  job->sampler.emplace(options.sampler, options.bannedIds, vocabSize);
  const auto& isAnchor = session->policy().isAnchor;
  for (const int32_t id : session->ids()) {
    if (!isAnchor[static_cast<size_t>(id)]) job->sampler->see(id);
  }
  auto& ids = session->sequence().ids;
  const size_t length = ids.size();
  if (options.forcedAnchor >= 0) {
    job->endsNewline.resize(static_cast<size_t>(vocabSize));
    for (const int32_t id : options.newlineIds) job->endsNewline[static_cast<size_t>(id)] = 1;
    // A text that stops between a newline and its anchor owes the anchor. It is not committed, so
    // that leaving at once gives back the text as it was.
    if (job->endsNewline[static_cast<size_t>(ids.back())] &&
        session->position() + 1 < session->contextLength()) {
      ids.push_back(options.forcedAnchor);
    }
  }
  if (options.maxTokens <= 0) job->finish = Finish::length;
  job->options = std::move(options);
  enqueueOrCut(std::move(job), length);
  claim.handOver();
}

void Executor::read(const std::shared_ptr<Session>& session, int32_t commit, ReadDone done) {
  Calls calls;
  {
    const Lock lock(mutex_);
    const auto job = session->job;
    if (!job || job->kind != Job::Kind::generate || job->reader || job->ending) {
      throw Error(ErrorCode::busy, "No generation is waiting to be read");
    }
    job->acknowledged = job->delivered;
    job->commit = std::max(job->commit.load(), commit);
    job->reader = std::move(done);
    try {
      answerReader(*job, calls);
    } catch (...) {
      job->reader = nullptr;  // the caller gets the exception
      throw;
    }
  }
  wake_.notify_all();
  for (const auto& call : calls) call();
}

void Executor::endGenerate(const std::shared_ptr<Session>& session, int32_t position, Done done) {
  {
    const Lock lock(mutex_);
    const auto job = session->job;
    if (!job || job->kind != Job::Kind::generate || job->ending) {
      throw Error(ErrorCode::busy, "No generation is under way");
    }
    job->ending = true;
    job->endPosition = position;
    job->ended = std::move(done);
  }
  wake_.notify_all();
}

void Executor::truncate(const std::shared_ptr<Session>& session, int32_t position) {
  const Claim claim(*this, session);
  keepForExecutor(session->sequence().cache);
  session->truncate(position);
}

std::vector<int32_t> Executor::ids(const std::shared_ptr<Session>& session) {
  const Claim claim(*this, session);
  return session->sequence().ids;
}

void Executor::abort(const std::shared_ptr<Session>& session) {
  {
    const Lock lock(mutex_);
    if (!session->job || session->job->failure) return;
    session->job->failure.emplace(ErrorCode::aborted, "The call was aborted");
  }
  wake_.notify_all();
}

void Executor::dispose(const std::shared_ptr<Session>& session) noexcept {
  bool clears = false;
  {
    const Lock lock(mutex_);
    session->disposed = true;
    if (session->job) {
      session->job->failure = sessionGone_;
      session->job->over = true;
    } else if (!session->busy.exchange(true)) {
      clears = !leaveToExecutor(session);
    }
  }
  wake_.notify_all();
  if (!clears) return;
  session->clear();
  session->busy = false;
}

// Freeing much takes time that a caller may not have: about 0.1 s for a gigabyte.
bool Executor::leaveToExecutor(const std::shared_ptr<Session>& session) noexcept {
  if (stopping_ || session->sequence().cache.bytes() < kMostBytesFreedByCaller) return false;
  try {
    garbage_.sessions.push_back(session);
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

// The same for rows that are cut off: a copy that shares them is the last to let go.
void Executor::keepForExecutor(const SequenceCache& cache) noexcept {
  if (cache.bytes() < kMostBytesFreedByCaller) return;
  try {
    const Lock lock(mutex_);
    if (!stopping_) garbage_.caches.push_back(cache);
  } catch (const std::bad_alloc&) {
    return;
  }
  wake_.notify_all();
}

void Executor::free(Garbage& garbage) noexcept {
  garbage.caches.clear();
  for (const auto& session : garbage.sessions) {
    session->clear();
    session->busy = false;
  }
  garbage.sessions.clear();
  {
    const Lock lock(mutex_);
    --freeing_;
  }
  freed_.notify_all();
}

// Does not wait for the executor's thread, which may be in a long pass, unless that is freeing.
void Executor::freeEverything() noexcept {
  Garbage garbage;
  {
    const Lock lock(mutex_);
    std::swap(garbage, garbage_);
    ++freeing_;
  }
  free(garbage);
  Lock lock(mutex_);
  freed_.wait(lock, [this] { return freeing_ == 0; });
}

void Executor::stop() {
  {
    const Lock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
}

size_t Executor::sessionCount() {
  const Lock lock(mutex_);
  std::erase_if(sessions_, [](const auto& session) {
    const auto held = session.lock();
    return !held || held->disposed;
  });
  return sessions_.size();
}

}  // namespace anchorcoder
