#include "unbend/optimize/implicit_ftrl.h"

#include <algorithm>
#include <array>

#include "unbend/base/error.h"
#include "unbend/base/large_pages.h"
#include "unbend/optimize/implicit_ftrl_work.h"

namespace unbend::optimize {
namespace {

constexpr std::array<std::string_view, 6> kSchedules{"constant", "sqrt", "adagrad-norm", "adagrad", "adaptive", "user"};
void check_options(const FtrlOptions& o) {
  check_loss(o.loss);
  check_geometry(o.geometry);
  require(!o.rates.empty(), "a learner needs at least one rate");
  const auto positive = [](double x) { return x >= 1e-100 && x <= 1e100; };  // so that quotients stay finite
  for (const double rate : o.rates) require(positive(rate), "rates must be positive (1e-100 to 1e100), not {}", rate);
  require(positive(o.lambda1), "lambda1 must be positive (1e-100 to 1e100), not {}", o.lambda1);
  require(positive(o.epsilon), "epsilon must be positive (1e-100 to 1e100), not {}", o.epsilon);
  require(o.l1 >= 0 && std::isfinite(o.l1), "l1 must be at least 0, not {}", o.l1);
  require(o.l1_power >= 0 && o.l1_power <= 1, "l1_power must lie in [0, 1], not {}", o.l1_power);
  require(o.classes >= 1, "classes must be at least 1, not {}", o.classes);
  require(o.schedule != Schedule::User || o.user_lambda, "the user's schedule needs its function");
  require(o.update != Update::User || o.user_update, "the user's update needs its function");
  const auto domain = o.geometry.domain;
  const bool plain = domain == Domain::Whole && o.l1 == 0, whole = plain || domain == Domain::Box || o.l1 > 0;
  require(o.l1 == 0 || domain == Domain::Whole || domain == Domain::Box, "L1 goes with the whole space and boxes only");
  require(o.schedule != Schedule::Adagrad || whole,
          "one lambda for each coordinate (adagrad) goes with the whole space and boxes; use adagrad-norm");
  if (o.classes > 1) {
    if (o.multiclass == Multiclass::Softmax)
      require(plain, "softmax goes with the whole space without L1; use one-vs-rest");
    require(o.multiclass == Multiclass::Softmax || is_binary(o.loss), "one-vs-rest needs a hinge or logistic loss");
    require(o.multiclass != Multiclass::Softmax || o.update != Update::User, "softmax has no user's update");
  }
  require(!o.average || (o.schedule != Schedule::Adagrad && o.l1 == 0 && domain != Domain::Box),
          "averages need one lambda for all coordinates, without L1 or a box");
}

}  // namespace

std::vector<std::string> schedule_names() { return {kSchedules.begin(), kSchedules.end() - 1}; }

Schedule schedule_named(std::string_view name) {
  const auto found = std::find(kSchedules.begin(), kSchedules.end() - 1, name);
  if (found == kSchedules.end() - 1)
    fail_usage("there is no schedule '{}': use {}", name, fmt::join(kSchedules.begin(), kSchedules.end() - 1, ", "));
  return static_cast<Schedule>(found - kSchedules.begin());
}

Ftrl::Ftrl(FtrlOptions options, std::int64_t dimension) : options_(std::move(options)), dimension_(dimension) {
  check_options(options_);
  require(dimension >= 1 && dimension <= (std::int64_t{1} << 32), "a learner needs 1 to 2^32 weights, not {}",
          dimension);
  models_ = options_.rates.size() * static_cast<std::size_t>(options_.classes);
  stride_ = models_ == 1 ? 1 : (models_ + kWidth - 1) / kWidth * kWidth;
  slot_size_ = static_cast<std::int64_t>(stride_) * (1 + per_coordinate() + options_.average);
  // Rows touch weights all over the place: large pages spare a walk through the page table for each.
  weights_ = zeros_in_large_pages<double>(static_cast<std::size_t>(dimension * slot_size_));
  sum_g2_.assign(stride_, 0), norm2_.assign(stride_, 0), scale_sum_.assign(stride_, 0);
  tallies_.resize(options_.rates.size());
  work_ = std::make_unique<Work>(stride_);
  lambda_.assign(stride_, options_.lambda1);
  for (std::size_t k = 0; k < stride_; ++k) lambda_[k] = scalar_lambda(std::min(k, models_ - 1), 1);
}

Ftrl::Ftrl(Ftrl&&) noexcept = default;
Ftrl::~Ftrl() = default;

std::size_t Ftrl::best() const {
  const auto less = [](const Tally& a, const Tally& b) { return a.mean_loss() < b.mean_loss(); };
  return static_cast<std::size_t>(std::min_element(tallies_.begin(), tallies_.end(), less) - tallies_.begin());
}

double Ftrl::kappa(std::int64_t t) const {
  return options_.l1 == 0 ? 0 : options_.l1 * std::pow(static_cast<double>(t), options_.l1_power);
}

double Ftrl::scalar_lambda(std::size_t model, std::int64_t t) const {
  switch (options_.schedule) {
    case Schedule::Constant: return rate(model);
    case Schedule::Sqrt: return rate(model) * std::sqrt(static_cast<double>(t));
    case Schedule::AdagradNorm: return std::sqrt(options_.epsilon + sum_g2_[model]) / rate(model);
    case Schedule::Adagrad: return 1;  // not used: each coordinate has its own
    case Schedule::Adaptive: return lambda_[model];
    case Schedule::User: {
      const double lambda = rate(model) * options_.user_lambda(t);
      require(lambda > 0 && std::isfinite(lambda), "the user's schedule gives {} for row {}", lambda, t);
      require(t == 1 || lambda >= lambda_[model], "the user's schedule falls from {} to {} at row {}", lambda_[model],
              lambda, t);
      return lambda;
    }
  }
  return NAN;
}

double Ftrl::lambda_at(std::int64_t index, std::size_t model) const {
  return per_coordinate() ? std::sqrt(options_.epsilon + slot(index)[stride_ + model]) / rate(model) : lambda_[model];
}

double Ftrl::lambda(std::size_t rate, int label) const {
  return lambda_[rate * static_cast<std::size_t>(options_.classes) + static_cast<std::size_t>(label)];
}

/// x = scale theta on the whole space and on balls, where one lambda serves all coordinates.
double Ftrl::scale(std::size_t model) const {
  const double lambda = lambda_[model];
  if (options_.geometry.domain != Domain::Ball) return 1 / lambda;
  const double norm = std::sqrt(norm2_[model]), edge = options_.geometry.radius * lambda;
  return norm <= edge ? 1 / lambda : options_.geometry.radius / norm;
}

// ---- What was learnt

double Ftrl::weight(std::int64_t index, std::size_t model) const {
  const double theta = slot(index)[model];
  if (plain() && !per_coordinate()) return theta / lambda_[model];
  if (options_.geometry.domain == Domain::Ball) return theta * scale(model);
  const bool box = options_.geometry.domain == Domain::Box;
  return separable_weight(theta, lambda_at(index, model), kappa(t_), box ? options_.geometry.low : -INFINITY,
                          box ? options_.geometry.high : INFINITY);
}

void Ftrl::predict(const Row& row, std::vector<double>& margins) const {
  for (const auto index : row.index)
    require(index < dimension_, "feature {} does not exist: the learner has {}", index, dimension_);
  margins.assign(models_, 0);
  for (std::size_t k = 0; k < models_; ++k) {
    if (options_.geometry.domain == Domain::Simplex) {
      margins[k] = SimplexRay(row, std::span(weights_).subspan(k), static_cast<std::size_t>(slot_size_), lambda_[k])
                       .margin(0)
                       .value;
      continue;
    }
    for (std::size_t i = 0; i < row.index.size(); ++i) margins[k] += row.value[i] * weight(row.index[i], k);
  }
}

std::vector<double> Ftrl::weights(std::size_t rate, int label) const {
  const std::size_t model = rate * static_cast<std::size_t>(options_.classes) + static_cast<std::size_t>(label);
  require(rate < options_.rates.size() && label >= 0 && label < options_.classes, "there is no rate {}, class {}", rate,
          label);
  std::vector<double> x(static_cast<std::size_t>(dimension_));
  const bool simplex = options_.geometry.domain == Domain::Simplex;
  const double level = simplex ? log_partition(model) : 0;
  for (std::int64_t i = 0; i < dimension_; ++i)
    x[static_cast<std::size_t>(i)] = simplex ? std::exp((slot(i)[model] - level) / lambda_[model]) : weight(i, model);
  return x;
}

std::vector<double> Ftrl::average(std::size_t rate, int label) const {
  require(options_.average, "the learner was not told to keep an average");
  require(rate < options_.rates.size() && label >= 0 && label < options_.classes, "there is no rate {}, class {}", rate,
          label);
  const std::size_t model = rate * static_cast<std::size_t>(options_.classes) + static_cast<std::size_t>(label);
  std::vector<double> x(static_cast<std::size_t>(dimension_));
  const bool simplex = options_.geometry.domain == Domain::Simplex;
  for (std::int64_t i = 0; i < dimension_; ++i) {
    const double sum = slot(i)[slot_size_ - static_cast<std::int64_t>(stride_ - model)];
    x[static_cast<std::size_t>(i)] = (simplex ? sum : sum + slot(i)[model] * scale_sum_[model]) /
                                     static_cast<double>(std::max<std::int64_t>(1, rows()));
  }
  return x;
}

/// lambda log sum exp(theta / lambda).
double Ftrl::log_partition(std::size_t model) const {
  return SimplexRay({}, std::span(weights_).subspan(model), static_cast<std::size_t>(slot_size_), lambda_[model])
      .log_sum(0);
}

double Ftrl::regret_bound(const std::vector<double>& u, std::size_t rate) const {
  const auto classes = static_cast<std::size_t>(options_.classes), d = static_cast<std::size_t>(dimension_);
  require(rate < options_.rates.size(), "there is no rate {}", rate);
  require(u.size() == classes * d, "the comparator must have {} numbers, not {}", classes * d, u.size());
  const Geometry& g = options_.geometry;
  const bool box = g.domain == Domain::Box;
  const double k1 = kappa(t_);
  double bound = tallies_[rate].loss + tallies_[rate].dual;
  for (std::size_t k = 0; k < classes; ++k) {
    const std::size_t model = rate * classes + k;
    const double* at = u.data() + k * d;
    double norm2 = 0;
    if (g.domain == Domain::Simplex) bound += log_partition(model);  // the ln d of psi and psi* cancel
    for (std::int64_t i = 0; i < dimension_; ++i) {
      const double x = at[i], theta = slot(i)[model];
      norm2 += theta * theta;
      if (g.domain == Domain::Simplex) {
        bound += x > 0 ? lambda_[model] * x * std::log(x) : 0;
        continue;
      }
      const double lambda = lambda_at(i, model);
      bound += .5 * lambda * x * x + k1 * std::abs(x);
      if (g.domain != Domain::Ball)
        bound += separable_conjugate(theta, lambda, k1, box ? g.low : -INFINITY, box ? g.high : INFINITY);
    }
    if (g.domain == Domain::Ball) bound += BallRay(norm2, 0, 0, lambda_[model], g.radius).conjugate(0);
  }
  return bound;
}

std::map<std::string, std::vector<double>> Ftrl::numbers() const {
  std::map<std::string, std::vector<double>> all{
      {"weights", weights_}, {"lambda", lambda_}, {"sum_g2", sum_g2_}, {"norm2", norm2_}, {"scale_sum", scale_sum_}};
  auto& tallies = all["tallies"];
  for (const Tally& t : tallies_)
    tallies.insert(tallies.end(), {t.weight, t.loss, t.mistakes, t.dual, t.gain, static_cast<double>(t.fallbacks),
                                   static_cast<double>(t.diverged_at)});
  all["rows"] = {static_cast<double>(rows())};
  return all;
}

void Ftrl::set_numbers(std::map<std::string, std::vector<double>> all) {
  constexpr std::size_t kTally = 7;
  constexpr double kCount = 9007199254740992;  // 2^53: counts are exact below
  const auto take = [&](const char* name, std::size_t size) -> std::vector<double>& {
    const auto found = all.find(name);
    require(found != all.end() && found->second.size() == size, "the learner's state needs {} numbers '{}'", size,
            name);
    for (const double x : found->second) require(std::isfinite(x), "the learner's state has a {} in '{}'", x, name);
    return found->second;
  };
  const auto count = [&](double x) {
    require(x >= 0 && x < kCount && x == std::floor(x), "the learner's state counts {}", x);
    return static_cast<std::int64_t>(x);
  };
  const std::int64_t t = 1 + count(take("rows", 1)[0]);
  std::vector<Tally> tallies(tallies_.size());
  const auto& flat = take("tallies", kTally * tallies.size());
  for (std::size_t r = 0; r < tallies.size(); ++r) {
    const double* n = flat.data() + r * kTally;
    tallies[r] = {n[0], n[1], n[2], n[3], n[4], count(n[5]), count(n[6])};
  }
  for (const double lambda : take("lambda", stride_))
    require(lambda >= 1e-150 || per_coordinate(), "the learner's state has a lambda of {}", lambda);
  const auto& saved = take("weights", weights_.size());
  for (std::size_t i = 0; i < saved.size(); ++i) {
    const std::size_t part = i % static_cast<std::size_t>(slot_size_) / stride_;
    const double limit = options_.geometry.domain == Domain::Simplex && part == 0 ? 1e150 : 1e300;
    require(std::abs(saved[i]) <= limit && (part != 1 || !per_coordinate() || saved[i] >= 0),
            "the learner's state has a weight of {}", saved[i]);
  }
  for (const char* name : {"sum_g2", "norm2"})
    for (const double x : take(name, stride_))
      require(x >= 0, "the learner's state has a negative number in '{}'", name);
  take("scale_sum", stride_);
  const auto& weights = take("weights", weights_.size());
  std::copy(weights.begin(), weights.end(), weights_.begin());
  lambda_ = std::move(all["lambda"]), sum_g2_ = std::move(all["sum_g2"]), norm2_ = std::move(all["norm2"]);
  scale_sum_ = std::move(all["scale_sum"]);
  tallies_ = std::move(tallies);
  t_ = t;
}

}  // namespace unbend::optimize
