"""`measure embed|distance|interpolate|barycenter|pca` on CSV, PLY, .npy and pictures. Usage: measure_test.py UNBEND"""
import math
import random
import struct
import sys
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()


class Measure(VerbTestCase):
    program, verb = UNBEND, ("measure",)

    def file(self, name, rows):
        path = self.path / name
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        return path

    def cloud(self, name, x, n=40, outliers=0):
        draw = random.Random(name)
        rows = [[draw.gauss(x, 1), draw.gauss(0, 1)] for _ in range(n)] + [[draw.uniform(80, 90), 50] for _ in range(outliers)]
        return self.file(name, rows)

    def test_worked_example(self):
        files = [self.file(f"{k}.csv", [[x] for x in xs]) for k, xs in enumerate(([.2, 1.1, 6], [.9, 2.5, 3.2, 9]))]
        reference = self.file("reference.csv", [[0], [1], [2], [3]])
        found = self.run_json("distance", *files, "--lambda", 1, "--reference", reference, "--exact")
        self.assertAlmostEqual(found["matrix"][0][1], 5.04, 12)
        self.assertAlmostEqual(found["exact"][1][0], 5.04, 12)
        self.assertEqual(found["matrix"][0][0], 0)
        embedded = self.run_json("embed", *files, "--lambda", 1, "--reference", reference, "--out", self.path / "f.csv")
        self.assertEqual(embedded["features"], 4)
        rows = [list(map(float, line.split(","))) for line in (self.path / "f.csv").read_text().split()]
        for got, wanted in zip(rows[0] + rows[1], [.2, .1, 0, 0, 0, -.1, .5, .2]):
            self.assertAlmostEqual(got, wanted, 12)

    def test_clouds_with_outliers(self):
        files = [self.cloud(f"{k}.csv", k, outliers=k) for k in range(4)]
        report, out = self.path / "report.html", self.path / "d.npy"
        found = self.run_json("distance", *files, "--lambda", 8, "--report", report, "--out", out)
        self.assertLess(found["matrix"][0][1], found["matrix"][0][3])
        self.assertIn("(4, 4)", out.read_bytes()[:128].decode("latin1"))
        page = report.read_text()
        for part in ("Measures", "nothing moves further than 4", "<svg", "classical scaling"):
            self.assertIn(part, page)
        text = self.run_verb("distance", *files, "--lambda", 8).stdout
        self.assertIn("out of", self.run_verb("embed", *files, "--lambda", 8).stdout)
        self.assertIn("3.csv", text)
        mean = self.path / "mean.csv"
        self.run_json("barycenter", *files, "--lambda", 8, "--reference-size", 20, "--out", mean)
        self.assertEqual(len(mean.read_text().split()), 20)
        for method in ("lot", "hk"):
            self.assertEqual(len(self.run_json("distance", *files, "--lambda", 8, "--method", method, "--reference-size", 10)["matrix"]), 4)

    def test_interpolation_and_components(self):
        a, b = self.cloud("a.csv", 0), self.cloud("b.csv", 2, outliers=5)
        found = self.run_json("interpolate", a, b, "--lambda", 8, "--steps", 3, "--out", self.path / "frames", "--report", self.path / "way.html")
        self.assertEqual([round(f["mass"], 9) for f in found["frames"]], [40, 42.5, 45])
        self.assertEqual(len(list((self.path / "frames").iterdir())), 3)
        self.assertIn("t = 0.50", (self.path / "way.html").read_text())
        found = self.run_json("pca", *(self.cloud(f"p{k}.csv", k / 4) for k in range(8)), "--lambda", 8, "--reference-size", 15,
                              "--labels", self.file("labels.csv", [[k % 2] for k in range(8)]), "--report", self.path / "pca.html")
        self.assertEqual(len(found["scores"]), 8)
        first = [row[0] for row in found["scores"]]
        self.assertGreater(abs(first[7] - first[0]), abs(first[1] - first[0]))  # the clouds move along a line
        self.assertIn("Along component 1", (self.path / "pca.html").read_text())

    def test_files_of_other_kinds(self):
        ply = self.path / "scan.ply"
        ply.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
                        + struct.pack("<9f", *range(9)))
        csv = self.file("scan.csv", [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
        self.assertAlmostEqual(self.run_json("distance", ply, csv, "--lambda", 5)["matrix"][0][1], 0, 9)
        ply.write_bytes(ply.read_bytes()[:-3])
        self.assert_refused(3, "scan.ply: the file ends at offset", "embed", ply)

    def test_circle(self):
        a, b = self.file("a.csv", [[23]]), self.file("b.csv", [[2]])
        found = self.run_json("distance", a, b, "--space", "circle", "--period", 24, "--exact")
        self.assertAlmostEqual(found["matrix"][0][1], 3 / 24, 12)
        self.assertAlmostEqual(found["exact"][1][0], 3 / 24, 12)
        mean = self.path / "mean.csv"
        self.run_json("barycenter", a, b, "--space", "circle", "--period", 24, "--out", mean)
        self.assertAlmostEqual(float(mean.read_text().split(",")[0]), .5, 9)
        middle = self.path / "frames"
        self.run_json("interpolate", a, b, "--space", "circle", "--period", 24, "--steps", 3, "--out", middle, "--report", self.path / "c.html")
        self.assertAlmostEqual(float((middle / "frame_001.csv").read_text().split(",")[0]), .5, 9)
        bins = [self.file(f"h{k}.csv", [[1 if j == k else 0] for j in range(8)]) for k in range(3)]
        found = self.run_json("distance", *bins, "--space", "circle", "--histogram")
        self.assertTrue(2 / 8 <= found["matrix"][0][2] < .26)  # LCOT is above the length of the turn, and near it
        self.assertEqual(self.run_json("embed", *bins, "--space", "circle", "--histogram", "--nodes", 50)["features"], 50)
        self.assertEqual(len(self.run_json("pca", *bins, "--space", "circle", "--histogram", "--report", self.path / "p.html")["scores"]), 3)
        self.assertGreaterEqual((self.path / "p.html").read_text().count(bins[0].name), 3)  # table, plot and picture

    def test_an_embedding_starts_at_its_reference(self):
        reference, rows = self.file("r.csv", [[.1], [.25], [.8]]), self.path / "e.csv"
        self.run_json("embed", reference, "--space", "circle", "--period", 1, "--reference", reference, "--nodes", 6, "--out", rows)
        for e in rows.read_text().split(","):
            self.assertAlmostEqual(float(e), 0, 12)

    def test_sphere(self):
        files = [self.file(f"s{k}.csv", [[math.cos(k + i / 9), math.sin(k + i / 9), .1] for i in range(5)]) for k in range(3)]
        found = self.run_json("distance", *files, "--space", "sphere", "--circles", 50)["matrix"]
        self.assertLess(found[0][1], found[0][2])

    def test_refusals(self):
        good = self.file("good.csv", [[1, 2], [3, 4]])
        self.assert_refused(3, "bad.csv, line 2: the mass is -1", "embed", self.file("bad.csv", [[1, 1], [1, -1]]), "--masses", "column")
        self.assert_refused(3, "bad.csv, line 1: number 2 is nan", "embed", self.file("bad.csv", [[1, "nan"]]))
        self.assert_refused(3, "bad.csv: points of 3 dimensions, those before have 2", "embed", good, self.file("bad.csv", [[1, 2, 3]]))
        self.assert_refused(3, "lambda is -1", "embed", good, "--lambda=-1")
        self.assert_refused(3, "lambda is 1e+308: too large", "embed", good, "--lambda", 1e308)
        self.assert_refused(3, "--lambda is needed", "embed", self.file("far.csv", [[1e200, 1], [-1e200, 1]]))
        self.assert_refused(3, "no mass", "embed", self.file("bad.csv", [[1, 2, 0]]), "--masses", "column")
        self.assert_refused(3, "total mass is 0", "embed", self.file("bad.csv", [[1, 0]]), "--masses", "column", "--space", "circle")
        self.assert_refused(3, "value 0 is 350, beyond one turn of 6.28", "embed", self.file("bad.csv", [[350]]), "--space", "circle")
        self.assert_refused(3, "2 columns, where angles are expected", "embed", good, "--space", "circle")
        self.assert_refused(3, "point 0 is the origin", "embed", self.file("bad.csv", [[0, 0, 0]]), "--space", "sphere")
        self.assert_refused(3, "p is 0.5", "distance", self.file("one.csv", [[1]]), "--space", "circle", "--p", .5)
        self.assert_refused(2, "needs two measures", "interpolate", good)
        self.assert_refused(2, "--p, --period and --histogram are for", "embed", good, "--p", 1)
        self.assert_refused(2, "--lambda is for", "embed", good, "--space", "sphere", "--lambda", 1)
        self.assert_refused(2, "--reference is for", "embed", good, "--space", "sphere", "--reference", good)
        self.assert_refused(2, "there is no folder", "embed", good, "--report", self.path / "no" / "a.html")
        self.assert_refused(3, "cannot open", "embed", self.path / "none.csv")
        self.assert_refused(3, "2 weights for 1 measures", "barycenter", good, "--weights", 1, 2)


if __name__ == "__main__":
    unittest.main()
