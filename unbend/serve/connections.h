// Connections of a server: the idle ones wait together in one thread, and each complete request gets a thread of a
// bounded pool. So thousands of silent or slow clients cost no threads and do not hold up those who ask something.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace unbend::serve {

/// One client: its socket and what it sent that nobody has read yet. Owns the socket.
struct Connection {
  using Clock = std::chrono::steady_clock;

  int socket = -1;
  std::string received;       // from `read` on unread
  std::size_t read = 0;       // read already
  Clock::time_point until;    // when it is closed if nothing more comes
  std::int64_t answered = 0;  // requests
  bool closing = false;       // everything was said; waits for the client to close

  explicit Connection(int s) : socket(s) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();
  bool has_request() const;  ///< a whole head of a request (or more than a head may have)
};

struct ConnectionOptions {
  std::size_t connections = 1000;   ///< beyond, the one that was silent for longest is refused
  std::size_t threads = 64;         ///< requests that are answered at a time; more are refused
  std::chrono::seconds head{10};    ///< for the first line and the headers of a request
  std::chrono::seconds idle{60};    ///< between requests
  std::chrono::seconds goodbye{2};  ///< for the client to close after our last word
};

class Connections {
 public:
  /// Reads one request and answers it, in a thread of its own; false = close the connection.
  using Answer = std::function<bool(Connection&)>;

  Connections(const ConnectionOptions& options, Answer answer);
  ~Connections();  ///< close()

  void add(int socket);  ///< takes the socket over
  void close();          ///< closes the idle ones, waits for the answers that are being given
  std::int64_t open() const;

 private:
  using Owned = std::unique_ptr<Connection>;
  void watch();
  void receive(int socket);
  void refuse(Owned connection);
  void dispatch(Owned connection);
  void wait_for_request(Owned connection);
  void wait_for_close(Owned connection);
  void keep(Owned connection, std::chrono::seconds patience);
  void work();

  const ConnectionOptions options_;
  const Answer answer_;
  int poll_ = -1;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<int, Owned> idle_;  // by socket
  std::deque<Owned> ready_;
  std::size_t free_ = 0, busy_ = 0;  // threads
  bool stopping_ = false;
  std::vector<std::thread> workers_;
  std::thread watcher_;
};

}  // namespace unbend::serve
