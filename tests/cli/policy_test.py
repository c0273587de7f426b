"""`policy train`, `eval` and `render` on own simulators, a MuJoCo model and a table. Usage: policy_test.py UNBEND"""
import json
import sys
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()
SMALL = ("--quiet", "--horizon", 512, "--hidden", 16, 16, "--lr", 1e-3)

MODEL = """<mujoco><worldbody><body><joint name="slide" type="slide" axis="1 0 0" damping="1"/>
<geom type="box" size=".1 .1 .1" mass="1"/></body></worldbody>
<actuator><motor joint="slide" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>"""
TASK = {"name": "slider", "model": "slider.xml", "frame_skip": 5, "limit": 50, "observation": [{"from": "qpos"}, {"from": "qvel"}],
        "reward": [{"kind": "square", "from": "qpos", "target": [0.2], "weight": -1}], "start": {"qpos": {"uniform": 0.1}}}


class Policy(VerbTestCase):
    program, verb = UNBEND, ("policy",)

    def train(self, *arguments, steps=4096):
        return self.run_json("train", *arguments, *SMALL, "--steps", steps)

    def test_from_training_to_pictures(self):
        folder, report = self.path / "cart", self.path / "cart.html"
        found = self.train("--task", "cartpole", "--out", folder, "--report", report, "--evaluate-every", 4)
        self.assertEqual((found["task"], found["steps"], len(found["curve"])), ("cartpole", 4096, 8))
        self.assertGreater(found["length"], 15)
        self.assertIn("evaluated", found)
        for part in ("Learning curve", "Divergence from the old policy", "<path"):
            self.assertIn(part, report.read_text())
        self.assertEqual(len((folder / "curve.csv").read_text().splitlines()), 9)
        self.assert_refused(3, "is not that of the policy", "render", folder, "--task", "pendulum", "--out", self.path / "a.svg")
        result = self.run_json("eval", folder, "--episodes", 5)
        self.assertGreaterEqual(result["most"], result["mean"])
        self.assertIn("most likely actions", self.run_verb("eval", folder / "policy.safetensors", "--task", "cartpole").stdout)
        strip = self.path / "strip.svg"
        drawn = self.run_json("render", folder, "--out", strip, "--frames", 4, "--every", 1)
        self.assertEqual(drawn["renderer"], "drawn")
        self.assertEqual(strip.read_text().count("<path"), 4 * 4)  # background, floor, cart, pole

    def test_resuming_gives_the_same(self):
        whole = self.train("--task", "pendulum", "--out", self.path / "whole", steps=2048)
        self.assertEqual(self.train("--task", "pendulum", "--out", self.path / "again", steps=2048)["curve"], whole["curve"])
        more = self.run_json("train", "--resume", self.path / "whole", "--steps", 4096, "--quiet")
        self.assertEqual((more["steps"], more["curve"][:4]), (4096, whole["curve"]))
        kept = (self.path / "whole" / "checkpoint.safetensors").read_bytes()
        self.assert_refused(3, "--steps can be raised", "train", "--resume", self.path / "whole", "--steps", 512)
        self.assert_refused(2, "--resume goes on with it", "train", "--task", "cartpole", *SMALL, "--out", self.path / "whole")
        self.assertEqual((self.path / "whole" / "checkpoint.safetensors").read_bytes(), kept)
        self.assertEqual(self.train("--task", "cartpole", "--out", self.path / "whole", "--overwrite", steps=512)["task"], "cartpole")

    def test_off_policy(self):
        arguments = ("train", "--task", "point_mass", "--quiet", "--hidden", 16, 16, "--steps", 600, "--warm-up", 200,
                     "--batch", 32, "--report-every", 200)
        sac = self.run_json(*arguments, "--algorithm", "sac")
        mirror = self.run_json(*arguments, "--algorithm", "mdpo-off", "--c", .2)
        self.assertEqual(sac["curve"], mirror["curve"])
        self.assertEqual(sac["updates"], 401)

    def test_own_model(self):
        (self.path / "slider.xml").write_text(MODEL)
        task = self.path / "slider.json"
        task.write_text(json.dumps(TASK))
        found = self.train("--task", task, "--out", self.path / "run", "--normalise")
        self.assertEqual(found["task"], "slider")
        self.assertEqual(self.run_json("eval", self.path / "run", "--episodes", 2)["length"], 50)
        self.run_json("render", self.path / "run", "--out", self.path / "strip.html")
        self.assertIn("slider: return", (self.path / "strip.html").read_text())
        task.write_text(json.dumps(TASK | {"observation": [{"from": "qpos", "index": 4}]}))
        self.assert_refused(3, "'observation' 0", "train", "--task", task)

    def test_own_table(self):
        x, y = self.path / "x.csv", self.path / "y.csv"
        x.write_text("".join(f"{i % 3 == 0:d},{i % 3 == 1:d},{i % 3 == 2:d}\n" for i in range(30)))
        y.write_text("".join(f"{i % 3}\n" for i in range(30)))
        table = ("--table", x, "--labels", y, "--copies", 64, "--horizon", 64, "--hidden", 0, "--lr", .05, "--steps", 6400)
        found = self.run_json("train", *table, "--quiet", "--out", self.path / "run")
        self.assertGreater(found["return"], .8)
        self.assertEqual(self.run_json("eval", self.path / "run", "--episodes", 100)["mean"], 1)
        others = self.path / "others.csv"  # the same contexts, every choice wrong
        others.write_text("".join(f"{(i + 1) % 3}\n" for i in range(30)))
        self.assertEqual(self.run_json("eval", self.path / "run", "--labels", others, "--episodes", 100)["mean"], 0)
        self.assert_refused(3, "no body to draw", "render", self.path / "run", "--out", self.path / "a.svg")
        y.write_text("1\n")
        self.assert_refused(3, "30 rows", "train", *table)

    def test_refusals(self):
        self.assert_refused(2, "name one task", "train")
        self.assert_refused(2, "there is no task 'cartpol'", "train", "--task", "cartpol")
        self.assert_refused(3, "m, the gradient steps", "train", "--task", "cartpole", "--inner", 0)
        self.assert_refused(3, "step size t", "train", "--task", "cartpole", "--step-size", 0)
        self.assert_refused(3, "c = 1/t", "train", "--task", "pendulum", "--algorithm", "mdpo-off", "--c=-1")
        self.assert_refused(3, "[1, 2]", "train", "--task", "cartpole", "--tsallis", 3)
        self.assert_refused(3, "multiple of the 8 copies", "train", "--task", "cartpole", "--horizon", 100)
        self.assert_refused(3, "tools/setup.sh gymnasium", "train", "--task", "hopper", "--models", self.path)
        self.assert_refused(3, "policy.safetensors", "eval", self.path)
        self.train("--task", "cartpole", "--out", self.path / "cart", steps=512)
        stored = json.loads((self.path / "cart" / "task.json").read_text())
        (self.path / "cart" / "task.json").write_text(json.dumps(stored | {"task": "hopper"}))
        self.assert_refused(3, "elsewhere/hopper.xml is missing", "eval", self.path / "cart", "--models", self.path / "elsewhere")
        self.assert_refused(2, "--labels or --rewards", "train", "--table", "x.csv")
        self.assert_refused(2, "leave out --out", "train", "--resume", self.path, "--out", "x")
        self.assert_refused(2, "leave out --lr", "train", "--resume", self.path, "--lr", 1)
        self.assert_refused(2, "is on-policy: leave out --batch", "train", "--task", "cartpole", "--batch", 64)
        self.assert_refused(2, "sac is off-policy: leave out --inner", "train", "--task", "pendulum", "--algorithm", "sac", "--inner", 5)
        self.assert_refused(2, "--c is of mdpo-off alone", "train", "--task", "pendulum", "--algorithm", "sac", "--c", .5)
        self.assert_refused(2, "--clip is of ppo alone", "train", "--task", "pendulum", "--clip", .5)
        self.assert_refused(2, "--step-size is of mdpo alone", "train", "--task", "pendulum", "--algorithm", "ppo", "--step-size", 2)
        self.assert_refused(3, "option lr is inf", "train", "--task", "cartpole", "--lr", "inf")
        self.assert_refused(2, "there is no folder", "train", "--task", "cartpole", "--report", self.path / "no" / "a.html")
        self.assert_refused(2, ".svg or .html", "render", self.path, "--out", "a.png")


if __name__ == "__main__":
    unittest.main()
