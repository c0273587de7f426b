#include <algorithm>
#include <vector>

#include "unbend/base/error.h"
#include "unbend/calculus/krylov.h"

namespace unbend {
namespace {

std::vector<double> row_dots(const at::Tensor& a, const at::Tensor& b) {
  const auto sums = (a * b).sum(1).to(at::kCPU, at::kDouble);
  return {sums.const_data_ptr<double>(), sums.const_data_ptr<double>() + sums.numel()};
}

// The right-hand sides that are not done, each a row of the tensors and an element of the lists.
class Rows {
 public:
  Rows(const LinearMap& a, const at::Tensor& rhs, const std::vector<double>& norms, const SolveOptions& options,
       std::vector<SolveResult>& results)
      : a_(a), options_(options), b_norms_(norms), eps_(krylov::epsilon(rhs.scalar_type())), results_(results) {
    b_ = rhs;
    const double rtol = krylov::relative_tolerance(options, rhs.scalar_type());
    for (size_t i = 0; i < norms.size(); ++i) {
      live_.push_back({.place = i, .target = options.atol + rtol * norms[i]});
    }
    x_ = at::zeros_like(b_), best_ = x_.clone(), r_ = b_.clone(), p_ = at::zeros_like(b_);
    for (size_t i = 0; i < norms.size(); ++i) {
      if (!std::isfinite(norms[i])) {
        end(i, Outcome::NonfiniteInput, "the right-hand side is not finite, or so large that its norm overflows");
      } else if (norms[i] == 0) {
        end(i, Outcome::Converged, "");
      } else {
        live_[i].best = norms[i];
      }
    }
    leave();
  }

  bool empty() const { return live_.empty(); }

  /// One step of every row.
  void step(int64_t count) {
    if (count == 1) {
      turn(std::vector<bool>(live_.size(), true));
      leave();
      if (empty()) return;
    }
    const auto ap = push(p_);
    const auto pap = row_dots(p_, ap), pp = row_dots(p_, p_);
    auto alphas = std::vector<double>(live_.size(), 0);
    for (size_t i = 0; i < live_.size(); ++i) {
      Row& row = live_[i];
      const double curvature = pap[i] / pp[i];
      row.count = count;
      if (!std::isfinite(curvature)) {
        end(i, Outcome::NonfiniteResult, "A gave values that are not finite");
        continue;
      }
      row.largest = std::max(row.largest, std::abs(curvature));
      if (curvature < -100 * eps_ * row.largest) {
        end(i, Outcome::Indefinite, fmt::format("p.Ap / p.p = {:.3g} for a direction", curvature));
      } else if (curvature <= 4 * eps_ * row.largest) {
        end(i, Outcome::IllConditioned, "p.Ap vanishes for a direction: A is singular to the precision of its dtype");
      } else {
        alphas[i] = row.rz / pap[i];
      }
    }
    const auto alpha = column(alphas);
    x_.addcmul_(p_, alpha);
    r_.addcmul_(ap, alpha, -1);
    const auto squares = row_dots(r_, r_);
    bool look = count % 10 == 0;
    for (size_t i = 0; i < live_.size(); ++i)
      look = look || (!live_[i].done && std::sqrt(squares[i]) <= live_[i].target);
    std::vector<bool> again(live_.size(), false);
    if (look) again = check(squares, count);
    turn(again);
    leave();
  }

  void exhaust(int64_t limit) {
    if (empty()) return;
    check(row_dots(r_, r_), limit);
    for (size_t i = 0; i < live_.size(); ++i)
      end(i, Outcome::MaxIterations, fmt::format("the limit of {} iterations came first", limit));
  }

 private:
  struct Row {
    size_t place;  // among all right-hand sides
    double target, rz = 0, largest = 0, last_start = std::numeric_limits<double>::infinity(), best = 0;
    int64_t count = 0;
    bool done = false;
  };

  at::Tensor push(const at::Tensor& rows) const {
    return flatten_many(a_.push_many(unflatten_many(rows, a_.domain())), a_.codomain()).to(rows.scalar_type());
  }
  at::Tensor column(const std::vector<double>& values) const {
    return at::tensor(values, at::TensorOptions().dtype(at::kDouble)).to(b_.options()).unsqueeze(1);
  }

