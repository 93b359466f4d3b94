"""Times llama.cpp, through llama-cpp-python, on a text: reading it up to several lengths, and decoding at each of them.

Flash attention, keys and values in float16, as the library is built by default. Writes what `swell speed --peer` reads:
{"name", "points": [{"tokens", "read_seconds", "step_seconds"}]}, where read_seconds counts from the length before.
"""

import argparse
import json
import statistics
import time

import llama_cpp

CHUNK_TOKENS = 512  # as many as the swell program reads at a time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True, help="LoRA adapter in GGUF")
    parser.add_argument("--rope-base", type=float, required=True, help="of the adapter, which llama.cpp does not read")
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", required=True, help="lengths of the context, separated by commas")
    parser.add_argument("--steps", type=int, required=True, help="tokens decoded at each length; the median counts")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--json", required=True)
    return parser.parse_args()


def evaluate(model, tokens):
    """Seconds of a pass of `tokens`, the logits of the last one included."""
    start = time.perf_counter()
    model.eval(tokens)
    model._ctx.get_logits()  # waits for what is still under way
    return time.perf_counter() - start


def main():
    options = parse_arguments()
    lengths = sorted(int(length) for length in options.tokens.split(","))
    model = llama_cpp.Llama(options.model, lora_path=options.adapter, rope_freq_base=options.rope_base,
                            n_ctx=lengths[-1] + options.steps + 2, n_batch=CHUNK_TOKENS, n_ubatch=CHUNK_TOKENS,
                            n_threads=options.threads, n_threads_batch=options.threads, flash_attn=True,
                            verbose=False)
    with open(options.text, "rb") as file:
        text = model.tokenize(file.read(), add_bos=False)
    evaluate(model, text[:64])  # the weights come into memory
    model.n_tokens = 0
    points = []
    for length in lengths:
        read_seconds = evaluate(model, text[model.n_tokens:length])
        steps = [evaluate(model, [token]) for token in text[length:length + options.steps + 1]]
        model.n_tokens = length  # the next pass forgets the tokens after it
        step_seconds = statistics.median(steps[1:])
        points.append({"tokens": length, "read_seconds": read_seconds, "step_seconds": step_seconds})
        print(f"llama.cpp at {length} tokens: read {read_seconds:.2f} s, {step_seconds * 1e3:.1f} ms a token", flush=True)
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump({"name": "llama.cpp", "points": points}, file, indent=2)


if __name__ == "__main__":
    main()
