"""./dev coverage: docs/coverage.tsv says where each name of the specification is answered.

Tab separated: seed, kind, name, where (file:symbol, several with commas), test (file:Suite.Name or
file), sorted by seed then name. Every file, symbol and test must exist. docs/coverage_names.tsv is
the list of all names (seed, kind, name); the count is against it. A row with the word `decision` in
`where` names a heading of docs/design.md instead: our design answers the name otherwise.
"""

import argparse
import collections
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE, NAMES, DESIGN = "docs/coverage.tsv", "docs/coverage_names.tsv", "docs/design.md"
COLUMNS = ["seed", "kind", "name", "where", "test"]


def read(root, path):
    try:
        with open(os.path.join(root, path), encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        return None


def has_symbol(text, symbol):
    """Every part of A::b stands in the file as a whole word."""
    return all(re.search(r"(?<!\w)" + re.escape(part) + r"(?!\w)", text)
               for part in symbol.split("::"))


def check_place(root, place):
    path, _, symbol = place.partition(":")
    text = read(root, path)
    if path == "decision":
        headings = re.findall(r"^#+ (.+)$", read(root, DESIGN) or "", re.M)
        return None if symbol in headings else f"docs/design.md has no heading '{symbol}'"
    if text is None:
        return f"no file {path}"
    if not symbol:
        return f"no symbol given after {path}:"
    return None if has_symbol(text, symbol) else f"{path} has no {symbol}"


def check_test(root, test):
    path, _, name = test.partition(":")
    text = read(root, path)
    if text is None:
        return f"no test file {path}"
    if not name:
        return None
    suite, _, case = name.partition(".")
    pattern = r"TEST(_F|_P)?\(\s*" + re.escape(suite)
    pattern += r"\s*,\s*" + re.escape(case) + r"\s*\)" if case else r"\s*,"
    return None if re.search(pattern, text) else f"{path} has no test {name}"


def rows_of(text):
    return [(number, line.split("\t")) for number, line in enumerate(text.split("\n"), 1)
            if line and not line.startswith("#")]


def check(root):
    """(problems, {seed: rows}, {seed: names expected})"""
    problems, answered = [], collections.defaultdict(set)
    expected = collections.defaultdict(set)
    names = read(root, NAMES)
    for _, row in rows_of(names or "")[1:]:
        expected[row[0]].add((row[1], row[2]))
    table = rows_of(read(root, TABLE) or "")
    if not table or table[0][1] != COLUMNS:
        return [f"{TABLE}:1: the first line is not the columns {' '.join(COLUMNS)}"], {}, expected
    previous = None
    for number, row in table[1:]:
        def problem(text, number=number):
            problems.append(f"{TABLE}:{number}: error: {text} [coverage, docs/style.md#coverage]")
        if len(row) != len(COLUMNS):
            problem(f"{len(row)} columns, {len(COLUMNS)} wanted")
            continue
        seed, kind, name, where, test = row
        if previous is not None and (seed, name) < previous:
            problem(f"not sorted by seed and name: {name} after {previous[1]}")
        previous = (seed, name)
        if (kind, name) in answered[seed]:
            problem(f"{name} stands twice")
        answered[seed].add((kind, name))
        if names is not None and (kind, name) not in expected[seed]:
            problem(f"{seed} has no {kind} {name} (docs/coverage_names.tsv)")
        for place in where.split(","):
            wrong = check_place(root, place.strip())
            if wrong:
                problem(f"{name}: {wrong}")
        for one in test.split(","):
            wrong = check_test(root, one.strip())
            if wrong:
                problem(f"{name}: {wrong}")
    return problems, answered, expected


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quiet", action="store_true", help="problems only")
    parser.add_argument("--missing", action="store_true", help="also list the names without a row")
    options = parser.parse_args()
    problems, answered, expected = check(ROOT)
    for line in problems:
        print(line)
    if not options.quiet:
        for seed in sorted(set(answered) | set(expected)):
            have, want = len(answered.get(seed, ())), len(expected.get(seed, ()))
            print(f"{seed}: {have} of {want} names answered")
            if options.missing:
                for kind, name in sorted(expected[seed] - set(answered.get(seed, ()))):
                    print(f"  {kind} {name}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
