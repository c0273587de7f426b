#include "unbend/control/policy_training.h"

#include <charconv>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"

namespace unbend::control {
namespace {

constexpr const char* kHeader =
    "steps,episodes,updates,return,length,divergence,entropy,policy_loss,value_loss,step_size,clamped,skipped,seconds,"
    "evaluated";
constexpr std::size_t kColumns = 14;

void keep(const Trainer& trainer, const RunOptions& o, const std::vector<CurvePoint>& curve, bool environment) {
  if (o.folder.empty()) return;
  std::filesystem::create_directories(o.folder);
  // The checkpoint last: a curve that is ahead of it can be cut when training goes on, one behind it has a gap.
  write_file(o.folder / "curve.csv", curve_csv(curve));
  save_agent(trainer.agent(), o.folder / "policy.safetensors");
  trainer.checkpoint(environment).write(o.folder / "checkpoint.safetensors");
}

}  // namespace

std::vector<CurvePoint> run(Trainer& trainer, const MakeDynamics& make, const RunOptions& o,
                            std::vector<CurvePoint> curve) {
  Progress progress("training", trainer.total_steps(), "steps", o.quiet);
  progress.update(trainer.steps());
  const auto where = [&] {
    return o.folder.empty() ? std::string()
                            : fmt::format("; {} steps of learning are kept in {}", trainer.steps(), o.folder.string());
  };
  std::int64_t since = 0;
  keep(trainer, o, curve, true);  // a folder that cannot be written is found at once
  while (!trainer.done()) {
    CurvePoint point;
    try {
      point = trainer.advance();
    } catch (const Error& error) {
      keep(trainer, o, curve, false);
      fail_computation("{}{}", error.what(), where());
    }
    const bool last = trainer.done();
    if (o.evaluate_every > 0 && ((std::ssize(curve) + 1) % o.evaluate_every == 0 || last))
      point.evaluated = evaluate(trainer.agent(), make, o.evaluate_episodes, true, o.evaluate_seed).mean();
    curve.push_back(point);
    progress.update(point.steps, std::isfinite(point.total) ? fmt::format("return {:.4g}", point.total) : "");
    if (++since >= o.checkpoint_every || last) since = 0, keep(trainer, o, curve, true);
    if (!last && interrupted()) {
      keep(trainer, o, curve, true);
      fail_computation("interrupted after {} of {} steps{}", trainer.steps(), trainer.total_steps(), where());
    }
  }
  progress.finish();
  return curve;
}

std::string curve_csv(const std::vector<CurvePoint>& curve) {
  std::string text = std::string(kHeader) + "\n";
  for (const CurvePoint& p : curve) {
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", p.steps, p.episodes, p.updates, p.total,
                        p.length, p.divergence, p.entropy, p.policy_loss, p.value_loss, p.step_size, p.clamped,
                        p.skipped, p.seconds, p.evaluated ? fmt::format("{}", *p.evaluated) : "");
  }
  return text;
}

std::vector<CurvePoint> read_curve(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::vector<CurvePoint> curve;
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    const std::string_view row = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (++line == 1) {
      require(row == kHeader, "{}, line 1: not the head of a learning curve", path.string());
      continue;
    }
    double values[kColumns] = {};
    std::size_t column = 0, at = 0;
    bool evaluated = false;
    for (; column < kColumns && at <= row.size(); ++column) {
      const auto comma = std::min(row.find(',', at), row.size());
      const auto [stop, error] = std::from_chars(row.data() + at, row.data() + comma, values[column]);
      const bool empty = comma == at && column + 1 == kColumns;
      require(empty || (error == std::errc() && stop == row.data() + comma), "{}, line {}, column {}: not a number",
              path.string(), line, column + 1);
      evaluated = column + 1 == kColumns && !empty;
      at = comma + 1;
    }
    require(column == kColumns && at > row.size(), "{}, line {}: not {} columns", path.string(), line, kColumns);
    const auto count = [&](std::size_t k) {
      require(values[k] >= 0 && values[k] < 1e18, "{}, line {}, column {}: {} is no count", path.string(), line, k + 1,
              values[k]);
      return static_cast<std::int64_t>(values[k]);
    };
    curve.push_back({count(0), count(1), count(2), values[3], values[4], values[5], values[6], values[7], values[8],
                     values[9], count(10), count(11), values[12],
                     evaluated ? std::optional(values[13]) : std::nullopt});
  }
  return curve;
}

}  // namespace unbend::control
