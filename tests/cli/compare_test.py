"""`lm compare` on a small model that is trained here: all recipes, one table, one report. Usage: compare_test.py UNBEND"""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

UNBEND = sys.argv.pop()


def unbend(*arguments):
    return subprocess.run([UNBEND, "lm", *map(str, arguments)], capture_output=True, text=True, timeout=600)


class Compare(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="unbend-compare-")
        cls.path = Path(cls.folder.name)
        cls.model = cls.path / "small.gguf"
        made = unbend("train", "--text", "README.md", "--length", 64, "--tokens", 16384, "--hidden", 32, "--heads", 2,
                      "--threads", 1, "--quiet", "--out", cls.model)
        assert made.returncode == 0, made.stderr

    def compare(self, *flags, **changes):
        options = {"text": "README.md", "threads": 1, "type": "f32", "tokens": 512, "length": 64, "window": 8,
                   "short_length": 96, "long_length": 256, "short_windows": 2, "long_windows": 1, "recall_texts": 1,
                   "contexts": "64,256", **changes}
        return unbend("compare", self.model, "--quiet", *flags,
                      *[part for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_all_recipes_with_their_controls(self):
        report = self.path / "report.html"
        result = self.compare("--json", sinks=2, report=report)
        self.assertEqual(result.returncode, 0, result.stderr)
        data = json.loads(result.stdout)
        teacher, *students = data["models"]
        self.assertEqual(teacher["name"], "teacher")
        self.assertNotIn("training", teacher)
        names = [s["name"] for s in students]
        self.assertEqual(names[:2], ["control, softmax", "control, window 8 + 4 sinks"])
        recipes = {s["recipe"] for s in students}
        for recipe in ("hybrid", "lawcat", "liger", "lizard", "lolcats", "regla", "softmax", "supra", "window"):
            self.assertIn(recipe, recipes)
        self.assertIn("liger, window 8", names)
        self.assertIn("liger, window 8 + 2 sinks", names)
        for student in students:
            with self.subTest(student=student["name"]):
                self.assertGreaterEqual(student["training"]["tokens"], 512)
                self.assertGreater(student["training"]["tokens_per_second"], 0)
                self.assertEqual([h["tokens"] for h in student["held_out"]], [96, 256])
                for held_out in student["held_out"]:
                    self.assertGreater(held_out["perplexity"], 1)
                    if student["recipe"] == "softmax":  # hardly moves, and is the teacher where it does not
                        self.assertAlmostEqual(held_out["kl"], 0, delta=1e-3)
                    else:
                        self.assertGreater(held_out["kl"], 0)
                    self.assertIn("0-63", held_out["nats_by_position"])
                self.assertIn("copy", student["recall"])
                self.assertIn("passkey", student["recall"])
                decode = student["decode"]
                self.assertEqual([d["context"] for d in decode], [64, 256])
                if student["recipe"] != "softmax":
                    self.assertEqual(decode[0]["state_bytes"], decode[1]["state_bytes"])
        for growing in (teacher, students[0]):
            self.assertLess(growing["decode"][0]["state_bytes"], growing["decode"][1]["state_bytes"])
        self.assertEqual(teacher["held_out"][0]["kl"], 0)
        page = report.read_text()
        for name in names:
            self.assertIn(name, page)

    def test_table_and_a_control_for_a_recipe_without_window(self):
        result = self.compare(recipes="lawcat", window=0)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"control, window \d+ \+ 4 sinks")
        for word in ("teacher", "lawcat", "ppl 96", "ppl 256", "train tok/s", "decode tok/s", "state MB", "0-63 of 96"):
            self.assertIn(word, result.stdout)

    def test_goes_on_from_checkpoints(self):
        folder = self.path / "run"
        runs = [self.compare("--json", recipes="lizard", checkpoints=folder) for _ in range(2)]
        for run in runs:
            self.assertEqual(run.returncode, 0, run.stderr)
        first, second = (json.loads(run.stdout)["models"] for run in runs)
        for key in ("held_out", "recall", "training"):
            self.assertEqual(first[-1][key], second[-1][key])
        for change in ({"tokens": 513}, {"held_out": 0.2}):
            with self.subTest(**change):
                other = self.compare(recipes="lizard", checkpoints=folder, **change)
                self.assertEqual(other.returncode, 3)
                self.assertIn("another run", other.stderr)

    def test_distill_says_how_gates_stand(self):
        options = ["--recipe", "lizard", "--set", "window=8", "--text", "README.md", "--length", 64, "--threads", 1, "--type", "f32",
                   "--stage", "transfer.tokens=64", "--stage", "lora.tokens=64", "--quiet"]
        for bias, warns in ((0.0, False), (9.0, True)):
            result = unbend("distill", self.model, *options, "--set", f"gate_bias={bias}", "--out", self.path / "lizard.safetensors",
                            "--json")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(len(json.loads(result.stdout)["gauges"]["mean gamma"]), 2)
            self.assertEqual("hardly forget" in result.stderr, warns)

    def test_linearize_finds_a_control_for_it_too(self):
        result = unbend("linearize", self.model, "--recipe", "lawcat", "--text", "README.md", "--threads", 1, "--short-windows", 1,
                        "--long-windows", 0, "--contexts", "64", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([m["name"] for m in json.loads(result.stdout)["models"]],
                         ["teacher", "window + sinks, untrained", "lawcat, untrained"])

    def test_linearize_says_what_the_control_is(self):
        student, control, report = (self.path / name for name in ("a.safetensors", "b.safetensors", "control.html"))
        for made in (unbend("distill", self.model, "--recipe", "hybrid", "--set", "window=8", "--stage", "transfer.tokens=64",
                            "--stage", "lora.tokens=64", "--text", "README.md", "--length", 64, "--rows", 1, "--type", "f32",
                            "--threads", 1, "--quiet", "--out", student),
                     unbend("convert", self.model, "--recipe", "window", "--set", "window=16", "--type", "f32", "--out", control)):
            self.assertEqual(made.returncode, 0, made.stderr)
        result = unbend("linearize", self.model, "--adapter", student, "--control", control, "--text", "README.md", "--threads", 1,
                        "--short-windows", 1, "--long-windows", 0, "--contexts", "64", "--json", "--report", report)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout)["models"][1]["name"], "window + sinks, untrained")
        page = report.read_text()
        self.assertRegex(page, r"window 8, 4 sinks, trained on \d+ tokens\. "
                               "The control has a window of 16 and as many sinks, not trained, and forgets")

    def test_refuses_what_cannot_be(self):
        for code, part, changes in [(2, "ligr", {"recipes": "ligr"}), (2, "--tokens", {"tokens": 0}),
                                    (2, "--held-out", {"held_out": 1}), (2, "nope", {"tasks": "nope"}),
                                    (3, "no-such", {"eval": "no-such"})]:
            with self.subTest(part=part):
                result = self.compare(**changes)
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertIn(part, result.stderr.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
