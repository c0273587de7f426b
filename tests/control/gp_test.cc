#include "unbend/control/gp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <Eigen/LU>
#include <Eigen/SVD>
#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/random.h"

namespace unbend::control {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr GpOptions kPlain{.scale_outputs = false};

GpData data_of(std::initializer_list<double> x, std::initializer_list<double> u, std::initializer_list<double> y) {
  const auto column = [](std::initializer_list<double> v) {
    return MatrixXd(Eigen::Map<const VectorXd>(v.begin(), static_cast<Eigen::Index>(v.size())));
  };
  return {column(x), u.size() ? column(u) : MatrixXd(x.size(), 0), column(y)};
}

GpData random_data(int n, int d, int m, int outputs, Random& random) {
  GpData data{MatrixXd(n, d), MatrixXd(n, m), MatrixXd(n, outputs)};
  for (MatrixXd* part : {&data.z, &data.u, &data.y}) {
    for (double& v : part->reshaped()) v = random.normal();
  }
  return data;
}

double variance(const Prediction& p, const VectorXd& ubar) { return (p.root * ubar).squaredNorm(); }

TEST(GaussianProcess, Oracle) {
  const GaussianProcess gp(data_of({0, 1, 2}, {}, {0, 1, 0}), {squared_exponential(1, 1), {}, .1}, kPlain);
  const auto p = gp.predict(VectorXd::Constant(1, .5));
  EXPECT_NEAR(p.mean(0, 0), .661667575007564, 1e-14);
  EXPECT_NEAR(variance(p, VectorXd::Ones(1)), .02502048666130985, 1e-14);
  EXPECT_NEAR(gp.log_marginal_likelihood(), -3.617491942210392, 1e-13);
}

TEST(GaussianProcess, ControlAffineOracle) {
  const GaussianProcess gp(data_of({0, 1, 2}, {1, -1, 2}, {1, 0, 3}),
                           {squared_exponential(1, 1), squared_exponential(1, 1), .1}, kPlain);
  const auto p = gp.predict(VectorXd::Constant(1, .5));
  EXPECT_NEAR(p.mean(0, 0), .68240996, 1e-8);
  EXPECT_NEAR(p.mean(0, 1), .55978855, 1e-8);
  Eigen::Matrix2d s;
  s << .18917981, -.01780793, -.01780793, .21623889;
  EXPECT_LT((p.root.transpose() * p.root - s).norm(), 2e-8);
  EXPECT_NEAR(std::sqrt(variance(p, Eigen::Vector2d(1, .7))), .5198132083117161, 1e-13);
}

/// The textbook formulas, with an inverse.
void expect_definition(const GpData& data, const GpKernel& kernel, const VectorXd& z, const VectorXd& u) {
  const auto n = data.z.rows();
  const auto k = [&](const VectorXd& a, const VectorXd& ua, const VectorXd& b, const VectorXd& ub) {
    const double squared = (a - b).squaredNorm(), inner = a.dot(b);
    return evaluate(kernel.drift, squared, inner) + ua.dot(ub) * evaluate(kernel.gain, squared, inner);
  };
  MatrixXd covariance(n, n);
  VectorXd cross(n);
  for (Eigen::Index i = 0; i < n; ++i) {
    const auto zi = data.z.row(i).transpose(), ui = data.u.row(i).transpose();
    cross[i] = k(zi, ui, z, u);
    for (Eigen::Index j = 0; j < n; ++j)
      covariance(i, j) = k(zi, ui, data.z.row(j).transpose(), data.u.row(j).transpose());
  }
  covariance.diagonal().array() += kernel.noise * kernel.noise;
  const MatrixXd inverse = covariance.inverse();
  const GaussianProcess gp(data, kernel, kPlain);
  const auto p = gp.predict(z);
  VectorXd ubar(1 + u.size());
  ubar << 1, u;
  const double var = k(z, u, z, u) - cross.dot(inverse * cross);
  EXPECT_NEAR(variance(p, ubar), var, 1e-9 * (1 + std::abs(var)));
  for (Eigen::Index j = 0; j < data.y.cols(); ++j)
    EXPECT_NEAR(p.mean.row(j).dot(ubar), cross.dot(inverse * data.y.col(j)), 1e-8);
}

TEST(GaussianProcess, IsItsDefinition) {
  Random random(7);
  const GpKernel kernel{squared_exponential(.9, 1.3) + linear(.4), squared_exponential(.5, .8), .2};
  for (const int n : {2, 7, 8, 9, 40}) {
    for (int m = 1; m <= 3; ++m)
      expect_definition(random_data(n, 3, m, 2, random), kernel, VectorXd::Random(3), VectorXd::Random(m));
  }
}

TEST(GaussianProcess, ScalesOutputs) {
  Random random(8);
  GpData data = random_data(30, 2, 2, 1, random);
  const GpKernel kernel{squared_exponential(1, 1), squared_exponential(1, 1), .1};
  const auto before = GaussianProcess(data, kernel).predict(VectorXd::Zero(2));
  data.y *= 1000;
  const GaussianProcess large(data, kernel);
  EXPECT_LT((large.predict(VectorXd::Zero(2)).mean - 1000 * before.mean).norm(), 1e-9);
  const VectorXd y = data.y.col(0);
  EXPECT_NEAR(large.scale()[0], std::sqrt((y.array() - y.mean()).square().mean()), 1e-9);
}

TEST(Kernel, GradientsAgreeWithDifferences) {
  const Kernel kernel = kernel_from_json(
      Json::parse(
          R"([[{"constant": 1.2}, {"squared_exponential": 0.7}], [{"matern32": 0.5}, {"linear": 0.3}], [{"matern52": 0.9}],
                      [{"rational_quadratic": [0.6, 1.4]}], [{"periodic": [0.8, 1.3]}, {"constant": 0.5}]])"),
      "kernel");
  const Eigen::ArrayXd squared = Eigen::ArrayXd::LinSpaced(20, 0, 4), inner = Eigen::ArrayXd::LinSpaced(20, -1, 2);
  const auto x = log_parameters(kernel);
  ASSERT_EQ(x.size(), parameter_names(kernel).size());
  Eigen::ArrayXd slope, above, below;
  for (std::size_t i = 0; i < x.size(); ++i) {
    auto more = x, less = x;
    more[i] += 1e-5, less[i] -= 1e-5;
    evaluate_gradient(kernel, i, squared, inner, slope);
    evaluate(with_log_parameters(kernel, more), squared, inner, above);
    evaluate(with_log_parameters(kernel, less), squared, inner, below);
    EXPECT_LT(((above - below) / 2e-5 - slope).abs().maxCoeff(), 1e-8) << parameter_names(kernel)[i];
  }
  EXPECT_EQ(to_json(kernel_from_json(to_json(kernel), "again")), to_json(kernel));
}

