#include "unbend/optimize/implicit_ftrl.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/error_message.h"
#include "unbend/base/error.h"
#include "unbend/base/random.h"

namespace unbend::optimize {
namespace {

Rows rows_of(const std::vector<std::vector<double>>& inputs, const std::vector<double>& labels) {
  Rows rows;
  for (std::size_t r = 0; r < inputs.size(); ++r) {
    for (std::size_t i = 0; i < inputs[r].size(); ++i) rows.add(static_cast<std::uint32_t>(i), inputs[r][i]);
    rows.end_row(labels[r], 1);
  }
  return rows;
}

Rows random_rows(std::size_t count, std::size_t features, bool classes, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> truth(features);
  for (double& w : truth) w = random.normal();
  Rows rows;
  for (std::size_t r = 0; r < count; ++r) {
    double s = 0;
    for (std::size_t i = 0; i < features; ++i) {
      const double a = random.normal();
      rows.add(static_cast<std::uint32_t>(i), a);
      s += a * truth[i];
    }
    s += random.normal();
    rows.end_row(classes ? (s > 0 ? 1 : -1) : s, 1 + (r % 3 == 0));
  }
  return rows;
}

/// A learner in the state theta, which goes from lambda 2 to `next`.
Ftrl placed(Loss loss, Update update, const std::vector<double>& theta, double first, double next) {
  FtrlOptions o;
  o.loss = std::move(loss);
  o.update = update;
  o.schedule = Schedule::User;
  o.user_lambda = [=](std::int64_t t) { return t == 1 ? first : next; };
  Ftrl learner(o, static_cast<std::int64_t>(theta.size()));
  auto numbers = learner.numbers();
  numbers["weights"] = theta;
  learner.set_numbers(std::move(numbers));
  return learner;
}

void learn(Ftrl& learner, const Rows& rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) learner.learn(rows[i]);
}

TEST(ImplicitFtrl, WorkedExampleHinge) {
  const Rows rows = rows_of({{3, 4}}, {1});
  Ftrl learner = placed(loss_named("hinge"), Update::Proximal, {0, 0}, 2, 2);
  learner.learn(rows[0]);
  EXPECT_NEAR(learner.weights()[0], .12, 1e-12);
  EXPECT_NEAR(learner.weights()[1], .16, 1e-12);
  EXPECT_NEAR(learner.tallies()[0].gain, 5.29, 1e-12);
  Ftrl linear = placed(loss_named("hinge"), Update::Linear, {0, 0}, 2, 2);
  linear.learn(rows[0]);
  EXPECT_NEAR(linear.weights()[0], 1.5, 1e-12);
  EXPECT_NEAR(linear.weights()[1], 2, 1e-12);
  EXPECT_EQ(linear.tallies()[0].gain, 0);
}

TEST(ImplicitFtrl, WorkedExampleSquared) {
  const Rows rows = rows_of({{1, 2}}, {1});
  Ftrl learner = placed(loss_named("squared"), Update::Proximal, {1, -2}, 2, 3);
  std::vector<double> s;
  learner.predict(rows[0], s);
  EXPECT_NEAR(s[0], -1.5, 1e-12);
  learner.learn(rows[0]);
  EXPECT_NEAR(learner.weights()[0], .5833333333, 1e-9);
  EXPECT_NEAR(learner.weights()[1], -.1666666667, 1e-9);
  learner.predict(rows[0], s);
  EXPECT_NEAR(s[0] - 1, -.75, 1e-12);  // the residual is b
  EXPECT_NEAR(learner.tallies()[0].gain, 4.1666666667 - .0833333333, 1e-9);
}

TEST(ImplicitFtrl, WorkedExampleAbsoluteWithActiveClip) {
  Ftrl learner = placed(loss_named("absolute"), Update::Proximal, {1, -2}, 2, 3);
  learner.learn(rows_of({{1, 2}}, {1})[0]);
  EXPECT_NEAR(learner.weights()[0], .6666666667, 1e-9);
  EXPECT_NEAR(learner.weights()[1], 0, 1e-12);
  EXPECT_NEAR(learner.tallies()[0].gain, 0, 1e-12);
}

TEST(ImplicitFtrl, WorkedExampleTwoStep) {
  const Rows rows = rows_of({{1, 2}}, {1});
  Ftrl fast = placed(loss_named("squared"), Update::TwoStep, {1, -2}, 2, 3);
  fast.learn(rows[0]);
  EXPECT_EQ(fast.tallies()[0].fallbacks, 1);
  Ftrl slow = placed(loss_named("squared"), Update::TwoStep, {1, -2}, 2, 6);
  slow.learn(rows[0]);
  EXPECT_EQ(slow.tallies()[0].fallbacks, 0);
  EXPECT_NEAR(slow.tallies()[0].gain, 2.3958333333 - 1.6035879630, 1e-9);
}

TEST(ImplicitFtrl, WorkedExampleEntropic) {
  FtrlOptions o;
  o.loss = loss_named("squared");
  o.schedule = Schedule::Constant;
  o.rates = {2};  // 1 / eta
  o.geometry.domain = Domain::Simplex;
  o.average = true;
  Ftrl learner(o, 3);
  auto numbers = learner.numbers();
  numbers["weights"] = {.2, 0, -.1, 0, 0, 0};
  learner.set_numbers(std::move(numbers));
  const Rows rows = rows_of({{1, 2, 3}}, {1.5});
  std::vector<double> s;
  learner.predict(rows[0], s);
  EXPECT_NEAR(s[0], 1.9655899404, 1e-10);
  const auto before = learner.weights();
  EXPECT_NEAR(before[0], .3615923289, 1e-10);
  learner.learn(rows[0]);
  const std::vector<double> expected{.4232258391, .3061975744, .2705765865};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(learner.weights()[i], expected[i], 1e-9);
    EXPECT_NEAR(learner.average()[i], before[i], 1e-14);
  }
  learner.predict(rows[0], s);
  EXPECT_NEAR(s[0], 1.8473507474, 1e-9);
}

