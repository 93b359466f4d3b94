"""Writes one CTest file over the tests of several build folders, so that one ctest run gives one summary.

usage: merge_tests.py FOLDER NAME=JSON...   (JSON: output of ctest --show-only=json-v1; FOLDER gets CTestTestfile.cmake)
Tests are renamed NAME/TEST; properties come along, and so do dependencies and fixtures under the new names.
"""
import json
import pathlib
import sys

# Properties whose values are names of tests or of fixtures.
NAMES = ("DEPENDS", "FIXTURES_REQUIRED", "FIXTURES_SETUP", "FIXTURES_CLEANUP")


def quote(value):
    return "[==[" + str(value) + "]==]"


def text(value):
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, list):
        return ";".join(text(item) for item in value)
    if isinstance(value, dict):  # regular expressions and the like never hold structured values here
        raise SystemExit("merge_tests.py: a property of an unknown form: %r" % value)
    return str(value)


def lines(name, path):
    for test in json.loads(pathlib.Path(path).read_text())["tests"]:
        if "command" not in test:
            raise SystemExit("merge_tests.py: %s/%s was not built" % (name, test["name"]))
        full = quote(name + "/" + test["name"])
        yield "add_test(%s %s)" % (full, " ".join(quote(word) for word in test["command"]))
        for item in test.get("properties", []):
            value = item["value"]
            if item["name"] in NAMES:
                value = [name + "/" + entry for entry in value]
            yield "set_tests_properties(%s PROPERTIES %s %s)" % (full, item["name"], quote(text(value)))


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    content = [line for pair in sys.argv[2:] for line in lines(*pair.split("=", 1))]
    (folder / "CTestTestfile.cmake").write_text("\n".join(content) + "\n")


if __name__ == "__main__":
    main()