TEST(Kernel, LipschitzConstantsHold) {
  Random random(9);
  for (const char* text : {R"([[{"squared_exponential": 0.7}]])", R"([[{"matern32": 0.7}]])",
                           R"([[{"matern52": 0.7}]])", R"([[{"rational_quadratic": [0.7, 0.4]}]])",
                           R"([[{"periodic": [0.9, 1.5]}]])", R"([[{"linear": 0.5}, {"matern52": 1}]])"}) {
    const Kernel kernel = kernel_from_json(Json::parse(text), "kernel");
    const double bound = lipschitz(kernel, 2);
    double largest = 0;
    for (int trial = 0; trial < 20000; ++trial) {  // along a line: slopes at close points
      const double z = 4 * random.uniform() - 2, x = 4 * random.uniform() - 2, y = std::min(2., x + 1e-4);
      if (y > x)
        largest = std::max(
            largest, std::abs(evaluate(kernel, (x - z) * (x - z), x * z) - evaluate(kernel, (y - z) * (y - z), y * z)) /
                         (y - x));
    }
    EXPECT_LE(largest, bound * (1 + 1e-6)) << text;
    EXPECT_GE(largest, .1 * bound) << text;
  }
}

TEST(GaussianProcess, LikelihoodGradientAgreesWithDifferences) {
  Random random(10);
  const GpData data = random_data(25, 2, 2, 2, random);
  const GpKernel kernel{squared_exponential(.9, 1.3) + linear(.4), squared_exponential(.5, .8), .2};
  const auto at = likelihood_with_gradient(data, kernel);
  EXPECT_NEAR(at[0], GaussianProcess(data, kernel).log_marginal_likelihood(), 1e-10);
  const auto drift = log_parameters(kernel.drift), gain = log_parameters(kernel.gain);
  ASSERT_EQ(at.size(), 1 + drift.size() + gain.size() + 1);
  for (std::size_t i = 0; i + 1 < at.size(); ++i) {
    double values[2];
    for (const int side : {0, 1}) {
      const double change = side ? 1e-5 : -1e-5;
      GpKernel moved = kernel;
      auto d = drift, g = gain;
      if (i < d.size())
        d[i] += change;
      else if (i < d.size() + g.size())
        g[i - d.size()] += change;
      else
        moved.noise *= std::exp(change);
      moved.drift = with_log_parameters(kernel.drift, d);
      moved.gain = with_log_parameters(kernel.gain, g);
      values[side] = likelihood_with_gradient(data, moved)[0];
    }
    EXPECT_NEAR((values[1] - values[0]) / 2e-5, at[1 + i], 1e-5 * (1 + std::abs(at[1 + i]))) << i;
  }
}

