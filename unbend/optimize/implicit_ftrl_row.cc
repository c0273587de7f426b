// One row, step by step: read, pay, grow lambda, choose b, write.
#include <algorithm>
#include <numeric>

#include "unbend/base/error.h"
#include "unbend/optimize/implicit_ftrl_work.h"

namespace unbend::optimize {
namespace {

constexpr double kHuge = 1e150;  // squares of larger numbers overflow

using Vector = Eigen::ArrayXd;
template <int W>
using Lanes = Eigen::Array<double, W, 1>;

std::span<double> span(Vector& v) { return {v.data(), static_cast<std::size_t>(v.size())}; }

}  // namespace

void Ftrl::check(const Row& row) const {
  for (const auto index : row.index)
    require(index < dimension_, "feature {} does not exist: the learner has {}", index, dimension_);
  require(row.weight >= 0 && std::isfinite(row.weight), "the weight of a row must be at least 0, not {}", row.weight);
  if (options_.schedule == Schedule::User)
    for (std::size_t k = 0; k < models_; ++k) scalar_lambda(k, t_ + 1);
  check_label(row.label);
}

void Ftrl::check_label(double y) const {
  require(std::isfinite(y), "the label is {}", y);
  if (options_.classes > 1) {
    require(y >= 0 && y < options_.classes && y == std::floor(y), "the label {} is none of the {} classes 0 .. {}", y,
            options_.classes, options_.classes - 1);
  } else if (is_binary(options_.loss)) {
    require(options_.zero_one ? y == 0 || y == 1 : y == 1 || y == -1, "the label {} is not {} (the {} loss)", y,
            options_.zero_one ? "0 or 1" : "-1 or 1; labels 0 and 1 must be asked for", name(options_.loss.kind));
  }
}

void Ftrl::label(const Row& row) {
  Vector& y = work_->y;
  if (options_.classes == 1) {
    y.setConstant(options_.zero_one ? 2 * row.label - 1 : row.label);
    return;
  }
  y.setConstant(-1);
  const auto classes = static_cast<Eigen::Index>(options_.classes);
  for (auto k = static_cast<Eigen::Index>(row.label); k < static_cast<Eigen::Index>(models_); k += classes) y[k] = 1;
}

/// <a, theta> (with Adagrad <a, theta / lambda>) for all models, and |a|^2.
void Ftrl::read(const Row& row) {
  Work& w = *work_;
  const auto n = static_cast<Eigen::Index>(row.index.size());
  const Eigen::Map<const Vector> a(row.value.data(), n);
  w.norm2 = a.square().sum();
  require(w.norm2 <= kHuge * kHuge, "a feature is not finite, or larger than 1e150");
  if (stride_ == 1) {
    w.theta.resize(n);
    for (Eigen::Index i = 0; i < n; ++i) w.theta[i] = *slot(row.index[static_cast<std::size_t>(i)]);
    if (per_coordinate()) {
      w.g2.resize(n);
      for (Eigen::Index i = 0; i < n; ++i) w.g2[i] = slot(row.index[static_cast<std::size_t>(i)])[1];
      w.inverse = options_.rates[0] / (w.g2 + options_.epsilon).sqrt();
      w.dot[0] = (a * w.theta * w.inverse).sum();
    } else {
      w.dot[0] = (a * w.theta).sum();
    }
    return;
  }
  for (std::size_t block = 0; block < stride_; block += kWidth) {
    Lanes<kWidth> dot = Lanes<kWidth>::Zero(), rates;
    for (std::size_t k = 0; k < kWidth; ++k)
      rates[static_cast<Eigen::Index>(k)] = rate(std::min(block + k, models_ - 1));
    for (Eigen::Index i = 0; i < n; ++i) {
      const double* at = slot(row.index[static_cast<std::size_t>(i)]) + block;
      const Eigen::Map<const Lanes<kWidth>> theta(at);
      if (per_coordinate()) {
        const Eigen::Map<const Lanes<kWidth>> g2(at + stride_);
        dot += a[i] * rates * theta / (g2 + options_.epsilon).sqrt();
      } else {
        dot += a[i] * theta;
      }
    }
    w.dot.segment<kWidth>(static_cast<Eigen::Index>(block)) = dot;
  }
}

void Ftrl::pay(const Row& row) {
  Work& w = *work_;
  const auto classes = static_cast<std::size_t>(options_.classes);
  if (plain() && per_coordinate()) {
    w.s = w.dot;
  } else if (plain()) {
    w.s = w.dot / Eigen::Map<const Vector>(lambda_.data(), w.dot.size());
  } else {
    for (std::size_t k = 0; k < models_; ++k) w.s[static_cast<Eigen::Index>(k)] = ray(row, k, t_)->margin(0).value;
  }
  if (classes > 1 && options_.multiclass == Multiclass::Softmax) {
    for (std::size_t r = 0; r < options_.rates.size(); ++r) {
      w.value[static_cast<Eigen::Index>(r * classes)] =
          softmax_value(span(w.s).subspan(r * classes, classes), static_cast<std::size_t>(row.label),
                        span(w.c).subspan(r * classes, classes));
    }
  } else {
    values_and_slopes(options_.loss, span(w.s), span(w.y), span(w.value), span(w.c));
  }
  w.value *= row.weight;
  w.c *= row.weight;
  guard(row);
  const bool classifies = classes > 1 || is_binary(options_.loss);
  for (std::size_t r = 0; r < tallies_.size(); ++r) {
    Tally& tally = tallies_[r];
    if (tally.diverged_at) continue;
    tally.weight += row.weight;
    const auto values = w.value.segment(static_cast<Eigen::Index>(r * classes), static_cast<Eigen::Index>(classes));
    tally.loss += values.sum();
    if (!classifies) continue;
    const auto s = w.s.segment(static_cast<Eigen::Index>(r * classes), static_cast<Eigen::Index>(classes));
    Eigen::Index top = 0;
    if (classes > 1) s.maxCoeff(&top);
    const bool right = classes > 1 ? static_cast<double>(top) == row.label : (s[0] > 0) == (w.y[0] > 0);
    if (!right) tally.mistakes += row.weight;
  }
}

/// Models whose numbers overflow stop where they are.
void Ftrl::guard(const Row& row) {
  Work& w = *work_;
  const auto classes = static_cast<std::size_t>(options_.classes);
  const double limit = kHuge / std::max(1., std::sqrt(w.norm2));
  for (std::size_t k = 0; k < stride_; ++k) {
    const auto i = static_cast<Eigen::Index>(k);
    Tally& tally = tallies_[std::min(k, models_ - 1) / classes];
    const bool fine = std::abs(w.s[i]) < kHuge && w.value[i] < kHuge && std::abs(w.c[i]) < limit;
    if (fine && !tally.diverged_at) continue;
    if (!tally.diverged_at) tally.diverged_at = t_;
    const auto first = static_cast<Eigen::Index>(std::min(k, models_ - 1) / classes * classes);
    for (auto j = first; j < first + static_cast<Eigen::Index>(classes); ++j) w.s[j] = w.value[j] = w.c[j] = 0;
    w.s[i] = w.value[i] = w.c[i] = 0;
  }
}

/// lambda_{t+1}, and with it m = <a, theta / lambda_{t+1}> and q = sum a_i^2 / lambda_{t+1}.
void Ftrl::grow(const Row& row) {
  Work& w = *work_;
  const auto n = static_cast<Eigen::Index>(row.index.size());
  const Eigen::Map<const Vector> a(row.value.data(), n);
  if (!per_coordinate()) {
    for (std::size_t k = 0; k < stride_; ++k) {
      const auto i = static_cast<Eigen::Index>(k);
      sum_g2_[k] += w.c[i] * w.c[i] * w.norm2;
      w.lambda_next[i] = k < models_ ? scalar_lambda(k, t_ + 1) : w.lambda_next[0];
    }
    w.m = w.dot / w.lambda_next;
    w.q = w.norm2 / w.lambda_next;
    return;
  }
  if (stride_ == 1) {
    w.g2 += (w.c[0] * a).square();
    w.inverse = options_.rates[0] / (w.g2 + options_.epsilon).sqrt();
    w.m[0] = (a * w.theta * w.inverse).sum();
    w.q[0] = (a.square() * w.inverse).sum();
    for (Eigen::Index i = 0; i < n; ++i) slot(row.index[static_cast<std::size_t>(i)])[1] = w.g2[i];
    return;
  }
  for (std::size_t block = 0; block < stride_; block += kWidth) {
    const auto from = static_cast<Eigen::Index>(block);
    Lanes<kWidth> m = Lanes<kWidth>::Zero(), q = m, rates;
    for (std::size_t k = 0; k < kWidth; ++k)
      rates[static_cast<Eigen::Index>(k)] = rate(std::min(block + k, models_ - 1));
    const Lanes<kWidth> c = w.c.segment<kWidth>(from);
    for (Eigen::Index i = 0; i < n; ++i) {
      double* at = slot(row.index[static_cast<std::size_t>(i)]) + block;
      Eigen::Map<Lanes<kWidth>> g2(at + stride_);
      g2 += (a[i] * c).square();
      const Lanes<kWidth> scaled = a[i] * rates / (g2 + options_.epsilon).sqrt();
      m += scaled * Eigen::Map<const Lanes<kWidth>>(at);
      q += scaled * a[i];
    }
    w.m.segment<kWidth>(from) = m;
    w.q.segment<kWidth>(from) = q;
  }
}

std::unique_ptr<Ray> Ftrl::ray(const Row& row, std::size_t model, std::int64_t t) const {
  const auto k = static_cast<Eigen::Index>(model);
  const double lambda = t == t_ ? lambda_[model] : work_->lambda_next[k];
  const Geometry& g = options_.geometry;
  if (g.domain == Domain::Simplex)
    return std::make_unique<SimplexRay>(row, std::span(weights_).subspan(model), static_cast<std::size_t>(slot_size_),
                                        lambda);
  if (g.domain == Domain::Ball)
    return std::make_unique<BallRay>(norm2_[model], work_->dot[k], work_->norm2, lambda, g.radius);
  std::vector<double> thetas, lambdas;
  for (const auto i : row.index) {
    thetas.push_back(slot(i)[model]);
    lambdas.push_back(per_coordinate() ? lambda_at(i, model) : lambda);
  }
  const bool box = g.domain == Domain::Box;
  return std::make_unique<SeparableRay>(row.value, std::move(thetas), std::move(lambdas), kappa(t),
                                        box ? g.low : -INFINITY, box ? g.high : INFINITY);
}

void Ftrl::choose(const Row& row) {
  Work& w = *work_;
  const double h = row.weight;
  if (plain() && options_.update == Update::Proximal) {  // all models at once
    Vector& scaled = w.gain;
    scaled = h * w.q;
    proximals(options_.loss, span(w.m), span(scaled), span(w.y), span(w.b), span(w.dual));
    w.b *= h;
    w.dual *= h;
    w.gain = ((w.c - w.b) * (.5 * (w.c + w.b) * w.q - w.m) + w.c * w.s - w.value - w.dual).max(0.);
    if (options_.schedule != Schedule::Adaptive) return;
    for (std::size_t k = 0; k < stride_; ++k) {
      const auto i = static_cast<Eigen::Index>(k);
      const double gamma = w.b[i] * (.5 * w.b[i] * w.q[i] - w.m[i]) + w.value[i] + w.dual[i];
      w.lambda_next[i] += std::max(0., gamma) / (rate(std::min(k, models_ - 1)) * rate(std::min(k, models_ - 1)));
    }
    return;
  }
  for (std::size_t k = 0; k < models_; ++k) {
    const auto i = static_cast<Eigen::Index>(k);
    // The adaptive schedule chooses against psi_t, the others against psi_{t+1}: the same lambda, then, for both.
    const std::int64_t t = options_.schedule == Schedule::Adaptive ? t_ : t_ + 1;
    const PlainRay straight(w.m[i], w.q[i]);
    const auto curved = plain() ? nullptr : ray(row, k, t);
    const Ray& path = plain() ? static_cast<const Ray&>(straight) : *curved;
    const Step step = implicit_step(options_.loss, options_.update, options_.user_update,
                                    {w.s[i], w.value[i], w.c[i], w.y[i], h, path});
    w.b[i] = step.b, w.dual[i] = step.conjugate, w.gain[i] = step.gain;
    tallies_[k / static_cast<std::size_t>(options_.classes)].fallbacks += step.fell_back;
    if (options_.schedule == Schedule::Adaptive)
      w.lambda_next[i] += std::max(0., path.difference(step.b, 0) + w.value[i] + step.conjugate) / (rate(k) * rate(k));
  }
}

void Ftrl::choose_softmax(const Row& row) {
  Work& w = *work_;
  const auto classes = static_cast<std::size_t>(options_.classes), y = static_cast<std::size_t>(row.label);
  const double h = row.weight;
  Vector trial(options_.classes);
  for (std::size_t r = 0; r < options_.rates.size(); ++r) {
    const auto from = static_cast<Eigen::Index>(r * classes), count = static_cast<Eigen::Index>(classes);
    const Vector m = w.m.segment(from, count), q = w.q.segment(from, count), c = w.c.segment(from, count),
                 s = w.s.segment(from, count);
    const double value = w.value[from], linear = (c * s).sum() - value;
    Vector b = c;
    double dual = linear;
    switch (h == 0 ? Update::Linear : options_.update) {
      case Update::Linear:
      case Update::User: break;
      case Update::Proximal: {
        const Vector scaled = h * q;
        dual = h * softmax_proximal({m.data(), classes}, {scaled.data(), classes}, y, span(b));
        b *= h;
        break;
      }
      case Update::AProx: {
        const double here = value + (c * (m - s)).sum(), share = std::clamp(here / (c.square() * q).sum(), 0., 1.);
        b = std::isfinite(share) ? share * c : c;
        dual = 0;
        for (std::size_t k = 0; k < classes; ++k) {
          const double p = b[static_cast<Eigen::Index>(k)] / h + (k == y ? 1 : 0);
          dual += p > 0 ? h * p * std::log(p) : 0;
        }
        break;
      }
      case Update::TwoStep: {
        trial = m - c * q;
        const double there = softmax_value(span(trial), y, span(b));
        b *= h;
        dual = (b * trial).sum() - h * there;
        break;
      }
    }
    double gain = ((c - b) * (.5 * (c + b) * q - m)).sum() + linear - dual;
    if (!(gain >= -1e-12 * (std::abs(linear) + std::abs((c * m).sum())))) {
      b = c, dual = linear, gain = 0;
      ++tallies_[r].fallbacks;
    }
    w.b.segment(from, count) = b;
    w.dual.segment(from, count) = 0;
    w.gain.segment(from, count) = 0;
    w.dual[from] = dual;
    w.gain[from] = std::max(0., gain);
    if (options_.schedule == Schedule::Adaptive) {
      const double gamma = (b * (.5 * b * q - m)).sum() + value + dual, beta = options_.rates[r];
      w.lambda_next.segment(from, count) += std::max(0., gamma) / (beta * beta);
    }
  }
}

void Ftrl::write(const Row& row) {
  Work& w = *work_;
  const std::size_t n = row.index.size(), average = static_cast<std::size_t>(slot_size_) - stride_;
  const auto classes = static_cast<std::size_t>(options_.classes);
  for (std::size_t k = 0; k < stride_; ++k) {
    const auto i = static_cast<Eigen::Index>(k);
    if (!tallies_[std::min(k, models_ - 1) / classes].diverged_at) continue;
    w.b[i] = w.dual[i] = w.gain[i] = 0;
    w.lambda_next[i] = lambda_[k];
  }
  if (options_.average && options_.geometry.domain == Domain::Simplex) {
    for (std::size_t k = 0; k < models_; ++k) {
      const double level = log_partition(k);
      for (std::int64_t i = 0; i < dimension_; ++i) slot(i)[average + k] += std::exp((slot(i)[k] - level) / lambda_[k]);
    }
  } else if (options_.average) {
    for (std::size_t k = 0; k < stride_; ++k) scale_sum_[k] += scale(k);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t k = 0; k < stride_; ++k)
        slot(row.index[i])[average + k] += w.b[static_cast<Eigen::Index>(k)] * row.value[i] * scale_sum_[k];
  }
  if (stride_ == 1) {
    for (std::size_t i = 0; i < n; ++i) *slot(row.index[i]) -= w.b[0] * row.value[i];
  } else {
    for (std::size_t i = 0; i < n; ++i) {
      double* at = slot(row.index[i]);
      for (std::size_t block = 0; block < stride_; block += kWidth)
        Eigen::Map<Lanes<kWidth>>(at + block) -= row.value[i] * w.b.segment<kWidth>(static_cast<Eigen::Index>(block));
    }
  }
}

void Ftrl::settle() {
  Work& w = *work_;
  const auto classes = static_cast<std::size_t>(options_.classes);
  for (std::size_t k = 0; k < models_; ++k) {
    const auto i = static_cast<Eigen::Index>(k);
    tallies_[k / classes].dual += w.dual[i];
    tallies_[k / classes].gain += w.gain[i];
  }
  if (!per_coordinate()) {
    for (std::size_t k = 0; k < stride_; ++k) {
      const auto i = static_cast<Eigen::Index>(k);
      norm2_[k] = std::max(0., norm2_[k] + w.b[i] * (w.b[i] * w.norm2 - 2 * w.dot[i]));
      lambda_[k] = w.lambda_next[i];
    }
  }
  ++t_;
}

void Ftrl::learn(const Row& row) {
  check(row);
  label(row);
  read(row);
  pay(row);
  grow(row);
  if (options_.classes > 1 && options_.multiclass == Multiclass::Softmax) {
    choose_softmax(row);
  } else {
    choose(row);
  }
  write(row);
  settle();
}

void Ftrl::prefetch(const Row& row) const {
  for (const auto index : row.index)
    if (index < dimension_) __builtin_prefetch(slot(index), 1);
}

}  // namespace unbend::optimize
