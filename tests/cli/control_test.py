"""`control` from exploring to filtering, and what it refuses. Usage: control_test.py UNBEND"""
import csv
import json
import math
import sys
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()

ARM = {"joints": 2, "hardening": 20, "link_friction": 0.3, "motor_friction": 0.2}
GUESS = {"joints": 2, "mass": 0.85, "stiffness": 50}
TASK = {"reference": {"offset": [0.4, -0.3], "sines": [{"amplitude": [0.8, 0.5], "frequency": [1.2, 0.9]}]},
        "constraints": [{"joint": 1, "max": 0.9, "name": "reach"}], "duration": 2}


class Control(VerbTestCase):
    program, verb = UNBEND, ("control",)

    def setUp(self):
        super().setUp()
        self.arm, self.guess, self.task = (self.json(name, value) for name, value in
                                           (("arm.json", ARM), ("guess.json", GUESS), ("task.json", TASK)))

    def json(self, name, value):
        path = self.path / name
        path.write_text(json.dumps(value))
        return path

    def test_from_data_to_a_safe_run(self):
        seen, model, log, report = (self.path / name for name in ("seen.csv", "model.json", "log.csv", "run.html"))
        explore = self.json("explore.json", {"duration": 4, "offset": [0.15, -0.2]})
        self.assertEqual(self.run_json("explore", self.arm, "--nominal", self.guess, "--settings", explore, "--out", seen)["rows"], 99)
        learnt = self.run_json("learn", seen, "--nominal", self.guess, "--held-out", seen, "--out", model, "--evaluations", 15)
        self.assertGreater(learnt["log_likelihood"], learnt["start_log_likelihood"])
        self.assertEqual(learnt["warnings"], [])
        self.assertLess(max(learnt["held_out"]["nrmse"]), .5)  # on the data themselves
        for plant in ("equations", "mujoco"):
            run = self.run_json("simulate", self.arm, "--model", model, "--task", self.task, "--log", log, "--report", report, "--plant", plant)
            self.assertEqual((run["constraints"], run["steps"], run["stopped"]), (["reach <= 0.9"], 500, ""))
        rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines()))
        self.assertEqual(len(rows), 500)
        self.assertAlmostEqual(min(float(row["h1"]) for row in rows), run["least_h"][0], 12)
        page = report.read_text(encoding="utf-8")
        self.assertIn("Constraints: h over time", page)
        self.assertTrue(all(math.isfinite(float(value)) for row in rows for value in row.values()))

        # A run is data for the next model.
        shown, better = self.path / "shown.csv", self.path / "better.json"
        self.run_json("simulate", self.arm, "--model", model, "--task", self.task, "--seen", shown)
        again = self.run_json("learn", seen, shown, "--nominal", self.guess, "--held-out", shown, "--out", better, "--no-fit")
        self.assertEqual(again["rows"], 99 + 50)
        first = self.run_json("learn", seen, "--nominal", self.guess, "--held-out", shown, "--no-fit")
        for one, other in zip(again["held_out"]["nrmse"], first["held_out"]["nrmse"]):
            self.assertLess(one, other)

        # The same inputs come out of `filter` from the same states.
        with_states = self.path / "states.csv"
        data = list(csv.reader(seen.read_text(encoding="utf-8").splitlines()))[1:]
        with_states.write_text("".join(",".join(row[:8] + row[14:]) + "\n" for row in data))
        out = self.path / "safe.csv"
        self.assertEqual(self.run_json("filter", with_states, "--model", model, "--task", self.task, "--out", out)["rows"], 99)
        self.assertEqual(len(out.read_text().splitlines()), 99)

    def test_exploring_follows_the_task(self):
        quiet = self.json("quiet.json", {"terms": 0, "input_noise": 0, "label_noise": 0, "duration": 3})
        seen = self.path / "around.csv"
        self.run_json("explore", self.arm, "--settings", quiet, "--task", self.task, "--out", seen)  # the exact model
        rows = list(csv.DictReader(seen.read_text(encoding="utf-8").splitlines()))
        for i, row in enumerate(rows):
            if (time := .04 * (i + 1)) > 2:  # from rest to the motion takes a while
                self.assertAlmostEqual(float(row["q1"]), .4 + .8 * math.sin(1.2 * time), 2)
                self.assertAlmostEqual(float(row["q2"]), -.3 + .5 * math.sin(.9 * time), 2)

    def test_the_exact_model_keeps_the_limit_and_no_filter_does_not(self):
        kept = self.run_json("simulate", self.arm, "--task", self.task)
        self.assertGreaterEqual(kept["least_h"][0], 0)
        self.assertGreater(kept["active"], 0)
        self.assertLess(self.run_json("simulate", self.arm, "--task", self.task, "--no-filter")["least_h"][0], -.1)
        text = self.run_verb("simulate", self.arm, "--task", self.task).stdout
        self.assertIn("least h of 'reach <= 0.9'", text)

    def test_filter_changes_what_it_must(self):
        states = self.path / "states.csv"
        row = [0.85, 0, 0.5, 0, 0.85, 0, 0.5, 0]  # near the limit, moving
        states.write_text(",".join(map(str, row + [20, 0])) + "\n" + ",".join(map(str, [0.1] + [0] * 9)) + "\n")
        task = self.json("limits.json", {"constraints": TASK["constraints"]})
        result = self.run_json("filter", states, "--nominal", self.guess, "--task", task, "--log", self.path / "log.csv")
        self.assertEqual((result["rows"], result["infeasible"], result["held"]), (2, 0, 0))
        self.assertGreaterEqual(result["changed"], 1)

    def test_mjcf(self):
        xml = self.run_verb("mjcf", self.arm).stdout
        self.assertIn("<joint name='link2'", xml)
        self.assertIn("stiffness='60 0 20'", xml)

    def test_refusals(self):
        def refuse(part, *arguments, code=3):
            self.assert_refused(code, part, *arguments)

        refuse("'stiffness' of joint 1 is -1", "simulate", self.json("bad.json", {"stiffness": -1}), "--task", self.task)
        refuse("'reference' is missing", "simulate", self.arm, "--task", self.json("no.json", {}))
        refuse("unknown key 'betta'", "simulate", self.arm, "--task", self.json("typo.json", {**TASK, "betta": 1}))
        refuse("violated already", "simulate", self.arm, "--task", self.json("late.json", {**TASK, "start": [1.2, 0]}))
        refuse("too long for barriers", "simulate", self.arm, "--task", self.json("slow.json", {**TASK, "period": 0.1}))
        refuse("line 1", "simulate", self.arm, "--task", self.write("broken.json", "{"))
        refuse("the robot has 3", "simulate", self.arm, "--nominal", self.json("three.json", {"joints": 3}), "--task", self.task)
        refuse("unstable", "simulate", self.arm, "--nominal", self.json("soft.json", {"stiffness": 0.5}), "--task", self.task,
               "--no-filter", code=4)
        refuse("16 are needed", "learn", self.write("few.csv", "1,2,3\n"), "--nominal", self.guess)
        refuse("at least 10", "learn", self.write("short.csv", (",".join(["1"] * 16) + "\n") * 3), "--nominal", self.guess)
        refuse("line 2, column 3: not a finite number", "learn",
               self.write("nan.csv", ",".join(["1"] * 16) + "\n1,2,nan" + ",1" * 13 + "\n"), "--nominal", self.guess)
        refuse("in all rows", "learn", self.write("same.csv", (",".join(["0.1"] * 16) + "\n") * 20), "--nominal", self.guess)
        refuse("--beta", "simulate", self.arm, "--task", self.task, "--beta", "-1", code=2)
        refuse("up to 1e7 steps", "simulate", self.arm, "--task", self.json("long.json", {**TASK, "duration": 1e300}))
        refuse("up to 1e7 steps", "explore", self.arm, "--settings", self.json("endless.json", {"duration": 1e300}), "--out", self.path / "x.csv")
        refuse("one says where", "explore", self.arm, "--settings", self.json("where.json", {"offset": [0, 0]}), "--task", self.task, "--out",
               self.path / "x.csv")
        refuse("'amplitude' is a range", "explore", self.arm, "--settings", self.json("range.json", {"amplitude": [1, 0]}), "--out",
               self.path / "x.csv")
        refuse("1e6 steps of the integrator", "simulate", self.arm, "--task", self.task, "--step", "1e-15")
        refuse("not a model", "simulate", self.arm, "--model", self.arm, "--task", self.task)
        refuse("10 are needed", "filter", self.write("narrow.csv", "1,2\n"), "--nominal", self.guess, "--task", self.task)
        refuse("--model or --nominal", "filter", self.arm, "--task", self.task, code=2)
        refuse("multiple of MuJoCo's time step", "simulate", self.arm, "--task", self.task, "--plant", "mujoco", "--step", "0.003")
        refuse("nowhere.json", "simulate", self.path / "nowhere.json", "--task", self.task)

    def write(self, name, text):
        path = self.path / name
        path.write_text(text)
        return path


if __name__ == "__main__":
    unittest.main()
