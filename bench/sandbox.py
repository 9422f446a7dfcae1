"""Runs one command for bench/run.py, and looks at the processes of a sandbox from outside."""

import os
import select
import signal
import statistics
import subprocess
import tempfile
import time


def on_one_cpu():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def reason(returncode, stderr):
    """One line that says why a command failed."""
    lines = [line for line in stderr.strip().split("\n") if line]
    why = f"signal {-returncode}" if returncode < 0 else f"exit {returncode}"
    return f"{why}: {lines[-1][:100]}" if lines else why


def run(command, one_cpu=False, timeout=60):
    """A CompletedProcess, or a sentence when the command failed."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, preexec_fn=on_one_cpu if one_cpu else None)
    except subprocess.TimeoutExpired:
        return f"no end after {timeout:g} s"
    except OSError as error:
        return str(error)
    return done if done.returncode == 0 else reason(done.returncode, done.stderr)


def stat_fields(pid):
    """The fields of /proc/PID/stat after the name; None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree_of(root):
    """A process and all its descendants."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(name)
            if fields:
                children.setdefault(int(fields[1]), []).append(int(name))
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children.get(pid, [])
    return found


def ticks_of(root):
    """CPU ticks, user and system, of a process tree; reaped children are in their parents' sums."""
    total = 0
    for pid in tree_of(root):
        fields = stat_fields(pid)
        if fields:
            total += sum(int(field) for field in fields[11:15])
    return total


def private_kib(root):
    total = 0
    for pid in tree_of(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
                total += sum(int(line.split()[1]) for line in file
                             if line.startswith(("Private_Clean:", "Private_Dirty:")))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return total


class Held:
    """A command that prints lines and lives until the end of the block.

    Its whole process group is ended; what left the group and still holds the pipe is not waited for.
    """

    def __init__(self, command):
        self.command = command

    def __enter__(self):
        self.pending = b""
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.errors,
                                        start_new_session=True)
        return self

    def __exit__(self, *_):
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, how)
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    pass
        self.process.stdout.close()
        self.errors.close()

    def line(self, timeout):
        """The next line, or '' at the end of output or of patience."""
        pipe = self.process.stdout.fileno()
        end = time.monotonic() + timeout
        while b"\n" not in self.pending:
            readable, _, _ = select.select([pipe], [], [], max(0, end - time.monotonic()))
            data = os.read(pipe, 4096) if readable else b""
            if not data:
                return ""
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode() + "\n"

    def failure(self):
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            return {"failed": "no answer"}
        self.errors.seek(0)
        return {"failed": reason(self.process.returncode, self.errors.read())}


def idle_ticks(command, seconds):
    with Held(command) as held:
        if held.line(timeout=20) != "ready\n":
            return held.failure()
        time.sleep(1)  # what follows the start is not idling
        before = ticks_of(held.process.pid)
        time.sleep(seconds)
        if held.process.poll() is not None:
            return held.failure()
        return {"median": float(ticks_of(held.process.pid) - before), "seconds": seconds}


def idle_memory(command):
    with Held(command) as held:
        if held.line(timeout=20) != "ready\n":
            return held.failure()
        time.sleep(0.5)
        return {"median": private_kib(held.process.pid) / 1024,
                "processes": len(tree_of(held.process.pid))}


def steady(command):
    """caisson_bench_steady: time and memory at each tenth. The first tenth warms up."""
    with Held(command) as held:
        each_us, memory_kib = [], []
        while line := held.line(timeout=300):
            memory_kib.append(private_kib(held.process.pid))
            each_us.append(float(line.split()[1]) / 1e3)
        if len(each_us) != 10:
            return held.failure()
    return {"median": statistics.median(each_us), "each_us": each_us, "memory_kib": memory_kib,
            "drift": each_us[-1] / each_us[1], "memory_drift_kib": memory_kib[-1] - memory_kib[1]}
