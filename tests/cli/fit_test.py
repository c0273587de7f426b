"""`fit` on CSV tables: regressions, curves, comparison, refusals. Usage: fit_test.py UNBEND"""
import math
import random
import sys
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()


class Fit(VerbTestCase):
    program, verb = UNBEND, ("fit",)

    def file(self, name, rows):
        path = self.path / name
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        return path

    def two_classes(self, separable=False):
        random.seed(1)
        rows = []
        for _ in range(300):
            x = [random.gauss(0, 1) for _ in range(3)]
            rows.append(x + [int(x[0] + .5 * x[1] + (0 if separable else random.gauss(0, 1)) > 0)])
        return self.file("two.csv", rows)

    def test_logistic(self):
        data = self.two_classes()
        found = self.run_json("logistic", data, "--ridge", .01, "--compare")
        self.assertEqual(found["outcome"], "converged")
        self.assertGreater(found["accuracy"], .7)
        values = [method["value"] for method in found["methods"]]
        self.assertLess(max(values) - min(values), 1e-9)
        self.assertLess(found["iterations"], 15)
        for hessian in ("fisher", "diagonal", "product", "zero"):
            other = self.run_json("logistic", data, "--ridge", .01, "--hessian", hessian)
            self.assertAlmostEqual(other["value"], found["value"], 10)
        separable = self.run_json("logistic", self.two_classes(True), "--max-iterations", 60, "--tolerance", 0)
        self.assertNotEqual(separable["outcome"], "converged")
        self.assertTrue(all(map(math.isfinite, separable["weights"][0])))

    def test_softmax(self):
        random.seed(2)
        rows = []
        for _ in range(300):
            label = random.randrange(3)
            rows.append([math.cos(2.1 * label) + .4 * random.gauss(0, 1), math.sin(2.1 * label) + .4 * random.gauss(0, 1), label])
        report, out = self.path / "r.html", self.path / "w.npy"
        found = self.run_json("softmax", self.file("three.csv", rows), "--ridge", .01, "--report", report, "--out", out)
        self.assertGreater(found["accuracy"], .9)
        self.assertIn("what the theory guarantees", report.read_text())
        self.assertIn("(3, 3)", out.read_bytes()[:128].decode("latin1"))

    def test_classes_are_words(self):
        random.seed(4)
        rows = [["size", "kind", "weight"]]
        for _ in range(200):
            kind = random.choice(["cat", "dog", "mouse"])
            size = {"cat": 2, "dog": 4, "mouse": 1}[kind]
            rows.append([size + .1 * random.gauss(0, 1), kind, size ** 2 + random.gauss(0, 1)])
        found = self.run_json("softmax", self.file("pets.csv", rows), "--column", 1, "--ridge", .001)
        self.assertEqual(found["classes"], ["cat", "dog", "mouse"])
        self.assertGreater(found["accuracy"], .95)
        numbers = self.file("x.csv", [[row[0], row[2]] for row in rows[1:]])
        places = self.file("y.csv", [[found["classes"].index(row[1])] for row in rows[1:]])
        same = self.run_json("softmax", numbers, "--target", places, "--ridge", .001)
        self.assertEqual((same["weights"], same.get("classes")), (found["weights"], None))
        for name in ([], [["kind"]]):  # a name of the column, or none
            words = self.file("words.csv", name + [[f'"{row[1]}"'] for row in rows[1:]])
            self.assertEqual(self.run_json("softmax", numbers, "--target", words, "--ridge", .001)["weights"], found["weights"])
        two = self.file("two.csv", [row for row in rows if row[1] != "mouse"])
        self.assertGreater(self.run_json("logistic", two, "--column", 1, "--ridge", .001)["weights"][0][0], 0)  # dogs are larger
        self.assertIn("positive for 'dog'", self.run_verb("logistic", two, "--column", 1, "--ridge", .001).stdout)
        self.assert_refused(3, "or two words", "logistic", self.file("pets.csv", rows), "--column", 1)
        self.assert_refused(3, "line 3: there is no class", "softmax", self.file("gap.csv", [[1, "a"], [2, "b"], [3, ""]]))

    def test_curves(self):
        random.seed(3)
        xs = [.1 + .04 * i for i in range(100)]
        data = self.file("decay.csv", [["t", "y"]] + [[x, 3 * math.exp(-1.2 * x) + .5 + .01 * random.gauss(0, 1)] for x in xs])
        found = self.run_json("least-squares", data, "--curve", "exponential")
        for value, truth in zip(found["weights"][0], (3, -1.2, .5)):
            self.assertAlmostEqual(value, truth, 1)
        self.assertGreater(found["r2"], .99)
        exact = self.run_json("least-squares", data, "--curve", "exponential", "--hessian", "exact")
        self.assertAlmostEqual(exact["value"], found["value"], 12)
        text = self.run_verb("least-squares", data, "--curve", "exponential").stdout
        self.assertIn("standard error", text)
        line = self.run_json("least-squares", self.file("line.csv", [[2 * i + 1, i] for i in range(5)]), "--column", 0)
        self.assertAlmostEqual(line["weights"][0][0], 2, 6)

    def test_refusals(self):
        data = self.two_classes()
        self.assert_refused(3, "labels must be 0 and 1", "logistic", data, "--column", 0)
        self.assert_refused(3, "no column 9", "logistic", data, "--column", 9)
        self.assert_refused(3, "line 2", "logistic", self.file("bad.csv", [[1, 0], ["x", 1]]))
        self.assert_refused(3, "is nan", "logistic", self.file("nan.csv", [[1, 0], ["nan", 1]]))
        self.assert_refused(3, "not 0, 1", "softmax", self.file("half.csv", [[1, .5], [2, 1]]))
        self.assert_refused(2, "--start needs 3", "least-squares", self.file("c.csv", [[1, 2], [2, 3]]), "--curve", "power", "--start", 1)
        self.assert_refused(2, "--power", "least-squares", data, "--power", 1)
        self.assert_refused(2, "--ridge: Value -1 is out of range", "logistic", data, "--ridge", -1)
        self.assert_refused(3, "tolerances must be numbers", "logistic", data, "--tolerance", "nan")
        self.assert_refused(3, "not finite at the start", "softmax", self.file("huge.csv", [[1e200, 0], [-1e200, 1]]))
        self.assert_refused(3, "one column", "least-squares", data, "--curve", "gaussian")
        for option in ("--out", "--report"):
            self.assert_refused(2, "there is no folder", "logistic", data, option, self.path / "none" / "out")


if __name__ == "__main__":
    unittest.main()
