"""Makes one C program of the ```c blocks of a Markdown file: blocks that begin with #include go to the top, the rest
follow one another in main().

Usage: snippets.py MARKDOWN OUTPUT
"""
import re
import sys


def main():
    with open(sys.argv[1], encoding="ascii") as file:
        blocks = re.findall(r"^```c\n(.*?)^```$", file.read(), flags=re.M | re.S)
    if len(blocks) < 2:
        sys.exit("no C blocks in " + sys.argv[1])
    top = [block for block in blocks if block.startswith("#include")]
    body = [block for block in blocks if not block.startswith("#include")]
    with open(sys.argv[2], "w", encoding="ascii") as file:
        file.write("\n".join(top) + "\nint main(void) {\n" + "\n".join(body) + "\nreturn 0;\n}\n")


if __name__ == "__main__":
    main()
