#!/usr/bin/env python3
"""Files get their system calls patched by many processes that make a few calls each.

  short_processes.py --caisson PROGRAM

The shell runs by another file, so only the short processes make calls from busybox's text: some 16 traps each, fewer than
a worker counts before it reports one."""
import argparse
import os
import re
import subprocess
import sys
import unittest

OPTIONS = None
SHELL = "/bin/sh"
PROGRAM = "/bin/busybox"
LOOP = f"i=0; while [ $i -lt 400 ]; do {PROGRAM} true; i=$((i+1)); done; echo done"


class ShortProcesses(unittest.TestCase):
    def setUp(self):
        for program in (SHELL, PROGRAM):
            if not os.path.exists(program):
                self.skipTest(f"no {program}")
        if os.path.realpath(SHELL) == os.path.realpath(PROGRAM):
            self.skipTest(f"{SHELL} is {PROGRAM}")

    def run_loop(self, *options):
        done = subprocess.run([OPTIONS.caisson, "do", *options, "--", SHELL, "-c", LOOP], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False,
                              env={**os.environ, "CAISSON_LOG": "1"})
        self.assertEqual((done.returncode, done.stdout), (0, "done\n"), done.stderr)
        if "calls not patched: ENOSYS" in done.stderr:
            self.skipTest("this host does not allow mappings so low")
        name = re.escape(os.path.realpath(PROGRAM))
        return [int(count) for count in re.findall(rf"{name}: (\d+) calls patched", done.stderr)]

    def test_their_file_is_patched_once(self):
        counts = self.run_loop()
        self.assertEqual(len(counts), 1, "patched so many times")
        self.assertGreater(counts[0], 100)

    def test_not_where_nothing_shall_be(self):
        self.assertEqual(self.run_loop("--patch-calls-after", "0"), [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--caisson", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
