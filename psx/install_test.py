"""What cmake --install gives, as programs of others use it: C with libcap, C++, Go.

install_test.py BUILD_DIRECTORY [unittest arguments]. Needs capabilities: as an ordinary user the
programs run in a user namespace (unshare -Ur); where that is not to be had, tests skip.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = ""
LIBCAP_TESTS = "/usr/lib/x86_64-linux-gnu/libcap2/tests"


def run(*command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=100, **options)


@functools.cache
def privileged():
    """How to run a program with capabilities: a prefix, or None."""
    for prefix in ([], ["unshare", "-Ur"]):
        shown = run(*prefix, "sh", "-c", "id -u; grep CapEff /proc/self/status")
        if shown.stdout.startswith("0\n") and "CapEff:\t0000000000000000" not in shown.stdout:
            return prefix
    return None


class Installed(unittest.TestCase):
    """What is common: the installed tree, and how programs are built and run against it."""

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="psx-install-")
        done = run("cmake", "--install", BUILD, "--prefix", cls.root, "--component", "psx")
        if done.returncode != 0:
            raise RuntimeError(done.stdout)
        cls.lib = next(d for d, _, files in os.walk(cls.root) if "libpsx.so" in files)
        cls.environment = dict(os.environ, LD_LIBRARY_PATH=cls.lib,
                               PKG_CONFIG_PATH=os.path.join(cls.lib, "pkgconfig"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def flags(self, *arguments):
        if shutil.which("pkg-config") is None:
            self.skipTest("pkg-config is not installed")
        shown = run("pkg-config", *arguments, env=self.environment)
        self.assertEqual(shown.returncode, 0, shown.stdout)
        return shown.stdout.split()

    def build(self, name, *arguments):
        program = os.path.join(self.root, name)
        built = run(*arguments, "-o", program)
        self.assertEqual(built.returncode, 0, built.stdout)
        return program

    def run_privileged(self, *command, **options):
        if privileged() is None:
            self.skipTest("needs root or user namespaces")
        return run(*privileged(), *command, env=self.environment, **options)


class WithC(Installed):
    def check_libcap(self, name, *link):
        """Builds and runs the libcap program; gives its exit status."""
        if not os.path.exists("/usr/include/sys/capability.h"):
            self.skipTest("libcap-dev is not installed")
        source = os.path.join(HERE, "testdata", "libcap_program.c")
        program = self.build(name, "cc", "-Wall", source, *link)
        uid = "65534" if privileged() == [] else "0"
        done = self.run_privileged(program, uid)
        self.assertIn(done.returncode, (0, 1), done.stdout)
        return done.returncode

    # libcap, without any -wrap

    def test_libcap_shared(self):
        self.assertEqual(self.check_libcap("shared", *self.flags("--libs", "libpsx"), "-lcap"), 0)

    def test_libcap_static(self):
        self.assertEqual(self.check_libcap("static", "-static",
                                           *self.flags("--libs", "libpsx"), "-lcap"), 0)

    def test_libcap_static_archive_either_order(self):
        archive = ["-Wl,--whole-archive", os.path.join(self.lib, "libpsx.a"),
                   "-Wl,--no-whole-archive"]
        self.assertEqual(self.check_libcap("archive_first", *archive, "-lcap", "-lpthread"), 0)
        self.assertEqual(self.check_libcap("archive_last", "-lcap", *archive, "-lpthread"), 0)

    def test_libcap_with_the_old_wrap_flag(self):
        wrap = ["-lpthread", "-Wl,-wrap,pthread_create"]
        self.assertEqual(self.check_libcap("wrap_shared", f"-L{self.lib}", "-lpsx", "-lcap", *wrap),
                         0)
        self.assertEqual(self.check_libcap("wrap_static", os.path.join(self.lib, "libpsx.a"),
                                           "-lcap", *wrap), 0)

    def test_libcap_alone_leaves_threads_behind(self):  # or the tests above would prove nothing
        self.assertEqual(self.check_libcap("alone", "-lcap", "-lpthread"), 1)

    def test_programs_built_for_libcaps_own(self):
        names = ["psx_test", "libcap_psx_test"]
        if privileged() == []:
            names.append("libcap_psx_launch_test")  # it becomes other users
        for name in names:
            program = os.path.join(LIBCAP_TESTS, name)
            if not os.path.exists(program):
                self.skipTest("libcap's own test programs are not installed")
            done = self.run_privileged(program, cwd=LIBCAP_TESTS)
            self.assertEqual(done.returncode, 0, done.stdout)

    # the libraries

    def test_exports_and_needs(self):
        library = os.path.join(self.lib, "libpsx.so")
        shown = run("nm", "-D", "--defined-only", library).stdout
        names = {line.split()[2] for line in shown.splitlines()}
        names = {name for name in names if not name.startswith("_ZN7caisson3psx")}
        self.assertEqual(names, {"psx_syscall3", "psx_syscall6", "__psx_syscall",
                                 "psx_load_syscalls", "psx_set_sensitivity",
                                 "__wrap_pthread_create", "psx_set_deadline_ms", "psx_prepare",
                                 "psx_trust_libc"})
        self.assertNotIn("internal", shown)
        needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", library).stdout)
        self.assertEqual(needed, ["libc.so.6"])
        self.assertIn("[libpsx.so.2]", run("readelf", "-d", library).stdout)

    # the readme's program

    def test_readme_program(self):
        with open(os.path.join(HERE, "README.md"), encoding="utf-8") as readme:
            text = re.search(r"```cpp\n(.*?)```", readme.read(), re.S).group(1)
        source = os.path.join(self.root, "readme.cc")
        with open(source, "w", encoding="utf-8") as file:
            file.write(text)
        program = self.build("readme", "c++", "-std=c++17", "-Wall", "-Werror", source,
                             *self.flags("--cflags", "--libs", "libpsx"))
        done = self.run_privileged(program)
        self.assertEqual(done.returncode, 0, done.stdout)
        sets = re.findall(r"CapBnd:\s*([0-9a-f]+)", done.stdout)
        self.assertEqual(len(sets), 2, done.stdout)
        self.assertEqual(sets[0], sets[1])
        self.assertEqual(int(sets[0], 16) >> 13 & 1, 0)


class WithGo(Installed):
    def test_go(self):
        if shutil.which("go") is None:
            self.skipTest("go is not installed")
        self.flags("--libs", "libpsx")
        program = os.path.join(self.root, "go_program")
        environment = dict(self.environment, CGO_ENABLED="1", GOFLAGS="-mod=mod", GOPROXY="off",
                           CGO_LDFLAGS_ALLOW="-Wl,.*")
        built = run("go", "build", "-o", program, ".", cwd=os.path.join(HERE, "testdata", "go"),
                    env=environment)
        self.assertEqual(built.returncode, 0, built.stdout)
        for _ in range(3):
            done = self.run_privileged(program)
            self.assertEqual((done.returncode, done.stdout), (0, "all threads\n"))


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
