"""No object of the library may end the program or print.

Usage: objects.py [--checked] FILE...
FILE is an archive or an object. Undefined symbols are looked through for functions that abort, exit or write to the
standard streams. --checked: the build has assertions, whose own failure functions are allowed.
"""
import re
import subprocess
import sys

FORBIDDEN = re.compile(
    r"^(abort|exit|_exit|_Exit|quick_exit|raise|kill|signal|v?f?printf|__v?f?printf_chk|f?put[sc]|putchar|fwrite|perror|"
    r"psignal|syslog|write|stdout|stderr|std::(cout|cerr|clog|abort|exit|quick_exit)|std::ostream::.*|hwy::Abort.*)"
    r"(@.*|\(.*)?$")
ASSERTIONS = re.compile(r"^(__assert_fail|std::__glibcxx_assert_fail.*)(@.*)?$")


def undefined(path):
    """(object, symbol) of every undefined symbol."""
    output = subprocess.run(["nm", "-C", "-u", path], check=True, capture_output=True, text=True).stdout
    member = path
    for line in output.splitlines():
        if line.endswith(":"):
            member = line[:-1]
        elif line.strip():
            yield member, line.split(maxsplit=1)[1]


def main():
    checked = "--checked" in sys.argv
    files = [argument for argument in sys.argv[1:] if argument != "--checked"]
    symbols = [pair for path in files for pair in undefined(path)]
    if not any(symbol.startswith("operator new") for _, symbol in symbols):
        sys.exit("no object uses operator new: these are not the library's objects")
    bad = [f"{member}: {symbol}" for member, symbol in symbols
           if FORBIDDEN.match(symbol) or (ASSERTIONS.match(symbol) and not checked)]
    if bad:
        sys.exit("\n".join(sorted(set(bad))))
    print(f"{len(symbols)} undefined symbols in {len(files)} files are clean")


if __name__ == "__main__":
    main()
