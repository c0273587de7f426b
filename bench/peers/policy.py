"""Policy training beside stable-baselines3 (MIT; Raffin et al. 2021): `unbend policy train` and its PPO and SAC on the same
MuJoCo tasks of Gymnasium, with the same networks, batches, epochs and number of threads, in turns.

    policy.py speed UNBEND [THREADS]            environment and learner, steps per second; exits 1 below 3 times the peer
    policy.py returns UNBEND [MINUTES] [SEEDS]  equal steps: returns of MDPO, PPO and SAC on Hopper and HalfCheetah

The number of steps of `returns` is what the slowest program does in MINUTES (20) over all seeds (3) and both tasks.
Needs tools/setup.sh mujoco rl.
"""
import json
import os
import subprocess
import sys
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
except ImportError as error:
    sys.exit(f"{error}: run tools/setup.sh mujoco rl")

BAR = 3.0
TASKS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5"}
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


def theirs(kind, task, seed):
    env = Monitor(gymnasium.make(TASKS[task]))
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


def returns(unbend, minutes, seeds):
    torch.set_num_threads(1)
    slowest = their_rate("SAC", "halfcheetah", 300)
    off_steps = max(2000, int(minutes * 60 * slowest / (seeds * len(TASKS)) // 1000 * 1000))
    on_steps = max(10, off_steps * 5 // 2048) * 2048
    print(f"mean return of 10 deterministic episodes after training; {seeds} seeds; {on_steps} steps on-policy, {off_steps} "
          "off-policy")
    for task in TASKS:
        for kind, name, algorithm, steps, more in (
                ("PPO", "MDPO", "mdpo", on_steps, ("--horizon", 2048, "--inner", 10, "--normalise")),
                ("PPO", "PPO (ours)", "ppo", on_steps, ON_POLICY + ("--normalise",)),
                ("SAC", "MDPO", "mdpo-off", off_steps, OFF_POLICY + ("--c", .3 if task == "halfcheetah" else 1)),
                ("SAC", "SAC (ours)", "sac", off_steps, OFF_POLICY)):
            found = [ours(unbend, algorithm, task, steps, seed, *more, "--evaluate-every", 10 ** 9)["evaluated"]
                     for seed in range(1, seeds + 1)]
            print(f"{task:12}{name:12}{mean(found):10.1f}  {[round(x) for x in found]}", flush=True)
        for kind, steps in (("PPO", on_steps), ("SAC", off_steps)):
            found = []
            for seed in range(1, seeds + 1):
                model = theirs(kind, task, seed)
                model.learn(steps, log_interval=None)
                found.append(float(evaluate_policy(model, Monitor(gymnasium.make(TASKS[task])), n_eval_episodes=10)[0]))
            print(f"{task:12}{kind + ' (SB3)':12}{mean(found):10.1f}  {[round(x) for x in found]}", flush=True)
    return False


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("speed", "returns"):
        sys.exit(__doc__)
    unbend = sys.argv[2]
    if sys.argv[1] == "speed":
        return speed(unbend)
    minutes, seeds = float(sys.argv[3]) if len(sys.argv) > 3 else 20, int(sys.argv[4]) if len(sys.argv) > 4 else 3
    return returns(unbend, minutes, seeds)


if __name__ == "__main__":
    sys.exit(main())
