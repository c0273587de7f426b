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

/// Equal, or both NaN: before the first episode, the first gradient step.
void expect_same(double a, double b, std::size_t point) {
  EXPECT_TRUE(a == b || (std::isnan(a) && std::isnan(b))) << a << " and " << b << " at point " << point;
}

/// All but the time taken.
void expect_same(const std::vector<CurvePoint>& a, const std::vector<CurvePoint>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].steps, b[i].steps);
    EXPECT_EQ(a[i].episodes, b[i].episodes);
    for (double CurvePoint::*const what : {&CurvePoint::total, &CurvePoint::policy_loss, &CurvePoint::value_loss,
                                           &CurvePoint::divergence, &CurvePoint::entropy})
      expect_same(a[i].*what, b[i].*what, i);
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
  EXPECT_EQ(agent.about["algorithm"], "mdpo");
  EXPECT_THAT(error_message([&] { evaluate(agent, cartpole, 3, true, 1); }), HasSubstr("is not that of the policy"));
  auto file = ArrayFile::read(path);
  file.put("normaliser.variance", std::vector<double>{1, -1, 1});
  file.write(path);
  EXPECT_THAT(error_message([&] { load_agent(path); }), HasSubstr("'normaliser.variance' has the value -1"));
  file.put("policy.log_std", {1}, std::vector<float>{NAN});
  file.write(path);
  EXPECT_THAT(error_message([&] { load_agent(path); }), HasSubstr("'policy.log_std', number 0: nan"));
  file.put("policy.log_std", {1}, std::vector<float>{0});
  file.put("policy.0.weight", {2}, std::vector<float>{1, 2});
  file.write(path);
  EXPECT_THAT(error_message([&] { load_agent(path); }), HasSubstr("policy.0.weight"));
  write_file(path, "no policy");
  EXPECT_THAT(error_message([&] { load_agent(path); }), HasSubstr("policy.safetensors"));
}

/// A pendulum as it is: base of those that are changed.
class Pendulum : public Dynamics {
 public:
  explicit Pendulum(std::int64_t copies) : inner_(pendulum(copies)) {}
  const EnvironmentSpec& spec() const override { return inner_->spec(); }
  std::int64_t copies() const override { return inner_->copies(); }
  void reset(std::int64_t copy, Random& random) override { inner_->reset(copy, random); }
  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    inner_->step(actions, rewards, terminated);
  }
  void observe(std::int64_t copy, double* observation) const override { inner_->observe(copy, observation); }
  std::vector<double> state() const override { return inner_->state(); }
  void set_state(const std::vector<double>& state) override { inner_->set_state(state); }

 protected:
  std::unique_ptr<Dynamics> inner_;
};

/// One that breaks after some steps.
class Broken final : public Pendulum {
 public:
  enum class How { Observation, Reward, Throw, Start };
  Broken(How how, std::int64_t copies, std::int64_t after) : Pendulum(copies), how_(how), left_(after) {}
  void reset(std::int64_t copy, Random& random) override {
    if (how_ == How::Start && left_ <= 0) fail_computation("it is stuck");
    inner_->reset(copy, random);
  }
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

 private:
  How how_;
  std::int64_t left_;
};

TEST(Training, LosesNothingWhenTheEnvironmentFails) {
  const std::pair<Broken::How, const char*> cases[] = {
      {Broken::How::Observation,
       "pendulum, copy 0, step 180 of its episode: observation 2 after it is inf; the action"},
      {Broken::How::Reward, "copy 0, step 180 of its episode: the reward is nan"},
      {Broken::How::Throw, "pendulum: the gearbox is broken"},
      {Broken::How::Start, "pendulum, copy 0: it could not start: it is stuck"}};
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
      EXPECT_EQ(quiet_run(*again, pendulum).back().steps,
                off ? 400 : curve.back().steps + 7 * 512 + (how == Broken::How::Start ? 284 : 204));
    }
  }
}

