#!/usr/bin/env python3
"""Runs a program natively and, given --caisson, inside, and compares standard output and exit status.

  compare.py [--status N] [--skip-unless FILE] [--caisson FILE [--one-cpu]] -- CMD...

The native run must end with N. A death by signal S counts as 128+S, as in a shell. Exit 77: skipped."""
import argparse
import os
import signal
import subprocess
import sys
import tempfile

STANDARD_INPUT = b"first line\nsecond line\n\nlast line, no newline"
SKIPPED = 77


def run(command, directory, timeout_s):
    """(status, stdout, stderr); kills the whole session at the timeout."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": directory, "LC_ALL": "C",
                   "TMPDIR": "/tmp"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, cwd="/", env=environment,
                          start_new_session=True) as process:
        try:
            out, err = process.communicate(STANDARD_INPUT, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return None, out, err
        status = process.returncode
        return (status if status >= 0 else 128 - status), out, err


def show(title, text, limit=4000):
    print(f"--- {title}")
    print(text.decode(errors="replace")[:limit])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--status", type=int, default=0)
    parser.add_argument("--skip-unless")
    parser.add_argument("--timeout", type=float, default=25)
    parser.add_argument("--caisson", help="run inside, with this program")
    parser.add_argument("--one-cpu", action="store_true")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    prefix = [args.caisson, "do", "--"] if args.caisson else []
    if args.one_cpu:
        prefix = ["taskset", "-c", "0"] + prefix
    if "/" in args.command[0]:
        args.command[0] = os.path.abspath(args.command[0])
    if args.skip_unless and not os.path.exists(args.skip_unless):
        print(f"skipped: {args.skip_unless} is not there")
        return SKIPPED
    with tempfile.TemporaryDirectory() as directory:
        native = run(args.command, directory, args.timeout)
        if native[0] != args.status:
            print(f"native run: status {native[0]}, want {args.status}")
            show("native output", native[1])
            show("native errors", native[2])
            return 1
        if not args.caisson:
            return 0
        inside = run(prefix + args.command, directory, args.timeout)
    if inside[:2] == native[:2]:
        return 0
    print(f"status: native {native[0]}, inside {'timeout' if inside[0] is None else inside[0]}")
    if inside[1] != native[1]:
        show("native output", native[1])
        show("inside output", inside[1])
    show("inside errors", inside[2])
    print("again: " + " ".join(prefix + args.command))
    return 1


if __name__ == "__main__":
    sys.exit(main())
