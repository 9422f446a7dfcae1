"""Tests of the bench harness with a stand-in for `caisson` that runs the program natively."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("CAISSON_BENCH_BUILD", os.path.join(os.path.dirname(HERE), "build"))
STAND_IN = """#!/bin/sh
[ "$1" = do ] && [ "$2" = -- ] || exit 125
shift 2
%s
exec "$@"
"""


class BenchTest(unittest.TestCase):
    def bench(self, *arguments, body="", caisson=True):
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "caisson")
            if caisson:
                with open(program, "w", encoding="utf-8") as file:
                    file.write(STAND_IN % body)
                os.chmod(program, 0o755)
            out = os.path.join(folder, "out.json")
            done = subprocess.run([sys.executable, os.path.join(HERE, "run.py"), "--build", BUILD,
                                   "--caisson", program, "--pairs", "2", "--json", out, *arguments],
                                  capture_output=True, text=True)
            document = None
            if os.path.exists(out):
                with open(out, encoding="utf-8") as file:
                    document = json.load(file)
            return done, document

    def test_timed_row(self):
        done, document = self.bench("getppid")
        self.assertEqual(done.returncode, 0, done.stderr)
        row = document["rows"][0]
        self.assertEqual(len(row["native"]["samples"]), 2)
        self.assertEqual(len(row["inside"]["samples"]), 2)
        self.assertTrue(0.2 < row["ratio"] < 5, row)
        self.assertIn("getppid", done.stdout)
        self.assertGreater(document["machine"]["cpus"], 0)

    def test_whole_run_on_one_cpu(self):
        done, document = self.bench("true", "--one-cpu")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(document["one_cpu"])
        self.assertEqual(document["rows"][0]["met"], "yes")

    def test_failure_inside_is_no_figure(self):
        done, document = self.bench("lseek", body="echo broken >&2; exit 3")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(document["rows"][0]["inside"], {"failed": "exit 3: broken"})
        self.assertNotIn("ratio", document["rows"][0])
        self.assertEqual(document["rows"][0]["met"], "")

    def test_without_a_kernel(self):
        done, document = self.bench("lseek", "idle", "idle_memory", caisson=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("inside", document["rows"][0])
        self.assertIn("not_available", document["rows"][2])
        self.assertIn("native figures only", done.stderr)

    def test_idle_and_busy(self):
        _, quiet = self.bench("idle", "--idle-seconds", "1")
        self.assertEqual(quiet["rows"][0]["inside"]["median"], 0)
        _, busy = self.bench("idle", "--idle-seconds", "1",
                             body="(while :; do :; done) & exec \"$@\"")
        self.assertGreater(busy["rows"][0]["inside"]["median"], 10)

    def test_memory_and_steadiness(self):
        done, document = self.bench("idle_memory", "fork_steady", "--forks", "100")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = {row["name"]: row for row in document["rows"]}
        self.assertGreater(rows["idle_memory"]["inside"]["median"], 0)
        self.assertEqual(len(rows["fork_steady"]["inside"]["memory_kib"]), 10)

    def test_unknown_row(self):
        done, document = self.bench("no_such_row")
        self.assertEqual((done.returncode, document), (2, None))

    def test_every_row_names_a_benchmark(self):
        listed = subprocess.run([os.path.join(BUILD, "bench", "caisson_bench"), "--list"],
                                capture_output=True, text=True, check=True).stdout.split()
        with open(os.path.join(HERE, "rows.tsv"), encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file if line[0] != "#"]
        timed = {row[2] for row in rows if row[1].startswith("micro")}
        self.assertEqual(timed, set(listed))
        self.assertTrue(all(len(row) == 6 for row in rows))


if __name__ == "__main__":
    unittest.main()