TEST(GaussianProcess, FitFindsTheKernelThatMadeTheData) {
  Random random(12);
  GpData data = random_data(150, 1, 1, 1, random);
  data.z *= 3;
  for (Eigen::Index i = 0; i < 150; ++i)
    data.y(i, 0) = std::sin(2 * data.z(i, 0)) + data.u(i, 0) * std::cos(data.z(i, 0)) + .05 * random.normal();
  const GpFit fit = fit_kernel(data, {squared_exponential(1, 1), squared_exponential(1, 1), .2});
  EXPECT_GT(fit.likelihood, fit.start_likelihood + 50);
  const GaussianProcess gp(data, fit.kernel);
  EXPECT_NEAR(fit.kernel.noise * gp.scale()[0], .05, .015);
  const auto p = gp.predict(VectorXd::Constant(1, .4));
  EXPECT_NEAR(p.mean(0, 0), std::sin(.8), .1);
  EXPECT_NEAR(p.mean(0, 1), std::cos(.4), .1);
  const Vector push = Vector::Constant(1, 2);
  EXPECT_DOUBLE_EQ(mean_at(p, push)[0], p.mean(0, 0) + 2 * p.mean(0, 1));
  EXPECT_NEAR(std::pow(deviation_at(p, push), 2), variance(p, Eigen::Vector2d(1, 2)), 1e-12);
  for (const Vector& u : {Vector(Vector::Zero(1)), push}) {
    EXPECT_LT(gp.novelty(p, u), .2);
    EXPECT_GT(gp.novelty(gp.predict(VectorXd::Constant(1, 100)), u), .9);
  }
  const auto gradient = likelihood_with_gradient(data, fit.kernel);  // at a maximum
  for (std::size_t i = 1; i < gradient.size(); ++i) EXPECT_LT(std::abs(gradient[i]), 2) << i;
}

// A fit often ends at a prior that is far larger than the data.
TEST(GaussianProcess, NoveltyUnderALargePriorIsOverTheData) {
  Random random(5);
  GpData data{Eigen::MatrixXd(60, 1), Eigen::MatrixXd::Zero(60, 1), Eigen::MatrixXd(60, 1)};
  for (Eigen::Index i = 0; i < 60; ++i) {
    data.z(i, 0) = random.normal();
    data.y(i, 0) = std::sin(data.z(i, 0));
  }
  const GaussianProcess gp(data, {squared_exponential(300, 8), {}, .01});
  const Vector none = Vector::Zero(1);
  const auto near = gp.predict(VectorXd::Constant(1, .3)), far = gp.predict(VectorXd::Constant(1, 15));
  EXPECT_LT(gp.novelty(near, none), .1);
  EXPECT_GT(deviation_at(far, none), 2);    // more than the data's own scatter,
  EXPECT_LT(deviation_at(far, none), 150);  // but little of what the prior allows
  EXPECT_EQ(gp.novelty(far, none), 1);
}

