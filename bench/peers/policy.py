"""Policy training beside stable-baselines3 (MIT; Raffin et al. 2021): `unbend policy train` and its PPO and SAC on the same
MuJoCo tasks of Gymnasium, with the same networks, batches, epochs and number of threads, in turns.

    policy.py speed UNBEND [THREADS]   environment and learner, steps per second; exits 1 below 3 times the peer
    policy.py returns UNBEND [MINUTES] [SEEDS] [FOLDER] [PARTS]
                                       equal steps: returns of MDPO, PPO and SAC on Hopper and HalfCheetah

The number of steps of `returns` is what the slowest program does in MINUTES (20) over all seeds (3) and both tasks. One
training (task, program, seed) is a part. FOLDER (build/policy-returns) keeps the plan and what each part found: the same
command goes on after an interruption, ours within a part too, and ends after PARTS new ones (all). The table at the end
shows what is there.
Needs tools/setup.sh mujoco rl.
"""
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from time import perf_counter

THREADS = int(sys.argv[3]) if sys.argv[1:2] == ["speed"] and len(sys.argv) > 3 else 1
os.environ.update(OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS))
try:
    import gymnasium
    import torch
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
except ImportError as error:
    sys.exit(f"{error}: run tools/setup.sh mujoco rl")

BAR = 3.0
TASKS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5"}
C = {"hopper": 1, "halfcheetah": .3}  # 1/t of off-policy MDPO, as a reader of the paper's table reports it
WARM_UP = 1000  # random steps before off-policy learning


