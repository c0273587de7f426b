#include "unbend/optimize/ftrl_file.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/json.h"
#include "unbend/base/safetensors_header.h"

namespace unbend::optimize {
namespace {

constexpr std::string_view kKey = "unbend.implicit_ftrl";

Json to_json(const FtrlOptions& o, const FormatOptions& f, StreamPosition position, std::int64_t dimension) {
  require(o.loss.kind != LossKind::User && o.update != Update::User && o.schedule != Schedule::User,
          "a learner with functions of its user cannot be saved");
  return {{"version", 1},
          {"dimension", dimension},
          {"loss", name(o.loss.kind)},
          {"loss_parameter", o.loss.parameter},
          {"update", update_names()[static_cast<std::size_t>(o.update)]},
          {"schedule", schedule_names()[static_cast<std::size_t>(o.schedule)]},
          {"rates", o.rates},
          {"lambda1", o.lambda1},
          {"epsilon", o.epsilon},
          {"domain", domain_names()[static_cast<std::size_t>(o.geometry.domain)]},
          {"low", o.geometry.low},
          {"high", o.geometry.high},
          {"radius", o.geometry.radius},
          {"l1", o.l1},
          {"l1_power", o.l1_power},
          {"classes", o.classes},
          {"softmax", o.multiclass == Multiclass::Softmax},
          {"zero_one", o.zero_one},
          {"average", o.average},
          {"format", format_names()[static_cast<std::size_t>(f.format)]},
          {"features", f.features},
          {"bits", f.bits},
          {"constant", f.constant},
          {"label_column", f.label_column},
          {"bytes", position.bytes},
          {"lines", position.lines}};
}

template <class F>
auto as_input(std::string_view where, const F& named) {
  try {
    return named();
  } catch (const Error& error) {  // a usage error when it comes from the command line
    fail_input("{}: {}", where, error.what());
  }
}

}  // namespace

void save_ftrl(const std::filesystem::path& path, const Ftrl& learner, const FormatOptions& format,
               StreamPosition position) {
  const auto numbers = learner.numbers();
  SafetensorsHeader header;
  header.metadata[std::string(kKey)] = to_json(learner.options(), format, position, learner.dimension()).dump();
  std::vector<std::string_view> pieces{""};
  for (const auto& [name, values] : numbers) {
    const std::size_t bytes = values.size() * sizeof(double);
    header.tensors.push_back({name, "F64", {std::ssize(values)}, 0, bytes});
    pieces.emplace_back(reinterpret_cast<const char*>(values.data()), bytes);
  }
  const std::string head = write_safetensors_header(header);
  pieces[0] = head;
  write_file(path, std::span<const std::string_view>(pieces));
}

FtrlModel parse_ftrl(std::span<const std::byte> file, std::string_view where) {
  const SafetensorsHeader header = parse_safetensors_header(file, where);
  const auto found = header.metadata.find(std::string(kKey));
  require(found != header.metadata.end(), "{}: this is not a saved online learner", where);
  const Json json = parse_json(found->second, where);
  const auto get = [&]<class T>(const char* key, T) { return json_get<T>(json, key, where); };
  require(get("version", 0) == 1, "{}: the learner's version {} is not known", where, get("version", 0));

  FtrlOptions o;
  FormatOptions f;
  as_input(where, [&] {
    o.loss = loss_named(get("loss", std::string()), get("loss_parameter", 0.));
    o.update = update_named(get("update", std::string()));
    o.schedule = schedule_named(get("schedule", std::string()));
    o.geometry.domain = domain_named(get("domain", std::string()));
    f.format = format_named(get("format", std::string()));
    return 0;
  });
  o.rates = get("rates", std::vector<double>());
  o.lambda1 = get("lambda1", 0.), o.epsilon = get("epsilon", 0.);
  o.geometry.low = get("low", 0.), o.geometry.high = get("high", 0.), o.geometry.radius = get("radius", 0.);
  o.l1 = get("l1", 0.), o.l1_power = get("l1_power", 0.);
  o.classes = get("classes", 0);
  o.multiclass = get("softmax", false) ? Multiclass::Softmax : Multiclass::OneVsRest;
  o.zero_one = get("zero_one", false), o.average = get("average", false);
  f.features = get("features", std::int64_t{0});
  f.bits = get("bits", 0);
  f.constant = get("constant", false);
  f.label_column = get("label_column", 0);
  const StreamPosition position{get("bytes", std::int64_t{0}), get("lines", std::int64_t{0})};
  require(position.bytes >= 0 && position.lines >= 0, "{}: a negative position in the stream", where);

  std::map<std::string, std::vector<double>> numbers;
  for (const auto& tensor : header.tensors) {
    require(tensor.type == "F64", "{}: '{}' is {} where F64 belongs", where, tensor.name, tensor.type);
    auto& values = numbers[tensor.name];
    values.resize((tensor.end - tensor.begin) / sizeof(double));
    if (!values.empty()) std::memcpy(values.data(), file.data() + tensor.begin, values.size() * sizeof(double));
  }
  // What the options ask for must be there before memory is asked for it.
  const auto dimension = get("dimension", std::int64_t{0});
  require(dimension >= 1 && dimension <= std::ssize(numbers["weights"]), "{}: {} weights for a dimension of {}", where,
          numbers["weights"].size(), dimension);
  require(o.classes >= 1 && o.classes <= std::ssize(numbers["lambda"]) &&
              o.rates.size() * static_cast<std::size_t>(o.classes) <= numbers["lambda"].size(),
          "{}: {} models of {} classes, and the state of {}", where, o.rates.size(), o.classes,
          numbers["lambda"].size());
  return as_input(where, [&] {
    check_format(f);
    require(f.dimension() == dimension, "a dimension of {} for a format of {} features", dimension, f.dimension());
    FtrlModel model{Ftrl(o, dimension), f, position};
    model.learner.set_numbers(std::move(numbers));
    return model;
  });
}

FtrlModel load_ftrl(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_ftrl(file.bytes(), path.string());
}

StreamResult learn_stream(Ftrl& learner, RowStream& stream, const StreamLearning& options) {
  StreamResult result;
  std::int64_t since = 0;
  // True where learning must stop.
  const auto bad = [&](std::int64_t line, const std::string& problem) {
    if (result.bad++ == 0) result.first_bad = {line, problem};
    result.stopped = !options.skip_bad;
    return result.stopped;
  };
  const auto next = [&]() -> RowBatch* {
    try {
      return stream.next();
    } catch (const Error& error) {
      result.failure = error.what();
      return nullptr;
    }
  };
  while (RowBatch* batch = next()) {
    std::size_t next_bad = 0;
    const auto bad_before = [&](std::int64_t line) {
      while (next_bad < batch->bad.size() && batch->bad[next_bad].line < line) {
        if (bad(batch->bad[next_bad].line, batch->bad[next_bad].problem)) return true;
        ++next_bad;
      }
      return false;
    };
    const std::size_t rows = batch->rows.size();
    for (std::size_t i = 0; i < rows; ++i) {
      if (bad_before(batch->ends[i].lines)) return result;
      if (i + 2 < rows) learner.prefetch(batch->rows[i + 2]);
      try {
        learner.learn(batch->rows[i]);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::Input) throw;
        if (bad(batch->ends[i].lines, error.what())) return result;
      }
      result.position = batch->ends[i];
      if (options.every > 0 && ++since >= options.every) {
        since = 0;
        options.after(result.position);
      }
      if ((i & 63) == 0 && interrupted()) {
        result.interrupted = true;
        return result;
      }
    }
    if (bad_before(batch->end.lines + 1)) return result;
    result.position = batch->end;
  }
  result.interrupted = interrupted();
  return result;
}

}  // namespace unbend::optimize
