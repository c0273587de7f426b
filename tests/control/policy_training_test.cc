// Training: it learns, repeats bit for bit, resumes to the same, and loses nothing when the environment fails.
#include "unbend/control/policy_training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/error_message.h"
#include "unbend/base/files.h"
#include "unbend/control/environments_own.h"

namespace unbend::control {
namespace {

using ::testing::HasSubstr;

OnPolicyOptions small_on_policy() {
  OnPolicyOptions o;
  o.steps = 8 * 512, o.horizon = 512, o.hidden = {16, 16}, o.lr = o.value_lr = 1e-3, o.inner = 4;
  return o;
}

OffPolicyOptions small_off_policy() {
  OffPolicyOptions o;
  o.steps = 400, o.warm_up = 100, o.batch = 32, o.hidden = {16, 16}, o.lr = 1e-3, o.refresh = 50, o.report_every = 100;
  return o;
}

/// All but the time taken.
void expect_same(const std::vector<CurvePoint>& a, const std::vector<CurvePoint>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].steps, b[i].steps);
    EXPECT_EQ(a[i].episodes, b[i].episodes);
    EXPECT_EQ(a[i].policy_loss, b[i].policy_loss) << "point " << i;
    EXPECT_EQ(a[i].value_loss, b[i].value_loss) << "point " << i;
    EXPECT_EQ(a[i].divergence, b[i].divergence) << "point " << i;
    EXPECT_TRUE(a[i].total == b[i].total || (std::isnan(a[i].total) && std::isnan(b[i].total))) << "point " << i;
  }
}

std::vector<CurvePoint> quiet_run(Trainer& trainer, const MakeDynamics& make) {
  RunOptions options;
  options.quiet = true;
  return run(trainer, make, options);
}

/// A training cut at its first checkpoint and resumed in another object gives the curve of an uncut one.
void expect_resumable(const std::function<std::unique_ptr<Trainer>()>& start, const MakeDynamics& make) {
  const auto whole = start();
  const auto expected = quiet_run(*whole, make);
  const auto cut = start();
  std::vector<CurvePoint> curve{cut->advance(), cut->advance()};
  const TemporaryFolder folder;
  cut->checkpoint(true).write(folder.path() / "c");
  const auto again = resume(ArrayFile::read(folder.path() / "c"), make);
  while (!again->done()) curve.push_back(again->advance());
  expect_same(curve, expected);
  EXPECT_EQ(again->agent().parameters, whole->agent().parameters);
}

TEST(OnPolicy, ResumesToTheSameBits) {
  expect_resumable([] { return on_policy(cartpole, 4, small_on_policy(), 3); }, cartpole);
  auto o = small_on_policy();
  o.normalise_observations = o.normalise_rewards = o.decay_lr = o.squash = true;
  o.policy_batch = 100, o.entropy = .01, o.start = Start::Uniform;
  expect_resumable([&] { return on_policy(pendulum, 4, o, 3); }, pendulum);
}

TEST(OffPolicy, ResumesToTheSameBits) {
  auto o = small_off_policy();
  expect_resumable([&] { return off_policy(pendulum, 2, o, 3); }, pendulum);
  o.normalise_observations = true;
  expect_resumable([&] { return off_policy(cartpole, 1, o, 3); }, cartpole);
}

TEST(OnPolicy, LearnsCartPole) {
  auto o = small_on_policy();
  o.steps = 20 * 1024, o.horizon = 1024, o.inner = 10, o.hidden = {64, 64};
  const auto trainer = on_policy(cartpole, 8, o, 1);
  EXPECT_GT(quiet_run(*trainer, cartpole).back().length, 150);
  EXPECT_GT(evaluate(trainer->agent(), cartpole, 10, true, 5).mean(), 300);
}

