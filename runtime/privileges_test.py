#!/usr/bin/env python3
"""What each thread of a running sandbox may do: nothing beyond its filter.

privileges_test.py CAISSON   starts a program inside and reads /proc/PID/task/*/status of the kernel process and of the stubs.
"""
import os
import signal
import subprocess
import sys
import time

NONE = "0000000000000000"
WANTED = {"CapPrm": NONE, "CapEff": NONE, "CapInh": NONE, "CapAmb": NONE, "NoNewPrivs": "1", "Seccomp": "2"}


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            found += [int(word) for word in file.read().split()]
    return found


def fields(pid, task):
    with open(f"/proc/{pid}/task/{task}/status", encoding="ascii", errors="replace") as file:
        return {name: value.strip() for name, value in (line.split(":", 1) for line in file)}


def problems(pid, wanted):
    """Sentences about threads that have more, and how many threads there are."""
    tasks = os.listdir(f"/proc/{pid}/task")
    found = []
    for task in tasks:
        status = fields(pid, task)
        found += [f"{status['Name']} {task}: {name} is {status[name]}" for name in wanted if status[name] != wanted[name]]
    return found, len(tasks)


def main():
    launcher = subprocess.Popen([sys.argv[1], "do", "--", "/bin/busybox", "sleep", "100"], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        kernels = stubs = []
        # Once a stub runs, the kernel process has all its threads and its filter.
        while len(stubs) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            kernels = children(launcher.pid)
            stubs = [stub for kernel in kernels for stub in children(kernel)]
            stubs += [stub for zygote in stubs for stub in children(zygote)]
        found = [] if len(kernels) == 1 and stubs else [f"kernel processes {kernels}, stubs {stubs}"]
        for kernel in kernels:
            # A caller that may not change its bounding set has no capability to begin with.
            wanted = dict(WANTED, CapBnd=NONE) if os.geteuid() == 0 else WANTED
            more, threads = problems(kernel, wanted)
            found += more
            if threads < 2:
                found.append("the kernel process has a single thread: this says nothing")
        for stub in stubs:
            found += problems(stub, WANTED)[0]
        print("\n".join(found) or f"{len(kernels)} kernel process, {len(stubs)} children of it: all right")
        return 1 if found else 0
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()


if __name__ == "__main__":
    sys.exit(main())