/// Rewards in another unit.
class Scaled final : public Pendulum {
 public:
  Scaled(double unit, std::int64_t copies) : Pendulum(copies), unit_(unit) {}
  void step(const Matrix<double>& actions, std::span<double> rewards, std::span<std::uint8_t> terminated) override {
    inner_->step(actions, rewards, terminated);
    for (double& reward : rewards) reward *= unit_;
  }

 private:
  double unit_;
};

TEST(OnPolicy, TheCriticsClipIsInUnitsOfNormalisedRewards) {
  const auto curve = [](double clip, bool normalise, double unit) {
    auto o = small_on_policy();
    o.steps = 4 * 512, o.value_lr = 1e-2, o.value_clip = clip, o.normalise_rewards = normalise;
    const MakeDynamics make = [unit](std::int64_t copies) { return std::make_unique<Scaled>(unit, copies); };
    const auto trainer = on_policy(make, 4, o, 3);
    return quiet_run(*trainer, make);
  };
  expect_same(curve(.05, false, 1), curve(0, false, 1));  // no normalised rewards, no clip
  const auto free = curve(0, true, 1), small = curve(.05, true, 1), large = curve(.05, true, 1000);
  EXPECT_GT(std::abs(small.back().value_loss / free.back().value_loss - 1), .02);
  for (std::size_t i = 0; i < small.size(); ++i)  // the unit of raw rewards does not matter
    EXPECT_NEAR(large[i].value_loss / small[i].value_loss, 1, .01) << i;
}

TEST(OnPolicy, AdvantagesWithoutVarianceAreNoStep) {
  const auto table = std::make_shared<const BanditTable>(BanditTable{1, 2, {0, 0}, {1, 1, 1, 1}});
  const MakeDynamics make = [&](std::int64_t copies) { return bandit(table, copies); };
  auto o = small_on_policy();
  o.steps = 2 * 512, o.value_epochs = 0;
  const auto trainer = on_policy(make, 4, o, 1);
  const auto before = trainer->agent().parameters;
  const auto curve = quiet_run(*trainer, make);  // each choice earns the same: standardised, nothing but zeros
  EXPECT_EQ(curve.back().skipped, 2 * o.inner);
  EXPECT_EQ(trainer->agent().parameters, before);
  EXPECT_TRUE(std::isfinite(curve.back().policy_loss));
}

/// A box without an end.
class Unbounded final : public Pendulum {
 public:
  explicit Unbounded(std::int64_t copies) : Pendulum(copies), spec_(inner_->spec()) { spec_.high[0] = INFINITY; }
  const EnvironmentSpec& spec() const override { return spec_; }

 private:
  EnvironmentSpec spec_;
};

TEST(Training, SquashedPoliciesNeedFiniteBoxes) {
  const MakeDynamics make = [](std::int64_t copies) { return std::make_unique<Unbounded>(copies); };
  const std::string refusal = "action 0 has the bounds [-2, inf]";
  EXPECT_THAT(error_message([&] { off_policy(make, 1, small_off_policy(), 1); }), HasSubstr(refusal));
  auto o = small_on_policy();
  o.squash = true;
  EXPECT_THAT(error_message([&] { on_policy(make, 4, o, 1); }), HasSubstr(refusal));
  o.squash = false, o.steps = 512;  // a Gaussian has no end either
  const auto trainer = on_policy(make, 4, o, 1);
  quiet_run(*trainer, make);
  const TemporaryFolder folder;
  save_agent(trainer->agent(), folder.path() / "p");
  EXPECT_EQ(load_agent(folder.path() / "p").spec.high[0], INFINITY);
}

