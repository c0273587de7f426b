"""Our HalfCheetah, Hopper and Walker2d beside Gymnasium's version 5, step by step: observations, rewards, ends, boxes and
limits. Usage: gymnasium_tasks.py CONTROL_TOOL"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import need

need("gymnasium", "mujoco", "imageio")
import gymnasium
import numpy as np

STEPS, STARTS, TOLERANCE = 150, 4, 1e-8


def main():
    tool = Path(sys.argv[1]).resolve()
    os.chdir(tempfile.mkdtemp(prefix="unbend-parity-"))  # Python's MuJoCo leaves a log file where it runs
    for ours, theirs in (("halfcheetah", "HalfCheetah-v5"), ("hopper", "Hopper-v5"), ("walker2d", "Walker2d-v5")):
        env = gymnasium.make(theirs)
        world = env.unwrapped
        worst = 0.0
        for seed in range(STARTS):
            env.reset(seed=seed)
            start = {"qpos": world.data.qpos.tolist(), "qvel": world.data.qvel.tolist()}
            # gentle first, so that Hopper and Walker2d stand for a while
            actions = np.random.default_rng(seed).uniform(-1, 1, (STEPS, world.model.nu)) * (.2 if seed % 2 else 1)
            result = subprocess.run([tool, ours, str(Path(world.fullpath).parent)], text=True, capture_output=True,
                                    input=json.dumps({**start, "actions": actions.tolist()}))
            assert result.returncode == 0, result.stderr
            found = json.loads(result.stdout)
            for step, action in enumerate(actions):
                observation, reward, terminated, _, _ = world.step(action)
                away = max(np.abs(np.array(found["observations"][step]) - observation).max() / (1 + np.abs(observation).max()),
                           abs(found["rewards"][step] - reward) / (1 + abs(reward)))
                worst = max(worst, away)
                assert away < TOLERANCE, f"{theirs}, start {seed}, step {step}: {away}"
                assert found["terminated"][step] == terminated, f"{theirs}, start {seed}, step {step}: end {terminated}"
            assert found["low"] == env.action_space.low.tolist() and found["high"] == env.action_space.high.tolist()
            assert found["limit"] == env.spec.max_episode_steps
        print(f"{theirs}: {STARTS} starts of {STEPS} steps, largest relative difference {worst:.1e}")


if __name__ == "__main__":
    main()
