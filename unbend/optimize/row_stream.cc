#include "unbend/optimize/row_stream.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "unbend/base/error.h"
#include "unbend/base/interrupt.h"

namespace unbend::optimize {
namespace {

constexpr std::size_t kRead = 256 << 10, kLongestLine = 64 << 20;
constexpr std::size_t kAhead = 4;  // batches

}  // namespace

struct RowStream::Reader {
  std::string name;
  FormatOptions format;
  std::unique_ptr<RowParser> parser;
  int file = -1;
  bool at_end = false;
  std::string buffer;        // bytes that were read and not parsed
  std::size_t searched = 0;  // of them without an end of line
  StreamPosition position;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::unique_ptr<RowBatch>> ready, spare;
  std::unique_ptr<RowBatch> used;
  std::exception_ptr failure;
  bool finished = false;
  std::atomic<bool> stop = false;
  std::thread thread;

  Reader(const std::string& path, const FormatOptions& options, StreamPosition from)
      : name(path == "-" ? "standard input" : path), format(options), position(from) {
    check_format(options);
    file = path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(file >= 0, "{}: cannot be opened: {}", name, std::strerror(errno));
    const bool goes_on = from.bytes > 0 && file != STDIN_FILENO;
    if (goes_on) go_to(from);
    if (options.format == RowFormat::Csv && options.features == 0) {
      while (buffer.find('\n') == buffer.npos && read_more()) {
      }
      const std::string_view line = std::string_view(buffer).substr(0, buffer.find('\n'));
      require(!line.empty(), "{}: the first line is empty; the number of features must be given", name);
      format.features = csv_cells(line) - options.labelled;
      require(format.features > 0, "{}: the first line has no features beside the label", name);
    }
    parser = std::make_unique<RowParser>(format, !goes_on);
    thread = std::thread([this] { work(); });
  }

  ~Reader() {
    stop = true;
    changed.notify_all();
    if (thread.joinable()) thread.join();
    if (file > STDIN_FILENO) ::close(file);
  }

  /// Another file than the one that was read to `place` is found out where it is shorter, or has no end of line there.
  void go_to(StreamPosition place) {
    const off_t size = ::lseek(file, 0, SEEK_END);
    require(size >= 0 && ::lseek(file, place.bytes, SEEK_SET) == place.bytes, "{}: cannot go to byte {}: {}", name,
            place.bytes, std::strerror(errno));
    require(size >= place.bytes, "{}: this is not the stream that was learnt: it ends at byte {}, before byte {}", name,
            size, place.bytes);
    char around[2] = {'\n', '\n'};  // the last line of a file may lack its end: then what follows it begins with one
    require(::pread(file, around, 2, place.bytes - 1) > 0, "{}: cannot be read: {}", name, std::strerror(errno));
    require(around[0] == '\n' || around[1] == '\n',
            "{}: this is not the stream that was learnt: byte {}, behind its line {}, is inside a line here", name,
            place.bytes, place.lines);
  }

  /// Waits for bytes, but looks up now and then whether it shall stop. False at the end.
  bool read_more() {
    if (at_end) return false;
    const std::size_t before = buffer.size();
    require(before <= kLongestLine, "{}: line {} is longer than 64 MiB", name, position.lines + 1);
    for (;;) {
      if (stop || interrupted()) return false;
      pollfd waiting{file, POLLIN, 0};
      const int ready_now = ::poll(&waiting, 1, 100);
      if (ready_now == 0 || (ready_now < 0 && errno == EINTR)) continue;
      buffer.resize(before + kRead);
      const ssize_t got = ::read(file, buffer.data() + before, kRead);
      const int error = errno;
      buffer.resize(before + static_cast<std::size_t>(std::max<ssize_t>(0, got)));
      if (got < 0 && (error == EINTR || error == EAGAIN)) continue;
      require(got >= 0, "{}: cannot be read: {}", name, std::strerror(error));
      at_end = got == 0 && !interrupted();  // after an interruption the last line may lack its end
      return got > 0;
    }
  }

  void line(std::string_view text, std::size_t length, RowBatch& batch) {
    position.bytes += static_cast<std::int64_t>(length);
    ++position.lines;
    std::string problem;
    const LineKind kind = parser->parse(text, batch.rows, problem);
    if (kind == LineKind::Row) batch.ends.push_back(position);
    if (kind == LineKind::Bad) batch.bad.push_back({position.lines, std::move(problem)});
  }

  /// Parses the whole lines of the buffer, at the end also the last one that lacks its end.
  void parse(RowBatch& batch) {
    const char *at = buffer.data(), *end = at + buffer.size(), *from = at + searched;
    while (const auto* stop_at =
               static_cast<const char*>(std::memchr(from, '\n', static_cast<std::size_t>(end - from)))) {
      line({at, static_cast<std::size_t>(stop_at - at)}, static_cast<std::size_t>(stop_at - at) + 1, batch);
      from = at = stop_at + 1;
    }
    if (at_end && at != end) {
      line({at, static_cast<std::size_t>(end - at)}, static_cast<std::size_t>(end - at), batch);
      at = end;
    }
    buffer.erase(0, static_cast<std::size_t>(at - buffer.data()));
    searched = buffer.size();
    batch.end = position;
  }

  void work() {
    try {
      bool more = true;
      while (more && !stop) {
        more = read_more();
        if (!more && !at_end) break;  // stopped: half a line is not a line
        std::unique_ptr<RowBatch> batch;
        {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] { return stop || ready.size() < kAhead; });
          if (!spare.empty()) {
            batch = std::move(spare.front());
            spare.pop_front();
          }
        }
        if (!batch) batch = std::make_unique<RowBatch>();
        batch->rows.clear(), batch->ends.clear(), batch->bad.clear();
        parse(*batch);
        const std::lock_guard lock(mutex);
        ready.push_back(std::move(batch));
        changed.notify_all();
      }
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    finished = true;
    changed.notify_all();
  }
};

RowStream::RowStream(const std::string& path, const FormatOptions& format, StreamPosition from)
    : reader_(std::make_unique<Reader>(path, format, from)) {}

RowStream::~RowStream() = default;

const FormatOptions& RowStream::format() const { return reader_->format; }

RowBatch* RowStream::next() {
  Reader& r = *reader_;
  std::unique_lock lock(r.mutex);
  if (r.used) r.spare.push_back(std::move(r.used));
  r.changed.wait(lock, [&] { return r.finished || !r.ready.empty(); });
  if (r.ready.empty()) {
    if (r.failure) std::rethrow_exception(r.failure);
    return nullptr;
  }
  r.used = std::move(r.ready.front());
  r.ready.pop_front();
  r.changed.notify_all();
  return r.used.get();
}

}  // namespace unbend::optimize
