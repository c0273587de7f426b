"""tools/layering.py catches what it should and nothing else."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "layering.py"


def check(files):
    """Runs the script on a tree of `files` (path: one include line); gives exit code and lines."""
    with tempfile.TemporaryDirectory() as folder:
        for path, include in files.items():
            target = pathlib.Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"// first line\n{include}\n", encoding="utf-8")
        result = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
        return result.returncode, result.stdout.splitlines()


class Layering(unittest.TestCase):
    def test_downward_includes_pass(self):
        self.assertEqual(check({
            "unbend/base/a.cc": '#include "unbend/methods.def"',
            "unbend/engine/a.h": '#include "unbend/base/error.h"',
            "unbend/attention/a.h": "#include <ATen/ATen.h>",
            "unbend/nets/a.cc": '#include "unbend/attention/a.h"',
            "unbend/lm/a.h": '#include "unbend/engine/gguf.h"',
            "unbend/lm/b.cc": "#include <torch/torch.h>",
            "studies/a.cc": '#include "unbend/lm/recipe.h"',
            "cli/a.cc": '#include "studies/study.h"',
            "tests/lm/a.cc": '#include "unbend/base/error.h"',
        }), (0, []))

    def test_each_violation_is_found_with_its_place(self):
        for path, include, word in [
            ("unbend/base/a.cc", '#include "unbend/tensor/check.h"', "unbend/tensor"),
            ("unbend/engine/a.cc", "#include <ATen/ATen.h>", "LibTorch"),
            ("unbend/engine/a.h", "#  include <torch/types.h>", "LibTorch"),
            ("unbend/engine/a.cc", '#include "unbend/lm/decoder.h"', "unbend/lm"),
            ("unbend/capi/a.cc", '#include "unbend/serve/scheduler.h"', "unbend/serve"),
            ("examples/embed/a.c", '#include "cli/verbs.h"', "cli"),
            ("unbend/attention/a.cc", '#include "unbend/calculus/linearize.h"', "unbend/calculus"),
            ("unbend/attention/deep/a.cu", '#include "unbend/nets/mlp.h"', "unbend/nets"),
            ("unbend/lm/a.h", '#include "unbend/diffusion/denoiser.h"', "unbend/diffusion"),
            ("unbend/lm/a.h", "#include <torch/torch.h>", "public header"),
            ("unbend/lm/a.cc", '#include "studies/study.h"', "studies"),
            ("unbend/tensor/a.cc", '#include "cli/verbs.h"', "cli"),
            ("studies/a.cc", '#include "cli/verbs.h"', "cli"),
            ("unbend/surprise/a.cc", "#include <vector>", "known folder"),
        ]:
            with self.subTest(path=path, include=include):
                code, lines = check({path: include})
                self.assertEqual(code, 1)
                self.assertEqual(len(lines), 1)
                self.assertTrue(lines[0].startswith(f"{path}:2: "), lines[0])
                self.assertIn(word, lines[0])


if __name__ == "__main__":
    unittest.main()
