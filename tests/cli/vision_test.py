"""`vision train` and `vision eval` on folders of pictures and on arrays. Usage: vision_test.py UNBEND"""
import json
import random
import struct
import sys
import unittest
import zlib

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()
SMALL = ["--side", "8", "--width", "8", "--depth", "1", "--threads", "1", "--quiet"]



def png(rows):
    """Rows of (red, green, blue)."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    raw = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def npy(kind, shape, data):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


class Vision(VerbTestCase):
    program, verb = UNBEND, ("vision",)

    def pictures(self, name, count, classes=("blue", "red"), seed=1):
        """Noisy pictures of 12 x 10 in the colour of their class."""
        draw = random.Random(seed)
        colours = {"red": (200, 60, 60), "blue": (60, 60, 200), "green": (60, 200, 60)}
        for colour in classes:
            folder = self.path / name / colour
            folder.mkdir(parents=True)
            for i in range(count):
                pixel = lambda: tuple(max(0, min(255, c + draw.randint(-50, 50))) for c in colours[colour])
                (folder / f"{i}.png").write_bytes(png([[pixel() for _ in range(12)] for _ in range(10)]))
        return self.path / name

    def test_pictures(self):
        data, more = self.pictures("data", 30), self.pictures("more", 10, seed=2)
        for attention in ("soft++", "soft", "softmax"):
            net = self.path / "net.safetensors"
            made = self.run_json("train", data, "--attention", attention, "--batch", 16, "--out", net, *SMALL)
            self.assertEqual(made["classes"], ["blue", "red"])
            self.assertEqual((made["training"], made["held_out"]), (48, 12))
            self.assertEqual(made["accuracy"], 100)
            result = self.run_json("eval", net, more)
            self.assertEqual((result["images"], result["accuracy"]), (20, 100))
            self.assertEqual([c["class"] for c in result["classes"]], ["blue", "red"])
        first = net.read_bytes()
        again = self.run_verb("train", data, "--attention", "softmax", "--batch", 16, "--out", net, *SMALL)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(net.read_bytes(), first)  # the same run, the same bytes
        self.assertIn("100.0 % of 12 held-out images", again.stdout)
        moved = self.run_json("train", data, "--attention", "softmax", "--batch", 16, "--shift", 2, "--out", net, *SMALL)
        self.assertEqual((moved["shift"], moved["accuracy"]), (2, 100))
        self.assertNotEqual(net.read_bytes(), first)
        sizes = set()
        for landmarks in ("mean", "convolution", "random"):
            made = self.run_json("train", data, "--landmarks", landmarks, "--batch", 16, "--out", net, *SMALL)
            self.assertEqual((made["landmarks"], made["accuracy"]), (landmarks, 100))
            self.assertEqual(self.run_json("eval", net, more)["accuracy"], 100)
            sizes.add(made["weights"])
        self.assertEqual(len(sizes), 2)  # only the convolution has weights
        self.assertEqual(made["solver"], "cholesky")
        self.assertLess(made["inverse_residual"], 1e-2)
        text = self.run_verb("eval", net, more)
        self.assertIn("100.0 % of 20 images", text.stdout)
        # Only some of the classes; and one that it does not know.
        self.assertEqual(self.run_json("eval", net, self.pictures("reds", 3, ("red",)))["images"], 3)
        self.assert_refused(3, "no class 'green', only blue, red", "eval", net, self.pictures("others", 2, ("red", "green")))

    def test_newton_that_has_not_converged_is_named(self):
        # Queries of a fresh network are nearly equal, and their kernel is nearly singular: 20 steps are too few.
        data, net = self.pictures("data", 8), self.path / "net.safetensors"
        train = ("train", data, "--side", 16, "--width", 8, "--depth", 1, "--epochs", 1, "--batch", 8, "--threads", 1,
                 "--quiet", "--out", net, "--json")
        for solver, warned in (("newton", True), ("cholesky", False)):
            result = self.run_verb(*train, "--solver", solver)
            self.assertEqual(result.returncode, 0, result.stderr)
            made = json.loads(result.stdout)
            self.assertEqual(made["solver"], solver)
            self.assertEqual(made["inverse_residual"] > 1e-2, warned)
            self.assertEqual("use --solver cholesky" in result.stderr, warned)
            self.assertEqual(self.run_json("eval", net, data)["images"], 16)
        made = json.loads(self.run_verb(*train, "--attention", "softmax").stdout)
        self.assertEqual((made["solver"], made["inverse_residual"]), (None, None))

    def test_large_images(self):
        data, net = self.pictures("data", 2), self.path / "net.safetensors"
        for solver in ("cholesky", "newton"):
            made = self.run_json("train", data, "--side", 132, "--width", 8, "--depth", 1, "--epochs", 1, "--batch", 2,
                                 "--held-out", 0, "--solver", solver, "--quiet", "--out", net)
            self.assertEqual(made["side"], 132)
            self.assertEqual(self.run_json("eval", net, data)["images"], 4)

    def test_arrays(self):
        draw = random.Random(1)
        images = bytes(draw.randint(0, 100) + 120 * (i % 2) for i in range(40) for _ in range(64))
        data = self.path / "arrays"
        data.mkdir()
        (data / "images.npy").write_bytes(npy("|u1", (40, 8, 8), images))
        (data / "labels.npy").write_bytes(npy("<i8", (40,), struct.pack("<40q", *(i % 2 for i in range(40)))))
        net = self.path / "net.safetensors"
        made = self.run_json("train", data, "--out", net, "--batch", 8, "--held-out", 0, *SMALL)
        self.assertIsNone(made["accuracy"])
        self.assertEqual(made["classes"], ["0", "1"])
        self.assertEqual(self.run_json("eval", net, data)["accuracy"], 100)

    def test_mistakes_are_named(self):
        out = self.path / "refused.safetensors"
        train = ("train", "--out", out, *SMALL)
        self.assert_refused(3, "not a folder", *train, self.path / "missing")
        empty = self.path / "empty"
        empty.mkdir()
        self.assert_refused(3, "neither images.npy", *train, empty)
        (empty / "cats").mkdir()
        self.assert_refused(3, "cats: no PNG or JPEG", *train, empty)
        (empty / "cats" / "1.png").write_bytes(b"not a picture")
        self.assert_refused(3, "1.png: not a PNG or JPEG", *train, empty)
        (empty / "cats" / "1.png").write_bytes(png([[(1, 2, 3)]])[:60])
        self.assert_refused(3, "1.png: the picture is damaged", *train, empty)
        (empty / "cats" / "1.png").write_bytes(png([[(1, 2, 3)]]))
        self.assert_refused(3, "one class, 'cats'", *train, empty)
        data = self.pictures("data", 3)
        sides = ("train", data, "--out", out, "--quiet")
        self.assert_refused(3, "multiple of 2", *sides, "--side", 9)
        self.assert_refused(3, "multiple of 8", *sides, "--side", 20, "--stages", 3)
        self.assert_refused(3, "60 or 64", *sides, "--side", 62)  # a grid of 31, a prime
        self.assert_refused(3, "8 or 12", *sides, "--side", 10, "--landmarks", "convolution")
        self.assert_refused(2, "--solver newton", *train, data, "--attention", "softmax", "--solver", "newton")
        self.assert_refused(3, "do not divide a width", *train, data, "--heads", 3)
        self.assert_refused(2, "--attention", *train, data, "--attention", "hard")
        self.assert_refused(2, "--held-out", *train, data, "--held-out", 1)
        self.assert_refused(2, "--epochs", *train, data, "--epochs", 0)
        self.assert_refused(2, "there is no folder", "train", data, "--out", self.path / "none" / "net.safetensors", *SMALL)
        self.assertFalse(out.exists())
        self.assert_refused(3, "missing.safetensors", "eval", self.path / "missing.safetensors", data)
        (self.path / "text.safetensors").write_text("no network")
        self.assert_refused(3, "text.safetensors", "eval", self.path / "text.safetensors", data)


if __name__ == "__main__":
    unittest.main()
