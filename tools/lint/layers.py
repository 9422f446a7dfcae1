"""layers: a room includes only from rooms to its left (tools/lint/layers.txt)."""

import re

from files import Finding, included_file, room_of

RULE = "layers"
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


class Layers:
    def __init__(self, text):
        self.order = {}  # room -> place in the order
        self.only = {}   # room -> rooms that it may include from besides itself
        self.private = {}  # room -> rooms that may include from it
        for line in text.split("\n"):
            line = line.split("#")[0].strip()
            kind, _, rest = line.partition(" ")
            if kind in ("only", "private"):
                room, named = rest.split(":")
                (self.only if kind == "only" else self.private)[room.strip()] = named.split()
            else:
                for room in line.split():
                    self.order[room] = len(self.order)

    def home(self, folder):
        """The nearest named room at or above a folder, None outside all rooms."""
        parts = folder.split("/")
        for length in range(len(parts), 0, -1):
            room = "/".join(parts[:length])
            if room in self.order or room in self.only:
                return room
        return None

    def allows(self, user, used):
        """Whether folder `user` may include from folder `used`."""
        for room, users in self.private.items():
            if (used + "/").startswith(room + "/") and self.home(user) not in users \
                    and not (user + "/").startswith(room + "/"):
                return False
        home, target = self.home(user), self.home(used)
        if home is None or target is None:
            return home is None
        if home == target:
            return True
        if home in self.only:
            return target in self.only[home]
        # An `only` room is part of the layer that it lies in.
        place = self.order.get(target)
        while place is None and "/" in target:
            target = target.rsplit("/", 1)[0]
            place = self.order.get(target)
        return place is not None and place <= self.order[home]


def check(tree, layers):
    findings = []
    for path in tree.sources():
        room = room_of(path)
        for number, line in tree.lines(path):
            match = INCLUDE.match(line)
            if not match:
                continue
            used = included_file(tree, match.group(1))
            if used is None:
                used = match.group(1)
                if layers.home(room) is None:
                    continue
                findings.append(Finding("includes-from-root", path, number,
                                        f'"{used}" is no file of this tree; write the path from '
                                        "the top, and <...> for system headers"))
            elif not layers.allows(room, room_of(used)):
                findings.append(Finding(RULE, path, number,
                                        f"{room} may not include from {room_of(used)}"))
    return findings
