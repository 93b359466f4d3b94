"""Tests of the tests: plants the faults of faults.txt one at a time in a copy of the tree and shows that each is found.

usage: run.py [--check] [--work FOLDER] [--jobs N] [FAULT ...]

--check only says whether the old text of every fault stands in its file exactly once. Otherwise the tests that the
faults name are built and must pass; then every fault (or those named) is planted, its tests are built anew, and one of
them must fail. The exit code is 0 when all were found, 1 when a fault survived, does not compile, or no longer fits.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAULTS = pathlib.Path(__file__).with_name("faults.txt")
# One SIMD target is enough for the faults and is compiled several times faster.
OPTIONS = ["-DSWELL_CUDA=OFF", "-DSWELL_BUILD_BENCH=OFF", "-DSWELL_INSTALL=OFF"]
STATIC = "-DCMAKE_CXX_FLAGS=-DHWY_COMPILE_ONLY_STATIC"
BUILDS = {
    "release": ["-DCMAKE_BUILD_TYPE=Release", STATIC],
    "tsan": ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DSWELL_SANITIZE=thread", "-DSWELL_BUILD_TOOLS=OFF", STATIC],
}
TEST_SECONDS = 300  # a test that takes longer hangs, which counts as found


@dataclasses.dataclass
class Fault:
    name: str = ""
    why: str = ""
    file: str = ""
    tests: list = dataclasses.field(default_factory=list)  # (build, program)
    old: list = dataclasses.field(default_factory=list)
    new: list = dataclasses.field(default_factory=list)


def read_faults():
    faults = []
    for block in re.split(r"\n\s*\n", FAULTS.read_text(encoding="utf-8")):
        fault = Fault()
        for line in block.splitlines():
            key, _, text = line.partition(" ")
            if key == "-":
                fault.old.append(text.strip())
            elif key == "+":
                fault.new.append(text.strip())
            elif key == "test:":
                names = [name.strip() for name in text.split(",")]
                fault.tests = [tuple(name.split("/")) if "/" in name else ("release", name) for name in names]
            elif key in ("fault:", "why:", "file:"):
                setattr(fault, {"fault:": "name"}.get(key, key[:-1]), text.strip())
            elif not line.startswith("#"):
                raise ValueError(f"{FAULTS.name}: cannot read the line {line!r}")
        if fault.name:
            faults.append(fault)
    return faults


def plant(fault, root):
    """The file with the fault in it; an error when the old lines do not stand there exactly once."""
    lines = (root / fault.file).read_text(encoding="utf-8").splitlines()
    stripped = [line.strip() for line in lines]
    count = len(fault.old)
    places = [i for i in range(len(lines) - count + 1) if stripped[i:i + count] == fault.old]
    if len(places) != 1 or not fault.old:
        raise ValueError(f"{fault.name}: its text stands {len(places)} times in {fault.file}")
    at = places[0]
    indent = lines[at][:len(lines[at]) - len(stripped[at])]
    return "\n".join(lines[:at] + [indent + line for line in fault.new] + lines[at + count:]) + "\n"


def check(faults):
    problems = []
    for fault in faults:
        try:
            if not fault.tests or fault.old == fault.new:
                raise ValueError(f"{fault.name}: names no test or changes nothing")
            plant(fault, ROOT)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    names = [fault.name for fault in faults]
    problems += [f"{name} stands twice" for name in set(names) if names.count(name) > 1]
    print("\n".join(problems) or f"{len(faults)} faults fit the source")
    return problems


def copy_tree(to):
    """Copies what git would track; files that are as they were keep their times, so that a second run builds little."""
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True,
                             capture_output=True, text=True).stdout
    for name in filter(None, listing.split("\0")):
        source, target = ROOT / name, to / name
        if not source.is_file():
            continue
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


class Trials:
    def __init__(self, work, jobs):
        self.work = work
        self.jobs = jobs
        self.tree = work / "tree"
        copy_tree(self.tree)

    def run(self, command, seconds=None, **options):
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              timeout=seconds, **options)

    def configure(self, build):
        result = self.run(["cmake", "-S", self.tree, "-B", self.work / build, "-G", "Ninja", *OPTIONS, *BUILDS[build]])
        if result.returncode != 0:
            sys.exit(f"the build {build} cannot be configured:\n{result.stdout}")

    def build(self, tests):
        """The compiler's complaint, or nothing."""
        for build in sorted({build for build, _ in tests}):
            programs = sorted({program for of, program in tests if of == build})
            result = self.run(["ninja", "-C", self.work / build, f"-j{self.jobs}", *programs])
            if result.returncode != 0:
                return result.stdout
        return ""

    def failing(self, tests):
        """The first of `tests` that fails, and how; nothing when all pass."""
        environment = dict(os.environ, TSAN_OPTIONS="halt_on_error=1")
        for build, program in tests:
            command = ["ctest", "--test-dir", self.work / build, "--output-on-failure", "--no-tests=error", "-R",
                       f"^{program}$", "--timeout", str(TEST_SECONDS)]
            result = self.run(command, env=environment)
            if result.returncode == 0:
                continue
            label = program if build == "release" else f"{build}/{program}"
            cases = re.findall(r"\[  FAILED  \] (\S+?),? \(\d+ ms\)|\[  FAILED  \] (\S+)", result.stdout)
            names = [name for pair in cases for name in pair if name]
            reason = names[0] if names else "data race" if "data race" in result.stdout else "ended abnormally"
            return f"{label}: {reason}"
        return ""

    def try_fault(self, fault):
        """How the fault was found; nothing when it survived. Raises ValueError when it cannot be tried."""
        path = self.tree / fault.file
        sound = path.read_text(encoding="utf-8")
        path.write_text(plant(fault, self.tree), encoding="utf-8")
        try:
            complaint = self.build(fault.tests)
            if complaint:
                raise ValueError(f"does not compile:\n{complaint}")
            return self.failing(fault.tests)
        finally:
            path.write_text(sound, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "mutation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("faults", nargs="*", metavar="FAULT")
    arguments = parser.parse_args()
    faults = read_faults()
    unknown = set(arguments.faults) - {fault.name for fault in faults}
    if unknown:
        sys.exit(f"no such fault: {', '.join(sorted(unknown))}")
    problems = check(faults)
    if problems or arguments.check:
        return 1 if problems else 0
    chosen = [fault for fault in faults if not arguments.faults or fault.name in arguments.faults]
    tests = [test for fault in chosen for test in fault.tests]
    trials = Trials(arguments.work.resolve(), arguments.jobs)
    for build in sorted({build for build, _ in tests}):
        trials.configure(build)
    complaint = trials.build(tests) or trials.failing(sorted(set(tests)))
    if complaint:
        sys.exit(f"without any fault:\n{complaint}")
    survived = 0
    for fault in chosen:
        begin = time.monotonic()
        try:
            found = trials.try_fault(fault)
        except ValueError as error:
            survived += 1
            print(f"{fault.name}: {error}", flush=True)
            continue
        survived += not found
        print(f"{fault.name:30} {found or 'SURVIVED: ' + fault.why}  ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} faults were found")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