TEST(ImplicitFtrl, AdaptiveStopsGrowingWhereTheLossStopsMoving) {
  double cumulative[2][3];
  for (const auto update : {Update::Proximal, Update::Linear}) {
    int k = 0;
    for (const int rows : {10, 100, 1000}) {
      FtrlOptions o;
      o.loss = loss_named("absolute");
      o.update = update;
      o.schedule = Schedule::Adaptive;
      Ftrl learner(o, 3);
      const Rows row = rows_of({{.1, .2, -.2}}, {.03});
      for (int i = 0; i < rows; ++i) learner.learn(row[0]);
      cumulative[update == Update::Linear][k++] = learner.tallies()[0].loss;
    }
  }
  EXPECT_NEAR(cumulative[0][0], cumulative[0][2], 1e-3 * cumulative[0][0]);
  EXPECT_GT(cumulative[1][2], 20 * cumulative[1][0]);
}

struct Case {
  const char* loss;
  Update update;
  Schedule schedule;
  Geometry geometry = {};
  double l1 = 0;
};

std::string describe(const Case& c) {
  return fmt::format("{}, {}, {}, {}, l1 {}", c.loss, update_names()[static_cast<std::size_t>(c.update)],
                     schedule_names()[static_cast<std::size_t>(c.schedule)],
                     domain_names()[static_cast<std::size_t>(c.geometry.domain)], c.l1);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const Geometry box{Domain::Box, -.5, .7, 1}, ball{Domain::Ball, 0, 0, .8}, simplex{Domain::Simplex, 0, 0, 1};
  for (const char* loss : {"hinge", "logistic", "squared", "absolute", "epsilon-insensitive", "quantile"}) {
    for (const auto update : {Update::Linear, Update::Proximal, Update::AProx, Update::TwoStep}) {
      for (const auto schedule :
           {Schedule::Constant, Schedule::Sqrt, Schedule::AdagradNorm, Schedule::Adagrad, Schedule::Adaptive}) {
        all.push_back({loss, update, schedule});
        all.push_back({loss, update, schedule, {}, .3});
        all.push_back({loss, update, schedule, box});
        if (schedule == Schedule::Adagrad) continue;
        all.push_back({loss, update, schedule, ball});
        all.push_back({loss, update, schedule, simplex});
      }
    }
  }
  return all;
}

FtrlOptions options_of(const Case& c) {
  FtrlOptions o;
  const std::string_view loss = c.loss;
  o.loss = loss_named(loss, loss == "quantile" ? .3 : loss == "epsilon-insensitive" ? .1 : 0);
  o.update = c.update;
  o.schedule = c.schedule;
  o.geometry = c.geometry;
  o.l1 = c.l1;
  o.l1_power = .5;
  return o;
}

