"""SmolLM2-135M with the 128K adapter in plain PyTorch, from GGUF files. What attends is given by the caller."""
import numpy
import torch
import torch.nn.functional as F

LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDTH, EPSILON = 30, 9, 3, 64, 576, 1e-5
GROUP = HEADS // KV_HEADS


def _tensors(path):
    import gguf
    from gguf.quants import dequantize
    reader = gguf.GGUFReader(path)
    tensors = {t.name: dequantize(t.data, t.tensor_type).astype(numpy.float32).reshape(
        tuple(int(n) for n in reversed(t.shape))) for t in reader.tensors}
    return tensors, reader


def load(base, adapter):
    """Weights in bfloat16 on the GPU, the adapter added, queries, keys and values joined; and the base of rope."""
    weights, _ = _tensors(base)
    lora, reader = _tensors(adapter)
    alpha = float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    for name in [n[:-len(".lora_a")] for n in lora if n.endswith(".lora_a")]:
        a, b = lora[name + ".lora_a"], lora[name + ".lora_b"]
        weights[name] = weights[name] + alpha / a.shape[0] * (b @ a)
    for layer in range(LAYERS):
        for joined, parts in (("attn_qkv", ("attn_q", "attn_k", "attn_v")), ("ffn_in", ("ffn_gate", "ffn_up"))):
            weights[f"blk.{layer}.{joined}.weight"] = numpy.concatenate(
                [weights.pop(f"blk.{layer}.{part}.weight") for part in parts])
    weights = {n: torch.from_numpy(w).to("cuda", torch.bfloat16) for n, w in weights.items()}
    return weights, float(reader.fields["llama.rope.freq_base"].parts[-1][0])


class Model:
    def __init__(self, base, adapter):
        self.weights, theta = load(base, adapter)
        even = torch.arange(0, HEAD_DIM, 2, device="cuda", dtype=torch.float64)
        self.frequencies = theta ** (-even / HEAD_DIM)

    @staticmethod
    def _rotate(x, cos, sin):
        """x [tokens, heads, head_dim], pairs (2i, 2i + 1)."""
        even, odd = x[..., 0::2].float(), x[..., 1::2].float()
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)

    def _norm(self, x, name):
        return F.rms_norm(x, (WIDTH,), self.weights[name + ".weight"], EPSILON)

    def forward(self, ids, positions, attend):
        """Hidden states [tokens, WIDTH] of ids [tokens]; attend(layer, q, k, v) takes [tokens, heads, head_dim] each
        and returns [tokens, HEADS * HEAD_DIM]."""
        x = self.weights["token_embd.weight"][ids]
        angles = (positions[:, None].double() * self.frequencies)[:, None]
        cos, sin = angles.cos().float(), angles.sin().float()
        for layer in range(LAYERS):
            block = f"blk.{layer}."
            qkv = F.linear(self._norm(x, block + "attn_norm"), self.weights[block + "attn_qkv.weight"])
            qkv = qkv.view(len(ids), HEADS + 2 * KV_HEADS, HEAD_DIM)
            rotated = self._rotate(qkv[:, :HEADS + KV_HEADS], cos, sin)
            queries, keys, values = rotated[:, :HEADS], rotated[:, HEADS:], qkv[:, HEADS + KV_HEADS:]
            attended = attend(layer, queries.contiguous(), keys.contiguous(), values.contiguous())
            x = x + F.linear(attended, self.weights[block + "attn_output.weight"])
            gate, up = F.linear(self._norm(x, block + "ffn_norm"), self.weights[block + "ffn_in.weight"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, self.weights[block + "ffn_down.weight"])
        return x

    def next_ids(self, hidden):
        return F.linear(self._norm(hidden, "output_norm"), self.weights["token_embd.weight"]).argmax(-1)

    def prefill(self, ids):
        """Keys and values of all layers, [KV_HEADS, tokens, HEAD_DIM] each."""
        cache = []

        def attend(_, queries, keys, values):
            q, k, v = (t.transpose(0, 1)[None] for t in (queries, keys, values))
            cache.append((k[0].contiguous(), v[0].contiguous()))
            k, v = k.repeat_interleave(GROUP, 1), v.repeat_interleave(GROUP, 1)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1).reshape(len(ids), -1)

        self.forward(ids, torch.arange(len(ids), device="cuda"), attend)
        return cache