def ours(unbend, algorithm, task, steps, seed, *more):
    run = subprocess.run([unbend, "policy", "train", "--task", task, "--algorithm", algorithm, "--steps", str(steps), "--seed",
                          str(seed), "--copies", "1", "--quiet", "--json", *map(str, more)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout)


ON_POLICY = ("--horizon", 2048, "--inner", 10, "--policy-batch", 64, "--value-epochs", 10, "--value-batch", 64, "--hidden", 64,
             64, "--value-clip", 0)
WHOLE_BATCHES = ON_POLICY[:4] + ON_POLICY[6:]
OFF_POLICY = ("--warm-up", WARM_UP, "--batch", 256, "--hidden", 256, 256)


def environment(task, normalised):
    env = DummyVecEnv([lambda: Monitor(gymnasium.make(TASKS[task]))])
    return VecNormalize(env) if normalised else env


def theirs(kind, task, seed, normalised=False):
    env = environment(task, normalised)
    if kind == "PPO":
        return PPO("MlpPolicy", env, n_steps=2048, batch_size=64, n_epochs=10, seed=seed, device="cpu")
    return SAC("MlpPolicy", env, learning_starts=WARM_UP, batch_size=256, ent_coef=.2, seed=seed, device="cpu")


def their_rate(kind, task, steps):
    """Steps per second of learning: SAC's random steps are left out."""
    model = theirs(kind, task, 1)
    if kind == "SAC":
        model.learn(WARM_UP, log_interval=None)
        model.learning_starts = 0
    start = perf_counter()
    model.learn(steps, log_interval=None, reset_num_timesteps=False)
    return steps / (perf_counter() - start)


def our_off_policy_rate(unbend, algorithm, task, steps):
    curve = ours(unbend, algorithm, task, WARM_UP + steps, 1, *OFF_POLICY)
    before = ours(unbend, algorithm, task, WARM_UP, 1, *OFF_POLICY)
    return steps / (curve["seconds"] - before["seconds"])


def speed(unbend):
    torch.set_num_threads(THREADS)
    print(f"steps per second, environment and learner, {THREADS} thread(s); best of two turns")
    print(f"{'task':12}{'peer':>6}{'peer/s':>10}{'ours':>10}{'ours/s':>10}{'ratio':>8}")
    missed = False
    for task in TASKS:
        for kind, algorithms, steps in (("PPO", ("ppo", "mdpo"), 4096), ("SAC", ("sac", "mdpo-off"), 1000)):
            best = {}
            for _ in range(2):
                best[kind] = max(best.get(kind, 0), their_rate(kind, task, steps))
                for algorithm in algorithms:
                    # MDPO takes whole batches: that is its method; PPO and SAC do the peer's very work
                    rate = (our_off_policy_rate(unbend, algorithm, task, 2 * steps) if kind == "SAC" else
                            ours(unbend, algorithm, task, 4 * steps, 1,
                                 *(WHOLE_BATCHES if algorithm == "mdpo" else ON_POLICY))["steps_per_second"])
                    best[algorithm] = max(best.get(algorithm, 0), rate)
            for algorithm in algorithms:
                ratio = best[algorithm] / best[kind]
                missed |= ratio < BAR
                print(f"{task:12}{kind:>6}{best[kind]:10.0f}{algorithm:>10}{best[algorithm]:10.0f}{ratio:8.1f}"
                      f"{'' if ratio >= BAR else '  MISS'}", flush=True)
    print(f"bar: {BAR:g} times the peer")
    return missed


def programs(plan):
    """Name, steps, and what it does in one part: the mean return of 10 deterministic episodes after training."""
    on, off = plan["on_policy_steps"], plan["off_policy_steps"]

    def we(algorithm, steps, *more):
        return steps, lambda unbend, task, seed, folder: ours_in(
            folder, unbend, algorithm, task, steps, seed, *more, *(("--c", C[task]) if algorithm == "mdpo-off" else ()))

    def they(kind, steps):
        def part(unbend, task, seed, folder):
            normalised = kind == "PPO"  # observations and rewards, as ours on-policy
            model, judge = theirs(kind, task, seed, normalised), environment(task, normalised)
            model.learn(steps, log_interval=None)
            if normalised:
                judge.training = judge.norm_reward = False
                judge.obs_rms = model.get_vec_normalize_env().obs_rms
            return float(evaluate_policy(model, judge, n_eval_episodes=10)[0])
        return steps, part

    return {"MDPO": we("mdpo", on, "--horizon", 2048, "--inner", 10, "--normalise"),
            "PPO (ours)": we("ppo", on, *ON_POLICY, "--normalise"),
            "PPO (SB3)": they("PPO", on),
            "MDPO off-policy": we("mdpo-off", off, *OFF_POLICY),
            "SAC (ours)": we("sac", off, *OFF_POLICY),
            "SAC (SB3)": they("SAC", off)}


def ours_in(folder, unbend, algorithm, task, steps, seed, *more):
    """Trains in a folder, or goes on there, and evaluates at the end."""
    always = ["--seed", str(seed), "--evaluate-every", str(10 ** 9), "--quiet", "--json"]
    if (folder / "checkpoint.safetensors").exists():
        run = subprocess.run([unbend, "policy", "train", "--resume", folder, *always], capture_output=True, text=True)
        if not run.returncode:
            return json.loads(run.stdout)["evaluated"]
    return ours(unbend, algorithm, task, steps, seed, *more, *always[2:4], "--out", folder, "--overwrite")["evaluated"]


def plan_of(folder, minutes, seeds):
    """How many steps are trained, measured once."""
    path, asked = folder / "plan.json", {"minutes": minutes, "seeds": seeds}
    if path.exists():
        plan = json.loads(path.read_text())
        if {key: plan[key] for key in asked} != asked:
            sys.exit(f"{path} is for {plan['minutes']} minutes and {plan['seeds']} seeds: name another folder")
        return plan
    slowest = their_rate("SAC", "halfcheetah", 300)
    off = max(2000, int(minutes * 60 * slowest / (seeds * len(TASKS)) // 1000 * 1000))
    plan = asked | {"on_policy_steps": max(10, off * 5 // 2048) * 2048, "off_policy_steps": off}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan))
    return plan


def returns(unbend, minutes, seeds, folder, most):
    torch.set_num_threads(1)
    plan = plan_of(folder, minutes, seeds)
    found, new = {}, 0
    # seed by seed: what is there early covers all programs and both tasks
    for seed in range(1, seeds + 1):
        for task in TASKS:
            for name, (steps, part) in programs(plan).items():
                place = folder / f"{task}-{name.translate({32: '-', 40: None, 41: None})}-{seed}"
                kept = place.with_suffix(".json")
                if not kept.exists():
                    if new == most:
                        continue
                    start = perf_counter()
                    value, new = part(unbend, task, seed, place), new + 1
                    partial = place.with_suffix(".partial")
                    partial.write_text(json.dumps({"return": value, "steps": steps, "seconds": perf_counter() - start}))
                    partial.rename(kept)
                    print(f"{task}, {name}, seed {seed}: {value:.1f} after {steps} steps", file=sys.stderr, flush=True)
                found.setdefault((task, name), []).append(json.loads(kept.read_text())["return"])
    print(f"mean return of 10 deterministic episodes after training, {plan['on_policy_steps']} steps on-policy, "
          f"{plan['off_policy_steps']} off-policy; then each of {seeds} seeds")
    for (task, name), values in found.items():
        print(f"{task:12}{name:18}{mean(values):10.1f}  {[round(x) for x in values]}")
    left = len(TASKS) * len(programs(plan)) * seeds - sum(map(len, found.values()))
    print(f"{left} parts are left: the same command goes on" if left else "all parts are there")
    return False


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("speed", "returns"):
        sys.exit(__doc__)
    unbend, more = sys.argv[2], sys.argv[3:]
    if sys.argv[1] == "speed":
        return speed(unbend)
    defaults = ["20", "3", "build/policy-returns", str(10 ** 9)]
    minutes, seeds, folder, most = more + defaults[len(more):]
    return returns(unbend, float(minutes), int(seeds), Path(folder), int(most))


if __name__ == "__main__":
    sys.exit(main())