std::vector<double> comparator(const Geometry& g, std::size_t d, Random& random) {
  std::vector<double> u(d);
  double norm = 0, sum = 0;
  for (double& x : u) {
    x = g.domain == Domain::Simplex ? -std::log(1 - random.uniform()) : random.normal();
    if (g.domain == Domain::Box) x = std::clamp(x, g.low, g.high);
    norm += x * x;
    sum += x;
  }
  for (double& x : u) {
    if (g.domain == Domain::Simplex) x /= sum;
    if (g.domain == Domain::Ball) x *= g.radius * random.uniform() / std::sqrt(norm);
  }
  return u;
}

// Every combination: the certificate covers the true regret of many comparators, delta is never negative, weights stay
// in the domain.
TEST(ImplicitFtrl, TheCertificateHolds) {
  Random random(7);
  for (const Case& c : cases()) {
    const bool binary = std::string_view(c.loss) == "hinge" || std::string_view(c.loss) == "logistic";
    const Rows rows = random_rows(40, 5, binary, 3);
    for (const double rate : {.01, 1., 30.}) {
      FtrlOptions o = options_of(c);
      o.rates = {rate};
      Ftrl learner(o, 5);
      double gain = 0;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        learner.learn(rows[i]);
        ASSERT_GE(learner.tallies()[0].gain, gain) << describe(c);
        gain = learner.tallies()[0].gain;
      }
      const Tally& tally = learner.tallies()[0];
      if (tally.diverged_at) {  // as linear steps on squares do, and two-step's that fall back to them
        ASSERT_TRUE((c.update == Update::Linear || c.update == Update::TwoStep) && o.loss.kind == LossKind::Squared)
            << describe(c) << ", rate " << rate;
        continue;
      }
      for (int k = 0; k < 6; ++k) {
        const auto u = comparator(c.geometry, 5, random);
        double regret = tally.loss;
        for (std::size_t i = 0; i < rows.size(); ++i) {
          double s = 0;
          for (std::size_t j = 0; j < 5; ++j) s += rows[i].value[j] * u[j];
          regret -= rows[i].weight * loss_value(o.loss, s, rows[i].label);
        }
        ASSERT_GE(learner.regret_bound(u) + 1e-9 * (1 + std::abs(tally.loss) + std::abs(tally.dual)), regret)
            << describe(c) << ", rate " << rate;
      }
      const auto x = learner.weights();
      double norm = 0, sum = 0;
      for (const double w : x) {
        ASSERT_TRUE(std::isfinite(w)) << describe(c);
        norm += w * w, sum += w;
        EXPECT_TRUE(c.geometry.domain != Domain::Box || (w >= c.geometry.low && w <= c.geometry.high));
      }
      EXPECT_TRUE(c.geometry.domain != Domain::Ball || norm <= c.geometry.radius * c.geometry.radius * (1 + 1e-12));
      EXPECT_TRUE(c.geometry.domain != Domain::Simplex || std::abs(sum - 1) < 1e-12);
    }
  }
}

TEST(ImplicitFtrl, TheAdaptiveBoundHolds) {
  Random random(8);
  for (const auto update : {Update::Linear, Update::Proximal, Update::AProx}) {
    for (const double beta : {.01, .1, 1., 10., 100.}) {
      FtrlOptions o;
      o.loss = loss_named("absolute");
      o.update = update;
      o.schedule = Schedule::Adaptive;
      o.rates = {beta};
      Ftrl learner(o, 4);
      const Rows rows = random_rows(60, 4, false, 5);
      learn(learner, rows);
      const auto u = comparator({}, 4, random);
      double regret = learner.tallies()[0].loss, norm2 = 0;
      for (const double x : u) norm2 += x * x;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        double s = 0;
        for (std::size_t j = 0; j < 4; ++j) s += rows[i].value[j] * u[j];
        regret -= rows[i].weight * std::abs(s - rows[i].label);
      }
      EXPECT_LE(regret, learner.lambda() * (norm2 / 2 + beta * beta) - beta * beta * o.lambda1 + 1e-9);
    }
  }
}

