#!/usr/bin/env python3
"""Budgets by head: shares of tokens in proportion to a power of each head's output error, the same on the mean.

    bench/budgets/by_error.py fidelity.json CONFIG SHARE POWER > overrides.txt

fidelity.json comes from `swell fidelity --json`; the errors are those of CONFIG there, over all its tasks. SHARE is the
mean share of the tokens, in (0, 1]. The output is what `swell fidelity --variant swell,overrides=FILE` reads.
"""
import json
import sys

KV_HEADS = 3  # of SmolLM2-135M
LEAST, MOST = 1 / 8, 8  # of the mean share


def main(path, config, share, power):
    results = [row for row in json.load(open(path))["results"] if row["config"] == config]
    errors = [sum(head) / len(head) for head in zip(*(row["head_errors"] for row in results))]
    shares = [error ** power for error in errors]
    for _ in range(20):  # scale to the mean, clip, and so on until both hold
        mean = sum(shares) / len(shares)
        shares = [min(max(value / mean, LEAST), MOST) for value in shares]
    for head, value in enumerate(shares):
        print(head // KV_HEADS, head % KV_HEADS, min(1, value * share))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
