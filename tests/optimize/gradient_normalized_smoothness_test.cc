#include "unbend/optimize/gradient_normalized_smoothness.h"

#include <gtest/gtest.h>

#include <Eigen/Cholesky>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/random.h"
#include "unbend/optimize/damped_solve.h"
#include "unbend/optimize/objectives.h"

namespace unbend::optimize {
namespace {

Vector random_vector(Eigen::Index n, Random& random) {
  Vector v(n);
  for (double& x : v) x = random.normal();
  return v;
}
Matrix random_matrix(Eigen::Index m, Eigen::Index n, Random& random) {
  Matrix a(m, n);
  for (Eigen::Index j = 0; j < n; ++j) a.col(j) = random_vector(m, random);
  return a;
}

Residuals rosenbrock() {
  Residuals r{2, 2, [](const Vector& x, Vector& u) { u << 1 - x[0], 10 * (x[1] - x[0] * x[0]); },
              [](const Vector& x, Matrix& j) { j << -1, 0, -20 * x[0], 10; },
              [](const Vector&, const Vector& u, Matrix& h) { h(0, 0) -= 20 * u[1]; }};
  return r;
}

struct Data {
  Matrix a;
  Vector y;
};
Data logistic_data(Eigen::Index m = 80, Eigen::Index n = 6) {
  Random random(5);
  Data d{random_matrix(m, n, random), Vector(m)};
  const Vector w = random_vector(n, random);
  for (Eigen::Index i = 0; i < m; ++i) d.y[i] = d.a.row(i).dot(w) + random.normal() > 0 ? 1 : -1;
  return d;
}

TEST(GradientNormalizedSmoothness, RosenbrockTraceOfTheBrief) {
  const Vector start = Vector::Map(std::vector<double>{-2, 2}.data(), 2);
  MinimizeOptions o;
  o.f_star = 0;
  Vector first;
  o.callback = [&](const Iteration& i, const Vector& x) {
    if (i.index == 1) first = x - start;
    return true;
  };
  const Minimum m = minimize(power_problem(rosenbrock()), start, o);
  EXPECT_NEAR(first[0], .31770378, 1e-8);
  EXPECT_NEAR(first[1], .07861561, 1e-8);
  const double values[] = {31.835341, 3.636695, 2.959701, 2.775488}, norms[] = {266.35457, 34.71887, 1.69648, 1.97891};
  const double gammas[] = {1, 2, 4, .5};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(m.trace[i].value, values[i], 2e-6);
    EXPECT_NEAR(m.trace[i].gradient_norm, norms[i], 2e-5);
    EXPECT_EQ(m.trace[i].gamma, gammas[i]);
  }
  EXPECT_EQ(m.trace[3].probes, 5);
  EXPECT_TRUE(m.converged());
  EXPECT_NEAR(m.iterations(), 49, 1);
}

TEST(GradientNormalizedSmoothness, InvariantsOfEveryStep) {
  const Data d = logistic_data();
  const Vector ridge = Vector::Constant(1, 1e-3);
  for (const auto hessian : {Hessian::Exact, Hessian::Fisher, Hessian::Diagonal, Hessian::Product, Hessian::Zero}) {
    MinimizeOptions o;
    o.smoothness = logistic_smoothness(d.a, ridge, hessian);
    o.max_iterations = 3000;
    const Minimum m = minimize(logistic_problem(d.a, d.y, ridge, hessian), Vector::Zero(6), o);
    ASSERT_TRUE(m.converged()) << m.message;
    double previous_gamma = 1;
    for (const Iteration& i : m.trace) {
      EXPECT_LE(i.step, i.gamma * (1 + 1e-12));
      // Accepted at once, or at more than half of what the theory guarantees.
      EXPECT_GE(i.gamma * (1 + 1e-9), std::min(previous_gamma, i.gamma_bound / 2));
      previous_gamma = 2 * i.gamma;
      EXPECT_TRUE(i.decrease <= 1e-12 || i.decrease >= i.guaranteed);
    }
    EXPECT_LE(m.probes, 2 * m.iterations() + 60);
  }
}

TEST(GradientNormalizedSmoothness, AQuadraticIsSolvedToRounding) {
  Random random(1);
  const Matrix r = random_matrix(8, 8, random), h = r * r.transpose() + .1 * Matrix::Identity(8, 8);
  const Vector b = random_vector(8, random), solution = h.llt().solve(b);
  Problem p;
  p.size = 8;
  p.evaluate = [&](const Vector& x, Vector& g) {
    g = h * x - b;
    return .5 * x.dot(h * x) - b.dot(x);
  };
  p.curvature = DenseCurvature{[&](const Vector&, Matrix& out) { out = h; }, true};
  MinimizeOptions o;
  o.gradient_tolerance = 1e-13;
  o.max_iterations = 40;
  const Minimum m = minimize(p, Vector::Zero(8), o);
  EXPECT_LT((m.x - solution).norm(), 1e-12 * (1 + solution.norm()) * 100);
  for (std::size_t i = 0; i + 1 < m.trace.size(); ++i) EXPECT_EQ(m.trace[i].probes, 1);
}

TEST(GradientNormalizedSmoothness, TheCubicOnALineOfTheBrief) {
  Problem p;
  p.size = 1;
  p.evaluate = [](const Vector& x, Vector& g) {
    g[0] = 1.5 * x[0] * std::abs(x[0]);
    return .5 * std::pow(std::abs(x[0]), 3);
  };
  p.curvature = DenseCurvature{[](const Vector& x, Matrix& h) { h(0, 0) = 3 * std::abs(x[0]); }};
  for (const auto& [gamma, next, decrease, needed] :
       {std::tuple{2., 4. / 3, 2.8148148, .2962963}, {4., 1.2, 3.136, .38880}}) {
    MinimizeOptions o;
    o.gamma0 = gamma;
    o.max_iterations = 1;
    const Minimum m = minimize(p, Vector::Constant(1, 2), o);
    EXPECT_NEAR(m.x[0], next, 1e-12);
    EXPECT_NEAR(m.trace[0].decrease, decrease, 1e-7);
    EXPECT_NEAR(m.trace[0].guaranteed, needed, 1e-6);
  }
}

TEST(GradientNormalizedSmoothness, Invariances) {
  const Data d = logistic_data();
  const Problem p = logistic_problem(d.a, d.y, Vector::Constant(1, 1e-2));
  const Vector start = Vector::Constant(6, .3);
  const Minimum plain = minimize(p, start);

  Problem scaled = p;
  scaled.evaluate = [&](const Vector& x, Vector& g) {
    const double f = p.evaluate(x, g);
    g *= 1000;
    return 1000 * f;
  };
  scaled.curvature = DenseCurvature{[&](const Vector& x, Matrix& h) {
    std::get<DenseCurvature>(p.curvature).hessian(x, h);
    h *= 1000;
  }};
  MinimizeOptions o;
  o.gradient_tolerance = 1e-5;
  const Minimum times = minimize(scaled, start, o);
  ASSERT_EQ(times.iterations(), plain.iterations());
  EXPECT_LT((times.x - plain.x).norm(), 1e-8);

  // x = T y with B_y = T'T is the same method.
  Random random(3);
  const Matrix t = (random_matrix(6, 6, random) + 3 * Matrix::Identity(6, 6)).triangularView<Eigen::Lower>();
  Problem moved;
  moved.size = 6;
  moved.metric = t.transpose() * t;
  moved.evaluate = [&](const Vector& y, Vector& g) {
    const double f = p.evaluate(t * y, g);
    g = t.transpose() * g;
    return f;
  };
  moved.curvature =
      DenseCurvature{[&](const Vector& y, Matrix& h) { h = t.transpose() * dense_hessian(p, t * y) * t; }, true};
  const Minimum other = minimize(moved, t.triangularView<Eigen::Lower>().solve(start));
  ASSERT_EQ(other.iterations(), plain.iterations());
  EXPECT_LT((t * other.x - plain.x).norm(), 1e-8);
  for (std::size_t i = 0; i < plain.trace.size(); ++i) EXPECT_EQ(other.trace[i].gamma, plain.trace[i].gamma);
}

TEST(GradientNormalizedSmoothness, LowRankSolvesEqualCholesky) {
  Random random(2);
  for (const Eigen::Index r : {1, 3, 60}) {
    const Matrix u = random_matrix(50, r, random);
    const Vector g = random_vector(50, random);
    Problem low;
    low.size = 50;
    low.evaluate = [](const Vector&, Vector&) { return 0.; };
    low.curvature = LowRankCurvature{[&](const Vector&, Matrix& out, double& shift) { out = u, shift = .25e-6; }};
    Problem dense = low;
    dense.curvature = DenseCurvature{[&](const Vector&, Matrix& h) {
      h = u * u.transpose();
      h.diagonal().array() += .25e-6;
    }};
    DampedSolve a(low, {}), b(dense, {});
    a.at(g), b.at(g);
    for (const double lambda : {1e-6, 1e-3, 1., 1e6}) {
      Vector da, db;
      ASSERT_TRUE(a.solve(lambda, g, da) && b.solve(lambda, g, db));
      // The residual of the system, which Cholesky itself only reaches to its condition times rounding.
      const Vector residual = u * (u.transpose() * da) + (lambda + .25e-6) * da + g;
      EXPECT_LT(residual.norm(), 1e-13 * (u.squaredNorm() + lambda) * da.norm() + 1e-13 * g.norm());
      const double condition = 1 + u.squaredNorm() / lambda;
      EXPECT_LT((da - db).norm(), (1e-10 + 1e-15 * condition) * db.norm()) << r << " " << lambda;
    }
  }
}

TEST(GradientNormalizedSmoothness, MetricAndRankOneFisherOfALinearResidual) {
  Random random(4);
  const Matrix a = random_matrix(20, 5, random);
  const Vector b = random_vector(20, random);
  Residuals linear{5, 20, [&](const Vector& x, Vector& u) { u = a * x - b; }, [&](const Vector&, Matrix& j) { j = a; },
                   [](const Vector&, const Vector&, Matrix&) {}};
  const Vector solution = (a.transpose() * a).llt().solve(a.transpose() * b);
  for (const auto hessian : {Hessian::Exact, Hessian::Fisher}) {
    Problem p = power_problem(linear, 4, hessian);
    p.metric = a.transpose() * a;
    MinimizeOptions o;
    o.gradient_tolerance = 1e-9;
    const Minimum m = minimize(p, Vector::Zero(5), o);
    EXPECT_TRUE(m.converged()) << m.message;
    EXPECT_LT((m.x - solution).norm(), 1e-7);
  }
}

TEST(GradientNormalizedSmoothness, DerivativesAndDroppedTerms) {
  const Data d = logistic_data(40, 4);
  Random random(6);
  const Vector x = random_vector(4, random), ridge = Vector::Constant(1, .1);
  for (const auto hessian : {Hessian::Exact, Hessian::Product}) {
    const auto check = check_derivatives(logistic_problem(d.a, d.y, ridge, hessian), x);
    EXPECT_LT(check.gradient, 1e-8);
    EXPECT_LT(check.hessian, 1e-8);
  }
  const Matrix exact = dense_hessian(logistic_problem(d.a, d.y, ridge), x);
  EXPECT_LT(
      (Matrix(exact.diagonal().asDiagonal()) - dense_hessian(logistic_problem(d.a, d.y, ridge, Hessian::Diagonal), x))
          .norm(),
      1e-12);
  // Fisher, dense and of low rank, against its definition.
  Matrix fisher = .1 * Matrix::Identity(4, 4);
  for (Eigen::Index i = 0; i < 40; ++i) {
    const double s = d.a.row(i).dot(x), slope = -d.y[i] / (1 + std::exp(d.y[i] * s));
    fisher += slope * slope / 40 * d.a.row(i).transpose() * d.a.row(i);
  }
  EXPECT_LT((fisher - dense_hessian(logistic_problem(d.a, d.y, ridge, Hessian::Fisher), x)).norm(), 1e-12);
  const Data wide = logistic_data(5, 9);
  const Problem low = logistic_problem(wide.a, wide.y, ridge, Hessian::Fisher);
  EXPECT_TRUE(std::holds_alternative<LowRankCurvature>(low.curvature));
  EXPECT_TRUE(minimize(low, Vector::Zero(9)).converged());

  std::vector<int> labels;
  for (int i = 0; i < 40; ++i) labels.push_back(i % 3);
  const Vector w = random_vector(12, random);
  for (const auto hessian : {Hessian::Exact, Hessian::Product}) {
    const auto check = check_derivatives(softmax_problem(d.a, labels, 3, ridge, hessian), w);
    EXPECT_LT(check.gradient, 1e-8);
    EXPECT_LT(check.hessian, 1e-8);
  }
  Matrix softmax_fisher = .1 * Matrix::Identity(12, 12);
  for (Eigen::Index i = 0; i < 40; ++i) {
    const Matrix one = d.a.row(i);
    Vector g(12);
    softmax_problem(one, {labels[static_cast<std::size_t>(i)]}, 3, Vector::Zero(1)).evaluate(w, g);
    softmax_fisher += g * g.transpose() / 40;
  }
  EXPECT_LT((softmax_fisher - dense_hessian(softmax_problem(d.a, labels, 3, ridge, Hessian::Fisher), w)).norm(), 1e-12);

  for (const auto hessian : {Hessian::Exact, Hessian::Product}) {
    const auto check = check_derivatives(log_sum_exp_problem(d.a, d.y, .5, hessian), x);
    EXPECT_LT(check.gradient, 1e-8);
    EXPECT_LT(check.hessian, 1e-8);
  }
  Vector g(4);
  log_sum_exp_problem(d.a, d.y, .5).evaluate(x, g);
  EXPECT_LT((dense_hessian(log_sum_exp_problem(d.a, d.y, .5, Hessian::GaussNewton), x) -
             dense_hessian(log_sum_exp_problem(d.a, d.y, .5), x) - 2 * g * g.transpose())
                .norm(),
            1e-12);

  for (const double p : {2., 3., 4., 6.}) {
    const Vector at = Vector::Map(std::vector<double>{-.4, .7}.data(), 2);
    const auto check = check_derivatives(power_problem(rosenbrock(), p, Hessian::Exact), at);
    EXPECT_LT(check.gradient, 1e-7);
    EXPECT_LT(check.hessian, 1e-6);
    // What Gauss-Newton leaves out.
    Vector u(2);
    rosenbrock().value(at, u);
    Matrix dropped = Matrix::Zero(2, 2);
    rosenbrock().second(at, u, dropped);
    EXPECT_LT((dense_hessian(power_problem(rosenbrock(), p, Hessian::Exact), at) -
               dense_hessian(power_problem(rosenbrock(), p), at) - std::pow(u.norm(), p - 2) * dropped)
                  .norm(),
              1e-9);
  }
}

TEST(GradientNormalizedSmoothness, BaselinesFindTheSameMinimum) {
  const Data d = logistic_data();
  const Problem p = logistic_problem(d.a, d.y, Vector::Constant(1, 1e-2));
  MinimizeOptions o;
  o.max_iterations = 20000;
  const Minimum reference = minimize(p, Vector::Zero(6), o);
  MinimizeOptions accelerated = o;
  accelerated.accelerate = true;
  for (const Minimum& m : {super_universal_newton(p, Vector::Zero(6), o), cubic_newton(p, Vector::Zero(6), o),
                           gradient_method(p, Vector::Zero(6), o), accelerated_gradient(p, Vector::Zero(6), o),
                           minimize(p, Vector::Zero(6), accelerated)}) {
    EXPECT_TRUE(m.converged()) << m.message;
    EXPECT_LT((m.x - reference.x).norm(), 1e-5);
  }
}

TEST(GradientNormalizedSmoothness, BadInputAndHardCases) {
  const Data d = logistic_data();
  const Vector ridge = Vector::Constant(1, 1e-2);
  const Problem p = logistic_problem(d.a, d.y, ridge);
  const Vector zero = Vector::Zero(6);
  EXPECT_THROW(minimize(p, Vector::Constant(6, NAN)), Error);
  EXPECT_THROW(minimize(p, Vector::Zero(5)), Error);
  MinimizeOptions o;
  o.gamma0 = 0;
  EXPECT_THROW(minimize(p, zero, o), Error);
  o = {};
  o.gradient_tolerance = NAN;
  EXPECT_THROW(minimize(p, zero, o), Error);
  EXPECT_THROW(minimize(logistic_problem(1e200 * d.a, d.y, ridge), zero), Error);  // the gradient's norm overflows
  Problem bad = p;
  bad.metric = -Matrix::Identity(6, 6);
  EXPECT_THROW(minimize(bad, zero), Error);
  bad = p;
  bad.curvature = DenseCurvature{[](const Vector&, Matrix& h) { h.setIdentity(), h(0, 1) = 1; }, true};
  EXPECT_THROW(minimize(bad, zero), Error);
  bad.curvature = DenseCurvature{[](const Vector&, Matrix& h) { h = Matrix::Identity(2, 2); }};
  EXPECT_THROW(minimize(bad, zero), Error);
  bad = p;
  bad.evaluate = [](const Vector&, Vector& g) {
    g.setZero();
    return INFINITY;
  };
  EXPECT_THROW(minimize(bad, zero), Error);
  EXPECT_THROW(power_problem(rosenbrock(), 1.5), Error);
  EXPECT_THROW(logistic_problem(Matrix(0, 3), Vector(0), ridge), Error);
  EXPECT_THROW(logistic_problem(d.a, Vector::Constant(80, .5), ridge), Error);
  EXPECT_THROW(softmax_problem(d.a, std::vector<int>(80, 3), 3, ridge), Error);

  // A zero gradient at the start.
  const Minimum there = minimize(power_problem(rosenbrock(), 3), Vector::Ones(2));
  EXPECT_TRUE(there.converged());
  EXPECT_EQ(there.iterations(), 0);

  // An indefinite Hessian, and a function that cannot be evaluated everywhere.
  Problem hard;
  hard.size = 2;
  hard.evaluate = [](const Vector& x, Vector& g) {
    if (x[0] <= 0) return std::numeric_limits<double>::infinity();
    g << 1 - 1 / x[0], 4 * x[1] * (x[1] * x[1] - 1);
    return x[0] - std::log(x[0]) + std::pow(x[1] * x[1] - 1, 2);
  };
  hard.curvature = DenseCurvature{[](const Vector& x, Matrix& h) {
    h.setZero();
    h(0, 0) = 1 / (x[0] * x[0]), h(1, 1) = 12 * x[1] * x[1] - 4;
  }};
  const Minimum found = minimize(hard, Vector::Map(std::vector<double>{20, .01}.data(), 2));
  EXPECT_TRUE(found.converged()) << found.message;
  EXPECT_NEAR(found.x[0], 1, 1e-6);
  EXPECT_NEAR(std::abs(found.x[1]), 1, 1e-6);

  // Separable data without a minimum end at the limit, finite.
  MinimizeOptions few;
  few.max_iterations = 30;
  few.gradient_tolerance = 1e-200;
  const Minimum separable =
      minimize(logistic_problem(Matrix::Ones(3, 1), Vector::Ones(3), Vector::Zero(1)), Vector::Zero(1), few);
  EXPECT_FALSE(separable.converged());
  EXPECT_TRUE(separable.x.allFinite());

  // A gradient that is wrong.
  Problem wrong = p;
  wrong.evaluate = [&](const Vector& x, Vector& g) {
    const double f = p.evaluate(x, g);
    g = -g;
    return f;
  };
  const Minimum misled = minimize(wrong, zero);
  EXPECT_TRUE(misled.outcome == Outcome::SearchExhausted || misled.outcome == Outcome::Rounding) << misled.message;
  MinimizeOptions stopped;
  stopped.callback = [](const Iteration& i, const Vector&) { return i.index < 2; };
  EXPECT_EQ(minimize(p, zero, stopped).outcome, Outcome::Stopped);
}

}  // namespace
}  // namespace unbend::optimize
