"""Tests of tools/coverage.py: a right table passes, each kind of wrong row is named."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import coverage  # noqa: E402

HEAD = "seed\tkind\tname\twhere\ttest\n"


class CoverageTest(unittest.TestCase):
    def problems(self, rows):
        files = {
            "docs/coverage.tsv": HEAD + "".join("\t".join(row) + "\n" for row in rows),
            "docs/coverage_names.tsv": "seed\tkind\tname\ns\tfunc\tNew\ns\tfunc\tOld\n",
            "docs/design.md": "## Where we differ\n",
            "a/a.h": "class Systrap { static int create(); };\n",
            "a/a_test.cc": "TEST(Systrap, Creates) {}\n",
        }
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                    file.write(text)
            return coverage.check(root)[0]

    NEW = ("s", "func", "New", "a/a.h:Systrap::create", "a/a_test.cc:Systrap.Creates")

    def test_right_rows(self):
        old = ("s", "func", "Old", "decision:Where we differ", "a/a_test.cc")
        self.assertEqual(self.problems([self.NEW, old]), [])

    def test_wrong_rows(self):
        def with_(**changes):
            row = dict(zip(coverage.COLUMNS, self.NEW))
            row.update(changes)
            return tuple(row.values())
        for row, words in [
                (with_(where="a/b.h:Systrap"), "no file a/b.h"),
                (with_(where="a/a.h:Systrap::make"), "a/a.h has no Systrap::make"),
                (with_(where="a/a.h"), "no symbol given"),
                (with_(where="decision:Elsewhere"), "no heading 'Elsewhere'"),
                (with_(test="a/a_test.cc:Systrap.Dies"), "has no test Systrap.Dies"),
                (with_(test="a/b_test.cc"), "no test file a/b_test.cc"),
                (with_(test=""), "no test file"),
                (with_(name="Newer"), "has no func Newer"),
                (self.NEW[:4], "4 columns")]:
            found = self.problems([row])
            self.assertEqual(len(found), 1, (row, found))
            self.assertIn(words, found[0])

    def test_order_and_doubles(self):
        old = ("s", "func", "Old", "a/a.h:Systrap", "a/a_test.cc")
        self.assertIn("not sorted", self.problems([old, self.NEW])[0])
        self.assertIn("stands twice", self.problems([self.NEW, self.NEW])[0])


if __name__ == "__main__":
    unittest.main()
