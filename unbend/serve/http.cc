#include "unbend/serve/http.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <random>

#include "unbend/base/error.h"
#include "unbend/serve/connections.h"
#include "unbend/serve/page.h"
#include "unbend/serve/reply.h"

namespace unbend::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxBody = 8 * 1024 * 1024;
constexpr seconds kRequestTime{30};     // for the whole of a request
constexpr seconds kWriteTime{10};       // until a reader that takes nothing is given up
constexpr seconds kFarewell{15};        // for clients to take the rest of their answers when the server stops
constexpr milliseconds kPatience{200};  // between looks at whether a client is still there
const char* const kJson = "application/json";

/// Waits for `events` on a socket until `deadline`.
bool ready(int socket, short events, Clock::time_point deadline) {
  pollfd entry{socket, events, 0};
  const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
  int count;
  do count = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
  while (count < 0 && errno == EINTR);
  return count > 0;
}

/// A connection as httplib reads and writes it. A request as a whole has a deadline, and so has every write.
class ConnectionStream final : public httplib::Stream {
 public:
  explicit ConnectionStream(Connection& connection) : connection_(connection) {}

  bool is_readable() const override { return unread() > 0; }
  bool wait_readable() const override { return unread() > 0 || ready(connection_.socket, POLLIN, deadline_); }
  bool wait_writable() const override { return ready(connection_.socket, POLLOUT, Clock::now() + kWriteTime); }
  bool is_peer_alive() const override {
    char byte;
    const ssize_t count = recv(connection_.socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
  }

  ssize_t read(char* to, std::size_t size) override {
    while (unread() == 0) {
      if (!wait_readable()) return error_ = httplib::Error::Timeout, -1;
      const ssize_t count = recv(connection_.socket, to, size, 0);
      if (count >= 0) return count;
      if (errno != EAGAIN && errno != EINTR) return error_ = httplib::Error::Read, -1;
    }
    size = std::min(size, unread());
    std::memcpy(to, connection_.received.data() + connection_.read, size);
    connection_.read += size;
    return static_cast<ssize_t>(size);
  }

  ssize_t write(const char* from, std::size_t size) override {
    for (;;) {
      const ssize_t count = send(connection_.socket, from, size, MSG_NOSIGNAL);
      if (count >= 0) return count;
      if ((errno != EAGAIN && errno != EINTR) || !wait_writable()) return error_ = httplib::Error::Write, -1;
    }
  }

  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return connection_.socket; }
  time_t duration() const override { return std::chrono::duration_cast<seconds>(Clock::now() - start_).count(); }
  const char* buffered_data(std::size_t& size) const override {
    size = unread();
    return connection_.received.data() + connection_.read;
  }
  void consume_buffered(std::size_t size) override { connection_.read += size; }

 private:
  std::size_t unread() const { return connection_.received.size() - connection_.read; }

  Connection& connection_;
  const Clock::time_point start_ = Clock::now(), deadline_ = start_ + kRequestTime;
};

/// httplib's server, its connections kept by our own.
class HttpServer final : public httplib::Server {
 public:
  explicit HttpServer(const ConnectionOptions& options)
      : connections_(options, [this](Connection& connection) { return answer(connection); }) {
    new_task_queue = [] { return new AtOnce; };
    // SO_REUSEPORT, httplib's default, would let a second server take half of the clients in silence.
    set_socket_options([](socket_t socket) {
      const int on = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    });
  }
  Connections& connections() { return connections_; }

 private:
  struct AtOnce : httplib::TaskQueue {  // handing a socket over takes no time
    bool enqueue(std::function<void()> job) override { return job(), true; }
    void shutdown() override {}
  };

  bool process_and_close_socket(socket_t socket) override { return connections_.add(socket), true; }

  bool answer(Connection& connection) {
    ConnectionStream stream(connection);
    bool close = false;
    return serve_guarded([&] { return process_request(stream, {}, 0, {}, 0, false, close, nullptr); }) && !close;
  }

  Connections connections_;
};

/// Equal without telling by its time where two texts differ.
bool same_secret(std::string_view given, std::string_view secret) {
  unsigned difference = given.size() == secret.size() ? 0 : 1;
  for (std::size_t i = 0; i < secret.size(); ++i)
    difference |= static_cast<unsigned char>(secret[i]) ^ static_cast<unsigned char>(i < given.size() ? given[i] : 0);
  return difference == 0;
}

std::string new_id(bool chat) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{}-{:016x}", chat ? "chatcmpl" : "cmpl", random());
}

std::size_t longest_token(const engine::Tokenizer& tokenizer) {
  std::size_t longest = 1;
  for (engine::TokenId id = 0; id < tokenizer.size(); ++id)
    longest = std::max(longest, tokenizer.decode({&id, 1}, true).size());
  return longest;
}

void give(httplib::Response& res, const ApiError& error) {
  res.status = error.status;
  if (error.status == 429 || error.status == 503) res.set_header("Retry-After", "1");
  if (error.status == 401) res.set_header("WWW-Authenticate", "Bearer");
  res.set_content(to_text(error_body(error)), kJson);
}

