#!/usr/bin/env python3
"""Bad command lines and bad programs.

  badinput.py --native             checks the list of programs against this host's execve
  badinput.py --caisson PROGRAM    gives them to `caisson do`: the right exit status, one clear sentence, nothing left
"""
import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import elf

CAISSON = None
NOT_FOUND, NOT_EXECUTABLE, OWN_FAILURE = 127, 126, 125
PR_SET_CHILD_SUBREAPER = 36
# Linux looks at the machine only, and may have a 32-bit half; refusing these is right too.
MAY_BE_REFUSED = {"class_32", "class_wrong", "big_endian", "i386"}


def exec_outcome(path, argv=None):
    """What execve on this host makes of it: ('errno', n), ('exit', n) or ('signal', n)."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.set_inheritable(write_end, False)
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execve(path, argv or [path], {})
        except OSError as error:
            os.write(write_end, str(error.errno).encode())
        finally:
            os._exit(99)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        number = pipe.read()
    _, status = os.waitpid(pid, 0)
    if number:
        return "errno", int(number)
    if os.WIFSIGNALED(status):
        return "signal", os.WTERMSIG(status)
    return "exit", os.WEXITSTATUS(status)


class Programs(unittest.TestCase):
    """Makes the files; subclasses run them."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        os.chmod(cls.directory.name, 0o755)
        cls.paths = {}
        for name, content in elf.PROGRAMS.items():
            cls.paths[name] = cls.make(name, content)
        cls.paths["not_x"] = cls.make("not_x", elf.GOOD, 0o644)
        cls.paths["directory"] = cls.directory.name
        cls.paths["missing"] = os.path.join(cls.directory.name, "missing")
        cls.paths["below_file"] = os.path.join(cls.paths["good"], "below")
        cls.paths["device"] = "/dev/null"
        fifo = os.path.join(cls.directory.name, "fifo")
        os.mkfifo(fifo)
        cls.paths["fifo"] = fifo
        for name, target in (("dangling", "nowhere"), ("loop", "loop"), ("link", "good")):
            cls.paths[name] = os.path.join(cls.directory.name, name)
            os.symlink(target, cls.paths[name])
        cls.paths["script_missing"] = cls.make("script_missing", b"#!/nonexistent/interpreter\n")
        cls.paths["script_empty"] = cls.make("script_empty", b"#!\n")
        cls.paths["script_self"] = cls.make(
            "script_self", b"#!" + os.path.join(cls.directory.name, "script_self").encode() + b"\n")
        cls.paths["name_too_long"] = os.path.join(cls.directory.name, "n" * 300)

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    @classmethod
    def make(cls, name, content, mode=0o755):
        path = os.path.join(cls.directory.name, name)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path


class Native(Programs):
    def test_host_agrees_with_the_names(self):
        """Guards the generator: the good ones run, and most others don't."""
        outcomes = {name: exec_outcome(path) for name, path in self.paths.items()}
        for name in ("good", "link", "overlap", "dyn_vaddr_zero"):
            with self.subTest(name):
                if name == "overlap":
                    self.assertEqual(outcomes[name][0], "signal")  # text replaced by data
                else:
                    self.assertEqual(outcomes[name], ("exit", elf.GOOD_STATUS))
        ran = sorted(name for name, outcome in outcomes.items() if outcome[0] == "exit")
        refused = [name for name, outcome in outcomes.items() if outcome[0] == "errno"]
        self.assertGreater(len(refused), 30, outcomes)
        self.assertLess(len(ran), 12, ran)


def has_children():
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        return True
    except ChildProcessError:
        return False


