"""What a user of the swell program meets: help, exit codes, errors in one line, Ctrl-C, a full disk, well-formed pages.

usage: cli_test.py SWELL [--model]    (--model: also the tests that need the model)
"""
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

SWELL = sys.argv[1]
ROOT = pathlib.Path(__file__).resolve().parents[2]
READERS = ("run", "chat", "fidelity", "inspect", "speed", "trace")  # take a text and a model
COMMANDS = (*READERS, "bench", "index-bench", "cache-sim")
SMALL = ("inspect", "--synthetic", "--tokens", "3000", "--layers", "1")


def swell(*arguments, **options):
    return subprocess.run([SWELL, *arguments], capture_output=True, text=True, timeout=550, **options)


def read_until(terminal, wanted):
    """Output of a terminal up to and with `wanted`, or all of it."""
    output = b""
    while wanted not in output:
        ready, _, _ = select.select([terminal], [], [], 120)
        if not ready:
            break
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end has closed
            break
        if not part:
            break
        output += part
    return output


class HelpTest(unittest.TestCase):
    def test_every_command_explains_itself(self):
        result = swell("--help")
        self.assertEqual(result.returncode, 0)
        for command in COMMANDS:
            self.assertIn(command, result.stdout)
            help_text = swell(command, "--help")
            self.assertEqual(help_text.returncode, 0)
            self.assertIn("--json", help_text.stdout)
            self.assertIn("Exit codes: 0", help_text.stdout)
            self.assertEqual(help_text.stderr, "")

    def test_version(self):
        result = swell("--version")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stdout, r"^swell \d+\.\d+\.\d+\n$")


class DocsTest(unittest.TestCase):
    def test_documented_commands_have_the_options_that_they_name(self):
        commands = []
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            for line in page.read_text().splitlines():
                words = line.split("#")[0].replace("tools/demo", "swell run").strip("` ").split()
                if words and pathlib.PurePath(words[0]).name == "swell" and words[1:2] and words[1] in COMMANDS:
                    commands.append(words)
        self.assertGreaterEqual({words[1] for words in commands}, set(COMMANDS))
        for words in commands:
            known = swell(words[1], "--help").stdout
            for option in (word for word in words if word.startswith("--")):
                self.assertRegex(known, r"(?m)[ ,]" + option + r"[ ,]", " ".join(words))


