"""Swell's GPU engine for PyTorch through ctypes: tensors go in by address, calls run on torch's current stream.

The library is found through the variable SWELL_LIBRARY or by its usual name.
"""
import ctypes
import os

import torch

BFLOAT16, BATCH_EXACT = 2, 1
i32, u32, i64, u64, f32, pointer = (ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float,
                                    ctypes.c_void_p)


class _Struct(ctypes.Structure):
    """A struct whose struct_size is set when it is made."""

    def __init__(self, **values):
        super().__init__(struct_size=ctypes.sizeof(self), **values)


class Options(_Struct):
    _fields_ = [("struct_size", u32), ("device", i32), ("layers", i32), ("kv_heads", i32), ("group", i32),
                ("head_dim", i32), ("scale", f32), ("storage", i32), ("max_sequences", i32), ("sink_tokens", i32),
                ("window_tokens", i32), ("segment_tokens", i32), ("cluster_tokens", i32), ("iterations", i32),
                ("home", i32), ("flags", u32), ("home_bytes", u64), ("cache_bytes", u64)]


class Stats(_Struct):
    _fields_ = [("struct_size", u32), ("reserved", u32), ("sequences", i64), ("batches", i64), ("sealed_tokens", i64),
                ("segment_bytes", u64), ("tail_bytes", u64), ("batch_bytes", u64), ("cache_bytes", u64),
                ("home_bytes", u64)]


class PutArgs(_Struct):
    _fields_ = [("struct_size", u32), ("layer", i32), ("sequence", u64), ("position", i64), ("tokens", i64),
                ("token_stride", i64), ("head_stride", i64)]


class BatchOptions(_Struct):
    _fields_ = [("struct_size", u32), ("max_sequences", i32), ("max_tokens", i64), ("max_sequence_tokens", i64),
                ("flags", u32), ("reserved", u32)]


class RetrievalOptions(_Struct):
    _fields_ = [("struct_size", u32), ("unit", i32), ("ranking", i32), ("flags", u32), ("retrieve_share", f32),
                ("estimate_share", f32), ("kappa", f32), ("retrieve_above", f32), ("retrieve_tokens", i64),
                ("max_retrieve_tokens", i64), ("floor_tokens", i64), ("max_open_tokens", i64), ("open_share", f32),
                ("reserved_2", u32)]


_library = ctypes.CDLL(os.environ.get("SWELL_LIBRARY", "libswell.so.0"))
for _name, _arguments in [
        ("preset", [ctypes.c_char_p] + [pointer] * 3),
        ("retrieval_create", [pointer, pointer, i64, pointer, pointer]),
        ("gpu_open", [pointer] * 3),
        ("gpu_get_stats", [pointer] * 3),
        ("gpu_sequence_create", [pointer] * 3),
        ("gpu_sequence_fork", [pointer, u64] + [pointer] * 3),
        ("gpu_sequence_release", [pointer, u64, pointer]),
        ("gpu_put", [pointer] * 6),
        ("gpu_seal", [pointer] * 3),
        ("gpu_batch_create", [pointer] * 5),
        ("gpu_batch_set", [pointer, pointer, i64, pointer, pointer]),
        ("gpu_append", [pointer, i32] + [pointer] * 4),
        ("gpu_attend", [pointer, i32] + [pointer] * 6)]:
    getattr(_library, "swell_" + _name).argtypes = _arguments
_library.swell_error_message.restype = ctypes.c_char_p
_library.swell_error_message.argtypes = _library.swell_error_destroy.argtypes = [pointer]
_library.swell_gpu_close.argtypes = _library.swell_gpu_batch_destroy.argtypes = [pointer]
_library.swell_retrieval_destroy.argtypes = [pointer]


def _call(name, *arguments):
    error = pointer()
    if getattr(_library, "swell_" + name)(*arguments, ctypes.byref(error)) == 0:
        return
    message = _library.swell_error_message(error).decode()
    _library.swell_error_destroy(ctypes.byref(error))
    raise RuntimeError(f"{name}: {message}")


def _stream():
    return torch.cuda.current_stream().cuda_stream


def _retrieval(changes):
    options = RetrievalOptions()
    _call("preset", b"swell", None, ctypes.byref(options))
    for name, value in changes.items():
        setattr(options, name, value)
    retrieval = pointer()
    _call("retrieval_create", ctypes.byref(options), None, 0, ctypes.byref(retrieval))
    return retrieval


class Gpu:
    """An engine on one device. Close it, or use it in a with statement."""

    def __init__(self, **options):
        self._handle = pointer()
        _call("gpu_open", ctypes.byref(Options(**options)), ctypes.byref(self._handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _library.swell_gpu_close(ctypes.byref(self._handle))

    def create(self):
        sequence = u64()
        _call("gpu_sequence_create", self._handle, ctypes.byref(sequence))
        return sequence.value

    def fork(self, sequence):
        fork = u64()
        _call("gpu_sequence_fork", self._handle, sequence, _stream(), ctypes.byref(fork))
        return fork.value

    def release(self, sequence):
        _call("gpu_sequence_release", self._handle, sequence)

    def put(self, sequence, layer, position, keys, values):
        """keys, values [kv_heads, tokens, head_dim], of equal strides; rows are dense."""
        head_stride, token_stride, _ = keys.stride()
        args = PutArgs(layer=layer, sequence=sequence, position=position, tokens=keys.shape[1],
                       token_stride=token_stride, head_stride=head_stride)
        _call("gpu_put", self._handle, ctypes.byref(args), keys.data_ptr(), values.data_ptr(), _stream())

    def seal(self):
        _call("gpu_seal", self._handle, _stream())

    def stats(self):
        stats = Stats()
        _call("gpu_get_stats", self._handle, ctypes.byref(stats))
        return stats

    def batch(self, sequences, tokens, exact=False, **retrieval):
        """`retrieval`: options that differ from those of the preset, as retrieve_above=0.001."""
        return Batch(self._handle, sequences, tokens, exact, retrieval)


class Batch:
    """Sequences that are answered together: at most so many, of so many tokens in all."""

    def __init__(self, gpu, sequences, tokens, exact, changes):
        self._handle = pointer()
        options = BatchOptions(max_sequences=sequences, max_tokens=tokens, flags=BATCH_EXACT if exact else 0)
        retrieval = _retrieval(changes) if changes else None
        _call("gpu_batch_create", gpu, ctypes.byref(options), retrieval, ctypes.byref(self._handle))
        _library.swell_retrieval_destroy(ctypes.byref(retrieval) if changes else None)  # the batch has a copy

    def close(self):
        _library.swell_gpu_batch_destroy(ctypes.byref(self._handle))

    def set(self, sequences):
        _call("gpu_batch_set", self._handle, (u64 * len(sequences))(*sequences), len(sequences), _stream())

    def append(self, layer, keys, values):
        _call("gpu_append", self._handle, layer, keys.data_ptr(), values.data_ptr(), _stream())

    def attend(self, layer, queries, output):
        """queries [batch, heads, head_dim], output the same in float32."""
        _call("gpu_attend", self._handle, layer, queries.data_ptr(), output.data_ptr(), None, None, _stream())