TEST(GaussianProcess, UniformBoundHoldsForSamples) {
  const GaussianProcess gp(data_of({-1, 0, 1}, {}, {-.8, 0, .8}), {squared_exponential(1, 1), {}, .1}, kPlain);
  const auto bound = uniform_bound(gp, 1, 0, 1e-6, .05, VectorXd::Ones(1));
  EXPECT_NEAR(bound.beta, std::sqrt(2 * (std::log(1 + 1e6) - std::log(.05))), 1e-9);
  EXPECT_GT(bound.offset[0], 0);
  EXPECT_LT(bound.offset[0], uniform_bound(gp, 1, 0, 1e-4, .05, VectorXd::Ones(1)).offset[0]);
  for (double x = -1; x <= 1; x += .05) {
    const auto p = gp.predict(VectorXd::Constant(1, x));
    EXPECT_LE(std::abs(std::sin(x) - p.mean(0, 0)),
              bound.beta * std::sqrt(variance(p, VectorXd::Ones(1))) + bound.offset[0]);
  }
  EXPECT_THROW(uniform_bound(gp, 1, 0, 1e-6, 1.5, VectorXd::Ones(1)), Error);
  // The norm of the inverse, which the bound needs.
  Eigen::Matrix3d k;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) k(i, j) = std::exp(-.5 * (i - j) * (i - j)) + (i == j ? .01 : 0);
  EXPECT_NEAR(gp.inverse_norm(), k.inverse().jacobiSvd().singularValues()[0], 1e-4);
}

TEST(GaussianProcess, SingularKernelsGetAJitterOrAName) {
  const GaussianProcess twice(data_of({0, 0, 1}, {}, {1, 1, 2}), {squared_exponential(1, 1), {}, 1e-9}, kPlain);
  EXPECT_GT(twice.jitter(), 0);
  EXPECT_NEAR(twice.predict(VectorXd::Zero(1)).mean(0, 0), 1, 1e-3);
  Kernel bad = squared_exponential(1, 1);
  bad.terms[0][0].parameters[0] = 1e200;  // its square overflows
  EXPECT_THAT(error_message(
                  [&] {
                    GaussianProcess(data_of({0, 1, 2}, {}, {0, 1, 0}), {bad, {}, .1}, kPlain);
                  },
                  ErrorKind::Computation),
              HasSubstr("not finite"));
}

TEST(GaussianProcess, RefusesWhatDoesNotFit) {
  const GpKernel kernel{squared_exponential(1, 1), {}, .1};
  const auto refused = [&](const GpData& data, const GpKernel& k) {
    return error_message([&] { GaussianProcess(data, k); });
  };
  EXPECT_THAT(refused(data_of({0}, {}, {1}), kernel), HasSubstr("at least 2"));
  EXPECT_THAT(refused({MatrixXd::Zero(20001, 1), MatrixXd(20001, 0), MatrixXd::Zero(20001, 1)}, kernel),
              HasSubstr("up to 20000"));
  EXPECT_THAT(refused(data_of({0, 1}, {}, {1}), kernel), HasSubstr("2 rows of z"));
  EXPECT_THAT(refused(data_of({0, 1, NAN}, {}, {1, 2, 3}), kernel), HasSubstr("row 3 of z is not finite"));
  EXPECT_THAT(refused(data_of({0, 1}, {}, {1, 1}), kernel), HasSubstr("output 1 is 1 in all rows"));
  EXPECT_THAT(refused(data_of({0, 1}, {}, {1, 2}), {kernel.drift, {}, 0}), HasSubstr("noise must be positive"));
  EXPECT_THAT(refused(data_of({0, 1}, {}, {1, 2}), {kernel.drift, kernel.drift, .1}), HasSubstr("needs inputs u"));
  const GaussianProcess gp(data_of({0, 1}, {}, {1, 2}), kernel);
  EXPECT_THAT(error_message([&] { gp.predict(VectorXd::Zero(2)); }), HasSubstr("query of 2 coordinates"));
  EXPECT_THAT(error_message([&] { gp.predict(VectorXd::Constant(1, NAN)); }), HasSubstr("not finite"));
  EXPECT_THAT(error_message([] { kernel_from_json(Json::parse(R"([[{"gauss": 1}]])"), "k.json"); }),
              HasSubstr("unknown factor 'gauss'"));
  EXPECT_THAT(error_message([] { kernel_from_json(Json::parse(R"([[{"matern32": -1}]])"), "k.json"); }),
              HasSubstr("must be positive"));
  EXPECT_THAT(data_warnings(data_of({0, 1}, {3, 3}, {1, 2})), ElementsAre(HasSubstr("input 1 is 3 in all rows")));
}

}  // namespace
}  // namespace unbend::control
