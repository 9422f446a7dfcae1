"""./dev bench: times the rows of bench/rows.tsv natively and inside, in interleaved pairs.

Prints medians and their ratio as a table, and everything as JSON with --json FILE. bench/README.md
says how to read it.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import sandbox  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SCALE = {"ns": 1, "us": 1e3, "ms": 1e6}
SLOW_KINDS = ("idle", "steady")


class Row:
    def __init__(self, line):
        self.name, self.kind, self.argument, self.unit, self.goal, self.what = line.split("\t")


def load_rows():
    with open(os.path.join(HERE, "rows.tsv"), encoding="utf-8") as file:
        return [Row(line.rstrip("\n")) for line in file if line.strip() and line[0] != "#"]


class Bench:
    def __init__(self, options):
        folder = os.path.join(options.build, "bench")
        self.options = options
        self.programs = {name: os.path.join(folder, name)
                         for name in ("caisson_bench", "caisson_bench_steady")}
        self.caisson = options.caisson or os.path.join(options.build, "caisson")
        self.has_inside = os.access(self.caisson, os.X_OK)

    def inside(self, command):
        return [self.caisson, "do", *self.options.do_option, "--", *command]

    def nanoseconds(self, command, one_cpu, timeout=60):
        """Runs a command that prints nanoseconds; a word instead of a number when it fails."""
        outcome = sandbox.run(command, one_cpu=one_cpu, timeout=timeout)
        if isinstance(outcome, str):
            return outcome
        try:
            return float(outcome.stdout.split()[-1])
        except (IndexError, ValueError):
            return "printed no figure"

    def pair(self, row):
        """(native, inside) commands of a timed row."""
        if row.kind == "run":
            timer = [self.programs["caisson_bench"], "--run", "10", "--"]
            command = row.argument.split()
            return timer + command, timer + self.inside(command)
        command = [self.programs["caisson_bench"], row.argument]
        return command, self.inside(command)

    def timed(self, row):
        """Interleaved pairs, so that a noisy moment of the machine falls on both."""
        one_cpu = self.options.one_cpu or row.kind == "micro1"
        commands = dict(zip(("native", "inside"), self.pair(row)))
        if not self.has_inside:
            del commands["inside"]
        samples = {side: [] for side in commands}
        result = {}
        for turn in range(self.options.pairs):
            order = sorted(commands, reverse=turn % 2 == 0)
            for side in order:
                if side in result:
                    continue
                figure = self.nanoseconds(commands[side], one_cpu)
                if isinstance(figure, str):
                    result[side] = {"failed": figure}
                else:
                    samples[side].append(figure / SCALE[row.unit])
        for side, figures in samples.items():
            if side not in result:
                result[side] = summary(figures)
        both = [samples[side] for side in ("native", "inside") if side in samples]
        if len(both) == 2 and "failed" not in result["native"] and "failed" not in result["inside"]:
            result["ratio"] = round(statistics.median(i / n for n, i in zip(*both) if n > 0), 4)
        return result

    def measure(self, row):
        if row.kind == "none":
            return {"not_available": row.argument}
        if row.kind in ("micro", "micro1", "run"):
            return self.timed(row)
        if row.kind == "platform":
            return self.platform(row)
        if not self.has_inside:
            return {"not_available": f"there is no {self.caisson}"}
        hold = self.inside([self.programs["caisson_bench_steady"], "--hold"])
        if row.kind == "idle":
            return {"inside": sandbox.idle_ticks(hold, self.options.idle_seconds)}
        if row.kind == "memory":
            return {"inside": sandbox.idle_memory(hold)}
        if row.kind == "steady":
            return self.steady(row)
        raise ValueError(f"bench/rows.tsv: no kind {row.kind}")

    def platform(self, row):
        """Guest code and one worker of the platform, without the kernel above it."""
        program = os.path.join(self.options.build, "platform", "systrap", "systrap_test")
        if not os.access(program, os.X_OK):
            return {"not_available": f"there is no {program}"}
        command = [program, "--gtest_also_run_disabled_tests", "--gtest_filter=*DISABLED_Speed"]
        figures = []
        for _ in range(self.options.pairs):
            outcome = sandbox.run(command, one_cpu=self.options.one_cpu)
            if isinstance(outcome, str):
                return {"inside": {"failed": outcome}}
            match = re.search(rf"^{row.argument}: (\d+) ns$", outcome.stdout, re.M)
            if not match:
                return {"inside": {"failed": "printed no figure"}}
            figures.append(float(match.group(1)) / SCALE[row.unit])
        return {"inside": summary(figures)}

    def steady(self, row):
        program = [self.programs["caisson_bench_steady"], str(self.options.forks or row.argument)]
        native = sandbox.steady(program)
        inside = sandbox.steady(self.inside(program))
        result = {"native": native, "inside": inside}
        if "failed" not in native and "failed" not in inside:
            result["ratio"] = round(inside["median"] / native["median"], 4)
        return result


def summary(figures):
    return {"median": statistics.median(figures), "least": min(figures), "most": max(figures),
            "samples": figures}


def verdict(row, result):
    """'yes', 'no' or '' where there is no goal or no figure."""
    if row.goal == "-" or "failed" in result.get("inside", {"failed": ""}):
        return ""
    if row.goal.endswith("x"):
        if "ratio" not in result:
            return ""
        return "yes" if result["ratio"] <= float(row.goal[:-1]) else "no"
    return "yes" if result["inside"]["median"] <= float(row.goal.removeprefix("<=")) else "no"


def figure(side):
    if side is None:
        return "-"
    if "failed" in side:
        return "failed"
    return f"{side['median']:.3g}" if side["median"] < 100 else f"{side['median']:.0f}"


def print_row(row, result):
    note = result.get("not_available", "")
    if note:
        note = f"not available: {note}"
    for side in ("native", "inside"):
        if "failed" in result.get(side, {}):
            note += f" {side}: {result[side]['failed']}"
        if "drift" in result.get(side, {}):
            one = result[side]
            note += f" {side}: last tenth {one['drift']:.2f}x the second"
            if "memory_drift_kib" in one:
                note += f", memory {one['memory_drift_kib']:+d} KiB"
    ratio = f"{result['ratio']:.2f}x" if "ratio" in result else "-"
    print(f"{row.name:<18} {row.unit:>5} {figure(result.get('native')):>8} "
          f"{figure(result.get('inside')):>8} {ratio:>8} {row.goal:>7} "
          f"{verdict(row, result):>4}  {note or row.what}".rstrip(), flush=True)


def machine():
    model = "?"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        match = re.search(r"model name\s*: (.*)", file.read())
        model = match.group(1) if match else model
    return {"cpu": model, "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release()}


def commit():
    done = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"],
                          capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def write_json(path, document):
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="dev bench", description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names; default: all but slow ones")
    parser.add_argument("--all", action="store_true", help="slow rows too (idle, fork_steady)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--pairs", type=int, default=5, help="native/inside pairs per row (5)")
    parser.add_argument("--one-cpu", action="store_true", help="everything on one CPU")
    parser.add_argument("--do-option", action="append", default=[], metavar="OPT",
                        help="an option for `caisson do`; --do-option=--strace")
    parser.add_argument("--forks", type=int, help="children of fork_steady (50000)")
    parser.add_argument("--idle-seconds", type=float, default=10)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--build", default=os.path.join(os.path.dirname(HERE), "build"))
    parser.add_argument("--caisson", help="another program than BUILD/caisson")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error("--pairs is at least 1")
    return options


def main(arguments):
    options = parse(arguments)
    rows = load_rows()
    if options.list:
        for row in rows:
            print(f"{row.name:<18} {row.what or row.argument}")
        return 0
    unknown = set(options.rows) - {row.name for row in rows}
    if unknown:
        print(f"bench: no row called {sorted(unknown)[0]}; --list names them", file=sys.stderr)
        return 2
    if options.rows:
        rows = [row for row in rows if row.name in options.rows]
    elif not options.all:
        rows = [row for row in rows if row.kind not in SLOW_KINDS]
    bench = Bench(options)
    if not bench.has_inside:
        print(f"bench: there is no {bench.caisson}; native figures only", file=sys.stderr)
    print(f"{'row':<18} {'unit':>5} {'native':>8} {'inside':>8} {'ratio':>8} {'goal':>7} {'met':>4}")
    results, failures = [], 0
    for row in rows:
        result = bench.measure(row)
        failures += sum("failed" in result.get(side, {}) for side in ("native", "inside"))
        print_row(row, result)
        results.append({"name": row.name, "unit": row.unit, "goal": row.goal, "what": row.what,
                        "met": verdict(row, result), **result})
    if options.json:
        write_json(options.json, {"commit": commit(), "machine": machine(),
                                  "one_cpu": options.one_cpu, "pairs": options.pairs,
                                  "do_options": options.do_option, "rows": results})
    if failures:
        print(f"bench: {failures} measurements failed", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