// The implicit step's defining property on every path: b is the slope of the weighted loss at the point it leads to.
TEST(ImplicitFtrl, TheProximalStepIsASlopeAtItsOwnEnd) {
  for (const Case& c : cases()) {
    if (c.update != Update::Proximal || (c.schedule != Schedule::Constant && c.schedule != Schedule::Adagrad)) continue;
    const std::string_view kind = c.loss;
    if (kind != "squared" && kind != "logistic") continue;
    FtrlOptions o = options_of(c);
    o.l1_power = 0;  // so that the next row's psi is that of the step
    Ftrl learner(o, 5);
    const Rows rows = random_rows(20, 5, kind == "logistic", 11);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto before = learner.numbers()["weights"];
      learner.learn(rows[i]);
      const auto after = learner.numbers()["weights"];
      const std::size_t slots = before.size() / 5;
      const double b = (before[0] - after[0]) / rows[i].value[0];
      std::vector<double> s;
      learner.predict(rows[i], s);
      ASSERT_NEAR(b, rows[i].weight * loss_slope(o.loss, s[0], rows[i].label), 1e-9 * (1 + std::abs(b))) << describe(c);
      for (std::size_t j = 1; j < 5; ++j)
        ASSERT_NEAR(before[j * slots] - after[j * slots], b * rows[i].value[j], 1e-12 * (1 + std::abs(b)))
            << describe(c);
    }
  }
}

TEST(ImplicitFtrl, ManyRatesInOnePassAreTheSameModels) {
  for (const auto schedule : {Schedule::Sqrt, Schedule::Adagrad, Schedule::Adaptive}) {
    for (const auto update : {Update::Proximal, Update::Linear, Update::AProx}) {
      FtrlOptions o;
      o.update = update;
      o.schedule = schedule;
      o.rates = {1e-3, .01, .1, 1, 10, 100, 1e3, .3, 3, 30};
      const Rows rows = random_rows(200, 7, true, 2);
      Ftrl bank(o, 7);
      learn(bank, rows);
      for (std::size_t r = 0; r < o.rates.size(); ++r) {
        FtrlOptions alone = o;
        alone.rates = {o.rates[r]};
        Ftrl single(alone, 7);
        learn(single, rows);
        EXPECT_NEAR(bank.tallies()[r].loss, single.tallies()[0].loss, 1e-9 * single.tallies()[0].loss);
        EXPECT_EQ(bank.tallies()[r].mistakes, single.tallies()[0].mistakes);
        for (std::size_t i = 0; i < 7; ++i)
          EXPECT_NEAR(bank.weights(r)[i], single.weights()[i], 1e-9 * std::abs(single.weights()[i]));
      }
    }
  }
}

// By hand: after the first row x_2 = 1 / sqrt 2, whose margin on the second is 1.06: no loss, no slope, and aProx does
// not step. Proximal begins at 1 / sqrt 3, where the margin is .87, and steps to margin 1.
TEST(ImplicitFtrl, AProxIsNotProximalWhereLambdaGrows) {
  const auto after = [](Update update, Schedule schedule) {
    FtrlOptions o;
    o.loss = loss_named("hinge"), o.update = update, o.schedule = schedule;
    Ftrl learner(o, 1);
    const Rows rows = rows_of({{1}, {1.5}}, {1, 1});
    for (std::size_t r = 0; r < 2; ++r) learner.learn(rows[r]);
    return learner.weights()[0];
  };
  EXPECT_NEAR(after(Update::AProx, Schedule::Sqrt), 1 / std::sqrt(3.), 1e-14);
  EXPECT_NEAR(after(Update::Proximal, Schedule::Sqrt), 2. / 3, 1e-14);
  EXPECT_EQ(after(Update::AProx, Schedule::Constant), after(Update::Proximal, Schedule::Constant));
}

TEST(ImplicitFtrl, ConstantHingeAProxIsPassiveAggressive) {
  FtrlOptions o;
  o.loss = loss_named("hinge");
  o.update = Update::AProx;
  o.schedule = Schedule::Constant;
  o.rates = {4};
  Ftrl learner(o, 5);
  const Rows rows = random_rows(100, 5, true, 4);
  std::vector<double> w(5, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row row = rows[i];
    learner.learn(row);
    double s = 0, norm2 = 0;
    for (std::size_t j = 0; j < 5; ++j) s += row.value[j] * w[j], norm2 += row.value[j] * row.value[j];
    const double step = std::min(row.weight / 4, std::max(0., 1 - row.label * s) / norm2);
    for (std::size_t j = 0; j < 5; ++j) w[j] += step * row.label * row.value[j];
  }
  for (std::size_t j = 0; j < 5; ++j) EXPECT_NEAR(learner.weights()[j], w[j], 1e-12);
}

