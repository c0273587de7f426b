"""`online` on libsvm, VW and CSV streams: learning, going on, bad lines, predictions. Usage: online_test.py UNBEND"""
import json
import math
import random
import re
import signal
import subprocess
import sys
import time
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()


def rows(count, seed=1, libsvm=True):
    random.seed(seed)
    lines = []
    for _ in range(count):
        values = [round(random.gauss(0, 1), 3) for _ in range(6)]
        label = 1 if values[0] - values[1] + .3 * random.gauss(0, 1) > 0 else -1
        lines.append(f"{label} " + " ".join(f"{i}:{v}" for i, v in enumerate(values)) if libsvm else
                     f"{label}," + ",".join(map(str, values)))
    return lines


class Online(VerbTestCase):
    program, verb = UNBEND, ("online",)

    def file(self, name, lines):
        path = self.path / name
        path.write_text("".join(line + "\n" for line in lines))
        return path

    def test_learn_and_predict(self):
        data, model, out = self.file("rows.svm", rows(3000)), self.path / "model", self.path / "out"
        found = self.run_json("train", data, "--model", model, "--report", self.path / "report.html")
        self.assertEqual(found["rows"], 3000)
        self.assertLess(found["rates"][0]["wrong"], .12)
        self.assertIn("Online learning", (self.path / "report.html").read_text())
        result = self.run_verb("predict", self.file("new.svm", rows(500, 2)), "--model", model, "--out", out)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("500 rows", result.stderr)
        probabilities = [float(line) for line in out.read_text().split()]
        labels = [int(line.split()[0]) for line in rows(500, 2)]
        right = sum((p > .5) == (y > 0) for p, y in zip(probabilities, labels))
        self.assertGreater(right, 440)
        self.assertTrue(all(0 <= p <= 1 for p in probabilities))

    def test_resume_gives_the_same_bits(self):
        lines = rows(4000)
        whole, half, model = self.file("whole.svm", lines), self.file("half.svm", lines[:1500]), self.path / "model"
        self.run_json("train", whole, "--model", self.path / "straight")
        self.run_json("train", half, "--model", model)
        self.file("half.svm", lines)  # the stream has grown
        self.assertEqual(self.run_json("train", half, "--model", model, "--resume")["rows"], 4000)
        self.assertEqual(model.read_bytes(), (self.path / "straight").read_bytes())
        self.assert_refused(2, "--resume goes on", "train", half, "--model", model)
        for other in (lines[:10], ["1 0:1.25"] + lines):
            self.assert_refused(3, "this is not the stream that was learnt", "train", self.file("other.svm", other), "--model", model,
                                "--resume")
        self.assertEqual(model.read_bytes(), (self.path / "straight").read_bytes())

    def test_a_model_goes_on_as_it_was_learnt(self):
        data, model, report = self.file("rows.svm", rows(300)), self.path / "model", self.path / "report.html"
        command = ("train", data, "--model", model, "--resume", "--loss", "hinge", "--rate", "0.50", "--zero-one", "--features", 6)
        data.write_text(data.read_text().replace("-1 ", "0 "))
        for _ in range(2):  # one command starts and goes on
            self.assertEqual(self.run_json(*command)["rows"], 300)
        self.run_json("train", data, "--model", self.path / "next", "--from", model, "--report", report)
        self.assertIn("hinge loss, proximal updates, adagrad schedule", report.read_text())
        for option, value, learnt in (("--loss", "logistic", "hinge"), ("--rate", 2, "0.5"), ("--features", 7, "6"), ("--l1", 1, "0"),
                                      ("--format", "csv", "libsvm"), ("--schedule", "sqrt", "adagrad")):
            self.assert_refused(2, f"{option} is {learnt} in {model}", "train", data, "--model", model, "--resume", option, value)
            self.assert_refused(2, f"{option} is {learnt} in {model}", "train", data, "--model", self.path / "other", "--from", model,
                                option, value)
        self.assert_refused(2, f"--softmax is false in {model}", "train", data, "--model", model, "--resume", "--softmax")

    def test_standard_input_interrupted(self):
        model, lines = self.path / "model", rows(2100)
        process = subprocess.Popen([UNBEND, "online", "train", "-", "--model", model, "--quiet", "--save-every", "500"],
                                   stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdin.write("\n".join(lines[:2000]) + "\n1 0:1 1:")  # half a line is no row
        process.stdin.flush()
        deadline = time.monotonic() + 120
        while not model.exists() and time.monotonic() < deadline:
            time.sleep(.05)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)  # standard input stays open: its end is not what stops the work
        message = process.communicate()[1]
        self.assertEqual(process.returncode, 4, message)
        learnt = int(re.search(r"interrupted after (\d+) rows", message).group(1))
        self.assertGreaterEqual(learnt, 500)
        # What comes next goes on from there, to the same bits.
        rest = subprocess.run([UNBEND, "online", "train", "-", "--model", model, "--resume", "--json"],
                              input="\n".join(lines[learnt:]), capture_output=True, text=True, timeout=300)
        straight = self.run_json("train", self.file("whole.svm", lines), "--model", self.path / "straight")
        self.assertEqual(json.loads(rest.stdout)["rates"], straight["rates"])

    def test_bad_lines(self):
        lines = rows(50)
        lines[20:20] = ["1 3:abc"]
        lines[30:30] = ["7 1:1"]
        data, model = self.file("bad.svm", lines), self.path / "model"
        self.assert_refused(3, "line 21: column 3", "train", data, "--model", model)
        found = self.run_json("train", data, "--model", model, "--resume", "--skip-bad")
        self.assertEqual((found["rows"], found["bad_lines"], found["first_bad"]["line"]), (50, 2, 21))
        straight = self.run_json("train", data, "--model", self.path / "straight", "--skip-bad")
        self.assertEqual(straight["rates"], found["rates"])
        out = self.path / "out"
        self.assert_refused(3, "line 21", "predict", data, "--model", model, "--out", out)
        self.assertEqual(list(self.path.glob("*.part")) + list(self.path.glob("out")), [])
        self.assert_refused(3, "line 21", "predict", data, "--model", model)
        printed = self.run_verb("predict", data, "--model", model, "--skip-bad").stdout.split("\n")
        self.assertEqual((len(printed), printed[20]), (53, ""))
        self.assertGreater(float(printed[30]), 0)  # its label is a place holder
        lines[20] = lines[19]
        data = self.file("label.svm", lines)
        found = self.run_json("predict", data, "--model", model, "--out", out)
        self.assertEqual((found["rows"], found["bad_lines"], found["unscored"]), (52, 0, 1))
        del lines[30]
        known = self.run_json("predict", self.file("known.svm", lines), "--model", model, "--out", out)
        self.assertEqual((found["mean_loss"], found["wrong"]), (known["mean_loss"], known["wrong"]))
        self.assertEqual(self.run_json("predict", data, "--model", model, "--unlabelled", "--out", out), {"rows": 52, "bad_lines": 0})

    def test_sweep_and_formats(self):
        data = self.file("rows.csv", ["y,a,b,c,d,e,f"] + rows(2000, libsvm=False))
        found = self.run_json("sweep", data, "--loss", "hinge", "--schedule", "sqrt", "--report",
                              self.path / "sweep.html")
        self.assertEqual(len(found["rates"]), 8)
        self.assertLess(found["rates"][0]["mean_loss"], .5)  # 1e-4: stable
        linear = self.run_json("sweep", data, "--loss", "squared", "--update", "linear", "--schedule", "sqrt")
        self.assertGreater(linear["rates"][0]["diverged_at"], 0)
        self.assertIsNone(linear["rates"][0]["mean_loss"])
        swept = {rate["rate"]: rate["mean_loss"] for rate in self.run_json("sweep", data)["rates"]}
        for rate in (.01, 1):  # train takes what sweep finds
            alone = self.run_json("train", data, "--rate", rate, "--model", self.path / f"rate {rate}")
            self.assertAlmostEqual(alone["rates"][0]["mean_loss"], swept[rate], places=12)
        self.assertIn("<svg", self.path.joinpath("sweep.html").read_text().lower() + "<svg")
        names = [f"{line.split()[0]} |x " + " ".join(f"n{f}" for f in line.split()[1:]) for line in rows(2000)]
        found = self.run_json("train", self.file("rows.vw", names), "--bits", 10, "--model", self.path / "vw")
        self.assertLess(found["rates"][0]["wrong"], .2)

    def test_classes(self):
        random.seed(3)
        lines = []
        for _ in range(2000):
            label = random.randrange(3)
            x, y = math.cos(2.1 * label) + .3 * random.gauss(0, 1), math.sin(2.1 * label) + .3 * random.gauss(0, 1)
            lines.append(f"{label},{x},{y}")
        data = self.file("c.csv", lines)
        for extra in ((), ("--softmax",)):
            model = self.path / f"model{len(extra)}"
            found = self.run_json("train", data, "--classes", 3, "--model", model, *extra)
            self.assertLess(found["rates"][0]["wrong"], .08)
            self.assertIn(self.run_verb("predict", data, "--model", model).stdout.split("\n")[0], "012")

    def test_refusals(self):
        data, model = self.file("rows.svm", rows(10)), self.path / "model"
        self.assert_refused(2, "--model is needed", "train", data)
        self.assert_refused(3, "cannot be opened", "train", self.path / "none", "--model", model)
        self.assert_refused(2, "--rate", "train", data, "--model", model, "--rate", 0)
        self.assert_refused(3, "tau must lie in (0, 1)", "train", data, "--model", model, "--loss", "quantile")
        self.assert_refused(3, "use adagrad-norm", "train", data, "--model", model, "--domain", "ball")
        self.assert_refused(3, "there are no rows", "train", self.file("empty.svm", []), "--model", model)
        self.assert_refused(3, "line 1: column 3", "train", self.file("bad.svm", ["1 0:x"]), "--model", model)
        self.assertFalse(model.exists())  # nothing was learnt
        nowhere = self.path / "none" / "file"
        self.assert_refused(2, "there is no folder", "train", data, "--model", nowhere)
        self.assert_refused(2, "there is no folder", "train", data, "--model", model, "--report", nowhere)
        self.assertFalse(model.exists())  # it is said first
        self.run_json("train", data, "--model", model)
        self.assert_refused(2, "it is a folder", "predict", data, "--model", model, "--out", self.path)
        model.unlink()
        self.assert_refused(3, "not a saved online learner", "predict", data, "--model", self.zeros())
        self.assert_refused(3, "label 0 is not -1 or 1", "train", self.file("z.svm", ["0 1:1"]), "--model", self.path / "z")

    def zeros(self):
        path = self.path / "other"
        path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        return path


if __name__ == "__main__":
    unittest.main()
