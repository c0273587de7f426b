"""`lm train`: models that other verbs read, the same bytes after an interruption, errors in one line. Usage: train_test.py UNBEND"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

UNBEND = sys.argv.pop()
SMALL = ["--hidden", "32", "--heads", "2", "--threads", "1"]
HYBRID = ["--recipe", "hybrid", "--set", "window=8", "--stage", "transfer.tokens=64", "--stage", "lora.tokens=64"]


def unbend(*arguments):
    return subprocess.run([UNBEND, "lm", *map(str, arguments)], capture_output=True, text=True, timeout=300)


class Train(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="unbend-train-")
        self.path = Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def run_json(self, *arguments):
        result = unbend(*arguments, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def assert_refused(self, code, part, *arguments):
        result = unbend("train", "--out", self.path / "refused.gguf", *arguments)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertRegex(result.stderr, r"\Aunbend: [^\n]+\n\Z")
        self.assertIn(part, result.stderr)
        self.assertFalse((self.path / "refused.gguf").exists())

    def test_a_task_is_trained_and_measured(self):
        model = self.path / "mqar.gguf"
        made = self.run_json("train", "--task", "mqar", "--length", 64, "--pairs", 2, "--rows", 16, "--tokens", 8192, "--quiet",
                             "--out", model, *SMALL)
        self.assertGreaterEqual(made["tokens"], 8192)
        self.assertEqual(made["steps"], made["results"][0]["steps"])
        self.assertEqual(made["config"]["vocab"], 257)
        self.assertFalse(made["config"]["tied_head"])
        results = [self.run_json("eval", model, "--task", "mqar", "--length", 64, "--pairs", 2, "--count", 20,
                                 "--backend", backend, "--type", "f32") for backend in ("engine", "torch")]
        for result in results:
            self.assertEqual((result["questions"], result["answers"]), (40, 40))
            self.assertAlmostEqual(result["chance"], 1 / 26)
            self.assertLess(result["teacher"]["nats"], 5)  # ln 257 = 5.5: it knows at least that letters are asked
            self.assertIn("exact_error", result["teacher"])
        self.assertAlmostEqual(results[0]["teacher"]["nats"], results[1]["teacher"]["nats"], places=2)  # keys in float16
        for task in ("recall-ids", "mqar-ids", "passkey-ids", "passkey", "niah1"):
            self.assertGreater(self.run_json("eval", model, "--task", task, "--count", 2)["questions"], 0)

    def test_texts_beyond_what_a_model_was_made_for_are_said(self):
        model = self.path / "short.gguf"
        self.run_json("train", "--text", "README.md", "--length", 32, "--context", 48, "--tokens", 64, "--quiet", "--out", model, *SMALL)
        for backend in ("engine", "torch"):
            for call in (["generate", model, "--prompt", "A"], ["eval", model, "--text", "README.md", "--windows", 1]):
                size = "--tokens" if call[0] == "generate" else "--length"
                with self.subTest(call=call[0], backend=backend):
                    self.assertIn("more than the 48 that", unbend(*call, size, 64, "--json", "--backend", backend).stderr)
                    self.assertNotIn("more than", unbend(*call, size, 32, "--json", "--backend", backend).stderr)

    def test_text_is_trained_and_generated(self):
        model = self.path / "text.gguf"
        made = self.run_json("train", "--text", "README.md", "--held-out", "0.1", "--length", 64, "--tokens", 32768, "--quiet",
                             "--out", model, "--kv-heads", 1, *SMALL)
        self.assertTrue(made["config"]["tied_head"])
        self.assertLess(made["validation_nats"], 4.5)
        info = self.run_json("info", model)
        self.assertIn("text", json.dumps(info))
        text = self.run_json("generate", model, "--prompt", "The ", "--tokens", 5)
        self.assertEqual(len(text["tokens"]), 5)
        # A model's tokenizer serves another; a task in the user's text.
        other = self.path / "other.gguf"
        self.run_json("train", "--task", "qa1", "--text", "docs", "--tokenizer", model, "--length", 500, "--rows", 2,
                      "--tokens", 1000, "--quiet", "--out", other, *SMALL)
        result = self.run_json("eval", other, "--task", "qa1", "--text", "docs", "--length", 500, "--count", 3)
        self.assertEqual((result["questions"], result["answers"]), (3, 3))
        self.assertLessEqual(result["tokens"], 500)

    def short_documents(self):
        """A folder of texts, none of which has 512 tokens."""
        folder = self.path / "short"
        folder.mkdir()
        for i in range(40):
            (folder / f"{i}.txt").write_text(f"Note {i} says that the door {i * 37 % 101} stays shut. " * 4)
        return folder

    def test_tasks_take_short_documents(self):
        model, _ = self.teacher()
        text = self.short_documents()
        for task in ("qa1", "codes", "copy"):
            result = self.run_json("eval", model, "--task", task, "--text", text, "--count", 2)
            self.assertEqual(result["texts"], 2)
        refused = unbend("eval", model, "--text", text)
        self.assertEqual(refused.returncode, 3, refused.stderr)
        self.assertIn("no document has 512 tokens", refused.stderr)
        # Pieces of `copy` are distinct; the seed draws them.
        result = unbend("eval", model, "--task", "copy", "--text", text, "--count", 1000, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        few = json.loads(result.stdout)
        self.assertLess(few["texts"], 1000)
        self.assertIn(f"room for {few['texts']} of 1000 pieces", result.stderr)
        nats = {self.run_json("eval", model, "--task", "copy", "--text", text, "--count", 2, "--seed", seed)["teacher"]["nats"]
                for seed in (0, 1)}
        self.assertEqual(len(nats), 2)
        refused = unbend("eval", model, "--task", "words", "--text", text)
        self.assertEqual(refused.returncode, 3, refused.stderr)
        self.assertIn("tokens of whole words", refused.stderr)

    def test_what_a_task_was_asked_is_told(self):
        model, rest = self.teacher()
        told = self.run_json("eval", model, "--task", "niah1", "--count", 2, "--seed", 3, "--depth", 0.5)
        self.assertEqual([told[key] for key in ("texts", "seed", "length", "depth", "digits")], [2, 3, 1024, 0.5, 7])
        self.assertNotIn("pairs", told)
        self.assertNotIn("within_window", told)
        self.assertNotIn("weight_bytes", self.run_json("eval", model, "--text", "README.md", "--windows", 1))
        # A student is asked beyond its window and has its recipe's name, alone too.
        delta, student = rest[-1], self.path / "student.gguf"
        self.run_json("distill", model, "--recipe", "window", "--set", "window=300", "--set", "lora_rank=2",
                      "--stage", "lora.tokens=64", *rest)
        self.run_json("export", model, "--adapter", delta, "--out", student)
        task = ["--task", "passkey", "--count", 2, "--depth", 0]
        for source in ([model, "--adapter", delta], [student, "--teacher", model], [student]):
            result = self.run_json("eval", *source, *task)
            self.assertEqual((result["length"], result["window"], result["within_window"]), (1200, 300, 0))
            self.assertEqual(result["student"]["recipe"], "window")
            self.assertEqual("teacher" in result, len(source) > 1)
        alone = self.run_json("eval", student, "--text", "README.md", "--windows", 1)
        self.assertEqual([m["name"] for m in alone["models"]], ["window"])
        near = self.run_json("eval", student, "--task", "passkey", "--count", 2, "--depth", 1, "--length", 600)
        self.assertEqual((near["length"], near["within_window"]), (600, 1))
        table = unbend("eval", student, *task)
        self.assertRegex(table.stdout, r"; 0 % of the answers are told within the window of 300\n  window ")

    def test_a_damaged_delta_is_an_input_error(self):
        model, rest = self.teacher()
        delta = rest[-1]
        self.run_json("distill", model, *HYBRID, *rest)
        data = delta.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        info = json.loads(header["__metadata__"]["unbend.delta"])
        info["options"]["window"] = "wide"
        header["__metadata__"]["unbend.delta"] = json.dumps(info)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        delta.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        result = unbend("eval", model, "--adapter", delta, "--task", "passkey")
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn('"window" must be an integer', result.stderr)

    def test_eval_refuses_what_would_do_nothing(self):
        model, _ = self.teacher()
        for part, options in [("needs no text", ["--task", "mqar", "--text", "missing.txt"]),
                              ("needs no text", ["--task", "mqar", "--windows-file", "missing"]),
                              ("leave --windows out", ["--task", "mqar", "--windows", 3]),
                              ("either --windows-file or --text", ["--windows-file", "missing", "--text", "README.md"]),
                              ("task mqar has no --depth", ["--task", "mqar", "--depth", 0.5]),
                              ("task passkey has no --digits", ["--task", "passkey", "--digits", 5]),
                              ("task qa1 has no --pairs", ["--task", "qa1", "--pairs", 5, "--text", "docs"]),
                              ("--depth is of a --task", ["--text", "README.md", "--depth", 0.5]),
                              ("--count is of a --task", ["--text", "README.md", "--count", 5]),
                              ("--seed is of a --task", ["--text", "README.md", "--seed", 5]),
                              ("expected 0 to 1, or -1", ["--task", "niah1", "--depth", -7]),
                              ("expected 0 to 1, or -1", ["--task", "niah1", "--depth", "nan"])]:
            with self.subTest(options=options):
                result = unbend("eval", model, *options)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn(part, result.stderr)

    def test_a_model_without_a_loss_is_not_written(self):
        out = self.path / "lost.gguf"
        result = unbend("train", "--task", "recall-ids", "--length", 40, "--rows", 4, "--tokens", 320, "--quiet",
                        "--embedding-std", 1e39, "--out", out, *SMALL)  # beyond float: two steps, both skipped
        self.assertEqual(result.returncode, 4, result.stderr)
        self.assertRegex(result.stderr, r"\Aunbend: train: after 2 steps, 2 of them skipped, the loss is not finite: [^\n]+\n\Z")
        self.assertFalse(out.exists())

    def test_all_weights_train(self):
        model, delta = self.path / "text.gguf", self.path / "supra.safetensors"
        self.run_json("train", "--text", "README.md", "--length", 64, "--tokens", 4096, "--quiet", "--out", model, *SMALL)
        options = ["--recipe", "supra", "--text", "README.md", "--length", 64, "--stage", "all.tokens=2048", "--quiet",
                   "--threads", 1, "--out", delta]
        refused = unbend("distill", model, "--type", "bf16", *options)
        self.assertEqual(refused.returncode, 3, refused.stderr)
        self.assertIn("--type f32", refused.stderr)
        made = self.run_json("distill", model, "--type", "f32", *options)
        self.assertGreaterEqual(made["tokens"], 2048)
        self.assertGreater(delta.stat().st_size, model.stat().st_size / 2)  # whole weights
        text = ["--prompt", "The ", "--tokens", 8, "--backend", "torch", "--type", "f32", "--temperature", 0]
        tokens = self.run_json("generate", model, "--adapter", delta, *text)["tokens"]
        merged, rest = self.path / "merged.gguf", self.path / "rest.safetensors"
        self.run_json("merge", model, "--adapter", delta, "--out", merged, "--delta-out", rest)
        self.assertLess(rest.stat().st_size, delta.stat().st_size)
        self.assertEqual(self.run_json("generate", merged, "--adapter", rest, *text)["tokens"], tokens)
        student = self.path / "student.gguf"
        self.run_json("export", model, "--adapter", delta, "--out", student)
        for source in ([student], [model, "--adapter", delta]):  # by the engine
            result = self.run_json("generate", *source, "--prompt", "The ", "--tokens", 8, "--temperature", 0)
            self.assertEqual(result["tokens"], tokens)
        result = unbend("distill", model, "--type", "f32", *options, "--set", "qk_norm=true")
        self.assertEqual(result.returncode, 0, result.stderr)
        result = unbend("export", model, "--adapter", delta, "--out", self.path / "no.gguf")
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn("without normalise and qk_norm", result.stderr)
        self.assertFalse((self.path / "no.gguf").exists())
        result = unbend("generate", merged, "--adapter", delta, *text)
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn("another base model", result.stderr)

    def teacher(self):
        """A small model, and what `distill` needs beside it."""
        model = self.path / "small.gguf"
        self.run_json("train", "--text", "README.md", "--length", 64, "--tokens", 4096, "--quiet", "--out", model, *SMALL)
        return model, ["--text", "README.md", "--length", 64, "--type", "f32", "--threads", 1, "--quiet",
                       "--out", self.path / "student.safetensors"]

    def test_checkpoints_belong_to_their_settings(self):
        model, rest = self.teacher()
        call = ["distill", model, *HYBRID, *rest, "--checkpoints", self.path / "run"]
        lora = self.run_json(*call)["stages"][1]
        for field in ("weight_decay", "warmup", "floor", "clip", "top_k"):
            with self.subTest(field=field):
                result = unbend(*call, "--stage", f"lora.{field}={lora[field] / 2 or 0.5}")
                self.assertEqual(result.returncode, 3, result.stderr)
                self.assertIn("another run", result.stderr)
        self.assertEqual(unbend(*call).returncode, 0)  # as it was

    def test_stages_without_time_are_named(self):
        model, rest = self.teacher()
        result = unbend("distill", model, *HYBRID, *rest, "--seconds", 1e-9)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("no time for stage lora", result.stdout)

    def test_what_would_do_nothing_is_refused(self):
        model, rest = self.teacher()
        distill, adapter = ["distill", model, *rest], ["--adapter", self.path / "any.safetensors"]
        for code, part, call in [
                (2, "leave --recipe and --set out", [*distill, *adapter, "--recipe", "hybrid"]),
                (2, "leave --recipe and --set out", [*distill, *adapter, "--set", "window=8"]),
                (2, "leave --recipe and --set out", ["linearize", model, *adapter, "--set", "window=8", "--text", "README.md"]),
                (2, "stage lora has no warmup", [*distill, "--recipe", "liger", "--stage", "lora.warmup=0.2"]),
                (2, "stage transfer has no floor", [*distill, "--recipe", "lolcats", "--stage", "transfer.floor=0.2"]),
                (2, "schedule is cosine or plateau", [*distill, "--recipe", "liger", "--stage", "lora.schedule=step"]),
                (2, "kl cannot be -1", [*distill, *HYBRID, "--stage", "lora.kl=-1"]),
                (2, "top_k cannot be 0", [*distill, *HYBRID, "--stage", "lora.top_k=0"]),
                (2, "tokens cannot be nan", [*distill, *HYBRID, "--stage", "lora.tokens=nan"]),
                (2, "--validation", [*distill, "--validate-every", 5]),
                (2, "--held-out", ["train", "--text", "README.md", "--out", self.path / "a.gguf", "--validate-every", 5]),
                (2, "missing/log", [*distill, *HYBRID, "--log", self.path / "missing" / "log"]),
                (2, "--chat", ["generate", model, "--prompt", "A", "--system", "B"]),
                (2, "--adapter", ["logits", model, *adapter, "--backend", "llama", "--ids", "a.npy", "--out", "b.npy"]),
                (2, "lora_targets: 1", ["convert", model, "--set", "lora_targets=[1]", "--out", self.path / "c.safetensors"]),
                (3, "nothing to train", [*distill, "--recipe", "window", "--set", "lora_rank=0"]),
                (3, "nothing to train", [*distill, *HYBRID, "--set", "keep_every=1"])]:
            with self.subTest(part=part, call=call[2:]):
                result = unbend(*call)
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertIn(part, result.stderr.splitlines()[-1])
        self.assertFalse((self.path / "student.safetensors").exists())

    def test_places_for_results_are_tried_before_the_work(self):
        model, rest = self.teacher()
        nowhere, log = self.path / "missing" / "a", self.path / "log"
        text = ["--text", "README.md", "--threads", 1]
        for call in (["train", *text, "--log", log, "--out", nowhere], ["train", *text, "--log", log, "--out", self.path],
                     ["distill", model, *HYBRID, *text, "--log", log, "--out", nowhere],
                     ["linearize", model, *text, "--report", nowhere], ["compare", model, *text, "--report", nowhere],
                     ["curvature", model, *text, "--report", nowhere], ["tokens", model, "README.md", "--out", nowhere],
                     ["convert", model, "--out", nowhere],
                     ["merge", "no model", "--adapter", "b", "--out", self.path / "m", "--delta-out", nowhere]):
            with self.subTest(call=call):
                result = unbend(*call)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertRegex(result.stderr, r"\Aunbend: cannot write [^\n]+\n\Z")
        self.assertFalse(log.exists())

    def start(self, name, resumable=True):
        checkpoints = ["--checkpoints", self.path / name, "--checkpoint-seconds", "0"] if resumable else []
        return subprocess.Popen(
            [UNBEND, "lm", "train", "--task", "recall-ids", "--length", "40", "--rows", "16",
             "--tokens", "25600" if resumable else "100000000", "--out",
             self.path / f"{name}.gguf", "--name", "same", *checkpoints,
             "--log", self.path / f"{name}.log", "--quiet", *SMALL],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def steps(self, name):
        log = self.path / f"{name}.log"
        return log.read_text().count("\n") if log.exists() else 0

    def finish(self, name):
        process = self.start(name)
        error = process.communicate(timeout=300)[1]
        self.assertEqual(process.returncode, 0, error)
        return (self.path / f"{name}.gguf").read_bytes()

    def interrupt(self, process, name):
        """What the process says when it is interrupted after a few steps."""
        deadline = time.monotonic() + 200
        while self.steps(name) < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGINT)
        said = process.communicate(timeout=200)[0]
        self.assertEqual(process.returncode, 4)
        return said

    def test_a_run_without_checkpoints_promises_nothing(self):
        said = self.interrupt(self.start("lost", resumable=False), "lost")
        self.assertIn("begins anew", said)
        self.assertNotIn("to go on", said)

    def test_an_interrupted_run_ends_in_the_same_file(self):
        expected = self.finish("whole")
        self.assertEqual(self.steps("whole"), 40)
        self.assertIn("run the same command again", self.interrupt(self.start("interrupted"), "interrupted"))
        self.assertNotEqual((self.path / "interrupted.gguf").read_bytes(), expected)  # usable, but not done
        self.assertEqual(self.finish("interrupted"), expected)

    def test_mistakes_are_named(self):
        self.assert_refused(2, "no task 'niah'", "--task", "niah")
        self.assert_refused(2, "needs no text", "--task", "mqar", "--text", "README.md")
        self.assert_refused(2, "give either --text or --tokens-file", "--task", "qa1")
        self.assert_refused(2, "give either --text or --tokens-file")
        self.assert_refused(2, "257", "--task", "mqar", "--vocabulary", "100")
        self.assert_refused(3, "cannot share", "--task", "mqar", "--heads", "3", "--kv-heads", "2")
        self.assert_refused(3, "too short", "--task", "passkey", "--length", "20")
        self.assert_refused(2, "--tokens", "--task", "mqar", "--tokens", "0")
        self.assert_refused(2, "task passkey-ids has no --pairs", "--task", "passkey-ids", "--pairs", "2")
        self.assert_refused(2, "--digits is of a --task", "--text", "README.md", "--digits", "5")
        self.assert_refused(2, "expected 0 to 1, or -1", "--task", "passkey", "--depth", "-7")
        self.assert_refused(2, "--length must be 0 or more", "--task", "mqar", "--length", "-5")
        self.assert_refused(2, "--length must be 0 or more", "--text", "README.md", "--length", "-5")
        self.assert_refused(2, "--held-out is for training on text", "--task", "mqar", "--held-out", "-1")
        for option in ("--embedding-std", "--residual-gain"):
            for value in ("nan", "inf", "-2"):
                self.assert_refused(2, option, "--task", "mqar", option, value)
        self.assert_refused(3, "missing.gguf", "--task", "mqar", "--tokenizer", "missing.gguf")


if __name__ == "__main__":
    unittest.main()