TEST(OffPolicy, SacIsTheCaseOfCEqualLambda) {
  auto o = small_off_policy();
  o.weights.c = o.weights.lambda;
  const auto mirror = off_policy(pendulum, 1, o, 7);
  o.sac = true, o.weights.c = 5;  // which SAC does not look at
  const auto sac = off_policy(pendulum, 1, o, 7);
  quiet_run(*mirror, pendulum), quiet_run(*sac, pendulum);
  EXPECT_EQ(mirror->agent().parameters, sac->agent().parameters);
  o.sac = false, o.weights.c = 1;
  const auto other = off_policy(pendulum, 1, o, 7);
  quiet_run(*other, pendulum);
  EXPECT_NE(other->agent().parameters, sac->agent().parameters);
}

TEST(OffPolicy, ChoicesByExactSums) {
  auto o = small_off_policy();
  o.steps = 8000, o.warm_up = 500, o.batch = 64, o.hidden = {64, 64}, o.report_every = 1000,
  o.weights = {.5, .05, 1, 0};
  const auto trainer = off_policy(cartpole, 1, o, 1);
  quiet_run(*trainer, cartpole);
  EXPECT_GT(evaluate(trainer->agent(), cartpole, 10, true, 5).mean(), 150);  // random: about 22
}

TEST(OffPolicy, NoiseHookIsLearntFrom) {
  auto o = small_off_policy();
  std::int64_t calls = 0;
  o.action_noise = [&](Matrix<double>& actions, Random&) {
    ++calls;
    for (double& a : actions.data) a = 5;  // beyond the box: clipped
  };
  const auto trainer = off_policy(pendulum, 1, o, 1);
  quiet_run(*trainer, pendulum);
  EXPECT_EQ(calls, 400);
  const auto rows = trainer->checkpoint(true).floats("replay.rows");
  EXPECT_EQ(rows[3], 1.f);  // state [3], action
}

TEST(Agent, FileKeepsWhatItDoes) {
  auto o = small_on_policy();
  o.normalise_observations = true;
  const auto trainer = on_policy(pendulum, 4, o, 3);
  trainer->advance();
  const TemporaryFolder folder;
  const auto path = folder.path() / "policy.safetensors";
  save_agent(trainer->agent(), path);
  const Agent agent = load_agent(path);
  Environments environments(pendulum(3), 9);
  Agent::Work work;
  Matrix<double> before, after;
  Random a(1), b(1);
  trainer->agent().act(environments.observations(), false, a, work, before);
  agent.act(environments.observations(), false, b, work, after);
  EXPECT_EQ(before.data, after.data);
  EXPECT_EQ(agent.about["algorithm"], "on-policy");
  EXPECT_THAT(error_message([&] { evaluate(agent, cartpole, 3, true, 1); }), HasSubstr("is not that of the policy"));
  auto file = ArrayFile::read(path);
  file.put("policy.0.weight", {2}, std::vector<float>{1, 2});
  file.write(path);
  EXPECT_THAT(error_message([&] { load_agent(path); }), HasSubstr("policy.0.weight"));
  write_file(path, "no policy");
  EXPECT_THAT(error_message([&] { load_agent(path); }), HasSubstr("policy.safetensors"));
}

/// A pendulum that breaks after some steps.
class Broken final : public Dynamics {
 public:
  enum class How { Observation, Reward, Throw };
  Broken(How how, std::int64_t copies, std::int64_t after) : inner_(pendulum(copies)), how_(how), left_(after) {}
  const EnvironmentSpec& spec() const override { return inner_->spec(); }
  std::int64_t copies() const override { return inner_->copies(); }
  void reset(std::int64_t copy, Random& random) override { inner_->reset(copy, random); }
  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    inner_->step(actions, rewards, terminated);
    if (--left_ > 0) return;
    if (how_ == How::Reward) rewards[0] = NAN;
    if (how_ == How::Throw) fail_computation("the gearbox is broken");
  }
  void observe(std::int64_t copy, double* observation) const override {
    inner_->observe(copy, observation);
    if (how_ == How::Observation && left_ <= 0) observation[2] = INFINITY;
  }
  std::vector<double> state() const override { return inner_->state(); }
  void set_state(const std::vector<double>& state) override { inner_->set_state(state); }

 private:
  std::unique_ptr<Dynamics> inner_;
  How how_;
  std::int64_t left_;
};