class ErrorTest(unittest.TestCase):
    def usage_error(self, *arguments):
        result = swell(*arguments)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(result.stdout, "")
        return result.stderr

    def runtime_error(self, *arguments, message):
        result = swell(*arguments)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn(message, result.stderr)
        last = result.stderr.splitlines()[-1]
        self.assertTrue(last.startswith("swell " + arguments[0] + ": "), last)

    def test_usage(self):
        self.usage_error()
        self.usage_error("walk")
        self.usage_error("run", "--no-such-option")
        self.usage_error("inspect", "--synthetic", "extra")
        for command in READERS:
            self.assertIn("--tokens", self.usage_error(command, "--tokens", "0"))
            self.assertIn("--tokens", self.usage_error(command, "--tokens", "many"))
        self.assertIn("--tokens", self.usage_error("run", "--tokens", "131073"))
        self.assertIn("--retrieve-above", self.usage_error("run", "--retrieve-above", "0"))
        self.assertIn("--retrieve-above", self.usage_error("run", "--retrieve-above", "1.5"))
        self.assertIn("--mode", self.usage_error("chat", "--mode", "fast"))
        self.assertIn("--tasks", self.usage_error("fidelity", "--tasks", "needles,haystack"))
        self.assertIn("--configs", self.usage_error("fidelity", "--configs", "swel"))
        self.assertIn("--preset", self.usage_error("inspect", "--preset", "best"))

    def test_missing_files(self):
        for command in READERS:
            self.runtime_error(command, "--model", "no/model.gguf", message="no/model.gguf")
        self.runtime_error("run", "--report", "no/folder/report.html", message="'no/folder/report.html'")
        self.runtime_error("fidelity", "--json", "no/folder/f.json", message="'no/folder/f.json'")
        self.runtime_error("inspect", "--synthetic", "--json", "/", message="'/'")

    def test_what_is_no_model(self):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(b"GGUF" + b"\xff" * 100)
            file.flush()
            self.runtime_error("run", "--model", file.name, message=file.name)

    def test_bad_variants(self):
        for variant, message in (("best", "'best'"), ("swell,floor", "'floor'"), ("swell,kappa=much", "'kappa=much'"),
                                 ("swell,overrides=no/file", "'overrides=no/file'"),
                                 ("swell,no_such_key=1", "floor_tokens")):
            self.runtime_error("fidelity", "--variant", variant, message=message)

    def test_peers_that_are_none(self):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(b'{"name": "other", "points": [{"tokens": 5}]}')
            file.flush()
            self.runtime_error("speed", "--peer", file.name, message="--peer: ")
        self.runtime_error("speed", "--peer", "no/peer.json", message="no/peer.json")

    def test_traces(self):
        self.assertIn("--task", self.usage_error("trace", "--task", "tex"))
        self.assertIn("--layers", self.usage_error("trace", "--layers", "1,-2"))
        self.runtime_error("trace", "--out", "no/folder/t.bin", message="'no/folder/t.bin'")

    def test_layer_that_is_not_there(self):
        self.runtime_error(*SMALL, "--layer", "7", message="--layer 7")

    def test_full_disk(self):
        self.runtime_error(*SMALL, "--json", "/dev/full", message="No space left on device")
        with open("/dev/full", "w", encoding="ascii") as full:
            result = subprocess.run([SWELL, *SMALL], stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
        self.assertEqual(result.returncode, 1)
        self.assertIn("standard output", result.stderr)


class InspectTest(unittest.TestCase):
    def test_json_adds_up(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "i.json"
            result = swell(*SMALL, "--json", str(path))
            self.assertEqual(result.returncode, 0, result.stderr)
            picture = json.loads(path.read_text())
            self.assertEqual(os.listdir(folder), ["i.json"])
        (layer,) = picture["layers"]
        self.assertEqual(layer["tokens"], 3000)
        self.assertEqual(sum(segment["tokens"] for segment in layer["segments"]), layer["sealed_tokens"])
        clusters = sum(segment["clusters"] for segment in layer["segments"])
        self.assertEqual(sum(size["clusters"] for size in picture["cluster_sizes"]), clusters)
        self.assertIn("Cluster sizes of layer 0", result.stdout)

    def test_progress_without_a_terminal_is_at_most_a_line_per_tenth(self):
        result = swell("inspect", "--synthetic", "--tokens", "30000", "--layers", "1")
        writing = [line for line in result.stderr.splitlines() if line.startswith("writing")]
        self.assertTrue(5 <= len(writing) <= 11, result.stderr)
        self.assertNotIn("\x1b", result.stderr)


FAKE_BENCHMARK = """#!/bin/sh
case "$*" in
  *list_tests*) printf '%s\\n' Step/tokens:8 Step/tokens:16 Step/tokens:32 Broken ;;
  *) cat '{answer}'; exit {code} ;;
esac
"""


class BenchTest(unittest.TestCase):
    """With programs that only print what they are told; the real ones where they are built."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def fake(self, answer, code=0):
        folder = pathlib.Path(self.folder.name)
        (folder / "answer.json").write_text(answer)
        program = folder / "index_bench"
        program.write_text(FAKE_BENCHMARK.format(answer=folder / "answer.json", code=code))
        program.chmod(0o755)
        return swell("bench", "--programs", "index", "--folder", str(folder), "--json", str(folder / "b.json"),
                     "--report", str(folder / "b.html"))

    def answer(self, unit="us"):
        entries = []
        for tokens, time in ((8, 10), (16, 20), (32, 40)):
            for aggregate, value in (("mean", 1), ("median", time), ("cv", 0.25)):
                entries.append({"name": "x", "run_name": f"Step/tokens:{tokens}/exact:1/real_time", "run_type": "aggregate",
                                "aggregate_name": aggregate, "real_time": value, "cpu_time": value / 2, "time_unit": unit,
                                "threads": 1, "bytes_per_second": 3e9, "found": 7})
        entries.append({"name": "y", "run_name": "Broken", "run_type": "iteration", "error_occurred": True,
                        "error_message": "no <memory>"})
        context = {"date": "today", "num_cpus": 6, "mhz_per_cpu": 2000, "load_avg": [2.5, 1, 1],
                   "caches": [{"type": "Unified", "level": 2, "size": 1 << 20, "num_sharing": 1}]}
        return json.dumps({"context": context, "benchmarks": entries})

    def test_table_json_and_page(self):
        result = self.fake(self.answer())
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"index +Step +tokens:16 exact:1 +20 us +25 % +3 GB/s, 7 found\n")
        self.assertIn("6 CPUs", result.stdout)
        self.assertIn("Load before the first program: 2.5: other programs were running", result.stdout)
        self.assertIn("no <memory>", result.stdout)
        report = json.loads((pathlib.Path(self.folder.name) / "b.json").read_text())
        self.assertEqual((report["cpus"], report["repetitions"], report["caches"]), (6, 3, [{"level": "L2", "bytes": 1 << 20}]))
        steps, broken = report["benchmarks"][:-1], report["benchmarks"][-1]
        self.assertEqual([step["arguments"] for step in steps], [f"tokens:{n} exact:1" for n in (8, 16, 32)])
        for step, seconds in zip(steps, (10e-6, 20e-6, 40e-6)):
            self.assertAlmostEqual(step["seconds"], seconds)
            self.assertAlmostEqual(step["cpu_seconds"], seconds / 2)
            self.assertEqual((step["spread"], step["counters"]), (0.25, {"bytes_per_second": 3e9, "found": 7}))
        self.assertEqual(broken["error"], "no <memory>")
        page = (pathlib.Path(self.folder.name) / "b.html").read_text()
        names = [element.tag.split("}")[1] for element in xml.etree.ElementTree.fromstring(page).iter()]
        self.assertEqual(names.count("svg"), 2)  # bars, and a line over the tokens

    def test_programs_that_fail(self):
        for answer, code, message in ((self.answer(), 3, "ended with code 3"), ("no JSON", 0, "the output of the program 'index'"),
                                      ("{}", 0, "'index'"), (self.answer(unit="fortnight"), 0, "'index'")):
            result = self.fake(answer, code)
            self.assertEqual(result.returncode, 1, message)
            self.assertIn(message, result.stderr)
            self.assertFalse((pathlib.Path(self.folder.name) / "b.json").exists())

    def test_programs_that_are_missing(self):
        result = swell("bench", "--folder", self.folder.name)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"the benchmark program 'attention_bench' is neither '{self.folder.name}/attention_bench'", result.stderr)
        broken = pathlib.Path(self.folder.name) / "attention_bench"
        broken.write_bytes(b"\x7fELF and nothing more")
        broken.chmod(0o755)
        result = swell("bench", "--folder", self.folder.name)
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot start", result.stderr)

    def test_real_programs(self):
        if not (pathlib.Path(SWELL).parents[1] / "bench/attention/attention_bench").exists():
            self.skipTest("built without the benchmarks")
        arguments = ("bench", "--programs", "attention", "--min-time", "0.001", "--repetitions", "1")
        result = swell(*arguments, "--filter", "RankStep/64/3$")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"attention +RankStep +64 3 +[0-9.]+ [mu]s +-")
        result = swell(*arguments, "--filter", "NoSuchStep")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no benchmark matches --filter 'NoSuchStep'", result.stderr)


class InterruptTest(unittest.TestCase):
    def test_ctrl_c_restores_the_terminal(self):
        child, terminal = pty.fork()
        if child == 0:
            os.execv(SWELL, [SWELL, "inspect", "--synthetic", "--tokens", "16000000", "--layers", "64"])
        output = read_until(terminal, b"writing")
        self.assertIn(b"\x1b[?25l", output)  # the cursor is hidden while the bar is drawn
        os.write(terminal, b"\x03")  # the terminal turns it into SIGINT
        output = read_until(terminal, b"\x1b[?25h")
        self.assertTrue(output.endswith(b"\r\x1b[K\x1b[?25h"), output[-100:])
        read_until(terminal, b"\0")
        _, status = os.waitpid(child, 0)
        self.assertTrue(os.WIFEXITED(status))
        self.assertEqual(os.WEXITSTATUS(status), 130)
        os.close(terminal)

    def test_without_a_terminal(self):
        process = subprocess.Popen([SWELL, "inspect", "--synthetic", "--tokens", "16000000", "--layers", "64"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stderr.read(1)  # the first line of its progress
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(output, b"")
        self.assertNotIn(b"\x1b", errors)


MODEL = pathlib.Path(__file__).parents[2] / "data/SmolLM2-135M-Instruct.Q4_1.gguf"


@unittest.skipUnless(MODEL.exists(), "the model is absent; tools/demo fetches it")
class ModelTest(unittest.TestCase):
    def check_page(self, path, figures):
        text = path.read_text(encoding="utf-8")
        root = xml.etree.ElementTree.fromstring(text)  # well-formed, its plots too
        names = [element.tag.split("}")[1] for element in root.iter()]
        self.assertEqual(names.count("svg"), figures)
        self.assertEqual([name for name in names if name in ("script", "img", "link", "iframe")], [])
        self.assertNotIn("href", text)
        self.assertNotIn("NaN", text)

    def test_run(self):
        with tempfile.TemporaryDirectory() as folder:
            page = pathlib.Path(folder) / "report.html"
            result = swell("run", "--tokens", "1536", "--questions", "2", "--report", str(page), "--json", str(page) + ".json")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.check_page(page, figures=4)
            report = json.loads(pathlib.Path(str(page) + ".json").read_text())
        exact, wave = report["sides"]
        self.assertEqual((exact["name"], wave["name"]), ("exact", "wave"))
        for side in (exact, wave):
            self.assertEqual(len(side["answers"]), 2)
            for answer in side["answers"]:
                self.assertIn(answer["question"], result.stdout)
                self.assertEqual(answer["right"], answer["answer"] == answer["expected"])
            self.assertGreater(side["tokens_per_second"], 0)
        self.assertEqual(exact["share_read"], 1)
        self.assertLess(wave["share_read"], 1)
        self.assertGreater(wave["memory_bytes"], exact["memory_bytes"])
        self.assertTrue(0 < report["audit"]["output_error"] < 1)
        self.assertEqual([step["tokens"] for step in report["steps"]], [report["tokens"] // part for part in (8, 4, 2, 1)])
        for step in report["steps"]:
            self.assertTrue(0 < step["wave"]["attention"] < step["wave"]["seconds"])
        for words in ("answers right", "share of the tokens read", "exact attention", "wave index", "memory"):
            self.assertIn(words, result.stdout)

    def test_own_text_and_question(self):
        with tempfile.TemporaryDirectory() as folder:
            text = pathlib.Path(folder) / "text.txt"
            text.write_text("The cat of the baker is called Oscar. <&> He sleeps all day.\n" * 3)
            page = pathlib.Path(folder) / "report.html"
            result = swell("run", "--text", str(text), "--question", "What is the cat of the baker called?",
                           "--answer-tokens", "8", "--report", str(page))
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("What is the cat", result.stdout)
            self.check_page(page, figures=4)
            result = swell("run", "--text", str(text), "--report", str(page))
            self.assertEqual(result.returncode, 1)
            self.assertIn("tokens; to plant facts it needs", result.stderr)

    def test_text_longer_than_the_model_reads(self):
        result = swell("run", "--adapter", "none", "--tokens", "9000")
        self.assertEqual(result.returncode, 1)
        self.assertIn("is too long: the model reads at most 8,192", result.stderr)

    def test_report_on_a_full_disk(self):
        result = swell("run", "--tokens", "1024", "--questions", "1", "--report", "/dev/full")
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot write '/dev/full': No space left on device", result.stderr)

    def test_speed(self):
        with tempfile.TemporaryDirectory() as folder:
            page, data, peer = (pathlib.Path(folder) / name for name in ("s.html", "s.json", "peer.json"))
            peer.write_text('{"name": "<other>", "points": [{"tokens": 700, "read_seconds": 1000, "step_seconds": 8}]}')
            result = swell("speed", "--tokens", "700,300", "--steps", "3", "--peer", str(peer), "--json", str(data),
                           "--report", str(page))
            self.assertEqual(result.returncode, 0, result.stderr)
            self.check_page(page, figures=3)
            report = json.loads(data.read_text())
        self.assertEqual([point["tokens"] for point in report["points"]], [300, 700])
        for point in report["points"]:
            for times in (point["read"], point["step"]["exact"], point["step"]["wave"]):
                parts = sum(times[part] for part in ("products", "put", "attention", "rest"))
                self.assertAlmostEqual(parts, times["seconds"], places=6)
                self.assertGreater(times["products"], 0)
                self.assertGreater(times["attention"], 0)
        self.assertNotIn("peer", report["points"][0])
        self.assertEqual(report["points"][1]["peer"]["step_seconds"], 8)
        self.assertLess(report["weight_bytes"], 120e6)  # of 134.5 million elements: they stay in the file's precision
        self.assertGreater(report["peak_bytes"], report["weight_bytes"])
        self.assertIn("| <other> read, s |", result.stdout)
        result = swell("speed", "--text", str(ROOT / "LICENSE"), "--tokens", "131000")
        self.assertEqual(result.returncode, 1)
        self.assertIn("has only", result.stderr)

    def chat(self, *arguments, **options):
        return swell("chat", "--answer-tokens", "12", *arguments, **options)

    def test_chat(self):
        questions = "What is the capital of France?\n\n  \nAnd the capital of Italy?\r\n"
        plain = self.chat(input=questions)
        self.assertEqual(plain.returncode, 0, plain.stderr)
        self.assertEqual(plain.stdout.count(" tokens per second, "), 2)
        with tempfile.TemporaryDirectory() as folder:
            metrics = pathlib.Path(folder) / "swell.prom"
            result = self.chat("--json", "--metrics", str(metrics), input=questions)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(os.listdir(folder), ["swell.prom"])
            samples = dict(line.split(" ") for line in metrics.read_text().splitlines() if not line.startswith("#"))
        self.assertEqual(samples["swell_sequences"], "1")
        self.assertGreater(int(samples["swell_tokens_read_total"]), 0)
        self.assertIn("swell_audit_error_factor_count", samples)
        first, second = (json.loads(line) for line in result.stdout.splitlines())
        self.assertEqual(first["question"], "What is the capital of France?")
        self.assertIn("Paris", first["answer"])
        self.assertIn("Rome", second["answer"])
        for turn in (first, second):
            self.assertIn(turn["answer"], plain.stdout)
            self.assertIn(turn["end"], ("model", "limit"))
            self.assertTrue(1 <= turn["answer_tokens"] <= 12)
            self.assertEqual(turn["share_read"], 1)  # of a context below floor_tokens
            self.assertGreater(turn["tokens_per_second"], 0)
        self.assertEqual(second["context_tokens"],
                         first["context_tokens"] + second["prompt_tokens"] + second["answer_tokens"])

    def test_chat_about_a_text(self):
        shares = {}
        for mode in ("wave", "exact"):
            result = self.chat("--json", "--mode", mode, "--text", "tools/assets/prideprejudice.txt", "--tokens", "1800",
                               input="Who is Mr. Bingley?")  # without a line's end
            self.assertEqual(result.returncode, 0, result.stderr)
            turn = json.loads(result.stdout)
            self.assertGreater(turn["context_tokens"], 1800)
            shares[mode] = turn["share_read"]
        self.assertEqual(shares["exact"], 1)
        self.assertLess(shares["wave"], 0.9)

    def test_chat_refuses(self):
        result = subprocess.run([SWELL, "chat"], input=b"\xff\n", capture_output=True, timeout=300)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"UTF-8", result.stderr)
        result = self.chat(input="word " * 300000)
        self.assertEqual(result.returncode, 1)
        self.assertIn("longer than 1 MiB", result.stderr)
        result = self.chat("--adapter", "none", input="word " * 9000)
        self.assertEqual(result.returncode, 1)
        self.assertIn("the model reads at most 8,192", result.stderr)
        result = self.chat("--text", "no/text.txt", input="")
        self.assertIn("no/text.txt", result.stderr)
        with open("/dev/full", "w", encoding="ascii") as full:
            result = subprocess.run([SWELL, "chat", "--answer-tokens", "4"], input="Hi\n", stdout=full,
                                    stderr=subprocess.PIPE, text=True, timeout=300)
        self.assertEqual(result.returncode, 1)
        self.assertIn("standard output", result.stderr)

    def test_ctrl_c_ends_an_answer_and_ctrl_d_the_conversation(self):
        child, terminal = pty.fork()
        if child == 0:
            os.execv(SWELL, [SWELL, "chat", "--answer-tokens", "100000"])
        read_until(terminal, b"> ")
        os.write(terminal, b"Count to a million, one number a line.\n")
        read_until(terminal, b"line.\r\n")
        self.assertTrue(os.read(terminal, 1))  # the answer begins
        os.write(terminal, b"\x03")
        self.assertIn(b"tokens per second", read_until(terminal, b"> "))
        os.write(terminal, b"\x04")
        read_until(terminal, b"\0")
        _, status = os.waitpid(child, 0)
        self.assertTrue(os.WIFEXITED(status))
        self.assertEqual(os.WEXITSTATUS(status), 0)
        os.close(terminal)

    def trace(self, folder, *arguments):
        """What the reader of docs/trace_format.md finds in a trace of two layers."""
        import numpy  # here: the other tests do without
        page = (ROOT / "docs/trace_format.md").read_text()
        reader = {}
        exec(re.search(r"```python\n(.*?)```", page, re.S)[1], reader)
        path = str(pathlib.Path(folder) / "trace.bin")
        result = swell("trace", "--layers", "21,0,21", "--out", path, "--json", path + ".json", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        trace, summary = reader["read_trace"](path), json.loads(pathlib.Path(path + ".json").read_text())
        self.assertEqual(summary["bytes"], os.path.getsize(path))
        self.assertEqual(summary["layers"], [0, 21])
        self.assertEqual(list(trace["layers"]), [0, 21])
        for name in ("kv_heads", "query_heads", "head_dim", "prefill_tokens", "decode_steps", "prefill_queries"):
            self.assertEqual(trace[name], summary[name])
        self.assertEqual((trace["kv_heads"], trace["query_heads"], trace["head_dim"], trace["scale"]), (3, 9, 64, 0.125))
        tokens = trace["prefill_tokens"] + trace["decode_steps"]
        for keys, values, queries in trace["layers"].values():
            self.assertEqual((keys.dtype, keys.shape, values.shape), (numpy.float16, (tokens, 3, 64), (tokens, 3, 64)))
            self.assertEqual(queries.shape, (trace["prefill_queries"] + trace["decode_steps"], 9, 64))
            for rows in (keys, values, queries):
                self.assertTrue(numpy.isfinite(rows).all())
                self.assertTrue((abs(rows).max(axis=-1) > 0).all())
        return trace

    @staticmethod
    def difference(a, b):
        """Relative, of all rows together."""
        a, b = a.astype("f4"), b.astype("f4")
        return float((((a - b) ** 2).sum() / (b**2).sum()) ** 0.5)

    def test_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            decoded = self.trace(folder, "--tokens", "600", "--steps", "4", "--prefill-queries", "7")
            self.assertEqual(decoded["positions"].tolist(), [i * 600 // 7 - 1 for i in range(1, 8)])
            # The same tokens, all of them read in one go: every row is where the header says.
            read = self.trace(folder, "--tokens", "604", "--steps", "0")
            self.assertEqual(read["positions"].tolist(), list(range(604)))
            positions = decoded["positions"].tolist() + [600, 601, 602, 603]
            for layer, (keys, values, queries) in decoded["layers"].items():
                all_keys, all_values, all_queries = read["layers"][layer]
                self.assertLess(self.difference(keys, all_keys), 0.01)
                self.assertLess(self.difference(values, all_values), 0.01)
                self.assertLess(self.difference(queries, all_queries[positions]), 0.01)
                self.assertGreater(self.difference(queries[1:], all_queries[positions[:-1]]), 0.1)  # not by chance

    def test_trace_of_a_task(self):
        with tempfile.TemporaryDirectory() as folder:
            trace = self.trace(folder, "--task", "needles", "--tokens", "1024", "--steps", "30", "--mode", "wave")
            self.assertEqual(trace["decode_steps"], 30)
        result = swell("trace", "--layers", "30", "--tokens", "100")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--layers 30: the layers are 0 to 29", result.stderr)
        result = swell("trace", "--text", str(ROOT / "LICENSE"), "--tokens", "100000")
        self.assertEqual(result.returncode, 1)
        self.assertIn("has only", result.stderr)

    def test_fidelity_refuses_a_configuration_before_it_reads(self):
        result = swell("fidelity", "--configs", "swell", "--variant", "swell,ranking=mass")
        self.assertEqual(result.returncode, 1)
        self.assertIn("swell,ranking=mass: retrieval.retrieve_above", result.stderr)
        self.assertNotIn("reading", result.stderr)

    def test_fidelity(self):
        with tempfile.TemporaryDirectory() as folder:
            page, data = pathlib.Path(folder) / "f.html", pathlib.Path(folder) / "f.json"
            overrides = pathlib.Path(folder) / "overrides.txt"
            overrides.write_text("-1 -1 0.1\n3 1 0.9\n")
            variant = f"swell,floor_tokens=0,retrieve_above=0,retrieve_share=0.5,overrides={overrides}"
            result = swell("fidelity", "--tokens", "2048", "--tasks", "needles,text", "--questions", "2",
                           "--storage", "int8", "--audit", "1", "--variant", variant, "--json", str(data), "--report", str(page))
            self.assertEqual(result.returncode, 0, result.stderr)
            self.check_page(page, figures=3 + 1 + 2 * 3)
            report = json.loads(data.read_text())
        self.assertEqual(report["configs"], ["exact", "retroinfer", "swell", variant])
        self.assertEqual([(row["task"], row["config"]) for row in report["results"]],
                         [(task, config) for task in ("needles", "text") for config in report["configs"]])
        for row in report["results"]:
            self.assertTrue(0 <= row["exact_match"] <= row["token_accuracy"] <= 1)
            self.assertGreater(row["nll"], 0)
            self.assertGreater(row["bytes_read"], 0)
            if row["config"] == "exact":
                self.assertEqual(row["share_read"], 1)
                self.assertIsNone(row["output_error"])
            else:
                self.assertLess(row["share_read"], 1)
                self.assertTrue(0 < row["output_error"] < 1)
                self.assertGreater(row["predicted_error"], 0)
                self.assertEqual(len(row["head_errors"]), 90)
                self.assertAlmostEqual(sum(row["head_errors"]) / 90, row["output_error"], 3)
            if row["config"] == variant:
                self.assertLess(row["share_read"], 0.4)  # not the half that holds without overrides
        needles = report["results"][0]
        self.assertEqual(needles["exact_match"], 1)  # exact attention finds both facts of a short context


if __name__ == "__main__":
    if "--model" not in sys.argv:
        del ModelTest
    unittest.main(argv=sys.argv[:1])