const std::map<std::string, std::string> kRoutes = {
    {"/", "GET"},          {"/health", "GET"},          {"/metrics", "GET"},
    {"/v1/models", "GET"}, {"/v1/completions", "POST"}, {"/v1/chat/completions", "POST"}};

}  // namespace

struct Server::Impl {
  Impl(const ServerOptions& o, Scheduler& s, const engine::Engine& engine, const engine::Tokenizer& tokenizer)
      : options(o),
        scheduler(s),
        service{s, tokenizer, metrics, engine.options().context, longest_token(tokenizer)},
        http({.threads = o.threads}) {
    http.set_payload_max_length(kMaxBody);
    http.set_keep_alive_max_count(1000);
    http.set_tcp_nodelay(true);
    add_routes();
    bind();
  }

  void bind() {
    errno = 0;
    const bool any = options.port == 0;
    port = any                                             ? http.bind_to_any_port(options.host)
           : http.bind_to_port(options.host, options.port) ? options.port
                                                           : -1;
    if (port < 0)
      fail_computation("cannot listen on {}:{}: {}", options.host, options.port,
                       errno ? std::strerror(errno) : "no such address");
  }

  void add_routes() {
    using httplib::Request;
    using httplib::Response;
    http.set_pre_routing_handler([this](const Request& req, Response& res) { return admit(req, res); });
    http.set_error_handler([](const Request& req, Response& res) { describe(req, res); });
    http.set_exception_handler([](const Request&, Response& res, std::exception_ptr error) { excuse(res, error); });
    http.set_logger([this](const Request& req, const Response& res) {
      metrics.request(kRoutes.contains(req.path) ? req.path : "other", res.status);
    });
    http.Get("/", [](const Request&, Response& res) {
      res.set_header("Content-Security-Policy",
                     "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'");
      res.set_content(std::string(kPage), "text/html; charset=utf-8");
    });
    http.Get("/health", [this](const Request&, Response& res) {
      if (draining) throw ApiError(503, "the server is shutting down", "shutting_down");
      res.set_content(R"({"status":"ok"})", kJson);
    });
    http.Get("/metrics", [this](const Request&, Response& res) {
      const auto counts = scheduler.counts();
      res.set_content(metrics.text({counts.active, counts.waiting, http.connections().open()}),
                      "text/plain; version=0.0.4");
    });
    http.Get("/v1/models", [this](const Request&, Response& res) {
      res.set_content(to_text({{"object", "list"}, {"data", Json::array({about_model()})}}), kJson);
    });
    http.Get(R"(/v1/models/(.+))", [this](const Request& req, Response& res) {
      check_model(req.matches[1]);
      res.set_content(to_text(about_model()), kJson);
    });
    http.Post("/v1/completions", [this](const Request& req, Response& res) { text(req, res, false); });
    http.Post("/v1/chat/completions", [this](const Request& req, Response& res) { text(req, res, true); });
  }

  Json about_model() const {
    return {{"id", options.model},
            {"object", "model"},
            {"created", started},
            {"owned_by", "unbend"},
            {"context_length", service.context}};
  }

  void check_model(const std::string& name) const {
    if (name != options.model)
      throw ApiError(404, fmt::format("there is no model '{}', this server has '{}'", name, options.model),
                     "model_not_found", "model");
  }

  /// Before the body is read: who may ask, and how much.
  httplib::Server::HandlerResponse admit(const httplib::Request& req, httplib::Response& res) const {
    const bool open = options.api_key.empty() || req.path == "/" || req.path == "/health";
    if (!open && !same_secret(req.get_header_value("Authorization"), "Bearer " + options.api_key))
      give(res, ApiError(401, "a valid API key is needed: 'Authorization: Bearer KEY'", "invalid_api_key"));
    else if (req.get_header_value_u64("Content-Length") > kMaxBody)
      give(res, too_large());
    else
      return httplib::Server::HandlerResponse::Unhandled;
    return httplib::Server::HandlerResponse::Handled;
  }

  static ApiError too_large() {
    return ApiError(413, fmt::format("the body is larger than {} bytes", kMaxBody), "body_too_large");
  }

  /// The body of an error that httplib found.
  static void describe(const httplib::Request& req, httplib::Response& res) {
    if (!res.body.empty()) return;
    const auto route = kRoutes.find(req.path);
    if (res.status == 404 && route != kRoutes.end()) {
      res.set_header("Allow", route->second);
      return give(res, ApiError(405, fmt::format("{} takes {} only", req.path, route->second), "method_not_allowed"));
    }
    if (res.status == 404) return give(res, ApiError(404, fmt::format("no route '{}'", req.path), "unknown_route"));
    if (res.status == 413) return give(res, too_large());
    give(res, ApiError(res.status, fmt::format("bad request: {}", httplib::status_message(res.status)), "bad_request"));
  }

