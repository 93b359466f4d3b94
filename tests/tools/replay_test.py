"""What a user of `swell index-bench` and `swell cache-sim` meets, which read traces: figures that must hold for traces made
up here, errors in one line.

usage: replay_test.py SWELL
"""
import json
import pathlib
import random
import struct
import sys
import tempfile
import unittest
import xml.etree.ElementTree

from cli_test import ROOT, swell


def write_trace(path, tokens, steps, queries):
    """A trace of one layer, 2 KV heads of 2 query heads, head_dim 16: keys around 40 centres. `queries` different ones
    take turns."""
    dice = random.Random(7)
    row = lambda width: [dice.gauss(0, 1) for _ in range(width)]
    centres = [row(32) for _ in range(40)]
    keys = [x + dice.gauss(0, 0.3) for t in range(tokens + steps) for x in centres[t * t % 40]]
    values = row(len(keys))
    sample = [4 * x for x in row(64 * queries)]
    asked = (sample * steps)[:64 * steps]
    header = struct.pack("<8s6If1I3q", b"SWELLTRC", 1, 0, 1, 2, 4, 16, 0.25, 0, tokens, steps, queries)
    places = struct.pack(f"<{1 + queries}q", 3, *range(tokens - queries, tokens))
    rows = struct.pack(f"<{2 * len(keys) + len(sample) + len(asked)}f", *keys, *values, *sample, *asked)
    pathlib.Path(path).write_bytes(header + places + rows)


class ReplayTest(unittest.TestCase):
    def replay(self, command, trace, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            path, data, page = (str(pathlib.Path(folder) / name) for name in ("t.bin", "t.json", "t.html"))
            write_trace(path, **trace)
            result = swell(command, "--trace", path, "--json", data, "--report", page, *arguments)
            if result.returncode != 0:
                return result, None
            xml.etree.ElementTree.parse(page)
            return result, json.loads(pathlib.Path(data).read_text())

    def test_indexes(self):
        result, report = self.replay("index-bench", {"tokens": 1500, "steps": 8, "queries": 64},
                                     "--indexes", "flat,graph", "--top", "20", "--build-queries", "64")
        self.assertEqual(result.returncode, 0, result.stderr)
        flat, graph = report["indexes"]
        self.assertEqual((flat["heads_reached"], flat["scanned"], report["keys"]), (2, 1, 1500 - 4 - 64))
        self.assertEqual(graph["heads_reached"], 2)
        self.assertLess(graph["scanned"], 0.9)
        for head in graph["heads"]:
            recalls = [point["recall"] for point in head["points"]]
            self.assertGreaterEqual(recalls[-1], 0.95)
            self.assertLessEqual(max(recalls), 1)
        self.assertEqual((report["heads"], report["heads_measured"], report["kv_bytes"]), (2, 2, 2 * 16 * 4))
        self.assertAlmostEqual(graph["kv_share"], graph["bytes_per_key"] / report["kv_bytes"])
        self.assertAlmostEqual(graph["build_products"], graph["build_seconds"] / report["product_seconds"])
        self.assertIsNone(graph["times_faster"])  # than FAISS's, which were not asked for

    def test_indexes_for_which_the_time_is_short(self):
        result, report = self.replay("index-bench", {"tokens": 1500, "steps": 8, "queries": 64},
                                     "--indexes", "flat,graph", "--top", "20", "--seconds", "1e-6")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("time ran out: 0 of 2 heads were measured", result.stdout)
        self.assertEqual((report["heads"], report["heads_measured"]), (2, 0))
        self.assertEqual([index["heads"] for index in report["indexes"]], [[], []])

    def test_caches(self):
        result, report = self.replay("cache-sim", {"tokens": 4200, "steps": 60, "queries": 12},
                                     "--warm", "20", "--sizes", "0.01,0.05,0.5", "--betas", "0,2", "--retrieve-share", "0.02",
                                     "--retrieve-above", "0")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((report["heads"], report["tokens"], report["steps"]), (2, 4096, 60))
        self.assertEqual(len(report["rows"]), 2 * (3 * 2 + 1))
        ratio = {(row["policy"], row["beta"], row["shared"]): [point["hit_ratio"] for point in row["points"]]
                 for row in report["rows"]}
        for shared in (True, False):
            best = ratio["optimum", 0, shared]
            for policy in ("lru", "clock", "frequency"):
                plain = ratio[policy, 0, shared]
                # Twelve queries take turns: what they read stays in half of the tokens, but for what the mass of the
                # steady zone, which grows, weighs in one head of the group against the others.
                self.assertGreater(plain[2], 0.99)
                for one, limit in zip(plain, best):
                    self.assertLessEqual(one, limit)
                self.assertGreater(ratio[policy, 2, shared][1], plain[1])
        errors = {row["beta"]: row["output_error"] for row in report["rows"] if row["policy"] == "lru"}
        self.assertTrue(0 < errors[0] <= errors[2] < 1, errors)

    def test_caches_where_the_mass_decides(self):
        arguments = ("--warm", "20", "--sizes", "0.05", "--policies", "clock", "--betas", "0,1", "--retrieve-above")
        read = {}
        for above in ("0.01", "0.001"):
            result, report = self.replay("cache-sim", {"tokens": 4200, "steps": 60, "queries": 12}, *arguments, above)
            self.assertEqual(result.returncode, 0, result.stderr)
            plain, preferred = [row["points"][0] for row in report["rows"] if row["shared"] and row["policy"] == "clock"]
            self.assertLess(preferred["tokens_missed"], plain["tokens_missed"])
            for point in (plain, preferred):
                self.assertAlmostEqual(point["tokens_missed"], (1 - point["hit_ratio"]) * point["tokens_read"], delta=1e-6)
            read[above] = plain["tokens_read"]
        self.assertLess(read["0.01"], read["0.001"])

    def test_traces_that_will_not_do(self):
        result, _ = self.replay("cache-sim", {"tokens": 2000, "steps": 8, "queries": 1})
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("--warm: the trace has 8 decoded tokens", result.stderr)
        result, _ = self.replay("cache-sim", {"tokens": 300, "steps": 8, "queries": 1}, "--warm", "1")
        self.assertIn("too short", result.stderr)
        for command in ("cache-sim", "index-bench"):
            result = swell(command, "--trace", str(ROOT / "LICENSE"))
            self.assertEqual(result.returncode, 1)
            self.assertIn("LICENSE", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
