"""Samples in batches: which plane, which crops, in an order that (seed, epoch, index) decide alone.

B images of a batch, V views of one size s.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unidino_fast.errors import TrainingError, UnidinoError
from unidino_fast.training.augment import change_views, draw_views, sample_generator
from unidino_fast.training.sources import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from unidino_fast.training.augment import ViewDraws, ViewGroup
    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.schedules import Clock
    from unidino_fast.training.sources import Source

_ORDER = 1_000_003  # keeps the generators of orders apart from those of samples


@dataclass(frozen=True)
class Sample:
    """One image's views: raw crops (V, s, s) and draws, a group a size; its dataset and range.

    Attributes:
        plane: number of the image in its dataset.
        identity: what it shows, from `Order.identity`.
    """

    crops: list[NDArray[Any]]
    draws: list[ViewDraws]
    dataset: int
    plane: int
    low: float
    span: float
    identity: tuple[int, ...] = ()


@dataclass
class Batch:
    """Raw views and what is to become of them.

    Attributes:
        crops: a group a size, (B, V, s, s) as stored (8 bits as 16, others as float32).
        flips: a group a size, (B, V, 2) bool.
        colours: a group a size, (B, V, 2) float32.
        low: (B,) float32.
        span: (B,) float32.
        dataset: (B,) int64, number of each image's dataset.
        plane: (B,) int64, its number in there.
        masks: a group a size, (B, V, T) bool, hidden patches; T is 0 where none are asked for.
        identity: (B, 4) int64, from `labels`; (B, 0) for methods that need no labels.
    """

    crops: list[Tensor]
    flips: list[Tensor]
    colours: list[Tensor]
    low: Tensor
    span: Tensor
    dataset: Tensor
    plane: Tensor
    masks: list[Tensor]
    identity: Tensor

    def pin_memory(self) -> Batch:
        """In memory that a GPU copies from by itself; called by the loader."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """On a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def views(self) -> list[Tensor]:
        """Finished views, a group a size, (V, B, s, s) float32."""
        groups = zip(self.crops, self.flips, self.colours, strict=True)
        return [change_views(crops, self.low, self.span, f, c) for crops, f, c in groups]

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            crops=[change(tensor) for tensor in self.crops],
            flips=[change(tensor) for tensor in self.flips],
            colours=[change(tensor) for tensor in self.colours],
            low=change(self.low),
            span=change(self.span),
            dataset=change(self.dataset),
            plane=change(self.plane),
            masks=[change(tensor) for tensor in self.masks],
            identity=change(self.identity),
        )


class Order(Protocol):
    """Which image is the next; goes to other processes by pickling."""

    @property
    def epoch_length(self) -> int:
        """Images of an epoch unless the settings say otherwise."""
        ...

    def pick(self, epoch: int, index: int) -> tuple[int, int]:
        """Dataset and plane of a sample, by these two numbers alone."""
        ...

    def identity(self, dataset: int, plane: int) -> tuple[int, ...]:
        """What an image shows, in numbers; empty where no label is needed."""
        ...