  // True residuals; gives the rows whose recursion starts again from them.
  std::vector<bool> check(const std::vector<double>& squares, int64_t count) {
    const auto truth = b_ - push(x_);
    const auto real = row_dots(truth, truth), gaps = row_dots(truth - r_, truth - r_);
    std::vector<bool> again(live_.size(), false);
    for (size_t i = 0; i < live_.size(); ++i) {
      Row& row = live_[i];
      if (row.done) continue;
      const double size = std::sqrt(real[i]);
      if (!std::isfinite(size)) {
        end(i, Outcome::NonfiniteResult, "A gave values that are not finite");
        continue;
      }
      if (size < row.best)
        row.best = size, best_.select(0, static_cast<int64_t>(i)).copy_(x_.select(0, static_cast<int64_t>(i)));
      if (size <= row.target) {
        end(i, Outcome::Converged, "");
        continue;
      }
      again[i] = std::sqrt(squares[i]) <= row.target || std::sqrt(gaps[i]) > .5 * size;
      if (!again[i]) continue;
      if (size > .5 * row.last_start)
        end(i, Outcome::Stagnated, "the rounding of the dtype keeps the residual from falling further");
      row.last_start = size;
    }
    r_.copy_(truth);
    if (options_.progress && !live_.empty()) {
      double worst = 0;
      for (const Row& row : live_) worst = std::max(worst, row.best);
      if (!options_.progress(count, worst)) {
        for (size_t i = 0; i < live_.size(); ++i) end(i, Outcome::Cancelled, "");
      }
    }
    return again;
  }

  // p = M r + beta p, with beta = 0 for rows that start (again).
  void turn(const std::vector<bool>& start) {
    const auto z = options_.preconditioner
                       ? flatten_many(options_.preconditioner->push_many(unflatten_many(r_, a_.domain())), a_.domain())
                             .to(r_.scalar_type())
                       : r_;
    const auto rz = row_dots(r_, z);
    std::vector<double> betas(live_.size(), 0);
    for (size_t i = 0; i < live_.size(); ++i) {
      Row& row = live_[i];
      if (row.done) continue;
      if (!(rz[i] > 0) && std::isfinite(rz[i]))
        end(i, Outcome::Indefinite, "the preconditioner is not positive definite: r.Mr <= 0");
      if (!std::isfinite(rz[i])) end(i, Outcome::NonfiniteResult, "values are not finite");
      if (!start[i] && !row.done) betas[i] = rz[i] / row.rz;
      row.rz = rz[i];
    }
    p_.mul_(column(betas)).add_(z);
  }

  void end(size_t i, Outcome outcome, const std::string& why) {
    Row& row = live_[i];
    if (row.done) return;
    row.done = true;
    results_[row.place] =
        krylov::report("cg_many", outcome, why, unflatten(best_[static_cast<int64_t>(i)].clone(), a_.domain()),
                       row.count, std::isfinite(b_norms_[row.place]) ? row.best : 0, b_norms_[row.place]);
  }

  // Rows that are done leave.
  void leave() {
    std::vector<int64_t> stay;
    std::vector<Row> rows;
    for (size_t i = 0; i < live_.size(); ++i) {
      if (!live_[i].done) stay.push_back(static_cast<int64_t>(i)), rows.push_back(live_[i]);
    }
    if (rows.size() == live_.size()) return;
    live_ = std::move(rows);
    const auto index = at::tensor(stay, at::kLong).to(b_.device());
    for (at::Tensor* t : {&b_, &x_, &best_, &r_, &p_}) *t = t->index_select(0, index);
  }

  const LinearMap& a_;
  const SolveOptions& options_;
  const std::vector<double>& b_norms_;
  const double eps_;
  std::vector<SolveResult>& results_;
  std::vector<Row> live_;
  at::Tensor b_, x_, best_, r_, p_;  // [rows, n]
};

}  // namespace

std::vector<SolveResult> cg_many(const LinearMap& a, const Tensors& b, const SolveOptions& options) {
  const int64_t many = check_vectors(b, a.codomain(), "cg_many: the right-hand sides");
  if (many == 0) return {};
  krylov::check_system("cg_many", a, select(b, 0), options, /*square=*/true);
  require(!options.x0, "cg_many: x0 is not taken");
  const at::NoGradGuard no_gradients;
  std::vector<SolveResult> results(many);
  const auto rhs = flatten_many(b, a.codomain()).to(krylov::work_type(a)).clone();
  std::vector<double> norms;
  for (int64_t i = 0; i < many; ++i) norms.push_back(krylov::flat_norm(rhs[i]));
  Rows rows(a, rhs, norms, options, results);
  const int64_t limit = krylov::iteration_limit(options, a.domain().dim());
  for (int64_t count = 1; count <= limit && !rows.empty(); ++count) rows.step(count);
  rows.exhaust(limit);
  return results;
}

}  // namespace unbend
