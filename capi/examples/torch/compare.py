"""SmolLM2 decoding in PyTorch with Swell as its cache of keys and values, beside PyTorch's own attention.

usage: compare.py BASE.gguf ADAPTER.gguf TOKENIZER.json TEXT [TOKENS ...] [NAME=VALUE[,NAME=VALUE] ...]
Prints, for each length of the context, tokens per second of whole decode steps in one CUDA graph, and how many
questions are answered right, every token of the answer, with the question read token by token.
NAME=VALUE are retrieval options that Swell's preset is changed by, as retrieve_above=0.001: one more row each.
SDPA: flash attention over the context and plain attention over what came after it, merged by their LSE.
SDPA, one length: a single flash attention over context and room, what a graph for one length alone would take.
"""
import statistics
import sys
import time

import torch
from tokenizers import Tokenizer

import swell_gpu
import tasks
from smollm import GROUP, HEAD_DIM, HEADS, KV_HEADS, LAYERS, Model

BATCHES, QUESTIONS, SEEDS, ROOM, STEPS = (1, 8), 24, (1, 2, 3), 128, 100


class Sdpa:
    """A static cache: the context, and room for ROOM tokens more of each sequence."""

    def __init__(self, cache, batch):
        self.length = cache[0][0].shape[1]
        self.batch = batch
        self.cache = [tuple(t[None].repeat(batch, 1, 1, 1) for t in rows) for rows in cache]
        shape = (LAYERS, 2, batch, KV_HEADS, ROOM, HEAD_DIM)
        self.recent = torch.zeros(shape, device="cuda", dtype=torch.bfloat16)
        self.places = torch.arange(ROOM, device="cuda")
        self.positions = torch.full((batch,), self.length, device="cuda")

    def reset(self):
        pass

    def attend(self, layer, queries, keys, values):
        # The queries of a group are positions of its KV head, so that keys are read once.
        queries = queries.view(self.batch, KV_HEADS, GROUP, HEAD_DIM)
        place = self.positions[:1] - self.length
        recent_keys, recent_values = self.recent[layer]
        recent_keys.index_copy_(2, place, keys[:, :, None])
        recent_values.index_copy_(2, place, values[:, :, None])
        far = torch.ops.aten._scaled_dot_product_flash_attention(queries, *self.cache[layer])
        logits = (queries @ recent_keys.transpose(2, 3)).float() * HEAD_DIM ** -0.5
        logits = logits.masked_fill(self.places > place, float("-inf"))
        lse = logits.logsumexp(-1, keepdim=True)
        near = (logits - lse).exp().to(queries.dtype) @ recent_values
        share = torch.sigmoid(far[1][..., None] - lse)
        merged = share * far[0].float() + (1 - share) * near.float()
        return merged.to(queries.dtype).view(self.batch, HEADS * HEAD_DIM)

    def close(self):
        pass

    def after_step(self):
        pass

    def bytes(self):
        return sum(t.nbytes for rows in self.cache for t in rows) + self.recent.nbytes


class SdpaOneLength(Sdpa):
    """For times only: the room is read as if it were full."""

    def __init__(self, cache, batch):
        super().__init__(cache, batch)
        self.cache = [tuple(torch.cat((t, torch.zeros_like(t[:, :, :ROOM])), 2) for t in rows) for rows in self.cache]
        self.recent = self.recent[:, :, :, :, :0]

    def attend(self, layer, queries, keys, values):
        queries = queries.view(self.batch, KV_HEADS, GROUP, HEAD_DIM)
        for held, new in zip(self.cache[layer], (keys, values)):
            held.index_copy_(2, self.positions[:1], new[:, :, None])
        attended = torch.ops.aten._scaled_dot_product_flash_attention(queries, *self.cache[layer])[0]
        return attended.reshape(self.batch, HEADS * HEAD_DIM)


class Swell:
    """Sequences of an engine. A step's sequences are forks of those that hold the context."""

    def __init__(self, cache, batch, exact=False, **retrieval):
        self.length = cache[0][0].shape[1]
        self.batch = batch
        self.gpu = swell_gpu.Gpu(layers=LAYERS, kv_heads=KV_HEADS, group=GROUP, head_dim=HEAD_DIM,
                                 storage=swell_gpu.BFLOAT16, max_sequences=2 * batch, sink_tokens=4, window_tokens=64)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        self.contexts = [self.gpu.create() for _ in range(batch)]
        for sequence in self.contexts:
            for layer, (keys, values) in enumerate(cache):
                self.gpu.put(sequence, layer, 0, keys, values)
        self.seconds_to_put = (time.perf_counter() - begin) / batch
        self.steps = self.gpu.batch(batch, batch * (self.length + 2048), exact, **retrieval)
        self.output = torch.empty(batch, HEADS, HEAD_DIM, device="cuda")
        self.positions = torch.full((batch,), self.length, device="cuda")
        self.forks, self.done = [], 0
        self.reset()

    def reset(self):
        self.steps.set([])
        for fork in self.forks:
            self.gpu.release(fork)
        self.forks = [self.gpu.fork(sequence) for sequence in self.contexts]
        self.steps.set(self.forks)
        self.done = 0

    def attend(self, layer, queries, keys, values):
        self.steps.append(layer, keys, values)
        self.steps.attend(layer, queries, self.output)
        return self.output.to(queries.dtype).view(self.batch, HEADS * HEAD_DIM)

    def after_step(self):
        self.done += 1
        if self.done % 1024 == 0:  # segment_tokens
            self.gpu.seal()

    def close(self):
        self.steps.close()
        self.gpu.__exit__()

    def bytes(self):
        stats = self.gpu.stats()
        return stats.segment_bytes + stats.tail_bytes + stats.batch_bytes


