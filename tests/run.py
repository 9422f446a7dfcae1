#!/usr/bin/env python3
"""Runs one behaviour test program, natively or inside, and keeps its promises:
nothing outlives it, a hang names its test, expected failures are shown with their reason.

  run.py --mode MODE [--expectations FILE] [--timeout S] [--each] [--caisson FILE [--one-cpu] [--do-option OPTION]] -- PROGRAM [gtest flags]
  run.py --mode MODE --expected-failure TEST --reason TEXT [--caisson FILE [--one-cpu] [--do-option OPTION]] -- PROGRAM

With --caisson the program runs inside, on CPU 0 alone with --one-cpu. With --each every test runs as a process of its own.
With --expected-failure one test runs that should fail: 77 (skipped, with the reason) if it does; a test that
passes must lose its line in the expectations."""
import argparse
import os
import re
import signal
import subprocess
import sys

SKIPPED = 77


def words_before(args):
    """What runs the program inside."""
    if not args.caisson:
        return []
    return (["taskset", "-c", "0"] if args.one_cpu else []) + [args.caisson, "do", *args.do_option, "--"]


def expected_failures(path, program, mode):
    """{test pattern: reason} of this program in this mode."""
    found = {}
    if not path:
        return found
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            words = line.split(None, 3)
            if len(words) != 4:
                sys.exit(f"{path}:{number}: want PROGRAM TEST MODE reason")
            if words[0] == program and words[2] in ("*", mode):
                found[words[1]] = words[3]
    return found


def run(command, timeout_s, quiet=False):
    """Returns (exit status or None at the timeout, output)."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = None
    text = output.decode(errors="replace")
    if not quiet:
        sys.stdout.write(text)
    return status, text


def describe(status):
    if status is None:
        return "did not end in time"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def list_tests(program, flags):
    text = subprocess.run([program, "--gtest_list_tests", *flags], check=True,
                          capture_output=True, text=True).stdout
    suite, tests = "", []
    for line in text.splitlines():
        name = line.split("#")[0].rstrip()
        if not name.startswith(" "):
            suite = name
        elif suite:
            tests.append(suite + name.strip())
    return tests


def run_each(prefix, program, flags, skips, timeout_s):
    """One line per test; full output of those that fail."""
    bad = 0
    for test in list_tests(program, flags):
        reason = skips.get(test) or skips.get(test.split(".")[0] + ".*")
        if reason:
            print(f"SKIP {test}: {reason}")
            continue
        command = prefix + [program, f"--gtest_filter={test}", "--gtest_brief=1"]
        status, text = run(command, timeout_s, quiet=True)
        if status == 0:
            print(f"ok   {test}", flush=True)
            continue
        bad += 1
        print(f"FAIL {test}: {describe(status)}")
        print("     | " + "\n     | ".join(text.splitlines()[-40:]), flush=True)
    return bad


def run_expected_failure(args, program):
    status, _ = run(words_before(args) + [program, f"--gtest_filter={args.expected_failure}"], 10, quiet=True)
    if status == 0 and not args.reason.startswith("flaky:"):
        print(f"{args.expected_failure} passes now: remove its line from the expectations")
        return 1
    print(f"expected failure ({describe(status)}): {args.reason}")
    return SKIPPED


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", required=True)
    parser.add_argument("--expectations")
    parser.add_argument("--timeout", type=float, default=55)
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--caisson", help="run inside, with this program")
    parser.add_argument("--one-cpu", action="store_true")
    parser.add_argument("--do-option", action="append", default=[], help="of caisson do, such as --do-option=--strace")
    parser.add_argument("--expected-failure")
    parser.add_argument("--reason", default="")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    program, flags = args.command[0], args.command[1:]
    prefix = words_before(args)
    if args.expected_failure:
        return run_expected_failure(args, program)
    skips = expected_failures(args.expectations, os.path.basename(program), args.mode)
    if args.each:
        return 1 if run_each(prefix, program, flags, skips, min(args.timeout, 15)) else 0
    skip_flags = [f"--skip={test}={reason}" for test, reason in skips.items()]
    command = prefix + [program, *skip_flags, *flags]
    status, text = run(command, args.timeout)
    if status == 0 and "[  PASSED  ]" not in text:
        print("the program ended with 0 but never reported its tests")
        status = 1
    if status != 0:
        started = re.findall(r"\[ RUN      \] (\S+)", text)
        ended = set(re.findall(r"\[ *(?:OK|FAILED|SKIPPED) *\] ([^\s,]+)", text))
        open_tests = [test for test in started if test not in ended]
        print(f"{describe(status)}" + (f" while running {open_tests[-1]}" if open_tests else ""))
        print("again: " + " ".join(command))
    return 0 if status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
