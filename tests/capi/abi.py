"""The ABI of libswell against the stored one: exported functions, values of constants, layouts of structs.

Usage: abi.py HEADER,HEADER... LIBRARY BASELINE WORK_DIRECTORY [--update]
Everything is taken from the header and the library themselves, so that nothing can be forgotten here. Additions change
the file as well: run with --update and review the difference; a line that changed or went needs a new SWELL_ABI_VERSION.
"""
import os
import re
import subprocess
import sys


def layout_program(headers):
    """A C program that prints sizes, offsets and constants of the text of `headers`, and their prototypes."""
    text = re.sub(r"/\*.*?\*/", "", headers, flags=re.S)
    lines = []
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.S):
        lines.append(f'  printf("struct {name} %zu\\n", sizeof({name}));')
        for field in re.findall(r"(\w+);", body):
            lines.append(f'  printf("field {name}.{field} %zu %zu\\n", offsetof({name}, {field}), '
                         f'sizeof((({name} *)0)->{field}));')
    for name in re.findall(r"^\s*(SWELL_[A-Z0-9_]+) = ", text, flags=re.M):
        lines.append(f'  printf("constant {name} %d\\n", (int){name});')
    for name in re.findall(r"^#define (SWELL_[A-Z]+(?:_[A-Z]+)+) \d+u", text, flags=re.M):
        lines.append(f'  printf("constant {name} %d\\n", (int){name});')
    prototypes = {match[1]: " ".join(match[0].split()) for match in re.findall(r"^SWELL_API ([^;]*?(\w+)\([^;]*\));", text,
                                                                             flags=re.M)}
    return ('#include <stdio.h>\n#include "swell/gpu.h"\nint main(void) {\n' + "\n".join(lines) + "\n  return 0;\n}\n",
            prototypes)


def main():
    headers, library, baseline, work = sys.argv[1:5]
    texts = []
    for path in headers.split(","):
        with open(path, encoding="ascii") as file:
            texts.append(file.read())
    program, prototypes = layout_program("\n".join(texts))
    os.makedirs(work, exist_ok=True)
    source, binary = os.path.join(work, "layout.c"), os.path.join(work, "layout")
    with open(source, "w", encoding="ascii") as file:
        file.write(program)
    includes = [f"-I{path}" for path in os.environ["SWELL_INCLUDES"].split(":")]
    subprocess.run([os.environ["CC"], *includes, source, "-o", binary], check=True)
    layout = subprocess.run([binary], check=True, capture_output=True, text=True).stdout.splitlines()

    listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    symbols = [line.split()[-1] for line in listing.splitlines()]
    foreign = [symbol for symbol in symbols if not symbol.startswith("swell_")]
    missing = sorted(set(prototypes) ^ set(symbols) - set(foreign))
    if foreign or missing:
        sys.exit(f"exported beyond swell_*: {foreign}\nin the header or the library only: {missing}")

    now = [f"function {prototypes[symbol]}" for symbol in sorted(prototypes)] + layout
    if "--update" in sys.argv:
        with open(baseline, "w", encoding="ascii") as file:
            file.write("\n".join(now) + "\n")
        return
    with open(baseline, encoding="ascii") as file:
        stored = file.read().splitlines()
    if now != stored:
        gone, new = [line for line in stored if line not in now], [line for line in now if line not in stored]
        sys.exit("\n".join(["The ABI differs from " + baseline, *("- " + line for line in gone),
                            *("+ " + line for line in new)]))
    print(f"{len(symbols)} functions, {len(layout)} sizes, offsets and constants as stored")


if __name__ == "__main__":
    main()
