// The HTTP server: routes, keys, streams, and a shutdown that lets running answers finish.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "unbend/engine/engine.h"
#include "unbend/engine/tokenizer.h"
#include "unbend/serve/scheduler.h"

namespace unbend::serve {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;           ///< 0 = any free one
  std::string model;         ///< the name that clients see
  std::string api_key;       ///< empty = none is asked for
  std::size_t threads = 64;  ///< requests at a time, those that wait for a sequence included
};

class Server {
 public:
  /// Binds the address: Computation error if that cannot be. The other objects outlive the server.
  Server(const ServerOptions& options, Scheduler& scheduler, const engine::Engine& engine,
         const engine::Tokenizer& tokenizer);
  ~Server();

  int port() const;
  std::string address() const;  ///< "http://127.0.0.1:8080"
  /// Serves until drain() is done. Computation error if the socket fails.
  void run();
  /// New requests get 503 from here on.
  void refuse();
  /// refuse(), lets running answers finish, then ends run(). Call while run() runs.
  void drain();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace unbend::serve
