"""What every check shares: the list of files, findings, and a cache of what passed before."""

import concurrent.futures
import hashlib
import os
import subprocess

SOURCE_SUFFIXES = (".cc", ".h", ".c", ".S")


class Finding:
    """One broken rule at one place. `rule` is the short name and the anchor in docs/style.md."""

    def __init__(self, rule, path, line, message, warning=False):
        self.rule, self.path, self.line = rule, path, line
        self.message, self.warning = message, warning

    def __str__(self):
        kind = "warning" if self.warning else "error"
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {kind}: {self.message} [{self.rule}, docs/style.md#{self.rule}]"


class Tree:
    """The files of a checkout, read once. Tests build one from a dictionary of path -> text."""

    def __init__(self, root=None, texts=None):
        self.root = root
        self._texts = dict(texts or {})
        if root:
            listed = subprocess.run(
                ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                cwd=root, check=True, capture_output=True).stdout.decode()
            self.paths = sorted(p for p in listed.split("\0")
                                if p and os.path.isfile(os.path.join(root, p)))
        else:
            self.paths = sorted(self._texts)
        self.known = set(self.paths)

    def text(self, path):
        if path not in self._texts:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
                self._texts[path] = file.read()
        return self._texts[path]

    def lines(self, path):
        return enumerate(self.text(path).split("\n"), 1)

    def sources(self, suffixes=SOURCE_SUFFIXES):
        return [p for p in self.paths if p.endswith(suffixes)]


PUBLIC = "include/caisson/"


def room_of(path):
    """The folder of a file; '' for files at the top. Public headers (include/caisson/sys.h and
    include/caisson/sys/...) belong to the room that they are named after."""
    if path.startswith(PUBLIC):
        return path[len(PUBLIC):].split("/")[0].removesuffix(".h")
    return os.path.dirname(path)


def included_file(tree, name):
    """The file of ours that #include "name" means, None if there is none."""
    for path in (name, "include/" + name):
        if path in tree.known:
            return path
    return None


def is_in(path, rooms):
    """Whether a file lies in one of the rooms or below it."""
    return any(path.startswith(room + "/") for room in rooms)


def without_comments(text):
    """The text with // and /* */ comments blanked, line numbers kept; strings stay."""
    out, i, n = [], 0, len(text)
    while i < n:
        two = text[i:i + 2]
        if two == "//":
            while i < n and text[i] != "\n":
                i += 1
        elif two == "/*":
            end = text.find("*/", i + 2)
            end = n if end < 0 else end + 2
            out.append("\n" * text.count("\n", i, end))
            i = end
        elif text[i] in "\"'" and not (text[i] == "'" and i and text[i - 1].isalnum()):
            quote, start = text[i], i
            i += 1
            while i < n and text[i] != quote and text[i] != "\n":
                i += 2 if text[i] == "\\" else 1
            i = min(i + 1, n)
            out.append(text[start:i])
        else:
            out.append(text[i])
            i += 1
    return "".join(out)


class Cache:
    """Remembers keys that passed, in .cache/lint; a key holds everything the answer depends on."""

    def __init__(self, root, name):
        self.path = os.path.join(root, ".cache", "lint", name)
        self.known = set()
        if os.path.exists(self.path):
            with open(self.path, encoding="ascii") as file:
                self.known = set(file.read().split())
        self.used = set()

    @staticmethod
    def key(*parts):
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode()
            digest.update(b"%d:" % len(data))
            digest.update(data)
        return digest.hexdigest()

    def has(self, key):
        if key in self.known:
            self.used.add(key)
            return True
        return False

    def add(self, key):
        """Written at once, so that a run that is cut short was not for nothing."""
        self.used.add(key)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "a", encoding="ascii") as file:
            file.write("\n" + key)

    def save(self):
        """Forgets what this run did not meet."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write("\n".join(sorted(self.used)))
        os.replace(self.path + ".new", self.path)


def in_parallel(function, items):
    jobs = int(os.environ.get("CAISSON_JOBS", os.cpu_count() or 2))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(function, items))
