"""Tests of the checks themselves: each rule is seen to fire, and to stay quiet on good code."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import filter_rules  # noqa: E402
import layers  # noqa: E402
import lock_order  # noqa: E402
import stub_symbols  # noqa: E402
import text_rules  # noqa: E402
from files import Tree, without_comments  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def rules(findings):
    return [(f.rule, f.path) for f in findings]


class LayersTest(unittest.TestCase):
    def setUp(self):
        with open(os.path.join(HERE, "layers.txt"), encoding="utf-8") as file:
            self.layers = layers.Layers(file.read())

    def broken(self, user, used):
        tree = Tree(texts={user: f'#include "{used}"\n', used: ""})
        return rules(layers.check(tree, self.layers)) == [("layers", user)]

    def test_downward_is_allowed(self):
        for user, used in [("kernel/task.h", "mm/mm.h"), ("mm/mm.h", "platform/platform.h"),
                           ("kernel/futex/futex.h", "kernel/waiter/queue.h"),
                           ("kernel/futex/futex.h", "mm/futex_key.h"),
                           ("kernel/ipc/shm.h", "kernel/task.h"), ("psx/psx.h", "host/host.h"),
                           ("runtime/cli/main.cc", "base/a.h"),
                           ("runtime/main.cc", "platform/systrap/systrap.h"),
                           ("platform/systrap/pool.cc", "platform/platform.h"),
                           ("platform/systrap/stub/stub.cc", "platform/systrap/sysmsg/sysmsg.h"),
                           ("platform/systrap/slot.cc", "platform/systrap/sysmsg/sysmsg.h")]:
            self.assertFalse(self.broken(user, used), f"{user} -> {used}")

    def test_upward_is_refused(self):
        for user, used in [("mm/mm.cc", "kernel/task.h"), ("base/a.h", "host/host.h"),
                           ("platform/systrap/usertrap/patch.cc", "kernel/task.h"),
                           ("kernel/waiter/queue.h", "kernel/futex/futex.h"),
                           ("kernel/signal/signal.h", "kernel/task.h"),
                           ("vfs/vfs.h", "fs/tmpfs.h"), ("host/a.h", "psx/psx.h"),
                           ("kernel/task.h", "platform/systrap/systrap.h"),
                           ("platform/platform.h", "runtime/main.h"),
                           ("platform/systrap/stub/stub.cc", "base/result.h"),
                           ("platform/systrap/sysmsg/sysmsg.h", "host/host.h"),
                           ("tests/syscalls/a_test.cc", "kernel/task.h")]:
            self.assertTrue(self.broken(user, used), f"{user} -> {used}")

    def test_public_headers_belong_to_their_room(self):
        header = "include/caisson/sys/start.h"
        good = Tree(texts={header: '#include "base/error.h"\n', "base/error.h": "",
                           "runtime/a.cc": '#include "caisson/sys/start.h"\n'})
        self.assertEqual(layers.check(good, self.layers), [])
        bad = Tree(texts={header: "", "base/a.cc": '#include "caisson/sys/start.h"\n'})
        self.assertEqual(rules(layers.check(bad, self.layers)), [("layers", "base/a.cc")])

    def test_unknown_file_is_reported(self):
        tree = Tree(texts={"mm/mm.cc": '#include "mm.h"\n', "mm/mm.h": ""})
        self.assertEqual(rules(layers.check(tree, self.layers)), [("includes-from-root", "mm/mm.cc")])


class TextRulesTest(unittest.TestCase):
    def poison(self, path, text):
        return [f.rule for f in text_rules.check_poison(Tree(texts={path: text}))]

    def test_host_calls(self):
        self.assertEqual(self.poison("mm/a.cc", "long r = syscall(39);"), ["host-calls-in-host"])
        self.assertEqual(self.poison("mm/a.cc", '__asm__ volatile("syscall" ::);'),
                         ["host-calls-in-host"])
        self.assertEqual(self.poison("host/a.cc", "long r = syscall(39);"), [])
        self.assertEqual(self.poison("kernel/a.cc", "// syscall(2) does it\nhandle_syscall(task);"), [])

    def test_starts_through_sys(self):
        for text in ("pid = fork();", "auto pid = raw(SYS_clone, flags);", "::execve(path, argv, envp);", "posix_spawn(&pid);"):
            self.assertEqual(self.poison("runtime/a.cc", text), ["starts-through-sys"], text)
        self.assertEqual(self.poison("runtime/a.cc", "kernel.exec(path); sys::start_function(f, nullptr);"), [])
        self.assertEqual(self.poison("platform/a.cc", "pid = fork();"), [])

    def test_host_headers(self):
        self.assertEqual(self.poison("kernel/a.h", "#include <sys/signal.h>\n"), ["abi-room"])
        self.assertEqual(self.poison("fs/a.cc", "#include <signal.h>\n"), ["abi-room"])
        self.assertEqual(self.poison("fs/a_test.cc", "#include <signal.h>\n"), [])
        self.assertEqual(self.poison("fs/a.cc", "#include <sys/stat.h>\n#include <sys/signalfd.h>\n"), [])
        self.assertEqual(self.poison("platform/a.cc", "#include <signal.h>\n"), [])

    def test_user_memory(self):
        bad = "memcpy(buffer, reinterpret_cast<void*>(address), size);"
        self.assertEqual(self.poison("syscalls/a.cc", bad), ["user-memory"])
        self.assertEqual(self.poison("mm/a.cc", bad), [])

    def test_locks(self):
        self.assertEqual(self.poison("kernel/a.h", "std::mutex mu_;"), ["rank-every-lock"])
        self.assertEqual(self.poison("psx/a.h", "std::shared_mutex mu_;"), ["rank-every-lock"])
        self.assertEqual(self.poison("base/mutex.h", "std::mutex mutex_;"), [])
        self.assertEqual(self.poison("kernel/a.h", "Mutex<LockRank::kTask> mu_;"), [])

    def test_exceptions(self):
        self.assertEqual(self.poison("kernel/a.cc", "try { f(); }"), ["no-exceptions"])
        self.assertEqual(self.poison("kernel/a.cc", "Result<int> retry{};\nTRY(f());"), [])

    def test_sizes(self):
        tree = Tree(texts={"mm/a.cc": "\n" * 801, "mm/b.cc": "\n" * 801, "mm/c.cc": "\n" * 501})
        found = text_rules.check_sizes(tree, {"mm/b.cc"})
        self.assertEqual([(f.path, f.warning) for f in found],
                         [("mm/a.cc", False), ("mm/c.cc", True)])
        self.assertEqual(len(text_rules.check_sizes(Tree(texts={"mm/b.cc": ""}), {"mm/b.cc"})), 1)

    def test_words(self):
        for line in ["see /wo" + "rk/main", "as iss" + "ue 12 says", "shared/" + "DESIGN.md"]:
            self.assertEqual(rules(text_rules.check_words(Tree(texts={"a.md": line}))),
                             [("speaks-of-itself", "a.md")], line)
        fine = "a session leader; work/life; the framework/main folder; issues a call"
        self.assertEqual(text_rules.check_words(Tree(texts={"a.md": fine})), [])

    def test_pragma_once(self):
        tree = Tree(texts={"mm/a.h": "// A.\n#pragma once\n", "mm/b.h": "#ifndef B\n"})
        self.assertEqual(rules(text_rules.check_pragma_once(tree)), [("pragma-once", "mm/b.h")])

    def test_comments_are_blanked_and_strings_kept(self):
        self.assertEqual(without_comments('a // b\n/* c\nd */ "// e" 1\'000 \'"\' // f'),
                         'a \n\n "// e" 1\'000 \'"\' ')


class LockOrderTest(unittest.TestCase):
    ENUM = ("enum class LockRank : uint8_t {\n  kOuter,  // taken first\n"
            "           // and long\n  kLeaf,  // last\n};\n")

    def test_page_is_printed_from_the_enum(self):
        self.assertEqual(lock_order.ranks(self.ENUM),
                         [("kOuter", "taken first and long"), ("kLeaf", "last")])
        good = Tree(texts={lock_order.ENUM: self.ENUM, lock_order.PAGE: lock_order.page(self.ENUM)})
        self.assertEqual(lock_order.check(good), [])
        stale = Tree(texts={lock_order.ENUM: self.ENUM, lock_order.PAGE: "old"})
        self.assertEqual(len(lock_order.check(stale)), 1)

    def test_a_rank_without_comment_is_refused(self):
        tree = Tree(texts={lock_order.ENUM: "enum class LockRank {\n  kA,\n};\n"})
        self.assertEqual(len(lock_order.check(tree)), 1)


@unittest.skipUnless(shutil.which("g++") and shutil.which("objdump"), "needs g++ and binutils")
class FilterRulesTest(unittest.TestCase):
    def test_a_rule_that_no_code_needs(self):
        tree = Tree(texts={
            "runtime/kernel_filter.cc": '      {SYS_futex, "locks", {}},\n      {SYS_reboot, "never", {}},\n',
            "host/futex.cc": "raw_syscall(SYS_futex, 0);\n",
            "host/power_test.cc": "raw_syscall(SYS_reboot);\n", "host/power.cc": "// reboot(2)\n"})
        findings = filter_rules.check(tree)
        self.assertEqual([(f.rule, f.line) for f in findings], [("filter-rules", 2)])


class StubSymbolsTest(unittest.TestCase):
    def findings(self, code, name="caisson_stub.o", flags=()):
        with tempfile.TemporaryDirectory() as root:
            os.mkdir(os.path.join(root, "build"))
            out = os.path.join(root, "build", name)
            subprocess.run(["g++", "-O2", "-ffreestanding", "-fno-stack-protector", *flags, "-c",
                            "-x", "c++", "-o", out, "-"], input=code, text=True, check=True)
            tree = Tree(texts={"platform/systrap/stub/stub.cc": code})
            tree.root = root
            return [f.message for f in stub_symbols.check(tree, os.path.join(root, "build"))]

    def test_good_code_passes(self):
        self.assertEqual(self.findings('extern "C" long add(long a, long b) { return a + b; }\n'), [])

    def test_undefined_symbol(self):
        code = 'extern "C" int other(); extern "C" int f() { return other() + 1; }\n'
        self.assertEqual(self.findings(code), ["undefined symbol other"])

    def test_vector_register(self):
        code = 'extern "C" double twice(double x) { return x * 2; }\n'
        self.assertTrue(any("twice: " in message for message in self.findings(code)))

    def test_x87(self):
        code = 'extern "C" void f() { __asm__ volatile("fninit"); }\n'
        self.assertEqual(self.findings(code), ["f: fninit"])

    def test_saving_vector_state_is_allowed(self):
        code = 'extern "C" void f(void* p) { __asm__ volatile("fxsave64 (%0)" :: "r"(p)); }\n'
        self.assertEqual(self.findings(code), [])

    def test_code_that_was_not_built_is_an_error(self):
        tree = Tree(texts={"platform/systrap/stub/stub.cc": ""})
        with tempfile.TemporaryDirectory() as build:
            tree.root = build
            self.assertFalse(stub_symbols.check(tree, build)[0].warning)


if __name__ == "__main__":
    unittest.main()
