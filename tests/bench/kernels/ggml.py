"""Measures llama.cpp's products of quantized matrices: ggml.py THREADS ROUNDS ROWS FORMAT... Prints a line of JSON for each format
and number of rows: {"format", "rows", "seconds", "repacked"}. The shapes are those of agent/kernels/examples/bench.rs, four
copies of each. Weights are random bits, in the order that llama.cpp brings them to when it loads a model. A time is the sum over
the products of the best of all rounds."""

import ctypes
import json
import sys
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

SHAPES = [(2048, 3072), (2048, 2048), (2048, 16384), (8192, 2048)]
COPIES = 4
F32 = 0
BUFFER_OFFSET = 8  # of the buffer in `struct ggml_tensor`, after the type
WEIGHTS = 1  # ggml's usage of a buffer


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Ggml:
    """Functions of ggml. All take and return pointers, unless their types are given."""

    TYPES = {
        "ggml_init": (ctypes.c_void_p, InitParams),
        "ggml_new_tensor_2d": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
        "ggml_backend_supports_op": (ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p),
        "ggml_backend_cpu_set_n_threads": (None, ctypes.c_void_p, ctypes.c_int),
        "ggml_backend_tensor_set": (None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
        "ggml_backend_graph_compute": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        "ggml_backend_buft_alloc_buffer": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
        "ggml_backend_buffer_set_usage": (None, ctypes.c_void_p, ctypes.c_int),
        "ggml_backend_reg_get_proc_address": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
    }

    def __init__(self):
        folder = Path(llama_cpp.__file__).parent / "lib"
        self.libraries = [ctypes.CDLL(str(next(folder.glob(f"lib{name}.so*")))) for name in ("ggml-base", "ggml-cpu")]

    def __getattr__(self, name):
        function = next(getattr(library, name) for library in self.libraries if hasattr(library, name))
        if name in self.TYPES:
            function.restype, *function.argtypes = self.TYPES[name]
        else:
            function.restype = ctypes.c_void_p
        typed = lambda *arguments: function(*(ctypes.c_void_p(a) if name not in self.TYPES else a for a in arguments))
        setattr(self, name, typed)
        return typed


class Products:
    """Products of one format. Weights lie in a buffer of the kind that llama.cpp takes for them."""

    def __init__(self, ggml, threads, kind):
        self.ggml, self.kind = ggml, kind
        self.backend = ggml.ggml_backend_cpu_init()
        ggml.ggml_backend_cpu_set_n_threads(self.backend, threads)
        self.context = ggml.ggml_init(InitParams(64 << 20, None, True))
        device = ggml.ggml_backend_get_device(self.backend)
        self.plain = ggml.ggml_backend_dev_buffer_type(device)
        self.weights_type = self.repacking(device) or self.plain
        self.weights = [
            ggml.ggml_new_tensor_2d(self.context, kind, columns, rows) for columns, rows in SHAPES for _ in range(COPIES)
        ]
        buffer = ggml.ggml_backend_alloc_ctx_tensors_from_buft(self.context, self.weights_type)
        assert buffer, "no memory"
        ggml.ggml_backend_buffer_set_usage(buffer, WEIGHTS)
        random, (size, length) = np.random.default_rng(1), gguf.GGML_QUANT_SIZES[kind]
        for weight, (columns, rows) in zip(self.weights, [shape for shape in SHAPES for _ in range(COPIES)]):
            raw = random.integers(0, 256, columns * rows // size * length, dtype=np.uint8)
            ggml.ggml_backend_tensor_set(weight, raw.ctypes.data, 0, raw.nbytes)

    def repacking(self, device):
        """Returns the type of buffers in which llama.cpp reorders such weights, if there is one."""
        ggml = self.ggml
        registry = ggml.ggml_backend_dev_backend_reg(device)
        address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
        context = ggml.ggml_init(InitParams(1 << 20, None, True))
        index = 0
        while kinds and kinds[index]:
            weight = ggml.ggml_new_tensor_2d(context, self.kind, *SHAPES[0])
            x = ggml.ggml_new_tensor_2d(context, F32, SHAPES[0][0], 1)
            product = ggml.ggml_mul_mat(context, weight, x)
            buffer = ggml.ggml_backend_buft_alloc_buffer(kinds[index], 0)
            ctypes.c_void_p.from_address(weight + BUFFER_OFFSET).value = buffer
            if ggml.ggml_backend_supports_op(self.backend, product):
                return kinds[index]
            index += 1
        return None

    def seconds(self, rows, rounds):
        """Returns the sum of the best times of all products with so many rows of activations."""
        ggml, total = self.ggml, 0.0
        for weight, (columns, _) in zip(self.weights, [shape for shape in SHAPES for _ in range(COPIES)]):
            context = ggml.ggml_init(InitParams(4 << 20, None, True))
            x = ggml.ggml_new_tensor_2d(context, F32, columns, rows)
            graph = ggml.ggml_new_graph(context)
            ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(context, weight, x))
            buffer = ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, self.plain)
            ones = np.ones((rows, columns), "f4")
            ggml.ggml_backend_tensor_set(x, ones.ctypes.data, 0, ones.nbytes)
            best = float("inf")
            for _ in range(rounds):
                start = time.perf_counter()
                assert ggml.ggml_backend_graph_compute(self.backend, graph) == 0
                best = min(best, time.perf_counter() - start)
            total += best
            ggml.ggml_backend_buffer_free(buffer)
            ggml.ggml_free(context)
        return total


def main():
    threads, rounds = int(sys.argv[1]), int(sys.argv[2])
    rows, names = [int(count) for count in sys.argv[3].split(",")], sys.argv[4:]
    ggml = Ggml()
    for name in names:
        products = Products(ggml, threads, gguf.GGMLQuantizationType[name.upper()])
        for count in rows:
            seconds = products.seconds(count, max(1, rounds * 4 // (3 + count)))
            print(json.dumps({"format": name, "rows": count, "seconds": seconds,
                              "repacked": products.weights_type != products.plain}), flush=True)


if __name__ == "__main__":
    main()
