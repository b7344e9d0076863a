"""llama.cpp's side of a comparison: the decoder alone, as a Q4_0 file of random weights.

llama.cpp has no MolmoAct2, but it has this decoder. It reads a prompt of as many tokens as the
policy's and then decodes one token after it, again and again. Its head gets as many rows as there
are depth codes, because a bundle's head has no more: a vocabulary of 151,936 rows would charge it
for something nobody asks. Where the prompt does not fit one batch of its usual 512 tokens, it is
also read in one piece, and the faster way counts.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np

from benchmarks.errors import PeerError
from benchmarks.gguf_file import decoder_shape, write_random_decoder
from benchmarks.peer_job import TOKENS_DECODED, WARM_UP_CALLS, Answer, Job, Scene
from quantization.checkpoint import Checkpoint

_USUAL_BATCH = 512
_UNCOUNTED_TOKENS = 3


def measure_llama(job: Job, _scene: Scene, folder: Path) -> Answer:
    """Write the file into `folder`, measure, remove it; raises `PeerError` and `BuildError`."""
    file = folder / "decoder-q4_0.gguf"
    shape = decoder_shape(Checkpoint(job.checkpoint).config)
    size_bytes = write_random_decoder(file, shape)
    started = time.perf_counter()
    model = LlamaModel(file, shape.vocab)
    load_s = time.perf_counter() - started
    prefills: dict[int, list[float]] = {}
    tokens: list[float] = []
    for batch in sorted({min(_USUAL_BATCH, job.prompt_tokens), job.prompt_tokens}):
        model.open_context(job.prompt_tokens, batch, job.threads)
        times = []
        for _ in range(WARM_UP_CALLS + job.calls):
            times.append(model.prefill_s())
            passes = [model.one_token_s() for _ in range(_UNCOUNTED_TOKENS + TOKENS_DECODED)]
            tokens += passes[_UNCOUNTED_TOKENS:]
        prefills[batch] = times[WARM_UP_CALLS:]
    best = min(prefills, key=lambda batch: statistics.median(prefills[batch]))
    model.close()
    file.unlink()
    return Answer(
        versions={"llama-cpp-python": version("llama-cpp-python")},
        load_s=load_s,
        prompt_tokens=job.prompt_tokens,
        prefill_s=prefills[best],
        one_token_s=tokens,
        notes=[
            f"{size_bytes / 1e6:.0f} MB of Q4_0 blocks with random weights, head and embedding "
            f"table of {shape.vocab} rows, prompt read {best} tokens at a time",
            llama_cpp.llama_print_system_info().decode().strip(" |"),
        ],
    )


class LlamaModel:
    """A GGUF file in llama.cpp, with one context at a time."""

    def __init__(self, file: Path, vocab: int) -> None:
        """Load `file`; raises `PeerError`."""
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
        if not self._model:
            raise PeerError(f"llama.cpp cannot load {file.name}, which was just written for it")
        self._vocab, self._prompt, self._context = vocab, np.zeros(0, np.int32), None

    def open_context(self, prompt_tokens: int, batch: int, threads: int) -> None:
        """Make room for a prompt and one token, the prompt read `batch` tokens at a time."""
        self._free_context()
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = prompt_tokens + 8
        params.n_batch, params.n_ubatch = prompt_tokens, batch
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise PeerError(f"llama.cpp has no room for a context of {prompt_tokens} tokens")
        self._prompt = np.random.default_rng(0).integers(0, self._vocab, prompt_tokens, np.int32)

    def prefill_s(self) -> float:
        """Read the prompt into an empty cache; seconds."""
        return self._decode_s(self._prompt, 0)

    def one_token_s(self) -> float:
        """Decode one token after the prompt; seconds. Needs a prefill before the first."""
        return self._decode_s(self._prompt[:1], len(self._prompt))

    def close(self) -> None:
        """Give all memory back."""
        self._free_context()
        llama_cpp.llama_model_free(self._model)

    def _decode_s(self, tokens: np.ndarray, position: int) -> float:
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_seq_rm(memory, 0, position, -1)
        ids = (llama_cpp.llama_token * len(tokens))(*tokens.tolist())
        batch = llama_cpp.llama_batch_get_one(ids, len(tokens))
        started = time.perf_counter()
        failed = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_synchronize(self._context)
        seconds = time.perf_counter() - started
        if failed:
            raise PeerError(f"llama.cpp refused {len(tokens)} tokens at {position}: code {failed}")
        return seconds

    def _free_context(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
        self._context = None


@llama_cpp.llama_log_callback
def _SILENT(_level: int, _text: bytes, _data: object) -> None:  # noqa: N802  (a constant)
    """Drop what llama.cpp would print."""
