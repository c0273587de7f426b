"""`gan stability` on parameters, CSV and .npy files. Usage: gan_test.py UNBEND"""
import math
import sys
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()



class Gan(VerbTestCase):
    program, verb = UNBEND, ("gan", "stability")

    def file(self, name, rows):
        path = self.path / name
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        return path

    def test_parameters(self):
        target = self.run_json("--sigma", 1, "--lambda", 1, "--eta-d", .1, "--eta-g", .1)["targets"][0]
        self.assertEqual(target["verdict"], "oscillating")
        self.assertAlmostEqual(target["rate"], .948683, 6)
        self.assertAlmostEqual(target["simulated_rate"], .948683, 3)
        self.assertAlmostEqual(target["steps_per_decade"], math.log(10) / -math.log(target["rate"]), 6)
        both = self.run_json("--sigma", 1, "--lambda", .1, "--eta-g", .2, "--order", "simultaneous")
        self.assertEqual((both["order"], both["targets"][0]["verdict"]), ("simultaneous", "divergent"))
        # The recommended width converges.
        sigma = both["targets"][0]["recommended"]["sigma"]
        mended = self.run_json("--sigma", sigma, "--lambda", .1, "--eta-g", .2, "--order", "simultaneous", "--steps", 0)
        self.assertLess(mended["rate"], 1)
        self.assertNotIn("simulation", mended)

    def test_own_points(self):
        true = self.file("true.csv", [["x", "y"], [0, 0], [9, 0]])
        start = self.file("start.csv", [[.1, 0], [9, .2], [8.9, 0]])
        masses = self.file("masses.csv", [[.5], [.2], [.2]])
        report, trajectory = self.path / "report.html", self.path / "path.npy"
        found = self.run_json("--true", true, "--generated", start, "--generated-masses", masses, "--lambda", .5,
                              "--report", report, "--trajectory", trajectory, "--steps", 300, "--grid", 20, "--measure")
        self.assertEqual([t["generated"] for t in found["targets"]], [[0], [1, 2]])
        self.assertAlmostEqual(found["targets"][1]["delta"], .1)
        page = report.read_text()
        for part in ("Verdicts", "Predicted phases", "Trajectories", "<svg", "cells end otherwise"):
            self.assertIn(part, page)
        self.assertTrue(trajectory.read_bytes().startswith(b"\x93NUMPY"))
        self.assertIn("(301, 3, 2)", trajectory.read_bytes()[:128].decode("latin1"))
        text = self.run_verb("--true", true, "--generated", start, "--steps", 10)
        self.assertIn("what to turn", text.stdout)

    def test_kinked_kernels_are_simulated_only(self):
        found = self.run_json("--kernel", "laplacian", "--steps", 20)
        self.assertNotIn("targets", found)
        self.assertIn("kink", found["notices"][0])
        self.assertEqual(found["simulation"]["steps"], 20)

    def test_without_regularisation(self):
        self.assertEqual(self.run_json("--lambda", 0, "--steps", 50)["targets"][0]["verdict"], "neutral")
        found = self.run_json("--lambda", 0, "--order", "simultaneous", "--steps", 50)
        self.assertEqual(found["targets"][0]["verdict"], "divergent")

    def test_refusals(self):
        self.assert_refused(3, "sigma must be positive", "--sigma", 0)
        self.assert_refused(3, "discriminator alone is unstable", "--eta-d", 3)
        self.assert_refused(3, "lambda must be", "--lambda=-1")
        self.assert_refused(3, "is negative", "--q=-1")
        self.assert_refused(2, "--true and --generated", "--true", self.file("a.csv", [[1]]))
        self.assert_refused(3, "line 2", "--true", self.file("b.csv", [[1], ["x"]]), "--generated", self.file("a.csv", [[1]]))
        self.assert_refused(3, "2 dimensions, generated points 1", "--true", self.file("c.csv", [[1, 2]]),
                            "--generated", self.file("a.csv", [[1]]))
        self.assert_refused(2, "--kernel", "--kernel", "cubic")
        for option in ("--report", "--trajectory"):
            self.assert_refused(2, "there is no folder", option, self.path / "none" / "out")
        self.assert_refused(2, "needs a simulation", "--trajectory", self.path / "path.npy", "--steps", 0)


if __name__ == "__main__":
    unittest.main()
