"""What tests of verbs share: a folder of their own, running the program, answers in JSON, refusals in one line."""
import json
import subprocess
import tempfile
import unittest
from pathlib import Path


class VerbTestCase(unittest.TestCase):
    program = None  # the `unbend` program
    verb = ()       # words before every call's arguments

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="unbend-test-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)

    def run_verb(self, *arguments):
        return subprocess.run([self.program, *self.verb, *map(str, arguments)], capture_output=True, text=True,
                              timeout=300)

    def run_json(self, *arguments, **options):  # of a verb's own run_verb
        result = self.run_verb(*arguments, "--json", **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def assert_refused(self, code, part, *arguments, **options):
        result = self.run_verb(*arguments, **options)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertRegex(result.stderr, r"\Aunbend: [^\n]+\n\Z")
        self.assertIn(part, result.stderr)
