"""./dev lint: runs the checks and prints findings as file:line: kind: text [rule, docs anchor]."""

import os
import subprocess
import sys

import compile_rules
import filter_rules
import layers
import lock_order
import stub_symbols
import text_rules
from files import Tree

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def data(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def check_coverage(_):
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "coverage.py"), "--quiet"],
                          capture_output=True, text=True)
    return [line for line in done.stdout.split("\n") if line] if done.returncode else []


def check_style_anchors(tree):
    """Every rule a check can print has its heading in docs/style.md."""
    import re
    from files import Finding
    anchors = set(re.findall(r"^#+ .*\(`([\w-]+)`\)|<a id=\"([\w-]+)\">", tree.text("docs/style.md"),
                             re.M))
    anchors = {a or b for a, b in anchors}
    printed = set()
    for name in os.listdir(HERE):
        if name.endswith(".py") and not name.endswith("_test.py"):
            printed |= set(re.findall(r'(?:Finding|Poison)\(\s*"([\w-]+)"|^RULE = "([\w-]+)"',
                                      data(name), re.M))
    printed = {a or b for a, b in printed}
    return [Finding("named-rules", "docs/style.md", 0, f"has no anchor for the rule {rule}")
            for rule in sorted(printed - anchors)]


CHECKS = {
    "format": lambda tree: compile_rules.check_format(tree),
    "layers": lambda tree: layers.check(tree, layers.Layers(data("layers.txt"))),
    "sizes": lambda tree: text_rules.check_sizes(
        tree, text_rules.size_exemptions(data("size_exempt.txt"))),
    "poison": text_rules.check_poison,
    "pragma": text_rules.check_pragma_once,
    "words": text_rules.check_words,
    "locks": lambda tree: lock_order.check(tree),
    "filter": filter_rules.check,
    "coverage": check_coverage,
    "anchors": check_style_anchors,
    "headers": compile_rules.check_headers_alone,
    "stub": lambda tree: stub_symbols.check(tree, os.path.join(ROOT, "build")),
}


def main(arguments):
    if arguments == ["--list"]:
        print(" ".join(CHECKS))
        return 0
    tree = Tree(ROOT)
    if arguments == ["--fix"]:
        problems = compile_rules.check_format(tree, fix=True) + lock_order.check(tree, fix=True)
        for problem in problems:
            print(problem)
        return 1 if problems else 0
    unknown = [name for name in arguments if name not in CHECKS]
    if unknown:
        print(f"lint: no check called {unknown[0]}; there are: {' '.join(CHECKS)}")
        return 2
    failed = []
    for name in arguments or CHECKS:
        findings = CHECKS[name](tree)
        for finding in findings:
            print(finding)
        if any(not getattr(finding, "warning", False) for finding in findings):
            failed.append(name)
    if failed:
        print(f"lint: failed: {' '.join(failed)}; one alone: ./dev lint {failed[0]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
