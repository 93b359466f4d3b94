"""Checks who includes whom against the table of docs/architecture.md, and the house rules a script can check.

usage: layers_test.py SOURCE_DIR
"""

import pathlib
import re
import subprocess
import sys

# folder -> prefixes of quoted includes it may use, besides its own folder; angle-bracket libraries it must not use.
ALLOWED = {
    "include/swell": ["swell/"],
    "lib/base": ["swell/"],
    "lib/attention": ["swell/", "lib/base/"],
    "lib/index": ["swell/", "lib/base/"],
    "lib/cache": ["swell/", "lib/base/"],
    "lib/transfer": ["swell/", "lib/base/"],
    "lib/store": ["swell/", "lib/base/"],
    "lib/engine": ["swell/", "lib/"],
    "cuda": ["swell/", "lib/base/"],
    "capi": ["swell/", "lib/base/", "cuda/"],
    "tools": ["swell/", "tools/"],
}
LIBRARIES = {
    "faiss/": ["lib/index", "tests", "bench"],
    "absl/": ["lib"],
    "cuda": ["cuda", "tests/cuda", "bench/gpu"],
    "oneapi/tbb": ["lib", "tools", "tests", "bench"],
    "tbb/": ["lib", "tools", "tests", "bench"],
    "hwy/": ["lib/base", "lib/attention", "lib/index", "tools", "tests"],
}
CODE = {".h", ".cc", ".c", ".cu", ".cuh"}
MAX_LINES = 600


def tracked(root):
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, check=True,
                             capture_output=True, text=True).stdout
    return [pathlib.PurePosixPath(name) for name in listing.splitlines() if (root / name).is_file()]


def owner(path, folders):
    return next((f for f in folders if str(path).startswith(f + "/")), None)


def check_includes(path, text):
    folder = owner(path, ALLOWED)
    for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, re.M):
        if kind == '"' and folder is not None:
            own = name.startswith((folder + "/", "hwy/")) or "/" not in name
            if not own and not any(name.startswith(prefix) for prefix in ALLOWED[folder]):
                yield f"{path}: {folder} may not include {name}"
        for library, users in LIBRARIES.items():
            if kind == "<" and name.startswith(library) and not any(str(path).startswith(user) for user in users):
                yield f"{path}: may not include <{name}>"


def check_text(path, text):
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        yield f"{path}: {len(lines)} lines, more than {MAX_LINES}"
    for number, line in enumerate(lines, 1):
        if len(line) > 120:
            yield f"{path}:{number}: {len(line)} columns"
        if not line.isascii():
            yield f"{path}:{number}: not ASCII"
        if re.search(r"\b(TO" r"DO|FIX" r"ME|HA" r"CK)\b", line):
            yield f"{path}:{number}: unfinished mark"


def check_library(path, text):
    """The library neither prints nor ends the process."""
    if not str(path).startswith(("lib/", "capi/src/", "cuda/")):
        return
    for call in re.findall(r"\b(?:std::)?(abort|exit|_exit|quick_exit|terminate|printf|fprintf|puts|cout|cerr)\b\s*[(<]", text):
        yield f"{path}: uses {call}"


def main():
    root = pathlib.Path(sys.argv[1])
    problems = []
    files = [path for path in tracked(root) if path.suffix in CODE]
    for path in files:
        text = (root / path).read_text(encoding="utf-8")
        problems += check_includes(path, text)
        problems += check_text(path, text)
        problems += check_library(path, text)
    print("\n".join(problems) or f"{len(files)} files follow the rules")
    return 1 if problems or not files else 0


if __name__ == "__main__":
    sys.exit(main())
