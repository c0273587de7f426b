"""`net regions` on TorchScript files made here. Usage: net_regions_test.py UNBEND (Python with torch)"""
import sys
import unittest
import xml.etree.ElementTree

import numpy as np
import torch
from torch import nn

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()



class Regions(VerbTestCase):
    program, verb = UNBEND, ("net", "regions")

    def setUp(self):
        super().setUp()
        torch.manual_seed(1)
        self.points = np.random.default_rng(1).uniform(size=(12, 6)).astype(np.float32)
        np.save(self.path / "x.npy", self.points)

    def save(self, *layers, name="net.pt"):
        module = nn.Sequential(*layers).eval()
        torch.jit.script(module).save(str(self.path / name))
        return module

    def perceptron(self):
        return self.save(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))

    def run_json(self, *arguments):
        return super().run_json("--model", self.path / "net.pt", "--input", self.path / "x.npy", *arguments)

    def test_complexity_and_slice(self):
        module = self.perceptron()
        out = self.run_json("--radius", "1e-6", "0.1", "1000", "--slice", 3, 5, 7)
        small, middle, large = out["radii"]
        self.assertEqual([layer["neurons"] for layer in middle["layers"]], [30, 20])
        self.assertEqual(small["complexity"], 0)
        self.assertEqual(large["layers"][0]["crossed"], 30)  # every fold of the first layer
        self.assertEqual(len(middle["points"]), 12)
        self.assertAlmostEqual(sum(middle["points"]) / 12, middle["complexity"])
        # Six directions span the inputs, so that a neuron of the first layer that is within 0.1 of its fold along an
        # axis of any frame is within 0.1 in all: the count lies between those for the inscribed and the whole ball.
        layer = module[0]
        distance = ((torch.from_numpy(self.points) @ layer.weight.T + layer.bias).abs() / layer.weight.norm(dim=1))
        inside = lambda r: (distance < r).sum(1).double().mean().item()
        self.assertGreaterEqual(middle["layers"][0]["crossed"], inside(0.1 / 6 ** 0.5) - 1e-9)
        self.assertLessEqual(middle["layers"][0]["crossed"], inside(0.1) + 1e-9)
        self.assertEqual(out["slice"]["points"], [3, 5, 7])
        self.assertGreater(out["slice"]["regions"], 10)
        self.assertTrue(all(1 <= n <= out["slice"]["regions"] for n in out["slice"]["regions_near_points"]))
        with_output = self.run_json("--include-output", "--include-centre", "--random-directions", "--seed", 3)
        self.assertEqual(len(with_output["radii"][0]["layers"]), 3)
        self.assertTrue(out["warnings"])

    def test_files_and_text(self):
        self.perceptron()
        report, picture = self.path / "r.html", self.path / "p.svg"
        result = self.run_verb("--model", self.path / "net.pt", "--input", self.path / "x.npy", "--report", report, "--picture",
                        picture, "--threads", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("linear regions on the plane through points 0, 1, 2", result.stdout)
        page = report.read_text()
        self.assertIn("<svg", page)
        self.assertIn("Local complexity against the radius", page)
        root = xml.etree.ElementTree.parse(picture).getroot()
        polygons = sum(path.get("d").count("M") for path in root.findall(".//{http://www.w3.org/2000/svg}path"))
        self.assertIn(f"{polygons} linear regions", result.stdout)

    def test_smooth_networks_have_no_picture(self):
        self.save(nn.Linear(6, 30), nn.GELU(), nn.Linear(30, 3))
        out = self.run_json()
        self.assertIsNone(out["slice"])
        self.assertIn("smooth", out["no_slice"])
        self.assertGreater(out["radii"][-1]["complexity"], 0)
        self.assert_refused(3, "smooth", "--model", self.path / "net.pt", "--input", self.path / "x.npy", "--slice", 0, 1, 2)

    def test_convolutions(self):
        self.save(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
        np.save(self.path / "x.npy", np.random.default_rng(2).uniform(size=(5, 1, 4, 4)).astype(np.float32))
        out = self.run_json("--radius", 0.3)
        self.assertEqual(out["radii"][0]["layers"][0]["neurons"], 48)
        self.assertGreater(out["slice"]["regions"], 1)

    def test_a_scalar_comes_first(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 3))

            def forward(self, x):
                return self.net(x * 2 - 1)

        torch.jit.script(Scaled().eval()).save(str(self.path / "net.pt"))
        out = self.run_json("--radius", 0.1)
        self.assertGreater(out["radii"][0]["complexity"], 0)
        self.assertGreater(out["slice"]["regions"], 1)

    def test_refuses(self):
        self.perceptron()
        model, x = self.path / "net.pt", self.path / "x.npy"
        self.assert_refused(2, "--radius", "--model", model, "--input", x, "--radius", 0)
        self.assert_refused(2, "same radius twice", "--model", model, "--input", x, "--radius", 1, 1)
        self.assert_refused(3, "there is no point 12", "--model", model, "--input", x, "--slice", 0, 1, 12)
        self.assert_refused(3, "equal", "--model", model, "--input", x, "--slice", 0, 0, 1)
        self.assert_refused(3, "no layer 'nowhere'", "--model", model, "--input", x, "--layers", "nowhere")
        self.assert_refused(4, "more than 2 in this square", "--model", model, "--input", x, "--slice", 0, 1, 2, "--most", 2)
        np.save(self.path / "i.npy", np.zeros((3, 6), dtype=np.int64))
        self.assert_refused(3, "floating-point", "--model", model, "--input", self.path / "i.npy")
        np.save(self.path / "n.npy", np.full((3, 6), np.nan, dtype=np.float32))
        self.assert_refused(3, "not finite", "--model", model, "--input", self.path / "n.npy")
        np.save(self.path / "w.npy", np.zeros((3, 5), dtype=np.float32))
        self.assert_refused(3, "does not take", "--model", model, "--input", self.path / "w.npy")
        self.assert_refused(3, "x.npy", "--model", x, "--input", x)
        for option in ("--report", "--picture"):
            self.assert_refused(2, "there is no folder", "--model", model, "--input", x, option, self.path / "none" / "out")


if __name__ == "__main__":
    unittest.main()
