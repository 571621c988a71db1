"""Passes of one conversation recorded as CUDA graphs, and played again.

A denoising step on a GPU is a thousand small kernels, and starting them from Python takes longer than the weights take
to be read. A CUDA graph starts them all at once. It can only do the same work on the same memory again, so everything
that changes between passes lies in tensors that stay where they are: the embeddings, the number of committed positions,
and a cache of fixed capacity, over all of which attention runs under a mask. Columns, positions and mask are worked out
from that number inside the graph. Numbers differ from those of an ordinary pass by rounding alone.

Graphs are made for a model when a pass of a new shape is first asked for. One run at a time uses them; another run of
the same model meanwhile takes the ordinary way. `DVL_CUDA_GRAPHS=0` in the environment switches them off.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .cache import BlockCache, StaticCache
from .lean import fused_norms, own_attention
from .masks import copies_mask

SHORTEST, LONGEST = 256, 16384  # positions of a cache; a longer run takes the ordinary way
WIDEST = 2**19  # tokens of a recorded pass times positions of its cache
SIZES = 3  # caches of a model that are held, each with its graphs

Work = Callable[[], Tensor]

_WANTED = ContextVar("wanted", default=True)
_LOCK = Lock()  # of what follows
_RECORDING = Lock()  # one capture at a time in a process


class CudaCapture:
    """Records work on one device.

    Args:
        device: with its number.
    """

    def __init__(self, device: torch.device):
        self.device = device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream()
            self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """`work`, which must touch no memory that moves, as one launch. The tensor it returns is always the same.

        Raises:
            RuntimeError: when it can't be recorded; the device can be used as before.
        """
        graph = torch.cuda.CUDAGraph()
        with _RECORDING, torch.cuda.device(self.device):
            before = torch.cuda.current_stream()
            try:
                self.stream.wait_stream(before)
                with torch.cuda.stream(self.stream):  # libraries set themselves up in a first pass
                    for _ in range(2):
                        work()
                before.wait_stream(self.stream)
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    output = work()
            finally:
                torch.cuda.set_stream(before)  # a capture that fails leaves its own stream behind

        def again() -> Tensor:
            graph.replay()
            return output

        return again


# How to record, by kind of device: from the device to (work -> the same work, played again).
CAPTURES: dict[str, Callable[[torch.device], Callable[[Work], Work]]] = {"cuda": CudaCapture}


class _Pass:
    """What a pass over `clean` finished blocks and `copies` of the open one reads, and how it runs.

    Attributes:
        embeds: float [1, Q, D], to be filled before the pass.
        length: committed positions of the cache, long [], to be filled before the pass.
        again: runs it once more; logits [1, copies * N, V], overwritten by the next pass of any shape.
    """

    again: Work

    def __init__(self, cache: StaticCache, embeds: Tensor, clean: int, copies: int):
        queries, device = embeds.shape[1], embeds.device
        cells = queries // (clean + copies)
        self.cache, self.first = cache, clean * cells
        with torch.inference_mode(False):  # what is made in that mode can't be written to outside of it
            self.embeds = torch.zeros(embeds.shape, dtype=embeds.dtype, device=device)
            self.length = torch.zeros((), dtype=torch.long, device=device)
            self.offsets = torch.arange(queries, device=device)
            ahead = self.offsets - self.first
            self.places = torch.where(ahead < 0, self.offsets, self.first + ahead % cells)
            self.among = copies_mask(clean, copies, cells, device)
            self.every_column = torch.arange(cache.capacity, device=device)

    def fill(self, embeds: Tensor) -> None:
        self.embeds.copy_(embeds)
        self.length.fill_(self.cache.length)

    def work(self, model) -> Tensor:
        """The pass itself: new keys and values go behind the committed ones, where no other query sees them."""
        columns = self.length + self.offsets
        seen = (self.every_column < self.length).repeat(len(columns), 1).index_copy_(1, columns, self.among)
        bias = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)[None, None]
        self.cache.columns = columns
        try:
            with own_attention(model), fused_norms(model):
                hidden = model.run_decoder(self.embeds, bias, (self.length + self.places)[None], self.cache)
        finally:
            self.cache.columns = None
        return model.lm_head(hidden[:, self.first :])


class PassGraphs:
    """The recorded passes of one model, for one run at a time; see `borrow`.

    Attributes:
        cache: of the present run; empty when it begins.
        lock: held by the present run.
    """

    def __init__(self, state: tuple, capture: Callable[[Work], Work]):
        self.state, self.capture, self.lock = state, capture, Lock()
        self.failed = False
        self._sizes: dict[int, tuple[StaticCache, dict[tuple[int, int, int], _Pass]]] = {}

    def begin(self, room: int) -> None:
        """A run that needs `room` positions begins."""
        capacity = max(SHORTEST, 1 << (room - 1).bit_length())
        self.cache, self._passes = self._sizes[capacity] = self._sizes.pop(capacity, (StaticCache(capacity), {}))
        while len(self._sizes) > SIZES:
            del self._sizes[next(iter(self._sizes))]
        self.cache.clear()

    def end(self) -> None:
        """The run is over. After a failure nothing more is held."""
        del self.cache, self._passes
        if self.failed:
            self._sizes.clear()

    def logits(self, model, embeds: Tensor, clean: int, copies: int) -> Tensor | None:
        """A pass over what comes behind the committed positions, which it leaves as they are.

        Args:
            embeds: float [1, Q, D], `clean` finished blocks and `copies` of the open one, N tokens each.

        Returns:
            logits [1, copies * N, V] of the copies; None when this pass has to run the ordinary way.
        """
        if self.failed or embeds.shape[1] * self.cache.capacity > WIDEST:
            return None
        shape = (clean, copies, embeds.shape[1])
        held = self._passes.get(shape) or self._record(model, embeds, shape)
        if held is None:
            return None
        held.fill(embeds)
        return held.again().clone()

    def _record(self, model, embeds: Tensor, shape: tuple[int, int, int]) -> _Pass | None:
        try:
            made = _Pass(self.cache, embeds, *shape[:2])
            made.fill(embeds)
            made.again = self.capture(lambda: made.work(model))
        except RuntimeError as error:
            self.failed = True
            warnings.warn(f"This model runs without CUDA graphs: {error}", RuntimeWarning, stacklevel=2)
            return None
        self._passes[shape] = made
        return made


_HELD: WeakKeyDictionary[nn.Module, PassGraphs] = WeakKeyDictionary()


@contextmanager
def borrow(model, room: int) -> Iterator[PassGraphs | None]:
    """For a run of one conversation: the graphs of its model; None when it has to do without.

    Args:
        room: positions the run will have in its cache at most, those of passes that leave nothing there included.
    """
    graphs = _graphs_of(model) if _WANTED.get() and room <= LONGEST else None
    if graphs is None or not graphs.lock.acquire(blocking=False):
        yield None
        return
    try:
        graphs.begin(room)
        yield graphs
    finally:
        graphs.end()
        graphs.lock.release()


@contextmanager
def cache_for(model, room: int, recordable: bool) -> Iterator[tuple[BlockCache, PassGraphs | None]]:
    """For any run: its empty cache, and the graphs that write to it.

    Args:
        room: as of `borrow`.
        recordable: False for a run whose passes can't be played again, as of a batch.
    """
    with borrow(model, room) if recordable else nullcontext() as graphs:
        yield (BlockCache(room) if graphs is None else graphs.cache), graphs


@contextmanager
def without_graphs() -> Iterator[None]:
    """Runs that begin inside take the ordinary way."""
    before = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(before)


def _graphs_of(model) -> PassGraphs | None:
    """The graphs of a model with its present weights; None where there can be none."""
    if os.environ.get("DVL_CUDA_GRAPHS") == "0" or os.environ.get("SPACES_ZERO_GPU"):
        return None
    weights = [*model.decoder.parameters(), *model.lm_head.parameters()]
    device = weights[0].device
    if device.type not in CAPTURES or any(weight.device != device for weight in weights):
        return None
    if model.training or model.config._attn_implementation == "eager" or torch.is_autocast_enabled(device.type):
        return None
    if not all(map(_is_plain, (*model.decoder.modules(), model.lm_head))):
        return None
    state = tuple(weight.data_ptr() for weight in weights)
    with _LOCK:
        held = _HELD.get(model)
        if held is None or held.state != state:
            held = _HELD[model] = PassGraphs(state, CAPTURES[device.type](device))
        return None if held.failed else held


def _is_plain(module: nn.Module) -> bool:
    """Whether a module does what its class says: nothing hooked to it, put around it, adapted or quantised."""
    changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    other = isinstance(module, nn.Linear) and type(module) is not nn.Linear
    return not changed and not other and not hasattr(module, "base_layer")
