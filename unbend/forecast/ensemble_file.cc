#include "unbend/forecast/ensemble_file.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <span>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/forecast/meta_forecast.h"
#include "unbend/tensor/safetensors.h"

namespace unbend::forecast {
namespace {

constexpr int kLongestPeriod = 10000;
constexpr const char* kFormat = "unbend meta_forecast 1";

void add_member(std::map<std::string, at::Tensor>& tensors, const std::string& prefix, const Member& m, bool half) {
  for (const auto& part : nbeats::parts(m.layout)) {
    const auto count = static_cast<std::size_t>(c10::multiply_integers(part.shape));
    const auto t = at::tensor(at::ArrayRef<float>(m.weights.data() + part.at, count)).view(part.shape);
    tensors[prefix + part.name] = half ? t.to(at::kHalf) : t;
  }
}

Member member_of(const TensorFile& file, const std::string& prefix, const Json& json, const std::string& where) {
  Member m;
  m.training = training_from_json(json_get<Json>(json, "training", where), where);
  m.losses = json_get<std::vector<double>>(json, "losses", where);
  m.layout = nbeats::layout(m.training.network);
  const auto parts = nbeats::parts(m.layout);
  for (const auto& part : parts) {  // all of them before memory is taken: the settings may promise more than there is
    const auto found = file.tensors.find(prefix + part.name);
    require(found != file.tensors.end(), "{}: tensor {}{} is missing", where, prefix, part.name);
    require(found->second.sizes() == at::IntArrayRef(part.shape) && found->second.is_floating_point(),
            "{}: tensor {} has another shape or type", where, found->first);
  }
  m.weights.resize(m.layout.parameters);
  for (const auto& part : parts) {
    auto to = at::from_blob(m.weights.data() + part.at, part.shape, at::kFloat);
    to.copy_(file.tensors.at(prefix + part.name));
    require(at::isfinite(to).all().item<bool>(), "{}: tensor {}{} has values that are not finite", where, prefix,
            part.name);
  }
  return m;
}

Json member_json(const Member& m) { return {{"training", to_json(m.training)}, {"losses", m.losses}}; }

Json header_of(const TensorFile& file, const std::string& where) {
  const auto format = file.metadata.find("format"), json = file.metadata.find("ensemble");
  require(format != file.metadata.end() && format->second == kFormat && json != file.metadata.end(),
          "{}: this is no ensemble of `unbend forecast fit`", where);
  return parse_json(json->second, where + ", metadata");
}

}  // namespace

void save_ensemble(const std::filesystem::path& path, const Ensemble& e, bool half) {
  std::map<std::string, at::Tensor> tensors;
  Json members = Json::array();
  for (std::size_t i = 0; i < e.members.size(); ++i) {
    add_member(tensors, fmt::format("members.{}.", i), e.members[i], half);
    members.push_back(member_json(e.members[i]));
  }
  if (e.calibration) {
    const auto& scores = e.calibration->scores;
    auto t = at::empty({std::ssize(scores), e.calibration->series()}, at::kFloat);
    for (std::size_t h = 0; h < scores.size(); ++h)
      t[static_cast<std::int64_t>(h)].copy_(at::tensor(scores[h], at::kDouble));
    tensors["calibration"] = t;
  }
  const Json json{{"frequency", e.frequency},
                  {"period", e.period},
                  {"horizon", e.horizon},
                  {"trained_on", e.trained_on},
                  {"members", members}};
  save_safetensors(path, tensors, {{"format", kFormat}, {"ensemble", json.dump()}});
}

Ensemble load_ensemble(const std::filesystem::path& path) {
  const auto file = load_safetensors(path);
  const std::string where = path.string();
  const Json json = header_of(file, where);
  Ensemble e;
  e.frequency = json_get<std::string>(json, "frequency", where);
  series::find_frequency(e.frequency);
  e.period = json_get<int>(json, "period", where);
  e.horizon = json_get<int>(json, "horizon", where);
  e.trained_on = json_get<std::string>(json, "trained_on", where);
  const Json members = json_get<Json>(json, "members", where);
  require(e.period > 0 && e.period <= kLongestPeriod, "{}: a period of {} points: from 1 to {}", where, e.period,
          kLongestPeriod);
  require(members.is_array() && !members.empty(), "{}: the ensemble has no members", where);
  for (std::size_t i = 0; i < members.size(); ++i) {
    e.members.push_back(member_of(file, fmt::format("members.{}.", i), members[i], where));
    require(e.members.back().layout.config.horizon == e.horizon, "{}: member {} has another horizon", where, i);
  }
  if (const auto found = file.tensors.find("calibration"); found != file.tensors.end()) {
    const auto t = found->second.to(at::kDouble).contiguous();
    require(t.dim() == 2 && t.size(0) == e.horizon && t.size(1) > 0 && at::isfinite(t).all().item<bool>(),
            "{}: the calibration has another shape or is not finite", where);
    e.calibration.emplace();
    for (std::int64_t h = 0; h < t.size(0); ++h) {
      const double* const row = t.const_data_ptr<double>() + h * t.size(1);
      e.calibration->scores.emplace_back(row, row + t.size(1));
    }
  }
  return e;
}

std::string fingerprint(const series::Collection& source) {
  std::string hashes;
  for (const auto& s : source) hashes += sha256(std::as_bytes(std::span(s.values)));
  return sha256(std::as_bytes(std::span(hashes)));
}

std::optional<Member> load_kept_member(const std::filesystem::path& path, const Training& training,
                                       const std::string& source) {
  if (path.empty() || !std::filesystem::exists(path)) return std::nullopt;
  const auto file = load_safetensors(path);
  const Json json = header_of(file, path.string());
  if (json_get<Json>(json, "training", path.string()) != to_json(training) || json.value("source", "") != source)
    return std::nullopt;
  return member_of(file, "", json, path.string());
}

void save_kept_member(const std::filesystem::path& path, const Member& member, const std::string& source) {
  std::filesystem::create_directories(path.parent_path());
  std::map<std::string, at::Tensor> tensors;
  add_member(tensors, "", member, false);
  Json json = member_json(member);
  json["source"] = source;
  save_safetensors(path, tensors, {{"format", kFormat}, {"ensemble", json.dump()}});
}

}  // namespace unbend::forecast
