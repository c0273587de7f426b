#include "unbend/serve/connections.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "unbend/base/error.h"

namespace unbend::serve {
namespace {

constexpr int kSendBuffer = 128 * 1024;  // bytes; Linux takes twice as much, for its own needs
constexpr std::size_t kMaxHead = 64 * 1024;
constexpr std::string_view kRefusal =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 108\r\nRetry-After: 1\r\n"
    "Connection: close\r\n\r\n"
    R"({"error":{"message":"too many connections, try later","type":"server_error","param":null,"code":"overload"}})";
static_assert(kRefusal.size() - kRefusal.find('{') == 108);

}  // namespace

Connection::~Connection() {
  if (socket >= 0) ::close(socket);
}

bool Connection::has_request() const {
  return received.find("\r\n\r\n", read) != std::string::npos || received.size() - read > kMaxHead;
}

Connections::Connections(const ConnectionOptions& options, Answer answer)
    : options_(options), answer_(std::move(answer)), poll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (poll_ < 0) fail_computation("cannot watch connections: {}", std::strerror(errno));
  watcher_ = std::thread([this] { watch(); });
}

Connections::~Connections() {
  close();
  ::close(poll_);
}

void Connections::close() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (watcher_.joinable()) watcher_.join();
  for (std::thread& worker : workers_)
    if (worker.joinable()) worker.join();
  idle_.clear();
}

std::int64_t Connections::open() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(idle_.size() + ready_.size() + busy_);
}

void Connections::add(int socket) {
  auto connection = std::make_unique<Connection>(socket);
  fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
  // The kernel grows it to megabytes otherwise: a whole answer for a client that reads nothing, times all clients.
  setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  if (idle_.size() + ready_.size() + busy_ >= options_.connections) {
    // Whoever was silent for longest makes room: a client that has something to ask asks at once.
    const auto oldest = std::ranges::min_element(idle_, {}, [](const auto& entry) { return entry.second->until; });
    if (oldest == idle_.end()) return refuse(std::move(connection));
    Owned evicted = std::move(oldest->second);
    idle_.erase(oldest);
    refuse(std::move(evicted));
  }
  keep(std::move(connection), options_.head);
}

/// Says so, to a client that expects an answer, and closes.
void Connections::refuse(Owned connection) {
  if (connection->answered > 0 && !connection->has_request()) return;
  if (connection->closing) return;
  (void)!send(connection->socket, kRefusal.data(), kRefusal.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  ::shutdown(connection->socket, SHUT_WR);
}

/// Into the room of those who wait, with mutex_ held.
void Connections::keep(Owned connection, std::chrono::seconds patience) {
  const int socket = connection->socket;
  connection->until = Connection::Clock::now() + patience;
  idle_[socket] = std::move(connection);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.fd = socket;
  if (epoll_ctl(poll_, EPOLL_CTL_ADD, socket, &event) != 0) idle_.erase(socket);
}

void Connections::wait_for_request(Owned connection) {
  const std::lock_guard lock(mutex_);
  const auto patience = connection->received.empty() ? options_.idle : options_.head;
  if (!stopping_) keep(std::move(connection), patience);
}

void Connections::wait_for_close(Owned connection) {
  ::shutdown(connection->socket, SHUT_WR);
  connection->closing = true;
  const std::lock_guard lock(mutex_);
  if (!stopping_) keep(std::move(connection), options_.goodbye);
}

void Connections::watch() {
  std::array<epoll_event, 64> events{};
  for (auto next = Connection::Clock::now();;) {
    const int count = epoll_wait(poll_, events.data(), static_cast<int>(events.size()), 100);
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    for (int i = 0; i < count; ++i) receive(events[static_cast<std::size_t>(i)].data.fd);
    if (const auto now = Connection::Clock::now(); now >= next) {
      std::erase_if(idle_, [&](const auto& entry) { return entry.second->until < now; });
      next = now + std::chrono::milliseconds(100);
    }
  }
}

/// What a waiting client sent: more of a request, or the end.
void Connections::receive(int socket) {
  const auto found = idle_.find(socket);
  if (found == idle_.end()) return;
  Connection& connection = *found->second;
  std::array<char, 16384> bytes;
  const ssize_t count = recv(socket, bytes.data(), bytes.size(), 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    idle_.erase(found);
    return;
  }
  if (connection.closing) return;
  if (connection.received.empty() && connection.answered > 0)  // the head has to follow its first byte soon
    connection.until = Connection::Clock::now() + options_.head;
  connection.received.append(bytes.data(), static_cast<std::size_t>(count));
  if (!connection.has_request()) return;
  Owned ready = std::move(found->second);
  idle_.erase(found);
  epoll_ctl(poll_, EPOLL_CTL_DEL, socket, nullptr);
  dispatch(std::move(ready));
}

/// To a free thread, or to a new one, with mutex_ held.
void Connections::dispatch(Owned connection) {
  if (free_ <= ready_.size()) {
    if (workers_.size() >= options_.threads) return refuse(std::move(connection));
    ++free_;
    workers_.emplace_back([this] { work(); });
  }
  ready_.push_back(std::move(connection));
  changed_.notify_one();
}

void Connections::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !ready_.empty(); });
    if (ready_.empty()) return;
    Owned connection = std::move(ready_.front());
    ready_.pop_front();
    --free_, ++busy_;
    lock.unlock();
    bool again;
    do {
      again = answer_(*connection);
      ++connection->answered;
      connection->received.erase(0, connection->read);
      connection->read = 0;
    } while (again && connection->has_request());
    if (again)
      wait_for_request(std::move(connection));
    else
      wait_for_close(std::move(connection));
    lock.lock();
    ++free_, --busy_;
  }
}

}  // namespace unbend::serve
