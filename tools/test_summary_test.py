"""Tests of tools/test_summary.py: what fails is never counted as passed."""

import os
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_summary.py")
XML = """<testsuite><testcase name="a" status="run"/>
<testcase name="b" status="{status}">{inner}</testcase></testsuite>"""


class SummaryTest(unittest.TestCase):
    def run_with(self, *arguments, status="run", inner=""):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "junit.xml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(XML.format(status=status, inner=inner))
            done = subprocess.run([sys.executable, PROGRAM, *arguments, f"tree={path}"],
                                  capture_output=True, text=True)
            return done.returncode, done.stdout.strip()

    def test_counts(self):
        self.assertEqual(self.run_with(), (0, "2 passed, 0 failed, 0 skipped"))
        self.assertEqual(self.run_with(status="fail", inner='<failure message=""/>'),
                         (1, "1 passed, 1 failed, 0 skipped"))
        self.assertEqual(self.run_with(status="notrun", inner='<skipped message="no root"/>'),
                         (0, "1 passed, 0 failed, 1 skipped"))

    def test_a_failed_step_fails_the_run(self):
        self.assertEqual(self.run_with("--failed", "lint"), (1, "2 passed, 1 failed, 0 skipped"))

    def test_no_test_at_all_fails(self):
        done = subprocess.run([sys.executable, PROGRAM, "tree=/nonexistent"], capture_output=True,
                              text=True)
        self.assertEqual((done.returncode, done.stdout.strip()), (1, "0 passed, 0 failed, 0 skipped"))


if __name__ == "__main__":
    unittest.main()
