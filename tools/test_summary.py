"""Adds up ctest's JUnit files and ends with 'N passed, N failed, N skipped'; exit 1 if any failed.

A build or lint step that failed counts as one failure (--failed NAME). A failed build whose tests
never ran is thus a failure too.
"""

import argparse
import os
import sys
import xml.etree.ElementTree


def count(path):
    """(passed, names of failed, [(name, reason)] of skipped) of one JUnit file."""
    passed, failed, skipped = 0, [], []
    if not os.path.exists(path):
        return passed, failed, skipped
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name")
        skip = case.find("skipped")
        if case.find("failure") is not None or case.get("status") == "fail":
            failed.append(name)
        elif skip is not None or case.get("status") in ("notrun", "disabled"):
            skipped.append((name, skip.get("message", "") if skip is not None else ""))
        else:
            passed += 1
    return passed, failed, skipped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--failed", action="append", default=[])
    parser.add_argument("--need-a-match", action="store_true")
    parser.add_argument("results", nargs="*", help="NAME=junit.xml")
    options = parser.parse_args()
    passed, failed, skipped = 0, [], []
    with_failures = set()
    for result in options.results:
        tree, path = result.split("=", 1)
        ok, bad, skip = count(path)
        print(f"  {tree}: {ok} passed, {len(bad)} failed, {len(skip)} skipped", file=sys.stderr)
        passed += ok
        failed += [f"{tree}: {name}" for name in bad]
        skipped += [f"{tree}: {name} ({reason or 'no reason given'})" for name, reason in skip]
        if bad:
            with_failures.add(tree)
    failed += [name for name in options.failed if name not in with_failures]
    for line in skipped:
        print(f"  skipped: {line}", file=sys.stderr)
    for line in failed:
        print(f"  FAILED: {line}", file=sys.stderr)
    if options.need_a_match and not (passed or failed or skipped):
        print("  no test has such a name or label", file=sys.stderr)
        failed.append("selection")
    sys.stderr.flush()
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
