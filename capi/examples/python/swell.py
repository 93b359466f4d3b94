"""Swell for Python through ctypes and numpy, as far as the example needs it.

The library is found through the variable SWELL_LIBRARY or by its usual name.
"""
import ctypes
import os

import numpy

OK, FLOAT32, FLOAT16, RETRIEVE, EXACT, DETERMINISTIC = 0, 0, 1, 0, 1, 1
i32, u32, i64, u64, f32, pointer = (ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float,
                                    ctypes.c_void_p)


def _struct(name, **fields):
    """A ctypes struct; its struct_size is set when one is made."""
    def init(self, **values):
        ctypes.Structure.__init__(self, **values)
        if "struct_size" in fields:
            self.struct_size = ctypes.sizeof(self)
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items()), "__init__": init})


EngineOptions = _struct("EngineOptions", struct_size=u32, layers=i32, kv_heads=i32, group=i32, head_dim=i32, scale=f32,
                        storage=i32, threads=i32, host_budget_bytes=u64, flags=u32, reserved=u32, log=pointer,
                        log_context=pointer)
EngineStats = _struct("EngineStats", struct_size=u32, reserved=u32, sequences=i64, bytes_in_use=u64, bytes_peak=u64,
                      budget_bytes=u64, tokens_put=i64, attend_calls=i64, head_steps=i64, tokens_visible=i64,
                      tokens_read=i64, bytes_read=i64, segments_sealed=i64, segments_compacted=i64, builds_failed=i64)
PutItem = _struct("PutItem", sequence=u64, position=i64, tokens=i64, first_row=i64)
PutArgs = _struct("PutArgs", struct_size=u32, item_size=u32, layer=i32, dtype=i32, n_items=i64, n_rows=i64,
                  key_token_stride=i64, key_head_stride=i64, value_token_stride=i64, value_head_stride=i64)
AttendItem = _struct("AttendItem", sequence=u64, n_queries=i64, first_row=i64, retrieval=pointer, mode=i32,
                     reserved=u32)
Certificate = _struct("Certificate", tokens_visible=i64, tokens_read=i64, bytes_read=i64, estimated_share=f32,
                      predicted_error=f32)
AttendArgs = _struct("AttendArgs", struct_size=u32, item_size=u32, layer=i32, query_dtype=i32, output_dtype=i32,
                     certificate_size=u32, n_items=i64, n_rows=i64)
FetchItem = _struct("FetchItem", sequence=u64, n_tokens=i64, first_row=i64)
FetchArgs = _struct("FetchArgs", struct_size=u32, item_size=u32, layer=i32, dtype=i32, n_items=i64, n_rows=i64)

_library = ctypes.CDLL(os.environ.get("SWELL_LIBRARY", "libswell.so.0"))
for _name, _result, _arguments in [
        ("swell_abi_version", i32, []),
        ("swell_code_name", ctypes.c_char_p, [i32]),
        ("swell_detail_name", ctypes.c_char_p, [i32]),
        ("swell_error_detail", i32, [pointer]),
        ("swell_error_item", i64, [pointer]),
        ("swell_error_message", ctypes.c_char_p, [pointer]),
        ("swell_error_destroy", None, [pointer]),
        ("swell_engine_close", None, [pointer]),
        ("swell_engine_open", i32, [pointer] * 3),
        ("swell_engine_get_stats", i32, [pointer] * 3),
        ("swell_sequence_create", i32, [pointer] * 5),
        ("swell_sequence_fork", i32, [pointer, u64, pointer, pointer]),
        ("swell_sequence_truncate", i32, [pointer, u64, i64, pointer]),
        ("swell_sequence_release", i32, [pointer, u64, pointer]),
        ("swell_sequence_length", i32, [pointer, u64, i32, pointer, pointer]),
        ("swell_put", i32, [pointer] * 9),
        ("swell_attend", i32, [pointer] * 9),
        ("swell_fetch", i32, [pointer] * 10)]:
    _function = getattr(_library, _name)
    _function.restype, _function.argtypes = _result, _arguments