def traces():
    """What a run could leave on the host but processes."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line for line in file if "caisson" in line]
    return {"mounts": mounts, "/dev/shm": [name for name in os.listdir("/dev/shm") if "caisson" in name]}


class Inside(Programs):
    """Every run must end in time, leave no process and no file."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.traces = traces()

    def tearDown(self):
        self.assertEqual(traces(), self.traces)

    def caisson(self, *words, stdin=subprocess.DEVNULL, timeout_s=60):
        with tempfile.TemporaryDirectory() as private:
            environment = dict(os.environ, TMPDIR=private)
            process = subprocess.Popen([CAISSON, *words], stdin=stdin, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, env=environment,
                                       start_new_session=True)
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                self.fail(f"{words}: did not end within {timeout_s} s")
            self.assert_nothing_left(words)
            self.assertEqual(os.listdir(private), [], "files left in TMPDIR")
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def assert_nothing_left(self, what):
        """This process is a subreaper: whatever the run left behind is now its child."""
        deadline = time.monotonic() + 3
        while has_children():
            if time.monotonic() > deadline:
                left = []
                for pid in os.listdir("/proc"):
                    try:
                        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                            if int(file.read().rsplit(")", 1)[1].split()[1]) == os.getpid():
                                left.append(int(pid))
                    except (OSError, ValueError, IndexError):
                        continue
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                self.fail(f"{what}: processes left: {left}")
            time.sleep(0.01)

    def assert_sentence(self, err, *mentions):
        lines = err.splitlines()
        self.assertEqual(len(lines), 1, f"want one line, got: {err!r}")
        self.assertTrue(lines[0].startswith("caisson: "), err)
        self.assertLess(len(lines[0]), 500, err)
        for word in mentions:
            self.assertIn(word, lines[0])

    # --- command lines

    def test_bad_command_lines(self):
        lines = [
            ([], []), (["nonsense"], []), (["--nonsense"], ["nonsense"]), (["do"], []),
            (["do", "--"], []), (["do", "--nonsense", "--", "true"], ["nonsense"]),
            (["do", "--memory"], ["memory"]), (["do", "--memory", "", "--", "true"], []),
            (["do", "--memory", "12parsecs", "--", "true"], ["12parsecs"]),
            (["do", "--memory", "-5M", "--", "true"], []),
            (["do", "--memory", "99999999999999999999G", "--", "true"], []),
            (["do", "--cpus", "0", "--", "true"], []), (["do", "--cpus", "x", "--", "true"], []),
            (["do", "--cwd", "relative", "--", "true"], ["relative"]),
            (["do", "--env", "=x", "--", "true"], []),
            (["do", "--hostname", "h" * 65, "--", "true"], []),
            (["do", "--require-posture", "mighty", "--", "true"], ["mighty"]),
        ]
        for words, mentions in lines:
            with self.subTest(words):
                status, out, err = self.caisson(*words)
                self.assertEqual(status, OWN_FAILURE, err)
                self.assertEqual(out, "")
                self.assert_sentence(err, *mentions)

    def test_working_directory_that_is_not_there(self):
        status, out, err = self.caisson("do", "--cwd", "/nonexistent/place", "--", "/bin/busybox", "true")
        self.assertEqual((status, out), (OWN_FAILURE, ""))
        self.assert_sentence(err, "/nonexistent/place")

    def test_names_without_a_slash(self):
        status, _, err = self.caisson("do", "--", "no-such-program-anywhere")
        self.assertEqual(status, NOT_FOUND, err)
        self.assert_sentence(err, "no-such-program-anywhere")
        status, _, err = self.caisson("do", "--", "")
        self.assertEqual(status, NOT_FOUND, err)
        status, out, err = self.caisson("do", "--", "busybox", "echo", "found by PATH")
        self.assertEqual((status, out, err), (0, "found by PATH\n", ""))

    def test_options_after_the_program_are_the_programs(self):
        status, out, err = self.caisson("do", "--", "/bin/busybox", "echo", "--memory", "--", "-x")
        self.assertEqual((status, out, err), (0, "--memory -- -x\n", ""))

    # --- programs

    def test_programs_end_as_on_this_host(self):
        for name, path in self.paths.items():
            with self.subTest(name):
                kind, number = exec_outcome(path)
                status, out, err = self.caisson("do", "--", path)
                if name in MAY_BE_REFUSED and status == NOT_EXECUTABLE:
                    self.assert_sentence(err, name)
                elif kind == "exit":
                    self.assertEqual((status, err), (number, ""))
                elif kind == "signal":
                    # Linux gives up on it half way through; refusing it before is as good.
                    self.assertIn(status, (128 + number, NOT_EXECUTABLE), err)
                    if status == NOT_EXECUTABLE:
                        self.assert_sentence(err, os.path.basename(path))
                else:
                    want = {2: (NOT_FOUND,), 20: (NOT_FOUND, NOT_EXECUTABLE)}.get(
                        number, (NOT_EXECUTABLE,))
                    # The file is there, its interpreter is not: shells say either.
                    if number == 2 and os.path.exists(path):
                        want = (NOT_FOUND, NOT_EXECUTABLE)
                    self.assertIn(status, want, err)
                    self.assert_sentence(err, os.path.basename(path)[:40])
                self.assertEqual(out, "")

    def test_too_many_arguments(self):
        status, _, err = self.caisson("do", "--", self.paths["good"], *["x" * 100_000] * 15)
        self.assertEqual(status, elf.GOOD_STATUS, err)

    def test_guest_failures_are_the_guests(self):
        for code in (125, 126, 127, 255):
            status, out, err = self.caisson("do", "--", "/bin/busybox", "sh", "-c", f"exit {code}")
            self.assertEqual((status, out, err), (code, "", ""))
        for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL):
            status, _, _ = self.caisson("do", "--", "/bin/busybox", "sh", "-c",
                                        f"kill -{int(number)} $$")
            self.assertEqual(status, 128 + number)

    # --- surroundings

    def test_closed_standard_descriptors(self):
        for closed in ((0,), (1,), (2,), (0, 1, 2)):
            with self.subTest(closed):
                redirections = " ".join(f"{fd}>&-" for fd in closed)
                process = subprocess.run(
                    ["/bin/sh", "-c", f'"$0" do -- "$1" {redirections}', CAISSON,
                     self.paths["good"]], timeout=20, check=False, capture_output=True)
                self.assertEqual(process.returncode, elf.GOOD_STATUS, process.stderr)
                # Nothing of ours takes their places.
                looks = "; ".join(f"test ! -L /proc/self/fd/{fd} || exit 9" for fd in closed)
                process = subprocess.run(
                    ["/bin/sh", "-c", f'"$0" do -- /bin/busybox sh -c "$1" {redirections}', CAISSON, looks],
                    timeout=20, check=False, capture_output=True)
                self.assertEqual(process.returncode, 0, process.stderr)
                self.assert_nothing_left(closed)

    def test_messages_go_nowhere_where_standard_error_is_closed(self):
        # Not to a socket or the like, which would have the number.
        with subprocess.Popen(["/bin/sh", "-c", 'exec "$0" do -- /bin/busybox sh -c "echo; sleep 5" 0<&- 2>&-', CAISSON],
                              stdout=subprocess.PIPE) as process:
            self.assertEqual(process.stdout.read(1), b"\n")
            for fd in (0, 2):
                self.assertEqual(os.readlink(f"/proc/{process.pid}/fd/{fd}"), "anon_inode:[eventpoll]")
            process.kill()

    def test_full_output_is_the_guests_error(self):
        with open("/dev/full", "wb") as full:
            process = subprocess.run(
                [CAISSON, "do", "--", "/bin/busybox", "sh", "-c", "echo x || exit 9"],
                stdout=full, stderr=subprocess.PIPE, timeout=20, check=False)
        self.assertEqual(process.returncode, 9, process.stderr)
        self.assert_nothing_left("full")

    def start_sleeper(self):
        process = subprocess.Popen(
            [CAISSON, "do", "--", "/bin/busybox", "sh", "-c",
             "echo ready; sleep 1000 & sleep 1000 & wait"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def test_kill_leaves_nothing(self):
        process = self.start_sleeper()
        process.kill()
        process.wait(timeout=5)
        process.stdout.close()
        self.assert_nothing_left("SIGKILL of caisson")

    def test_signals_are_forwarded(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number):
                process = self.start_sleeper()
                process.send_signal(number)
                status = process.wait(timeout=10)
                process.stdout.close()
                self.assertIn(status, (128 + number, -number))
                self.assert_nothing_left("signal")

    def test_signals_during_the_start_are_not_lost(self):
        for attempt in range(40):
            process = subprocess.Popen([CAISSON, "do", "--", "/bin/busybox", "sleep", "1000"],
                                       stderr=subprocess.DEVNULL, start_new_session=True)
            time.sleep(attempt * 0.0005)
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.fail(f"SIGTERM after {attempt * 0.5} ms was lost")
            self.assertIn(status, (128 + signal.SIGTERM, -signal.SIGTERM))
        self.assert_nothing_left("signals during the start")

    def test_a_program_that_ignores_signals_ends_with_the_launcher(self):
        process = subprocess.Popen(
            [CAISSON, "do", "--", "/bin/busybox", "sh", "-c",
             "trap '' TERM INT HUP QUIT; echo ready; while :; do :; done"],
            stdout=subprocess.PIPE, start_new_session=True)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            process.send_signal(number)
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.kill()
        process.wait(timeout=5)
        process.stdout.close()
        self.assert_nothing_left("SIGKILL of caisson whose program ignores signals")

    def test_a_kernel_process_that_hangs_ends_with_the_launcher(self):
        process = self.start_sleeper()
        with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="utf-8") as file:
            os.kill(int(file.read()), signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        process.kill()
        process.wait(timeout=5)
        process.stdout.close()
        self.assert_nothing_left("SIGKILL of caisson whose kernel process hangs")

    def test_process_group_kill_leaves_nothing(self):
        process = self.start_sleeper()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=5)
        process.stdout.close()
        self.assert_nothing_left("SIGKILL of the group")


def main():
    global CAISSON
    parser = argparse.ArgumentParser()
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--caisson")
    parser.add_argument("tests", nargs="*")
    args = parser.parse_args()
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("no subreaper")
    CAISSON = os.path.abspath(args.caisson) if args.caisson else None
    kind = Native if args.native else Inside
    loader = unittest.defaultTestLoader
    suite = (loader.loadTestsFromNames([f"{kind.__name__}.{name}" for name in args.tests],
                                       sys.modules[__name__])
             if args.tests else loader.loadTestsFromTestCase(kind))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