class Mixture:
    """Several datasets cycled so that each has its share of every batch, by default the same.

    Datasets take turns in a pattern as long as the sum of their weights, each dataset's turns
    spread over it. A dataset's planes come in a random order, each once before any comes again.

    Args:
        sizes: planes of each dataset.
        seed: of the orders.
        weights: turns of each dataset in a pattern; one by default.
    """

    def __init__(
        self, sizes: tuple[int, ...], seed: int, weights: tuple[int, ...] | None = None
    ) -> None:
        self._sizes = sizes
        self._seed = seed
        self._weights = weights or (1,) * len(sizes)
        turns = [
            ((turn + 0.5) / weight, dataset, turn)
            for dataset, weight in enumerate(self._weights)
            for turn in range(weight)
        ]
        self._pattern = [(dataset, turn) for _, dataset, turn in sorted(turns)]
        # the order in use of each dataset: to draw one takes a second for very many planes
        self._held: dict[int, tuple[tuple[int, int], NDArray[np.int64]]] = {}

    @property
    def epoch_length(self) -> int:
        """Images of an epoch: patterns until every dataset was seen whole."""
        pairs = zip(self._sizes, self._weights, strict=True)
        return max(-(-size // weight) for size, weight in pairs) * len(self._pattern)

    def pick(self, epoch: int, index: int) -> tuple[int, int]:
        """Dataset and plane of a sample."""
        pattern, place = divmod(index, len(self._pattern))
        dataset, turn = self._pattern[place]
        nth = pattern * self._weights[dataset] + turn
        cycle, place = divmod(nth, self._sizes[dataset])
        held = self._held.get(dataset)
        if held is None or held[0] != (epoch, cycle):
            seeds = np.random.SeedSequence([self._seed, _ORDER, epoch, dataset, cycle])
            order = np.random.default_rng(seeds).permutation(self._sizes[dataset])
            held = self._held[dataset] = (epoch, cycle), order
        return dataset, int(held[1][place])

    def identity(self, dataset: int, plane: int) -> tuple[int, ...]:
        """See `Order`: without labels."""
        return ()


class ViewDataset(Dataset["Sample | UnidinoError"]):
    """Samples by (epoch, index).

    An error takes a sample's place: raised in a worker, it would arrive as a page of traceback.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        groups: Sequence[ViewGroup],
        config: TrainConfig,
        order: Order | None = None,
    ) -> None:
        self._sources = sources
        self._groups = groups
        self._views = config.views
        self._seed = config.seed
        sizes = tuple(len(source) for source in sources)
        self._order = order or Mixture(sizes, config.seed, tuple(one.weight for one in config.data))

    def __getitem__(self, key: tuple[int, int]) -> Sample | UnidinoError:
        try:
            return self._sample(*key)
        except UnidinoError as error:
            return error

    def _sample(self, epoch: int, index: int) -> Sample:
        dataset, plane = self._order.pick(epoch, index)
        source = self._sources[dataset]
        generator = sample_generator(self._seed, epoch, index)
        shape = source.shape(plane)
        draws = [draw_views(generator, shape, group, self._views) for group in self._groups]
        boxes = [
            Box(int(y), int(x), group.size)
            for group, drawn in zip(self._groups, draws, strict=True)
            for y, x in drawn.corners
        ]
        found = iter(source.crops(plane, boxes))
        crops = [np.stack([next(found) for _ in range(group.count)]) for group in self._groups]
        low, span = source.bounds(plane)
        identity = self._order.identity(dataset, plane)
        return Sample(crops, draws, dataset, plane, low, span, identity)


def collate(found: Sequence[Sample | UnidinoError]) -> Batch | UnidinoError:
    """Stacks samples; the first error, if there is one."""
    samples = [sample for sample in found if isinstance(sample, Sample)]
    if len(samples) < len(found):
        return next(error for error in found if isinstance(error, UnidinoError))
    groups = range(len(samples[0].crops))

    def stacked(of: Any) -> list[Tensor]:
        return [torch.from_numpy(np.stack([of(s, group) for s in samples])) for group in groups]

    numbers = [[sample.low, sample.span] for sample in samples]
    low, span = torch.tensor(numbers, dtype=torch.float32).unbind(1)
    dtypes = {crops.dtype for sample in samples for crops in sample.crops}
    is_small = all(dtype.kind == "u" and dtype.itemsize <= 2 for dtype in dtypes)
    common = np.uint16 if is_small else np.float32
    return Batch(
        crops=stacked(lambda sample, group: sample.crops[group].astype(common)),
        flips=stacked(lambda sample, group: sample.draws[group].flips),
        colours=stacked(lambda sample, group: sample.draws[group].colours),
        low=low.clone(),
        span=span.clone(),
        dataset=torch.tensor([sample.dataset for sample in samples]),
        plane=torch.tensor([sample.plane for sample in samples]),
        masks=stacked(lambda sample, group: sample.draws[group].masks),
        identity=torch.tensor([sample.identity for sample in samples], dtype=torch.int64),
    )


def micro_batches(
    first_step: int, clock: Clock, *, batch: int, accumulate: int, rank: int, count: int
) -> Iterator[list[tuple[int, int]]]:
    """What one process reads from a step on: the keys (epoch, index) of each part of each batch.

    A step's batch is cut into `accumulate` parts, each part into one share a process, all
    contiguous: together they are the same images whatever the cut.
    """
    share = batch // (accumulate * count)
    for step in range(first_step, clock.total):
        epoch, within = divmod(step, clock.steps_per_epoch)
        for part in range(accumulate):
            start = within * batch + (part * count + rank) * share
            yield [(epoch, index) for index in range(start, start + share)]


def open_batches(
    dataset: ViewDataset, config: TrainConfig, clock: Clock, processes: Processes, first_step: int
) -> Iterator[Batch]:
    """Batches of this process on its device, from a step to the end of the run, read ahead.

    Workers are started afresh (spawn), for decoders do not survive a fork.

    Raises:
        TrainingError: an image cannot be read any more.
    """
    machine = config.machine
    keys = micro_batches(
        first_step,
        clock,
        batch=config.optim.batch,
        accumulate=machine.accumulate,
        rank=processes.rank,
        count=processes.count,
    )
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=_Keys(keys),
        num_workers=machine.workers,
        collate_fn=collate,
        pin_memory=processes.device.type == "cuda",
        multiprocessing_context="spawn" if machine.workers else None,
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if machine.workers else None,
    )
    for batch in loader:
        if isinstance(batch, UnidinoError):
            raise batch
        yield batch.to(processes.device)


@contextmanager
def one_line_for_killed_workers() -> Iterator[None]:
    """Makes one line of the death of a process that reads.

    A handler of torch's raises it wherever the training process is just then, in the middle of an
    update of the weights too.

    Raises:
        TrainingError: a process that reads images was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            "a process that reads images was ended from outside, perhaps for want of memory:"
            " lower machine.workers or machine.cache_mb, and run the same command again"
        ) from error


class _Keys:
    """An iterable that a loader takes for its batch sampler."""

    def __init__(self, keys: Iterator[list[tuple[int, int]]]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[Any]:
        return self._keys


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides when to end
    torch.set_num_threads(1)