TEST(Training, LosesNothingWhenTheEnvironmentFails) {
  const std::pair<Broken::How, const char*> cases[] = {
      {Broken::How::Observation,
       "pendulum, copy 0, step 180 of its episode: observation 2 after it is inf; the action"},
      {Broken::How::Reward, "copy 0, step 180 of its episode: the reward is nan"},
      {Broken::How::Throw, "pendulum: the gearbox is broken"}};
  for (const auto& [how, message] : cases) {
    const TemporaryFolder folder;
    const MakeDynamics broken = [how = how](std::int64_t copies) { return std::make_unique<Broken>(how, copies, 180); };
    for (const bool off : {false, true}) {
      const auto trainer =
          off ? off_policy(broken, 1, small_off_policy(), 1) : on_policy(broken, 4, small_on_policy(), 1);
      RunOptions options;
      options.folder = folder.path() / (off ? "off" : "on"), options.quiet = true;
      const auto said = error_message([&] { run(*trainer, broken, options); }, ErrorKind::Computation);
      EXPECT_THAT(said, HasSubstr(message));
      EXPECT_THAT(said, HasSubstr("steps of learning are kept in " + options.folder.string()));
      const auto file = ArrayFile::read(options.folder / "checkpoint.safetensors");
      EXPECT_EQ(load_agent(options.folder / "policy.safetensors").parameters, trainer->agent().parameters);
      const auto curve = read_curve(options.folder / "curve.csv");
      const auto again = resume(file, pendulum);  // with a mended one it goes on from there
      EXPECT_EQ(again->steps(), trainer->steps());
      EXPECT_EQ(again->agent().parameters, trainer->agent().parameters);
      EXPECT_EQ(quiet_run(*again, pendulum).back().steps, off ? 400 : curve.back().steps + 7 * 512 + 204);
    }
  }
}

TEST(Training, CurveFile) {
  const auto trainer = on_policy(cartpole, 4, small_on_policy(), 3);
  const TemporaryFolder folder;
  RunOptions options;
  options.folder = folder.path() / "new", options.quiet = true, options.evaluate_every = 3,
  options.evaluate_episodes = 2;
  const auto curve = run(*trainer, cartpole, options);
  const auto read = read_curve(options.folder / "curve.csv");
  expect_same(read, curve);
  EXPECT_FALSE(read[1].evaluated);
  EXPECT_TRUE(read[2].evaluated && read[7].evaluated);
  const auto path = folder.path() / "bad.csv";
  write_file(path, curve_csv(curve) + "1,2,x\n");
  EXPECT_THAT(error_message([&] { read_curve(path); }), HasSubstr("line 10, column 3"));
  write_file(path, curve_csv(curve) + "1,2\n");
  EXPECT_THAT(error_message([&] { read_curve(path); }), HasSubstr("line 10: not 14 columns"));
  write_file(path, "a,b\n");
  EXPECT_THAT(error_message([&] { read_curve(path); }), HasSubstr("line 1"));
}