TEST(Training, RefusesDamagedCheckpoints) {
  const auto refusal = [](const Trainer& trainer, const MakeDynamics& make,
                          const std::function<void(ArrayFile&)>& change) {
    ArrayFile file = trainer.checkpoint(true);
    change(file);
    return error_message([&] { resume(file, make); });
  };
  auto o = small_off_policy();
  const auto off = off_policy(cartpole, 1, o, 1);
  off->advance(), off->advance();
  const auto rows = off->checkpoint(true).floats("replay.rows");  // state [4], action, reached [4], reward, goes on
  const auto off_refusal = [&](const std::function<void(ArrayFile&)>& change) {
    return refusal(*off, cartpole, change);
  };
  const auto row = [&](std::size_t k, float value) {
    return off_refusal([&](ArrayFile& f) {
      auto changed = rows;
      changed[k] = value;
      f.put("replay.rows", {std::ssize(changed) / 11, 11}, changed);
    });
  };
  EXPECT_THAT(row(4, 2), HasSubstr("transition 0 has the action 2 of 2 choices"));
  EXPECT_THAT(row(3, NAN), HasSubstr("'replay.rows', number 3: nan"));
  const auto words = [&](const char* name, std::vector<std::uint64_t> values) {
    return off_refusal([&](ArrayFile& f) { f.put(name, values); });
  };
  EXPECT_THAT(words("replay.next", {~0ULL}), HasSubstr("the next at -1"));
  EXPECT_THAT(words("replay.next", {7}), HasSubstr("the next at 7"));
  EXPECT_THAT(words("random", {0, 0, 0, 0}), HasSubstr("all zero"));
  EXPECT_THAT(words("ledger.counts", {~0ULL, 0, 0}), HasSubstr("'ledger.counts' has the count"));
  EXPECT_THAT(off_refusal([](ArrayFile& f) { f.put("due", std::vector<double>{1e9}); }),
              HasSubstr("'due' is 1000000000"));
  const auto head = [&](const char* from, const char* to) {
    return off_refusal([&](ArrayFile& f) {
      auto& text = f.metadata.at("unbend_training");
      text.replace(text.find(from), std::string(from).size(), to);
    });
  };
  EXPECT_THAT(head("\"copies\":1", "\"copies\":-1"), HasSubstr("-1 copies"));
  EXPECT_THAT(head("\"relu\"", "\"rely\""), HasSubstr("'rely' is none of tanh, relu"));
  EXPECT_THAT(head("\"lr\":", "\"rl\":"), HasSubstr("lr"));
  EXPECT_THAT(head("off_policy", "of_policy"), HasSubstr("unknown kind of training 'of_policy'"));
  EXPECT_THAT(error_message([&] { resume(off->checkpoint(true), pendulum); }), HasSubstr("is not that of the policy"));

  const auto table = [](std::size_t n) {
    return std::make_shared<const BanditTable>(
        classification(1, std::vector<double>(n, .5), std::vector<double>(n, 1)));
  };
  auto on = small_on_policy();
  const auto bandits = on_policy([&](std::int64_t n) { return bandit(table(900), n); }, 64, on, 1);
  bandits->advance();
  const MakeDynamics fewer = [&](std::int64_t n) { return bandit(table(2), n); };  // the table was cut since
  EXPECT_THAT(error_message([&] { resume(bandits->checkpoint(true), fewer); }), HasSubstr("of a table of 2 rows"));
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
  write_file(path, curve_csv({}) + "1e30,0,0,0,0,0,0,0,0,0,0,0,0,\n");
  EXPECT_THAT(error_message([&] { read_curve(path); }), HasSubstr("line 2, column 1: 1e+30 is no count"));
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
  EXPECT_THAT(on([](auto& o) { o.lr = INFINITY; }), HasSubstr("option lr is inf"));
  EXPECT_THAT(on([](auto& o) { o.entropy = NAN; }), HasSubstr("option entropy is nan"));
  EXPECT_THAT(on([](auto& o) { o.log_std = 900; }), HasSubstr("log_std 900"));
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
  EXPECT_THAT(off([](auto& o) { o.updates_per_step = 1e300; }), HasSubstr("1e+300 updates per step"));
  EXPECT_THAT(off([](auto& o) { o.weights.c = INFINITY; }), HasSubstr("option c is inf"));
  EXPECT_THAT(error_message([] { on_policy(cartpole, 0, small_on_policy(), 1); }), HasSubstr("0 copies"));
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