  static void excuse(httplib::Response& res, const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const ApiError& known) {
      give(res, known);
    } catch (const std::exception& other) {
      give(res, ApiError(500, other.what(), "internal_error"));
    }
  }

  /// While one lives, drain() waits.
  struct Flight {
    Impl& server;
    explicit Flight(Impl& s) : server(s) {
      const std::lock_guard lock(server.mutex);
      ++server.flights;
    }
    ~Flight() {
      const std::lock_guard lock(server.mutex);
      --server.flights;
      server.landed.notify_all();
    }
  };

  struct Stream {
    Flight flight;
    AnswerHeader header;
    Reply reply;
    bool opened = false;
  };

  void text(const httplib::Request& req, httplib::Response& res, bool chat) {
    if (draining) throw ApiError(503, "the server is shutting down", "shutting_down");
    if (!req.get_header_value("Content-Type").starts_with(kJson))  // also keeps other sites' pages out
      throw ApiError(415, "the body must be JSON: 'Content-Type: application/json'", "unsupported_media_type");
    const TextRequest request = chat ? parse_chat(req.body) : parse_completion(req.body);
    if (!request.model.empty()) check_model(request.model);
    AnswerHeader header{new_id(chat), options.model,         std::time(nullptr),
                        chat,         request.logprobs >= 0, request.include_usage};
    auto stream = std::shared_ptr<Stream>(new Stream{Flight(*this), header, Reply(service, request, chat)});
    if (!request.stream) return whole(req, res, *stream);
    res.set_header("Cache-Control", "no-cache");
    res.set_header("X-Accel-Buffering", "no");
    res.set_chunked_content_provider("text/event-stream",
                                     [stream](std::size_t, httplib::DataSink& sink) { return next(*stream, sink); });
  }

  static void whole(const httplib::Request& req, httplib::Response& res, Stream& stream) {
    std::vector<Choice> choices(static_cast<std::size_t>(stream.reply.choices()));
    for (std::size_t i = 0; i < choices.size(); ++i) choices[i].index = static_cast<std::int64_t>(i);
    while (!stream.reply.over()) {
      for (Choice& part : stream.reply.wait(kPatience)) {
        Choice& choice = choices[static_cast<std::size_t>(part.index)];
        if (choice.tokens.empty()) choice.offset = part.offset;
        choice.text += part.text;
        choice.finish = part.finish;
        std::ranges::move(part.tokens, std::back_inserter(choice.tokens));
      }
      if (req.is_connection_closed()) throw ApiError(499, "the client is gone", "client_closed_request");
    }
    res.set_content(to_text(whole_answer(stream.header, choices, stream.reply.usage())), kJson);
  }

  /// The next events of a stream; false when the client takes no more.
  static bool next(Stream& stream, httplib::DataSink& sink) {
    std::string events;
    bool over = false;
    try {
      if (!std::exchange(stream.opened, true) && stream.header.chat)
        for (std::int64_t i = 0; i < stream.reply.choices(); ++i) events += to_event(opening_chunk(stream.header, i));
      for (const Choice& part : stream.reply.wait(kPatience))
        if (!part.text.empty() || !part.finish.empty() || stream.header.logprobs)
          events += to_event(answer_chunk(stream.header, part));
      over = stream.reply.over();
      if (over && stream.header.usage_chunk) events += to_event(usage_chunk(stream.header, stream.reply.usage()));
      if (over) events += kDoneEvent;
    } catch (const ApiError& error) {
      events += to_event(error_body(error));
      over = true;
    }
    if (!events.empty() && !sink.write(events.data(), events.size())) return false;
    if (over) sink.done();
    return true;
  }

  void drain() {
    draining = true;
    scheduler.drain();
    std::unique_lock lock(mutex);
    landed.wait_for(lock, kFarewell, [&] { return flights == 0; });
    lock.unlock();
    http.wait_until_ready();
    http.stop();
  }

  const ServerOptions options;
  Scheduler& scheduler;
  Metrics metrics;
  TextService service;
  const std::int64_t started = std::time(nullptr);
  int port = -1;
  std::atomic<bool> draining = false;
  std::mutex mutex;
  std::condition_variable landed;
  int flights = 0;
  HttpServer http;
};

Server::Server(const ServerOptions& options, Scheduler& scheduler, const engine::Engine& engine,
               const engine::Tokenizer& tokenizer)
    : impl_(std::make_unique<Impl>(options, scheduler, engine, tokenizer)) {}
Server::~Server() = default;

int Server::port() const { return impl_->port; }

std::string Server::address() const {
  const std::string& host = impl_->options.host;
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("http://{}:{}", v6 ? "[" + host + "]" : host, impl_->port);
}

void Server::run() {
  const bool ended_well = impl_->http.listen_after_bind();
  impl_->http.connections().close();
  if (!ended_well) fail_computation("the socket of {} failed", address());
}

void Server::refuse() { impl_->draining = true; }

void Server::drain() { impl_->drain(); }

}  // namespace unbend::serve