TEST(Training, RefusesBadOptions) {
  const auto on = [](const std::function<void(OnPolicyOptions&)>& change, const MakeDynamics& make = cartpole) {
    auto o = small_on_policy();
    change(o);
    return error_message([&] { on_policy(make, 4, o, 1); });
  };
  EXPECT_THAT(on([](auto& o) { o.inner = 0; }), HasSubstr("m, the gradient steps"));
  EXPECT_THAT(on([](auto& o) { o.step_size = 0; }), HasSubstr("step size t"));
  EXPECT_THAT(on([](auto& o) { o.kappa = 2.1; }), HasSubstr("[1, 2]"));
  EXPECT_THAT(on([](auto& o) { o.horizon = 511; }), HasSubstr("multiple of the 4"));
  EXPECT_THAT(on([](auto& o) { o.squash = true; }), HasSubstr("nothing to squash"));
  EXPECT_THAT(on([](auto& o) { o.gamma = 1.5; }), HasSubstr("gamma 1.5"));
  const auto off = [](const std::function<void(OffPolicyOptions&)>& change) {
    auto o = small_off_policy();
    change(o);
    return error_message([&] { off_policy(pendulum, 1, o, 1); });
  };
  EXPECT_THAT(off([](auto& o) { o.weights.c = -1; }), HasSubstr("c = 1/t -1"));
  EXPECT_THAT(off([](auto& o) { o.weights.lambda = -.1; }), HasSubstr("lambda -0.1"));
  EXPECT_THAT(off([](auto& o) { o.weights.kappa = .5; }), HasSubstr("[1, 2]"));
  EXPECT_THAT(off([](auto& o) { o.buffer = 10; }), HasSubstr("buffer of 10"));
  EXPECT_THAT(off([](auto& o) { o.refresh = 0; }), HasSubstr("renewed"));
  EXPECT_THAT(error_message([] { on_policy(cartpole, 0, small_on_policy(), 1); }), HasSubstr("one copy"));
}

TEST(Training, BatchAboveBufferWaits) {
  auto o = small_off_policy();
  o.warm_up = 0, o.batch = 300;
  const auto trainer = off_policy(pendulum, 1, o, 1);
  EXPECT_EQ(trainer->advance().updates, 0);
  trainer->advance();
  EXPECT_EQ(trainer->advance().updates, 1);
  EXPECT_EQ(trainer->advance().updates, 101);
}

TEST(Bandit, ShowsRowsAndPaysLabels) {
  const auto table = std::make_shared<const BanditTable>(classification(2, {0, 1, 2, 3, 4, 5}, {2, 0, 1}));
  EXPECT_EQ(table->choices, 3);
  Environments environments(bandit(table, 50), 1);
  Matrix<double> actions(50, 1), seen = environments.observations();
  for (std::int64_t i = 0; i < 50; ++i) actions.row(i)[0] = static_cast<double>((i % 3));
  environments.step(actions);
  double paid = 0;
  for (std::int64_t i = 0; i < 50; ++i) {
    const double label = seen.row(i)[0] == 0 ? 2 : seen.row(i)[0] == 2 ? 0 : 1;
    EXPECT_EQ(environments.rewards()[static_cast<std::size_t>(i)], label == actions.row(i)[0]);
    EXPECT_TRUE(environments.terminated(i));
    paid += environments.rewards()[static_cast<std::size_t>(i)];
  }
  EXPECT_GT(paid, 0);
  EXPECT_THAT(error_message([] { classification(1, {1, 2}, {0, 1.5}); }), HasSubstr("label 1.5 of row 1"));
  EXPECT_THAT(error_message([] {
                bandit(std::make_shared<const BanditTable>(classification(2, {1, 2, NAN, 4}, {0, 1})), 1);
              }),
              HasSubstr("contexts, row 1, column 0"));
  EXPECT_THAT(error_message([] {
                bandit(std::make_shared<const BanditTable>(classification(2, {1, 2}, {0, 1})), 1);
              }),
              HasSubstr("columns of the same rows"));
  Matrix<double> wrong(50, 1);
  wrong.row(7)[0] = 3;
  EXPECT_THAT(error_message([&] { environments.step(wrong); }), HasSubstr("copy 7"));
  wrong.row(7)[0] = NAN;
  EXPECT_THAT(error_message([&] { environments.step(wrong); }), HasSubstr("nan"));
}

}  // namespace
}  // namespace unbend::control
