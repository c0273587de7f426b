"""`net parameterize`, `net coordcheck` and `net transfer`. Usage: net_test.py UNBEND"""
import json
import random
import struct
import subprocess
import sys
import unittest

from verb_test_case import VerbTestCase

UNBEND = sys.argv.pop()
SMALL = ["--base-width", "16", "--head-dim", "8", "--context", "12", "--rows", "4", "--threads", "1", "--quiet"]


def safetensors(path, shapes):
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


class Net(VerbTestCase):
    program, verb = UNBEND, ("net",)

    def text(self):
        draw = random.Random(1)
        words = ["ab", "cde", "fa", "bad", "feed"]
        path = self.path / "words.txt"
        path.write_text(" ".join(draw.choice(words) for _ in range(2000)))
        return path

    def test_own_transformer(self):
        rules = self.run_json("parameterize", "--width", 1024, "--depth", 32)
        self.assertEqual(rules["multipliers"],
                         {"input": 1.0, "residual": 0.0625, "logits": 0.25, "generation_logits": 0.25})
        self.assertEqual(len(rules["tensors"]), 2 + 32 * 12 + 3)
        hidden = next(t for t in rules["tensors"] if t["name"] == "blocks.31.up.weight")
        self.assertEqual((hidden["role"], hidden["lr"]), ("block_weight", 2 ** -10))
        self.assertAlmostEqual(hidden["weight_decay"], .4)
        self.assertAlmostEqual(hidden["init_std"], .01)
        self.assertAlmostEqual(hidden["eps"], 1.5625e-14, delta=1e-25)
        independent = self.run_json("parameterize", "--width", 1024, "--decay", "independent")
        self.assertEqual({t["weight_decay"] for t in independent["tensors"]}, {0, .1})
        nanogpt = self.run_json("parameterize", "--width", 1024, "--compat", "nanogpt")
        self.assertEqual(nanogpt["multipliers"]["generation_logits"], 1)
        text = self.run_verb("parameterize", "--width", 1024, "--depth", 32, "--report", self.path / "rules.html")
        self.assertRegex(text.stdout, r"block_weight +128 +0.01 +0.0009766 +0.4 +1.562e-14")
        self.assertIn("Learning rate of hidden weights", (self.path / "rules.html").read_text())

    def test_curves_over_depth(self):
        def curves(*arguments):
            result = self.run_verb("parameterize", *arguments, "--report", self.path / "rules.html")
            self.assertEqual(result.returncode, 0, result.stderr)
            return (self.path / "rules.html").read_text().split("Over depth</h2>")[1].split("Tensors</h2>")[0]
        plain = curves()
        self.assertIn("Learning rate of hidden weights", plain)
        self.assertEqual(curves("--skip", "blocks"), plain)  # those of this project's transformer, whatever the user's roles are
        self.assertEqual(curves("--alpha", 1), plain)
        self.assertNotEqual(curves("--alpha", .5), plain)
        self.assertNotEqual(curves("--alpha", 0, "--force"), plain)

    def test_own_file(self):
        shapes = {"wte.weight": [50, 48], "wpe.weight": [16, 48], "ln_f.weight": [48], "ln_f.bias": [48]}
        for i in range(6):
            shapes |= {f"h.{i}.ln_1.weight": [48], f"h.{i}.attn.c_attn.weight": [48, 144], f"h.{i}.attn.c_attn.bias": [144]}
        file = safetensors(self.path / "gpt2.safetensors", shapes)
        base = ("--base-width", 24, "--base-depth", 3)
        rules = self.run_json("parameterize", file, "--tied", *base)
        self.assertEqual((rules["width"], rules["depth"], rules["warnings"]), (48, 6, []))
        self.assertEqual({t["name"]: t["role"] for t in rules["tensors"]}["h.5.attn.c_attn.bias"], "block_bias")
        self.assertEqual(rules["multipliers"]["residual"], .5)
        self.assertIn("count blocks", self.run_verb("parameterize", file, "--depth", 12, *base).stdout)
        self.assert_refused(3, "two learning rates", "parameterize", file, "--tied", "--embedding-learning-rate", .1, *base)
        file = safetensors(self.path / "mask.safetensors", shapes | {"h.0.attn.bias": [1, 1, 4, 4], "cls": [48]})
        self.assert_refused(3, "2 tensors have no role", "parameterize", file, *base)
        rules = self.run_json("parameterize", file, "--skip", "attn.bias", "--role", "cls=embedding", *base)
        self.assertEqual(rules["tensors"][-1]["role"] if rules["tensors"][-1]["name"] == "cls" else
                         {t["name"]: t["role"] for t in rules["tensors"]}["cls"], "embedding")

    def test_own_gguf(self):
        file = self.path / "model.gguf"
        made = subprocess.run([UNBEND, "lm", "train", "--task", "mqar", "--length", "64", "--pairs", "2", "--rows", "2",
                               "--tokens", "100", "--layers", "2", "--hidden", "32", "--heads", "2", "--head-dim", "16",
                               "--ffn", "64", "--quiet", "--out", file], capture_output=True, text=True)
        self.assertEqual(made.returncode, 0, made.stderr)
        rules = self.run_json("parameterize", file, "--base-width", 16, "--base-depth", 1)
        self.assertEqual((rules["width"], rules["depth"]), (32, 2))
        self.assertEqual({t["name"]: t["role"] for t in rules["tensors"]}["blk.1.attn_q.weight"], "block_weight")

    def test_coordinates(self):
        result = self.run_json("coordcheck", self.text(), "--sizes", "2,4,8", "--steps", 3, "--learning-rate", .01,
                               "--parameterization", "sp,completep", "--report", self.path / "check.html", *SMALL)
        self.assertEqual([p["name"] for p in result["parameterizations"]], ["sp", "completep"])
        sp, complete = result["parameterizations"]
        self.assertEqual([q["name"] for q in complete["quantities"]], ["stream", "attention", "perceptron", "logits"])
        self.assertEqual([len(row) for row in complete["quantities"][0]["size"]], [4, 4, 4])
        self.assertGreater(sp["quantities"][0]["change_exponent"], complete["quantities"][0]["change_exponent"] + .3)
        self.assertEqual(len(complete["laziness"]), 3)
        self.assertIn("Laziness", (self.path / "check.html").read_text())

    def test_transfer(self):
        arguments = ("transfer", self.text(), "--axis", "width", "--sizes", "16,32", "--rates", "2^-6,0.0001", "--steps", 20,
                     "--parameterization", "completep", *SMALL)
        result = self.run_json(*arguments, "--report", self.path / "transfer.html")
        self.assertEqual(result["rates"], [2 ** -6, .0001])
        for size in result["parameterizations"][0]["sizes"]:
            self.assertEqual(size["best_rate"], 2 ** -6)
            self.assertEqual(size["excess_percent"], 0)
            self.assertLess(size["loss"][0], size["loss"][1])
        self.assertEqual(self.run_json(*arguments), result)
        self.assertIn("Loss over learning rates", (self.path / "transfer.html").read_text())
        self.assertIn("2^-6", self.run_verb(*arguments).stdout)

    def test_mistakes_are_named(self):
        text = self.text()
        self.assert_refused(3, "outside of [1/2, 1]", "parameterize", "--alpha", .3)
        self.assert_refused(3, "outside of [1/2, 1]", "parameterize", "--alpha", 0)
        self.assertEqual(self.run_verb("parameterize", "--alpha", .3, "--force").returncode, 0)
        self.assert_refused(2, "does not have", "parameterize", "--alpha", .7, "--parameterization", "mup")
        self.assert_refused(3, "heads of 32 where the base has 64", "parameterize", "--head-dim", 32, "--base-head-dim", 64)
        self.assert_refused(3, "above 0", "parameterize", "--base-depth", 0)
        self.assert_refused(3, "norms after", "parameterize", "--post-norm")
        self.assert_refused(2, "PART=ROLE", "parameterize", "--role", "cls")
        self.assert_refused(2, "no role 'token'", "parameterize", "--role", "cls=token")
        self.assert_refused(3, "missing.safetensors", "parameterize", self.path / "missing.safetensors")
        self.assert_refused(2, "does not come after", "coordcheck", text, "--sizes", "4,2", *SMALL)
        self.assert_refused(3, "heads of 8 do not divide a width of 20", "transfer", text, "--axis", "width", "--sizes", "20",
                            *SMALL)
        self.assert_refused(2, "--rates", "transfer", text, "--rates", "2^", *SMALL)
        self.assert_refused(2, "--rates", "transfer", text, "--rates", "-1", *SMALL)
        self.assert_refused(2, "comes twice", "transfer", text, "--rates", "2^-7,0.0078125", *SMALL)
        (self.path / "one.txt").write_text("aaaaaaa")
        self.assert_refused(3, "windows of 12", "transfer", self.path / "one.txt", *SMALL)
        self.assert_refused(3, "missing.txt", "coordcheck", self.path / "missing.txt", *SMALL)
        for verb in (("parameterize",), ("coordcheck", text, *SMALL), ("transfer", text, *SMALL)):
            self.assert_refused(2, "there is no folder", *verb, "--report", self.path / "none" / "report.html")


if __name__ == "__main__":
    unittest.main()