class Error(Exception):
    """What a failed call reported."""

    def __init__(self, code, error):
        self.code = _library.swell_code_name(code).decode()
        self.detail = _library.swell_detail_name(_library.swell_error_detail(error)).decode()
        self.item = _library.swell_error_item(error)
        self.message = _library.swell_error_message(error).decode()
        super().__init__(f"{self.code}: {self.message}")


def _call(name, *arguments):
    error = pointer()
    code = getattr(_library, name)(*arguments, ctypes.byref(error))
    if code == OK:
        return
    try:
        raise Error(code, error)
    finally:
        _library.swell_error_destroy(ctypes.byref(error))


def _address(array):
    assert array.flags.c_contiguous
    return array.ctypes.data


def abi_version():
    return _library.swell_abi_version()


class Engine:
    """One layer of attention; a context manager. Rows are float32 arrays of shape [tokens, kv_heads, head_dim]."""

    def __init__(self, kv_heads, group, head_dim):
        self._shape = (kv_heads, head_dim)
        self._heads = kv_heads * group
        self._handle = pointer()
        options = EngineOptions(layers=1, kv_heads=kv_heads, group=group, head_dim=head_dim, storage=FLOAT16,
                                threads=2, flags=DETERMINISTIC)
        _call("swell_engine_open", ctypes.byref(options), ctypes.byref(self._handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _library.swell_engine_close(ctypes.byref(self._handle))

    def create(self):
        sequence = u64()
        _call("swell_sequence_create", self._handle, None, None, ctypes.byref(sequence))
        return sequence.value

    def fork(self, sequence):
        fork = u64()
        _call("swell_sequence_fork", self._handle, sequence, ctypes.byref(fork))
        return fork.value

    def truncate(self, sequence, tokens):
        _call("swell_sequence_truncate", self._handle, sequence, tokens)

    def release(self, sequence):
        _call("swell_sequence_release", self._handle, sequence)

    def length(self, sequence):
        tokens = i64()
        _call("swell_sequence_length", self._handle, sequence, 0, ctypes.byref(tokens))
        return tokens.value

    def put(self, sequence, position, keys, values):
        assert keys.shape == values.shape and keys.shape[1:] == self._shape
        item = PutItem(sequence=sequence, position=position, tokens=len(keys))
        args = PutArgs(item_size=ctypes.sizeof(item), dtype=FLOAT32, n_items=1, n_rows=len(keys))
        _call("swell_put", self._handle, ctypes.byref(args), ctypes.byref(item), _address(keys), _address(values), None,
              None, None)

    def attend(self, sequence, mode, query):
        """Output [heads, head_dim], lse [heads], certificates [heads]."""
        output = numpy.empty_like(query)
        lse = numpy.empty(self._heads, numpy.float32)
        certificates = (Certificate * self._heads)()
        item = AttendItem(sequence=sequence, n_queries=1, mode=mode)
        args = AttendArgs(item_size=ctypes.sizeof(item), query_dtype=FLOAT32, output_dtype=FLOAT32,
                          certificate_size=ctypes.sizeof(Certificate), n_items=1, n_rows=1)
        _call("swell_attend", self._handle, ctypes.byref(args), ctypes.byref(item), _address(query), _address(output),
              _address(lse), certificates, None)
        return output, lse, certificates

    def fetch(self, sequence, tokens):
        tokens = numpy.array(tokens, numpy.int64)
        keys = numpy.empty((len(tokens), *self._shape), numpy.float32)
        values = numpy.empty_like(keys)
        item = FetchItem(sequence=sequence, n_tokens=len(tokens))
        args = FetchArgs(item_size=ctypes.sizeof(item), dtype=FLOAT32, n_items=1, n_rows=len(tokens))
        _call("swell_fetch", self._handle, ctypes.byref(args), ctypes.byref(item), _address(tokens), _address(keys),
              _address(values), None, None, None)
        return keys, values

    def stats(self):
        stats = EngineStats()
        _call("swell_engine_get_stats", self._handle, ctypes.byref(stats))
        return stats