TEST(ImplicitFtrl, LinearModeSumsGradientsAndLargeLambdaMakesAllModesAgree) {
  const Rows rows = random_rows(30, 4, true, 9);
  FtrlOptions o;
  o.schedule = Schedule::Constant;
  o.rates = {1e7};
  std::vector<std::vector<double>> found;
  for (const auto update : {Update::Linear, Update::Proximal, Update::AProx, Update::TwoStep}) {
    o.update = update;
    Ftrl learner(o, 4);
    learn(learner, rows);
    found.push_back(learner.numbers()["weights"]);
  }
  for (std::size_t k = 1; k < found.size(); ++k)
    for (std::size_t j = 0; j < 4; ++j) EXPECT_NEAR(found[k][j], found[0][j], 1e-4);
}

TEST(ImplicitFtrl, UsersLossUpdateAndSchedule) {
  const Rows rows = random_rows(50, 4, false, 12);
  FtrlOptions ready;
  ready.loss = loss_named("squared");
  FtrlOptions own = ready;
  own.loss = {};
  own.loss.kind = LossKind::User;
  own.loss.value = [](double s, double y) { return .5 * (s - y) * (s - y); };
  own.loss.slope = [](double s, double y) { return s - y; };
  own.schedule = Schedule::User;
  own.user_lambda = [](std::int64_t t) { return std::sqrt(static_cast<double>(t)); };
  Ftrl a(ready, 4), b(own, 4);
  learn(a, rows), learn(b, rows);
  EXPECT_NEAR(a.tallies()[0].loss, b.tallies()[0].loss, 1e-9);

  ready.update = Update::User;
  ready.user_update = [](const Situation& at) {
    return at.slope / (1 + at.ray.margin(0).q);
  };  // like the implicit step
  Ftrl c(ready, 4);
  learn(c, rows);
  EXPECT_EQ(c.tallies()[0].fallbacks, 0);
  ready.user_update = [](const Situation& at) { return -5 * at.slope; };
  Ftrl wrong(ready, 4);
  learn(wrong, rows);
  EXPECT_EQ(wrong.tallies()[0].fallbacks, 50);

  own.user_lambda = [](std::int64_t t) { return t < 5 ? 2. : 1.; };
  Ftrl falling(own, 4);
  EXPECT_THROW(learn(falling, rows), Error);
  EXPECT_EQ(falling.rows(), 3);
}

TEST(ImplicitFtrl, SoftmaxAndOneVsRest) {
  Random random(3);
  Rows rows;
  for (int r = 0; r < 600; ++r) {
    const auto label = static_cast<int>(random.below(3));
    rows.add(0, std::cos(2.1 * label) * 2 + .5 * random.normal());
    rows.add(1, std::sin(2.1 * label) * 2 + .5 * random.normal());
    rows.add(2, 1);
    rows.end_row(label, 1);
  }
  for (const auto schedule : {Schedule::Sqrt, Schedule::Adagrad, Schedule::Adaptive}) {
    for (const auto update : {Update::Linear, Update::Proximal, Update::AProx, Update::TwoStep}) {
      for (const auto multiclass : {Multiclass::Softmax, Multiclass::OneVsRest}) {
        FtrlOptions o;
        o.schedule = schedule;
        o.update = update;
        o.multiclass = multiclass;
        o.classes = 3;
        o.rates = {1, .5};
        Ftrl learner(o, 3);
        learn(learner, rows);
        EXPECT_LT(learner.tallies()[0].mistakes / 600, .1);
        // The certificate, against random comparators.
        for (int k = 0; k < 5; ++k) {
          std::vector<double> u(9), s(3), y(3);
          for (double& x : u) x = random.normal();
          double regret = learner.tallies()[1].loss;
          for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::size_t c = 0; c < 3; ++c) {
              s[c] = 0;
              for (std::size_t j = 0; j < 3; ++j) s[c] += u[c * 3 + j] * rows[i].value[j];
              if (multiclass == Multiclass::OneVsRest)
                regret -= loss_value(o.loss, s[c], static_cast<double>(c) == rows[i].label ? 1 : -1);
            }
            if (multiclass == Multiclass::Softmax)
              regret -= softmax_value(s, static_cast<std::size_t>(rows[i].label), y);
          }
          EXPECT_GE(learner.regret_bound(u, 1) + 1e-9, regret);
        }
      }
    }
  }
}

