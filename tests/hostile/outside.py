#!/usr/bin/env python3
"""What the host does to a sandbox's processes: kills, stops. The rest of the sandbox goes on or ends whole.

  outside.py --caisson PROGRAM [TEST...]
"""
import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
import unittest

CAISSON = None
OWN_FAILURE = 125
PR_SET_CHILD_SUBREAPER = 36
SYS_KCMP, KCMP_VM = 312, 1
SPIN_AND_BEAT = """
(while :; do :; done) & spin=$!
(while sleep 0.02; do echo beat; done) & beat=$!
echo ready
wait $spin
echo ended $?
kill -0 $beat && echo sibling lives
sleep 0.2
kill $beat
wait $beat
echo done
"""
PYTHON = "/usr/bin/python3"
TIMED_WAITS = f"""
echo ready
exec {PYTHON} -c '
import threading
def wait(n):
    never = threading.Event()
    for i in range(100): never.wait(0.005 + n / 1000)
threads = [threading.Thread(target=wait, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print("done")'
"""
LIBC = ctypes.CDLL(None, use_errno=True)


def parent_and_ticks(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return int(fields[1]), int(fields[11]) + int(fields[12]), fields[0]


def is_alive(pid):
    """Not so if it has ended: without a PID namespace its rest is ours, until tearDown() reaps it."""
    try:
        return parent_and_ticks(pid)[2] not in "ZX"
    except (OSError, ValueError, IndexError):
        return False


def children(parent):
    """{pid: CPU ticks} of the living children."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                its_parent, ticks, state = parent_and_ticks(name)
            except (OSError, ValueError, IndexError):
                continue
            if its_parent == parent and state not in "ZX":
                found[int(name)] = ticks
    return found


def same_memory(one, other):
    return LIBC.syscall(SYS_KCMP, one, other, KCMP_VM, 0, 0) == 0


class Sandbox:
    """A running `caisson do`, seen from outside."""

    def __init__(self, script):
        self.process = subprocess.Popen(
            [CAISSON, "do", "--", "/bin/busybox", "sh", "-c", script], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while True:
            line = self.process.stdout.readline()
            if line == "ready\n":
                break
            assert line == "beat\n", (line, self.process.communicate())
        (self.kernel,) = children(self.process.pid)
        self.zygote = min(children(self.kernel))

    def stubs(self):
        found = children(self.kernel)
        found.pop(self.zygote, None)
        return found

    def spinning(self):
        """The stub thread of the guest that spins."""
        deadline = time.monotonic() + 10  # a shared machine can stall for seconds
        while True:
            before = self.stubs()
            time.sleep(0.3)
            gains = {pid: ticks - before.get(pid, ticks) for pid, ticks in self.stubs().items()}
            pid = max(gains, key=gains.get)
            if gains[pid] >= 5:
                return pid
            assert time.monotonic() < deadline, gains

    def end(self, timeout_s=15):
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the sandbox did not end: {out[-300:]!r} {err[-300:]!r}") from None
        return self.process.returncode, out.replace("beat\n", "").splitlines(), err


class Outside(unittest.TestCase):
    def tearDown(self):
        """This process is a subreaper: what a sandbox left behind is its child now."""
        deadline = time.monotonic() + 3
        while True:
            try:
                while os.waitpid(-1, os.WNOHANG)[0] != 0:
                    pass
            except ChildProcessError:
                return
            if time.monotonic() > deadline:
                left = children(os.getpid())
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                self.fail(f"processes left: {sorted(left)}")
            time.sleep(0.01)

    def assert_only_the_spinner_died(self, sandbox):
        status, out, err = sandbox.end()
        self.assertEqual(out, ["ended 137", "sibling lives", "done"], err)
        self.assertEqual(status, 0, err)

    @unittest.skipUnless(os.access(PYTHON, os.X_OK), f"no {PYTHON}")
    def test_stopped_and_continued_waits_go_on(self):
        """The host goes on with a timed wait by restart_syscall(2), or says EINTR; the guest sees neither."""
        sandbox = Sandbox(TIMED_WAITS)
        while sandbox.process.poll() is None:
            stubs = list(sandbox.stubs())
            for signo in (signal.SIGSTOP, signal.SIGCONT):
                for pid in stubs:
                    try:
                        os.kill(pid, signo)
                    except ProcessLookupError:
                        pass
                time.sleep(0.005)
        status, out, err = sandbox.end()
        self.assertEqual((status, out), (0, ["done"]), err)

    def test_every_process_is_confined(self):
        sandbox = Sandbox(SPIN_AND_BEAT)
        for pid in [sandbox.kernel, sandbox.zygote, *sandbox.stubs()]:
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                self.assertEqual(int(fields[name], 16), 0, f"{name} of {pid}")
            self.assertEqual((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"), pid)
        spinning = sandbox.spinning()
        with open(f"/proc/{spinning}/status", encoding="utf-8") as file:
            self.assertIn("Seccomp_filters:\t2\n", file.read())
        os.kill(spinning, signal.SIGKILL)
        self.assert_only_the_spinner_died(sandbox)

    def test_kill_of_a_stub_thread_ends_that_guest_process_only(self):
        sandbox = Sandbox(SPIN_AND_BEAT)
        os.kill(sandbox.spinning(), signal.SIGKILL)
        self.assert_only_the_spinner_died(sandbox)

    def test_kill_of_a_mapper_ends_that_guest_process_only(self):
        sandbox = Sandbox(SPIN_AND_BEAT)
        spinning = sandbox.spinning()
        others = [pid for pid in sandbox.stubs() if pid != spinning and same_memory(pid, spinning)]
        self.assertTrue(others, "the mapper was not found")
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        self.assert_only_the_spinner_died(sandbox)

    def test_a_stopped_stub_stops_that_guest_process_only(self):
        sandbox = Sandbox(SPIN_AND_BEAT)
        spinning = sandbox.spinning()
        os.kill(spinning, signal.SIGSTOP)
        for _ in range(20):
            self.assertEqual(sandbox.process.stdout.readline(), "beat\n")
        os.kill(spinning, signal.SIGCONT)
        os.kill(sandbox.spinning(), signal.SIGKILL)
        self.assert_only_the_spinner_died(sandbox)

    def test_a_stub_that_never_answers_is_killed_at_the_deadline(self):
        sandbox = Sandbox(SPIN_AND_BEAT.replace("wait $spin", "read x; kill -9 $spin; wait $spin")
                          .replace("read x", "sleep 0.8"))
        os.kill(sandbox.spinning(), signal.SIGSTOP)
        self.assert_only_the_spinner_died(sandbox)

    def test_killing_every_stub_ends_the_sandbox(self):
        sandbox = Sandbox(SPIN_AND_BEAT)
        for pid in sorted(sandbox.stubs(), reverse=True):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        status, _, err = sandbox.end()
        self.assertEqual(status, 128 + signal.SIGKILL, err)

    def test_without_its_zygote_the_sandbox_ends_with_a_sentence(self):
        sandbox = Sandbox(SPIN_AND_BEAT)
        os.kill(sandbox.zygote, signal.SIGKILL)
        status, _, err = sandbox.end()
        self.assertEqual(status, OWN_FAILURE, err)
        self.assertIn("caisson: ", err)
        self.assertIn("zygote", err)

    def test_kill_of_the_kernel_process_leaves_no_stub(self):
        sandbox = Sandbox(SPIN_AND_BEAT)
        left = [sandbox.zygote, *sandbox.stubs()]
        os.kill(sandbox.kernel, signal.SIGKILL)
        status, _, err = sandbox.end(timeout_s=5)
        self.assertEqual(status, OWN_FAILURE, err)
        self.assertIn("caisson: ", err)
        deadline = time.monotonic() + 2
        while any(is_alive(pid) for pid in left):
            self.assertLess(time.monotonic(), deadline, "stubs outlived the kernel process")
            time.sleep(0.005)


def main():
    global CAISSON
    parser = argparse.ArgumentParser()
    parser.add_argument("--caisson", required=True)
    parser.add_argument("tests", nargs="*")
    args = parser.parse_args()
    if LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("no subreaper")
    CAISSON = os.path.abspath(args.caisson)
    names = args.tests or unittest.defaultTestLoader.getTestCaseNames(Outside)
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        [f"Outside.{name}" for name in names], sys.modules[__name__])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
