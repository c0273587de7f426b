"""The command line as a user meets it: exit codes, one-line errors, help with examples, JSON. Usage: cli_test.py UNBEND"""
import functools
import json
import re
import subprocess
import sys
import unittest

UNBEND = sys.argv.pop(1)


def unbend(*arguments, **options):
    return subprocess.run([UNBEND, *arguments], capture_output=True, text=True, timeout=120, **options)


@functools.cache
def help_of(verb):
    return unbend(*verb, "--help")


def verbs(prefix=()):
    """Every verb with its path, found by reading help: ("methods",), ("lm", "convert"), ..."""
    found = []
    text = help_of(prefix).stdout
    section = re.search(r"^Subcommands:\n((?:  .*\n?)+)", text, re.MULTILINE)
    for name in re.findall(r"^  (\S+)", section.group(1), re.MULTILINE) if section else []:
        found.append((*prefix, name))
        found += verbs((*prefix, name))
    return found


class CommandLine(unittest.TestCase):
    def assert_refused(self, result, code, *parts):
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertRegex(result.stderr, r"\Aunbend: [^\n]+\n\Z")
        for part in parts:
            self.assertIn(part, result.stderr)

    def test_version(self):
        result = unbend("--version")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"\Aunbend \d+\.\d+\.\d+\n\Z")

    def test_every_verb_has_help_with_examples(self):
        found = verbs()
        self.assertIn(("methods",), found)
        self.assertIn(("study",), found)
        for verb in [(), *found]:
            with self.subTest(verb=" ".join(verb)):
                result = help_of(verb)
                self.assertEqual((result.returncode, result.stderr), (0, ""))
                self.assertIn("Usage: unbend", result.stdout)
                examples = re.split(r"^Examples?:\n", result.stdout, flags=re.MULTILINE)
                self.assertEqual(len(examples), 2, "no examples")
                self.assertRegex(examples[1], r"^  \S*unbend" + "".join(" " + word for word in verb))

    def test_every_leaf_verb_has_json(self):
        found = verbs()
        leaves = [v for v in found if not any(other[: len(v)] == v and other != v for other in found)]
        for verb in leaves:
            with self.subTest(verb=" ".join(verb)):
                self.assertIn("--json", help_of(verb).stdout)

    def test_bad_usage_is_one_line_and_exit_code_2(self):
        self.assert_refused(unbend(), 2, "needs a verb", "methods", "unbend --help")
        self.assert_refused(unbend("methodz"), 2, "no verb 'methodz'", "did you mean 'methods'?", "unbend --help")
        self.assert_refused(unbend("qqqqqqqqq"), 2, "no verb 'qqqqqqqqq'; see")
        self.assert_refused(unbend("methods", "--jsn"), 2, "no option '--jsn'", "'--json'", "unbend methods --help")
        self.assert_refused(unbend("methods", "extra"), 2, "takes no argument 'extra'")
        self.assert_refused(unbend("study"), 2, "SLUG", "unbend study --help")
        self.assert_refused(unbend("study", "liger", "--seeds", "0"), 2, "--seeds")
        self.assert_refused(unbend("study", "liger", "--seeds", "many"), 2, "--seeds")
        self.assert_refused(unbend("study", "liger", "--out"), 2, "--out")
        self.assert_refused(unbend("policy", "train", "--seed", "-1"), 2, "--seed", "-1 is below 0")

    def test_study_of_unknown_and_planned_methods(self):
        self.assert_refused(unbend("study", "ligr"), 2, "'ligr'", "did you mean 'liger'?")
        self.assert_refused(unbend("study", "zzzzzz"), 2, "no method 'zzzzzz'; ")
        planned = [m["slug"] for m in json.loads(unbend("methods", "--json").stdout)["methods"] if m["status"] == "planned"]
        for slug in planned[:1]:
            self.assert_refused(unbend("study", slug), 2, "planned")

    def test_methods(self):
        text = unbend("methods")
        self.assertEqual((text.returncode, text.stderr), (0, ""))
        listed = json.loads(unbend("methods", "--json").stdout)["methods"]
        self.assertEqual(len(listed), 35)
        self.assertEqual(set(listed[0]), {"slug", "name", "title", "authors", "venue", "arxiv", "foundation", "status"})
        lines = text.stdout.splitlines()
        self.assertEqual([line.split()[0] for line in lines[2:]], [m["slug"] for m in listed])
        self.assertLessEqual(max(map(len, lines)), 120)

    def test_full_disk_is_reported(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([UNBEND, "methods"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
        self.assertEqual(result.returncode, 4)
        self.assertRegex(result.stderr, r"\Aunbend: [^\n]*No space left[^\n]*\n\Z")


if __name__ == "__main__":
    unittest.main()
