"""An installed Unbend serves programs that know nothing of its build tree. Usage: embed_test.py CMAKE BUILD UNBEND MODEL

Installs the package, moves it, builds examples/embed against it and compares what the programs say with the command.
"""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CMAKE, BUILD, UNBEND, MODEL = sys.argv[1:]
ROOT = Path(__file__).resolve().parents[1]
QUESTION = "What is a sliding window?"


def output(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        raise AssertionError(f"{command} gave {result.returncode}:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return result.stdout


class Embed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="unbend-embed-")
        cls.addClassCleanup(folder.cleanup)
        path = Path(folder.name)
        cls.prefix, cls.build = path / "moved", path / "build"
        output(CMAKE, "--install", BUILD, "--prefix", path / "installed", "--component", "unbend")
        (path / "installed").rename(cls.prefix)
        output(CMAKE, "-G", "Ninja", "-S", ROOT / "examples/embed", "-B", cls.build, "-DCMAKE_BUILD_TYPE=Release",
               f"-DCMAKE_PREFIX_PATH={cls.prefix}")
        output(CMAKE, "--build", cls.build)

    def test_the_package_does_not_name_our_folders(self):
        files = [file for file in self.prefix.rglob("*") if file.suffix in {".cmake", ".h"}]
        self.assertIn("unbendConfig.cmake", {file.name for file in files})
        self.assertIn("unbend.h", {file.name for file in files})
        for file in files:
            self.assertNotIn(str(ROOT), file.read_text(encoding="utf-8"), file)

    def test_both_languages_say_what_the_command_says(self):
        expected = json.loads(output(UNBEND, "lm", "generate", MODEL, "--chat", "--prompt", QUESTION, "--tokens", "32",
                                     "--temperature", "0", "--threads", "1", "--json"))["text"]
        self.assertGreater(len(expected), 20)
        for program in ("embed", "embed_c"):
            self.assertEqual(output(self.build / program, MODEL, QUESTION), expected + "\n")

    def test_errors_are_told(self):
        for program in ("embed", "embed_c"):
            result = subprocess.run([self.build / program, "/nowhere/a.gguf", "x"], capture_output=True, text=True)
            self.assertEqual(result.returncode, 3)
            self.assertRegex(result.stderr, f"^{program}: .*/nowhere/a.gguf.*\n$")
            self.assertEqual(subprocess.run([self.build / program], capture_output=True).returncode, 2)


if __name__ == "__main__":
    if not Path(MODEL).exists():
        print(f"{MODEL} is not there: tools/setup.sh model")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
