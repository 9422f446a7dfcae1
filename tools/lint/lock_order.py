"""lock-order: docs/lock_order.md is printed from the enum in base/lock_rank.h."""

import os
import re

from files import Finding

ENUM, PAGE = "base/lock_rank.h", "docs/lock_order.md"
RANK = re.compile(r"^  (k\w+),\s*// (.*)$")
MORE = re.compile(r"^\s+// (.*)$")


def ranks(text):
    """[(name, comment)] in order."""
    found, inside = [], False
    for line in text.split("\n"):
        if line.startswith("enum class LockRank"):
            inside = True
        elif inside and line.startswith("};"):
            break
        elif inside:
            match, more = RANK.match(line), MORE.match(line)
            if match:
                found.append((match.group(1), match.group(2)))
            elif more and found:
                found[-1] = (found[-1][0], found[-1][1] + " " + more.group(1))
            elif line.strip():
                raise ValueError(f"a rank without a comment: {line.strip()}")
    return found


def page(text):
    lines = ["# Lock order", "",
             "Printed from `base/lock_rank.h` by `./dev fmt`; do not edit. Outermost first: a thread",
             "may take a lock only if its rank stands below every rank that it holds.", "",
             "| rank | what it guards, and order among equals |", "|---|---|"]
    lines += [f"| `{name}` | {comment} |" for name, comment in ranks(text)]
    return "\n".join(lines) + "\n"


def check(tree, fix=False):
    try:
        wanted = page(tree.text(ENUM))
    except ValueError as error:
        return [Finding("rank-every-lock", ENUM, 0, str(error))]
    if PAGE in tree.paths and tree.text(PAGE) == wanted:
        return []
    if fix:
        with open(os.path.join(tree.root, PAGE), "w", encoding="utf-8") as file:
            file.write(wanted)
        return []
    return [Finding("rank-every-lock", PAGE, 0, "differs from the enum; ./dev fmt rewrites it")]
