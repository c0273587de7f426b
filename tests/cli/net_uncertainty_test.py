"""`net uncertainty` on TorchScript files and arrays. Usage: net_uncertainty_test.py UNBEND (needs torch and numpy)"""
import math
import sys
import unittest
import warnings

try:
    import numpy as np
    import torch
    from torch import nn
except ImportError as error:
    print(f"skipped: {error} (tools/setup.sh torch)")
    sys.exit(77)

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()
warnings.filterwarnings("ignore")


def worked():
    """2-3-2 with ReLU; at (1, -0.4) the Jacobian is [[2, 0], [1.25, 0.5]]."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        for p, values in zip(net.parameters(), ([[1, -2], [0.5, 1], [-1, 0.5]], [0.1, 0.2, -0.3], [[1, 2, -1], [0.5, 1.5, 1]], [0, 0.1])):
            p.copy_(torch.tensor(values))
    return net


class Gated(nn.Module):
    """Not a network of known operations."""

    def forward(self, x):
        return x * torch.sigmoid(x)


class Uncertainty(VerbTestCase):
    program = UNBEND
    verb = ("net", "uncertainty")

    def setUp(self):
        super().setUp()
        torch.jit.save(torch.jit.script(worked()), self.path / "net.pt")
        torch.jit.save(torch.jit.script(Gated()), self.path / "gated.pt")
        self.save("x", [[1, -0.4], [0.3, 0.2], [-2, 1]])
        self.save("s", [[0.04, 0.01], [0.01, 0.09]])

    def save(self, name, values, kind=np.float32):
        np.save(self.path / f"{name}.npy", np.asarray(values, kind))

    def run_verb(self, *arguments, model="net.pt"):
        files = [self.path / a if str(a).endswith((".npy", ".html")) or a == "out" else a for a in arguments]
        return super().run_verb("--model", self.path / model, "--input", self.path / "x.npy", "--threads", 1, "--quiet", *files)

    def test_laws(self):
        full = self.run_json("--covariance", "s.npy", "--save", "out")
        np.testing.assert_allclose(full["location"][0], [2.5, 1.5], rtol=1e-5)
        np.testing.assert_allclose(full["std"][0], [0.4, math.sqrt(0.0975)], rtol=1e-5)
        np.testing.assert_allclose(np.load(self.path / "out" / "covariance.npy")[0], [[0.16, 0.11], [0.11, 0.0975]], rtol=1e-4)
        np.testing.assert_allclose(full["high"][0][0], 2.5 + 1.959964 * 0.4, rtol=1e-5)
        self.save("g", [0.2, 0.3])
        np.testing.assert_allclose(self.run_json("--scale", "g.npy")["scale"][0], [0.4, 0.4], rtol=1e-5)
        np.testing.assert_allclose(self.run_json("--scale", "g.npy", "--mode", "marginal")["scale"][0], [1.6, 1.0], rtol=1e-5)
        both = self.run_json("--scale", "g.npy", "--law", "stable", "--alpha", "1.5")["scale"][0]
        self.assertAlmostEqual(both[1], ((1.25 * 0.2) ** 1.5 + (0.5 * 0.3) ** 1.5) ** (1 / 1.5), 5)
        self.save("l", [[0.2], [0.1]])
        self.assertAlmostEqual(self.run_json("--factor", "l.npy")["std"][0][1], 1.25 * 0.2 + 0.5 * 0.1, 5)

    def test_classes(self):
        self.save("loud", 25 * np.array([[0.04, 0.01], [0.01, 0.09]]))
        self.save("labels", [0, 1, 0], np.int64)
        result = self.run_json("--covariance", "loud.npy", "--classes", "--target", "labels.npy")
        self.assertAlmostEqual(result["classes"]["above"][0][1], 0.849150, 4)
        self.assertIn("risk_coverage_area", result["selective"])
        self.assertIn("P(predicted > other)", self.run_verb("--std", 0.1, "--classes").stdout)

    def test_draws_targets_and_report(self):
        self.save("y", [[2.5, 1.5], [0, 0], [0, 0]])
        result = self.run_json("--std", 0.05, "--samples", 4000, "--rows", 1, "--target", "y.npy", "--report", "report.html")
        self.assertAlmostEqual(result["draws"]["inside"], 0.95, delta=0.02)
        self.assertAlmostEqual(result["draws"]["std_ratio"], 1, delta=0.05)
        self.assertGreaterEqual(result["calibration"]["inside"], 1 / 3 - 1e-6)
        page = (self.path / "report.html").read_text()
        self.assertIn("Calibration", page)
        self.assertIn("Output 0 of sample 0", page)
        head = self.run_json("--std", 0.1, "--variance-head")
        self.assertEqual(head["outputs"], 1)
        self.assertAlmostEqual(head["std"][0][0], math.sqrt(0.04 + math.exp(1.5)), 4)
        drawn = self.run_json("--std", 0.1, "--variance-head", "--samples", 4000, "--rows", 1)["draws"]
        self.assertAlmostEqual(drawn["inside"], 0.95, delta=0.02)
        self.assertAlmostEqual(drawn["std_ratio"], 1, delta=0.05)

    def test_sums_repeat_smaller_values(self):
        class Centred(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 2)

            def forward(self, x):
                h = torch.tanh(self.first(x))
                return self.last(h - h.mean(1, keepdim=True))

        torch.manual_seed(1)
        net = Centred()
        torch.jit.save(torch.jit.script(net), self.path / "centred.pt")
        jacobian = torch.autograd.functional.jacobian(net, torch.tensor([[1, -0.4]]))[0, :, 0]
        result = self.run_json("--std", 0.1, model="centred.pt")
        self.assertTrue(result["network"])
        np.testing.assert_allclose(result["std"][0], 0.1 * jacobian.norm(dim=1).numpy(), rtol=1e-4)

    def test_scalars_between_layers(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.middle, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)

            def forward(self, x):
                return self.last(torch.tanh(self.middle(torch.tanh(self.first(2 * x - 1)) * 0.5 + 1))) - 0.5

        torch.manual_seed(1)
        net = Scaled()
        torch.jit.save(torch.jit.script(net), self.path / "scaled.pt")
        jacobian = torch.autograd.functional.jacobian(net, torch.tensor([[1, -0.4]]))[0, :, 0]
        np.testing.assert_allclose(self.run_json("--std", 0.1, model="scaled.pt")["std"][0], 0.1 * jacobian.norm(dim=1).numpy(), rtol=1e-4)

    def test_any_module(self):
        result = self.run_json("--std", 0.1, model="gated.pt")
        self.assertFalse(result["network"])
        s = 1 / (1 + math.exp(-1))
        self.assertAlmostEqual(result["std"][0][0], 0.1 * s * (1 + 1 - s), 5)
        self.assert_refused(3, "a product of two values", "--std", 0.1, "--mode", "marginal", model="gated.pt")

    def test_mistakes_are_named(self):
        self.assert_refused(2, "exactly one of --std")
        self.assert_refused(2, "exactly one of --std", "--std", 1, "--scale", 1)
        self.assert_refused(2, "cauchy noise is given by --scale", "--std", 1, "--law", "cauchy")
        self.assert_refused(2, "expected a number", "--std", "much")
        self.assert_refused(2, "--coverage", "--std", 1, "--coverage", 1)
        self.assert_refused(2, "--alpha is of --law stable, not of cauchy noise", "--scale", 1, "--alpha", 1.5)
        self.assert_refused(2, "--alpha is of --law stable, not of gaussian noise", "--std", 1, "--alpha", 2)
        self.assert_refused(2, "there is no folder", "--std", 1, "--report", "none/report.html")
        (self.path / "out").write_text("a file")
        self.assert_refused(2, "there is no folder", "--std", 1, "--save", "out")
        self.assert_refused(3, "negative", "--std", -1)
        self.assert_refused(3, "alpha", "--scale", 1, "--law", "stable", "--alpha", 3)
        self.save("bad", [[1, 2], [2, 1]])
        self.assert_refused(3, "indefinite", "--covariance", "bad.npy")
        self.assert_refused(3, "no such file", "--std", 1, model="missing.pt")
        self.save("x", [1, 2])
        self.assert_refused(3, "must be the batch", "--std", 1)
        self.save("x", [[1, 2, 3]])
        self.assert_refused(3, "3", "--std", 1)


if __name__ == "__main__":
    unittest.main()
