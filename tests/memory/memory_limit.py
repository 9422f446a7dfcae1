#!/usr/bin/env python3
"""At the memory limit one guest process ends, is reported, and the others go on.

  memory_limit.py --caisson PROGRAM --eater GUEST"""
import argparse
import re
import subprocess
import sys
import unittest

OPTIONS = None
REPORT = re.compile(r"caisson: warning: out of memory: killed process \d+ \(memory_eater\), which used (\d+) kB "
                    r"\(oom_score_adj (-?\d+)\) of the sandbox's (\d+) kB")
KILLED = "eater killed 9"
NEIGHBOURS = ["neighbour ended 0"] * 2


class MemoryLimit(unittest.TestCase):
    def run_eater(self, mode, memory="96M"):
        done = subprocess.run([OPTIONS.caisson, "do", "--memory", memory, "--", OPTIONS.eater, mode],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

    def expect(self, mode, killed, kills):
        status, out, err = self.run_eater(mode)
        self.assertEqual((status, out), (0, killed + NEIGHBOURS + [f"oom_kill {kills}"]), err)
        self.assertEqual(len(err), kills, err)
        return [REPORT.fullmatch(line) for line in err]

    def test_the_process_that_touches_too_much_ends_alone(self):
        (report,) = self.expect("touch", [KILLED], 1)
        self.assertIsNotNone(report)
        self.assertGreater(int(report[1]), 60 * 1024)
        self.assertEqual(report[3], str(96 * 1024))

    def test_a_call_that_fills_memory_is_no_error(self):
        self.expect("read", [KILLED], 1)

    def test_threads_that_meet_the_limit_together_end_one_process(self):
        self.expect("threads", [KILLED], 1)

    def test_oom_score_adj_decides(self):
        (report,) = self.expect("protected", ["favourite killed 9", "big ended 0"], 1)
        self.assertEqual(report[2], "900")

    def test_copies_of_memory_that_a_fork_shares_meet_the_limit(self):
        self.expect("fork", ["child killed 9", "eater ended 0"], 1)

    def test_a_signal_frame_that_meets_the_limit_is_no_fault(self):
        self.expect("frames", [KILLED], 1)

    def test_a_signal_frame_waits_for_the_memory_of_another(self):
        (report,) = self.expect("protected_frames", ["favourite killed 9", "big ended 0"], 1)
        self.assertEqual(report[2], "900")

    def test_what_a_call_has_taken_is_not_lost(self):
        (report,) = self.expect("protected_calls", ["favourite killed 9", "big ended 0"], 1)
        self.assertEqual(report[2], "900")

    def test_what_is_kept_warm_is_given_back_first(self):
        self.expect("parked", ["eater ended 0"], 0)

    def test_memory_comes_back_each_time(self):
        self.expect("again", [KILLED] * 5, 5)

    def test_the_program_itself_may_be_the_one(self):
        status, _, err = self.run_eater("alone")
        self.assertEqual(status, 128 + 9, err)
        self.assertRegex("\n".join(err), REPORT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--caisson", required=True)
    parser.add_argument("--eater", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])