TEST(ImplicitFtrl, AveragesAreMeansOfTheIterates) {
  const Rows rows = random_rows(30, 4, true, 6);
  for (const auto domain : {Domain::Whole, Domain::Ball, Domain::Simplex}) {
    FtrlOptions o;
    o.average = true;
    o.geometry.domain = domain;
    o.geometry.radius = .3;
    Ftrl learner(o, 4);
    std::vector<double> mean(4, 0);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto x = learner.weights();
      for (std::size_t j = 0; j < 4; ++j) mean[j] += x[j] / static_cast<double>(rows.size());
      learner.learn(rows[i]);
    }
    for (std::size_t j = 0; j < 4; ++j) EXPECT_NEAR(learner.average()[j], mean[j], 1e-12);
  }
}

TEST(ImplicitFtrl, BadInput) {
  const auto make = [](auto change) {
    FtrlOptions o;
    change(o);
    Ftrl(o, 3);
  };
  EXPECT_THROW(make([](FtrlOptions& o) { o.rates = {0}; }), Error);
  EXPECT_THROW(make([](FtrlOptions& o) { o.rates = {}; }), Error);
  EXPECT_THROW(make([](FtrlOptions& o) { o.lambda1 = 0; }), Error);
  EXPECT_THROW(make([](FtrlOptions& o) { o.loss = loss_named("quantile", 1); }), Error);
  EXPECT_THROW(make([](FtrlOptions& o) { o.geometry = {Domain::Box, .1, 1}; }), Error);
  EXPECT_THROW(make([](FtrlOptions& o) { o.geometry.domain = Domain::Ball, o.schedule = Schedule::Adagrad; }), Error);
  EXPECT_THROW(loss_named("hinges"), Error);

  FtrlOptions o;
  Ftrl learner(o, 3);
  const auto learn_one = [&](double value, double label, std::uint32_t index = 0, double weight = 1) {
    Rows rows;
    rows.add(index, value);
    rows.end_row(label, weight);
    learner.learn(rows[0]);
  };
  EXPECT_THROW(learn_one(NAN, 1), Error);
  EXPECT_THROW(learn_one(INFINITY, 1), Error);
  EXPECT_THROW(learn_one(1, NAN), Error);
  EXPECT_THROW(learn_one(1, 0), Error);
  EXPECT_THROW(learn_one(1, 1, 3), Error);
  EXPECT_THROW(learn_one(1, 1, 0, -1), Error);
  EXPECT_EQ(learner.rows(), 0);
  EXPECT_EQ(learner.tallies()[0].loss, 0);
  Rows empty;
  empty.end_row(1, 1);
  learner.learn(empty[0]);
  EXPECT_EQ(learner.rows(), 1);
  EXPECT_NEAR(learner.tallies()[0].loss, std::log(2), 1e-15);
}

TEST(ImplicitFtrl, DuplicatesAreAdded) {
  Rows rows;
  for (const auto& [index, value] : {std::pair{5u, 1.}, {2u, 2.}, {5u, 3.}, {2u, -2.}}) rows.add(index, value);
  rows.end_row(1, 1);
  ASSERT_EQ(rows[0].index.size(), 2u);
  EXPECT_EQ(rows[0].value[0], 4);
  EXPECT_EQ(rows[0].value[1], 0);
}

TEST(ImplicitFtrl, OverflowIsAStatusAndNeverANumber) {
  FtrlOptions o;
  o.loss = loss_named("squared");
  o.update = Update::Linear;
  o.rates = {1e-4, 100};
  Ftrl learner(o, 6);
  learn(learner, random_rows(400, 6, false, 1));
  EXPECT_GT(learner.tallies()[0].diverged_at, 0);
  EXPECT_EQ(learner.tallies()[1].diverged_at, 0);
  EXPECT_EQ(learner.best(), 1u);
  for (const double w : learner.weights(0)) EXPECT_TRUE(std::isfinite(w));
}

TEST(ImplicitFtrl, AStateComesBackExactly) {
  const Rows rows = random_rows(100, 5, true, 10);
  for (const auto schedule : {Schedule::Sqrt, Schedule::Adagrad, Schedule::Adaptive, Schedule::AdagradNorm}) {
    FtrlOptions o;
    o.schedule = schedule;
    o.rates = {.1, 1, 10};
    Ftrl whole(o, 5), first(o, 5), second(o, 5);
    learn(whole, rows);
    for (std::size_t i = 0; i < 50; ++i) first.learn(rows[i]);
    second.set_numbers(first.numbers());
    for (std::size_t i = 50; i < 100; ++i) second.learn(rows[i]);
    EXPECT_EQ(whole.numbers(), second.numbers());
  }
}

}  // namespace
}  // namespace unbend::optimize
