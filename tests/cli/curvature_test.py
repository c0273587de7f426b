"""`lm curvature` on a small model trained in a second. Usage: curvature_test.py UNBEND"""
import sys
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()


class Curvature(VerbTestCase):
    program, verb = UNBEND, ("lm",)

    def setUp(self):
        super().setUp()
        self.model = self.path / "model.gguf"
        self.run_json("train", "--text", "README.md", "--length", 32, "--tokens", 2048, "--quiet", "--out", self.model,
                      "--hidden", 32, "--heads", 2, "--layers", 2, "--threads", 1)

    def curvature(self, *arguments):
        return self.run_json("curvature", self.model, "--text", "README.md", "--length", 16, "--type", "f64", "--rank", 1,
                             "--threads", 1, *arguments)

    def test_the_trace_is_the_sum_of_the_eigenvalues(self):
        report = self.path / "report.html"
        result = self.curvature("--targets", "q", "--top", 60, "--restarts", 20, "--samples", 200, "--report", report)
        self.assertEqual(result["dimension"], 64)  # B of q in both layers
        self.assertEqual(result["eigenvalues"], sorted(result["eigenvalues"], reverse=True))
        self.assertGreaterEqual(min(result["eigenvalues"]), -1e-9 * result["eigenvalues"][0])
        self.assertLess(abs(result["trace"] - sum(result["eigenvalues"])), 4 * result["trace_error"])
        self.assertAlmostEqual(sum(result["layers"].values()), result["trace"])
        self.assertEqual(set(result["projections"]), {"q"})
        self.assertIn("Spectral density", report.read_text())

    def test_both_factors(self):
        result = self.curvature("--factors", "both", "--targets", "v", "o", "--windows", 2)
        self.assertEqual(result["dimension"], 2 * (64 + 64))
        self.assertEqual(set(result["projections"]), {"v", "o"})
        self.assertEqual(result["tokens"], 30)

    def test_no_curvature_is_said(self):
        report = self.path / "flat.html"
        self.run_json("train", "--text", "README.md", "--length", 32, "--tokens", 512, "--quiet", "--out", self.model,
                      "--learning-rate", 0, "--hidden", 32, "--heads", 2, "--threads", 1)  # its layers add nothing
        result = self.curvature("--report", report)
        self.assertEqual(result["trace"], 0)
        self.assertEqual(set(result["eigenvalues"]), {0})
        self.assertEqual(result["density"]["eigenvalue"], [])
        self.assertIn("curvature is zero", report.read_text())
        self.assertIn("curvature is zero", self.run_verb("curvature", self.model, "--text", "README.md", "--length", 16,
                                                         "--threads", 1).stdout)

    def test_mistakes_are_named(self):
        call = ("curvature", self.model, "--text", "README.md")
        self.assert_refused(2, "too coarse", *call, "--type", "bf16")
        self.assert_refused(2, "q2", *call, "--targets", "q2")
        self.assert_refused(3, "cannot open", "curvature", self.path / "missing.gguf", "--text", "README.md")


if __name__ == "__main__":
    unittest.main()
