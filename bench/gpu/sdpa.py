"""Times PyTorch's scaled_dot_product_attention (flash) for decode steps: 8 KV heads, group 4, head_dim 128, bfloat16.

usage: sdpa.py TOKENS:BATCH ...; prints "TOKENS BATCH US" for each, the median of CUDA-graph replays.
"""

import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

KV_HEADS, GROUP, HEAD_DIM, REPEATS = 8, 4, 128, 15


def rows(batch, count):
    return torch.randn(batch, KV_HEADS, count, HEAD_DIM, device="cuda", dtype=torch.bfloat16)


def time_step(tokens, batch):
    # The queries of a group are positions of its KV head, so that keys are read once.
    queries, keys, values = rows(batch, GROUP), rows(batch, tokens), rows(batch, tokens)

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values)

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                attend()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            attend()
    times = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1000 * begin.elapsed_time(end))
    return statistics.median(times)


for size in sys.argv[1:]:
    n_tokens, n_batch = map(int, size.split(":"))
    print(n_tokens, n_batch, f"{time_step(n_tokens, n_batch):.1f}", flush=True)
    torch.cuda.empty_cache()
