"""`lm compare` on a small model that is trained here: all recipes, one table, one report; and what `lm linearize`, `merge`,
`export` and `generate` do with its students. Usage: compare_test.py UNBEND"""
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
        self.assertNotIn("tokenize", result.stderr)  # --quiet
        data = json.loads(result.stdout)
        self.assertEqual(data["backend"], "engine")
        self.assertIn("Every other model learned from 512 tokens", data["notes"][0])
        self.assertIn("the engine on 1 threads", " ".join(data["notes"]))
        self.assertIsInstance(data["left_out"], list)
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
        data = json.loads(result.stdout)
        self.assertEqual([m["name"] for m in data["models"]], ["teacher", "window + sinks, untrained", "lawcat, untrained"])
        self.assertNotIn("tokenize", result.stderr)
        self.assertEqual(data["backend"], "engine")
        self.assertIn("recipe lawcat", data["notes"][0])
        self.assertIn("not trained. The control has", data["notes"][0])

    def test_linearize_says_what_it_left_out(self):
        short = self.path / "short.txt"
        short.write_text("A text that is too short to be asked for what is in it. " * 4)
        options = ["linearize", self.model, "--text", short, "--threads", 1, "--short-windows", 1, "--short-length", 96,
                   "--long-windows", 0, "--contexts", "64", "--backend", "torch"]
        result = unbend(*options, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        data = json.loads(result.stdout)
        self.assertEqual(data["backend"], "torch")
        self.assertTrue(data["left_out"])
        result = unbend(*options)
        self.assertEqual(result.returncode, 0, result.stderr)
        for note in data["left_out"]:
            self.assertIn(f"left out: {note}\n", result.stdout)

    def test_speed_that_cannot_be_measured_is_left_out(self):
        result = unbend("linearize", self.model, "--text", "README.md", "--threads", 1, "--short-windows", 1,
                        "--long-windows", 0, "--contexts", "64,1000000000000", "--json", "--report", self.path / "no-speed.html")
        self.assertEqual(result.returncode, 0, result.stderr)
        data = json.loads(result.stdout)
        self.assertRegex(" ".join(data["left_out"]), "speed and memory: teacher: .*a context of 1000000")
        for model in data["models"]:
            self.assertGreater(model["held_out"][0]["perplexity"], 1)
            self.assertNotIn("decode", model)
        self.assertIn("speed and memory: teacher", (self.path / "no-speed.html").read_text())

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
                                    (2, "--contexts", {"contexts": 0}), (2, "--contexts", {"contexts": "64,-5"}),
                                    (2, "--contexts", {"contexts": ""}), (2, "--type", {"type": "half"}),
                                    (2, "/proc/foo", {"checkpoints": "/proc/foo"}),
                                    (2, "README.md", {"checkpoints": "README.md"}),
                                    (2, "the same file", {"report": self.model}),
                                    (3, "no-such", {"eval": "no-such"})]:
            with self.subTest(part=part, **changes):
                result = self.compare(**changes)
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertIn(part, result.stderr.splitlines()[-1])

    def refused(self, part, *arguments):
        with self.subTest(part=part, call=arguments):
            result = unbend(*arguments)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertRegex(result.stderr, r"\Aunbend: [^\n]+\n\Z")
            self.assertIn(part, result.stderr)

    def test_no_output_replaces_an_input_or_another_output(self):
        delta, out = self.path / "untrained.safetensors", self.path / "out.gguf"
        made = unbend("convert", self.model, "--recipe", "hybrid", "--set", "window=8", "--out", delta)
        self.assertEqual(made.returncode, 0, made.stderr)
        source, link = self.path / "source.txt", self.path / "link.gguf"
        source.write_text("to read")
        link.symlink_to(self.model)
        before = [file.read_bytes() for file in (self.model, delta, source)]
        student, text = [self.model, "--adapter", delta], ["--text", source]
        for call in (["export", *student, "--out", self.model], ["export", *student, "--out", delta],
                     ["export", *student, "--out", self.path / "." / "link.gguf"],
                     ["merge", *student, "--out", out, "--delta-out", out],
                     ["merge", *student, "--out", self.model, "--delta-out", self.path / "rest.safetensors"],
                     ["merge", *student, "--out", out, "--delta-out", delta],
                     ["logits", self.model, "--ids", delta, "--out", delta],
                     ["linearize", *student, *text, "--report", self.model], ["linearize", *student, *text, "--report", delta],
                     ["linearize", *student, *text, "--report", source],
                     ["compare", self.model, *text, "--report", source],
                     ["compare", self.model, "--text", "README.md", "--eval", source, "--report", source],
                     ["linearize", self.model, *text, "--control", delta, "--report", delta],
                     ["curvature", *student, *text, "--report", delta]):
            self.refused("the same file", *call)
        self.assertEqual([file.read_bytes() for file in (self.model, delta, source)], before)
        self.assertFalse(out.exists())

    def test_contexts_and_types_are_tried_before_the_work(self):
        text = ["--text", "README.md"]
        for verb in (["bench", self.model], ["linearize", self.model, *text]):
            for contexts in ("0", "", "-5"):
                self.refused("--contexts", *verb, "--contexts", contexts)
        prompt = ["generate", self.model, "--prompt", "The "]
        for verb in (prompt, ["bench", self.model], ["linearize", self.model, *text],
                     ["logits", self.model, "--ids", "a", "--out", "b"]):
            self.refused("half", *verb, "--type", "half")
        self.refused("--weights", "export", self.model, "--adapter", "a", "--out", "b", "--type", "f32")
        self.refused("llama", "logits", self.model, "--ids", "a", "--out", "b", "--backend", "llama", "--type", "f32")
        for verb in (prompt, ["bench", self.model]):
            for backend in ([], ["--backend", "engine"]):
                self.refused("--backend torch", *verb, *backend, "--type", "f32")

    def test_generate_counts_what_it_times(self):
        for backend in ("engine", "torch"):
            for tokens in (1, 4):
                with self.subTest(backend=backend, tokens=tokens):
                    call = ["generate", self.model, "--prompt", "The ", "--tokens", tokens, "--ignore-end", "--backend", backend,
                            "--threads", 1]
                    result = unbend(*call, "--json")
                    self.assertEqual(result.returncode, 0, result.stderr)
                    data = json.loads(result.stdout)
                    self.assertEqual(len(data["tokens"]), tokens)
                    self.assertEqual(data["decode_steps"], tokens - 1)  # the prompt gives the first
                    if tokens == 1:
                        self.assertIsNone(data["tokens_per_second"])
                        self.assertIn("1 tokens at -/s", unbend(*call).stderr)
                    else:
                        self.assertAlmostEqual(data["tokens_per_second"], (tokens - 1) / data["decode_seconds"])


if __name__ == "__main__":
    unittest.main()