class Decoder:
    """One decode step of a batch in a CUDA graph: ids and positions in, the next ids out."""

    def __init__(self, model, cache):
        self.cache = cache
        self.ids = torch.zeros(cache.batch, device="cuda", dtype=torch.long)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        self.stream = stream

        def step():
            self.next = model.next_ids(model.forward(self.ids, cache.positions, cache.attend))
            cache.positions += 1

        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            step()
        self.rewind()

    def rewind(self):
        with torch.cuda.stream(self.stream):
            self.cache.reset()
            self.cache.positions.fill_(self.cache.length)

    def step(self):
        with torch.cuda.stream(self.stream):
            self.graph.replay()
            self.cache.after_step()

    def time(self):
        """Median seconds of a step that continues with its own ids."""
        times = []
        for _ in range(5):
            self.rewind()
            self.stream.synchronize()
            begin = time.perf_counter()
            for _ in range(STEPS):
                self.step()
                with torch.cuda.stream(self.stream):
                    self.ids.copy_(self.next)
            self.stream.synchronize()
            times.append((time.perf_counter() - begin) / STEPS)
        return statistics.median(times)

    def answers(self, question, answer):
        """Whether the most likely ids after the question are those of the answer."""
        self.rewind()
        ids = torch.tensor(question + answer, device="cuda")
        said = []
        for i in range(len(ids) - 1):
            with torch.cuda.stream(self.stream):
                self.ids.copy_(ids[i:i + 1])
                self.step()
                said.append(self.next.clone())
        self.stream.synchronize()
        return torch.cat(said)[len(question) - 1:].tolist() == answer


def main():
    base, adapter, tokenizer, text = sys.argv[1:5]
    lengths = [int(word) for word in sys.argv[5:] if word.isdigit()] or [32768, 131072]
    model = Model(base, adapter)
    encoder = Tokenizer.from_file(tokenizer)
    encode = lambda part: encoder.encode(part).ids
    with open(text, encoding="utf-8") as file:
        corpus = encode(file.read())
    kinds = {"SDPA": Sdpa, "SDPA, one length": SdpaOneLength, "Swell": Swell,
             "Swell, exact": lambda *a: Swell(*a, exact=True)}
    for word in (word for word in sys.argv[5:] if not word.isdigit()):
        changes = {name: float(value) for name, value in (change.split("=") for change in word.split(","))}
        kinds[f"Swell, {word}"] = lambda *a, changes=changes: Swell(*a, **changes)
    for length in lengths:
        right = {name: {} for name in kinds if name != "SDPA, one length"}
        for task in ("needles", "lines", "recall"):
            for seed in SEEDS:
                context, questions = tasks.make(task, encode, corpus, length, QUESTIONS, seed)
                cache = model.prefill(torch.tensor(context, device="cuda"))
                for name in right:
                    held = kinds[name](cache, 1)
                    decoder = Decoder(model, held)
                    count = sum(decoder.answers(*question) for question in questions)
                    right[name][task] = right[name].get(task, 0) + count
                    held.close()
                    del decoder, held
        for batch in BATCHES:
            for name, make in kinds.items():
                held = make(cache, batch)
                seconds = Decoder(model, held).time()
                put = f", put {held.seconds_to_put * 1e3:.0f} ms" if isinstance(held, Swell) else ""
                print(f"{length} tokens x {batch}, {name}: {batch / seconds:.0f} tokens/s, {seconds * 1e3:.2f} ms a "
                      f"step, {held.bytes() / 2**20 / batch:.0f} MiB a sequence{put}", flush=True)
                held.close()
                del held
                torch.cuda.empty_cache()
        total = QUESTIONS * len(SEEDS)
        for name, counts in right.items():
            print(f"{length} tokens, {name}, right of {total}: " + ", ".join(f"{t} {c}" for t, c in counts.items()),
                  flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
