"""`lm distill` killed or interrupted at any step goes on to the same weights. Usage: resume_test.py UNBEND MODEL"""
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

MODEL = sys.argv.pop()
UNBEND = sys.argv.pop()
STEPS = 4 + 6  # of 64 tokens: transfer, then LoRA


def tensors(path):
    """The bytes behind a safetensors file's header, and the header's tensors (its metadata tells how long things took)."""
    data = Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return header, data[8 + size :]


class Resume(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="unbend-resume-")
        self.path = Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def start(self, name):
        return subprocess.Popen(
            [UNBEND, "lm", "distill", MODEL, "--recipe", "hybrid", "--set", "window=16", "--text", "README.md",
             "--length", "64", "--rows", "1", "--stage", "transfer.tokens=256", "--stage", "lora.tokens=384",
             "--threads", "1", "--checkpoints", self.path / name, "--checkpoint-seconds", "0", "--quiet",
             "--log", self.path / f"{name}.log", "--out", self.path / f"{name}.safetensors"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def steps(self, name):
        log = self.path / f"{name}.log"
        return log.read_text().count("\n") if log.exists() else 0

    def stop_at(self, name, step, how):
        process = self.start(name)
        deadline = time.monotonic() + 300
        while self.steps(name) < step and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, how)
        process.communicate(timeout=300)
        return process.returncode

    def finish(self, name):
        process = self.start(name)
        error = process.communicate(timeout=300)[1]
        self.assertEqual(process.returncode, 0, error)
        return tensors(self.path / f"{name}.safetensors")

    def test_killed_and_interrupted_runs_reach_the_same_weights(self):
        expected = self.finish("whole")
        self.assertEqual(self.steps("whole"), STEPS)

        for step in (2, 5, 8):  # in the first stage, at the start of the second, late in it
            self.assertEqual(self.stop_at("killed", step, signal.SIGKILL), -signal.SIGKILL)
            self.assertFalse((self.path / "killed.safetensors").exists(), "something half-written is left")
        self.assertEqual(self.finish("killed"), expected)

        self.assertEqual(self.stop_at("interrupted", 5, signal.SIGINT), 4)
        self.assertEqual(tensors(self.path / "interrupted.safetensors")[0], expected[0])  # usable as it is
        self.assertEqual(self.finish("interrupted"), expected)
        self.assertLess(self.steps("interrupted"), STEPS + 2, "it began again instead of going on")


if __name__ == "__main__":
    if not Path(MODEL).exists():
        print(f"skipped: {MODEL} is missing (tools/setup.sh model)")
        sys.exit(77)
    unittest.main()
