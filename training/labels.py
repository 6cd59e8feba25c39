"""Labels of images, and samples in groups that share one.

An image's identity is four numbers: label, channel, plate, well; its label is -1 where it has none.
Labels and channels are compared as text over all datasets: a perturbation has one name everywhere.
Plates and wells are those of one dataset.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.errors import TrainingError, UnidinoError
from unidino_fast.platemap import read_platemap
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from unidino_fast.training.config import SourceConfig
    from unidino_fast.training.sections import SupconConfig
    from unidino_fast.training.sources import Place, Source

    Identities = NDArray[np.int64]

_GROUPS = 15_485_863  # keeps the generators of groups apart from those of samples and orders
_SHOWN = 5


def read_labels(
    configs: Sequence[SourceConfig], sources: Sequence[Source]
) -> tuple[list[list[str | None]], list[str]]:
    """The label of every plane of every dataset, None where it has none; and complaints.

    Raises:
        TrainingError: a dataset's platemap cannot be read or does not fit, or no image of it has a
            label: names the dataset.
    """
    found, complaints = [], []
    for config, source in zip(configs, sources, strict=True):
        try:
            labels = _labels(config, [source.place(index) for index in range(len(source))])
        except TrainingError:
            raise
        except UnidinoError as error:
            raise TrainingError(f"dataset {config.name}: {error}") from error
        missing = sum(label is None for label in labels)
        if missing == len(labels):
            raise TrainingError(
                f"dataset {config.name} has no label: none of its {missing} images, such as"
                f" {source.describe(0)}, has one in {_origin(config)}: correct it"
            )
        if missing:
            complaints.append(
                f"dataset {config.name}: {missing} of {len(labels)} images have no label in"
                f" {_origin(config)} and are left out"
            )
        found.append(labels)
    return found, complaints


def digest(labels: Sequence[Sequence[str | None]]) -> str:
    """SHA-256 of all labels, so that a run does not go on with others."""
    return hashlib.sha256(repr(labels).encode()).hexdigest()


def _labels(config: SourceConfig, places: Sequence[Place]) -> list[str | None]:
    """Labels out of the file names themselves, or of the platemap's column by plate and well."""
    if config.platemap is None:
        return [place.label for place in places]
    table = read_platemap(config.platemap)
    label = str(config.label)
    columns = [name for name in (label, METADATA_PREFIX + label) if name in table.columns]
    if not columns:
        known = [n.removeprefix(METADATA_PREFIX) for n in table.columns]
        raise TrainingError(
            f"dataset {config.name}: {config.platemap} has no column {label}: set label to one of"
            f" {', '.join(known)}"
        )
    has_plates = "Metadata_Plate" in table.columns
    plates = table["Metadata_Plate"].to_list() if has_plates else [None] * len(table)
    by_well: dict[tuple[str | None, str], str | None] = {}
    for plate, well, value in zip(plates, table["Metadata_Well"], table[columns[0]], strict=True):
        text = _text(value)
        if by_well.setdefault((plate, well), text) != text:
            raise TrainingError(
                f"dataset {config.name}: {config.platemap} has two labels for well {well}: keep one"
            )
    return [by_well.get((p.plate if has_plates else None, p.well)) for p in places]


def _text(value: object) -> str | None:
    """A cell as text; whole numbers are floats where some are missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return text or None


def _origin(config: SourceConfig) -> str:
    if config.platemap is None:
        return f"pattern {config.pattern}"
    return f"column {config.label} of {config.platemap}"


def identify(
    labels: Sequence[Sequence[str | None]], sources: Sequence[Source], settings: SupconConfig
) -> list[Identities]:
    """Identities (planes, 4) of each dataset; controls that are left out have no label."""
    left_out = set(settings.controls) if settings.use_controls == "leave-out" else set()
    places = [[source.place(i) for i in range(len(source))] for source in sources]
    every = [(d, place) for d, of in enumerate(places) for place in of]
    by_label = _numbers(label for of in labels for label in of if label is not None)
    by_channel = _numbers(place.channel for _, place in every)
    by_plate = _numbers((d, place.plate) for d, place in every)
    by_well = _numbers((d, place.plate, place.well) for d, place in every)
    found = []
    for d, (of_labels, of_places) in enumerate(zip(labels, places, strict=True)):
        rows = [
            (
                -1 if label is None or label in left_out else by_label[label],
                by_channel[place.channel],
                by_plate[d, place.plate],
                by_well[d, place.plate, place.well],
            )
            for label, place in zip(of_labels, of_places, strict=True)
        ]
        found.append(np.array(rows, dtype=np.int64))
    return found


def _numbers(values: Iterable[Hashable]) -> Mapping[Hashable, int]:
    return {value: number for number, value in enumerate(sorted(set(values), key=repr))}


class Replicates:
    """Samples in groups: images of one perturbation and channel, each of another well or plate.

    Groups begin with an image of each dataset in turn, so that datasets weigh the same; the
    perturbations (in each channel) that a dataset has come in a random order, each once before any
    comes again. The group's other images are from other wells or plates of any dataset: other
    plates first, and none twice before all once.

    Args:
        names: of the datasets.
        identities: (planes, 4) of each.
        settings: of the method.
        seed: of the orders.

    Raises:
        TrainingError: a dataset has no perturbation in two wells (or plates), or all images have
            one label: names it.
    """

    def __init__(
        self,
        names: Sequence[str],
        identities: Sequence[Identities],
        settings: SupconConfig,
        seed: int,
    ) -> None:
        self._identities = identities
        self._settings = settings
        self._seed = seed
        across_plates = settings.positives == "other-plate"
        self._members = _by_class(identities, across_plates=across_plates)
        self._of_dataset: list[list[tuple[int, int]]] = [[] for _ in names]
        self._sizes = [0] * len(names)
        for key, places in self._members.items():
            counts = Counter(dataset for planes in places.values() for dataset, _ in planes)
            for dataset, count in counts.items():
                self._of_dataset[dataset].append(key)
                self._sizes[dataset] += count
        for name, classes in zip(names, self._of_dataset, strict=True):
            if not classes:
                places_in_words = "on two plates" if across_plates else "in two wells"
                raise TrainingError(
                    f"dataset {name} has no positives: no label of it is {places_in_words} in one"
                    " channel: correct its labels, supcon.positives or supcon.controls"
                )
        if len({label for label, _ in self._members}) < 2:
            raise TrainingError(
                "all images that have positives have the same label, so that there are no"
                " negatives: label at least two perturbations"
            )

    @property
    def epoch_length(self) -> int:
        """Images with positives of all datasets, cycled to the length of the largest."""
        length = max(self._sizes) * len(self._sizes)
        return length - length % self._settings.replicates

    @property
    def sizes(self) -> list[int]:
        """Images of each dataset that have positives."""
        return self._sizes

    def identity(self, dataset: int, plane: int) -> tuple[int, ...]:
        """Label, channel, plate and well of an image."""
        return tuple(self._identities[dataset][plane].tolist())

    def pick(self, epoch: int, index: int) -> tuple[int, int]:
        """Dataset and plane of a sample."""
        group, member = divmod(index, self._settings.replicates)
        turn, dataset = divmod(group, len(self._of_dataset))
        classes = self._of_dataset[dataset]
        cycle, number = divmod(turn, len(classes))
        order = self._generator(epoch, 0, dataset, cycle).permutation(len(classes))
        places = self._members[classes[order[number]]]
        generator = self._generator(epoch, 1, group)
        own = [place for place, planes in places.items() if any(d == dataset for d, _ in planes)]
        first = own[generator.integers(len(own))]
        others = [place for place in places if place != first]
        others = [others[i] for i in generator.permutation(len(others))]
        others.sort(key=lambda place: place[0] == first[0])  # other plates first, stably
        dice = generator.random(self._settings.replicates)
        turn_of_place = [first, *others]
        planes = places[turn_of_place[member % len(turn_of_place)]]
        if member == 0:
            planes = [plane for plane in planes if plane[0] == dataset]
        return planes[int(dice[member] * len(planes))]

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self._seed, _GROUPS, *place]))


def _by_class(
    identities: Sequence[Identities], *, across_plates: bool
) -> dict[tuple[int, int], dict[tuple[int, ...], list[tuple[int, int]]]]:
    """Planes (dataset, plane) by class (label, channel) and place, of classes in several places.

    A place is a plate and well, or a plate alone.
    """
    members: dict[tuple[int, int], dict[tuple[int, ...], list[tuple[int, int]]]]
    members = defaultdict(lambda: defaultdict(list))
    for dataset, rows in enumerate(identities):
        for plane, (label, channel, plate, well) in enumerate(rows.tolist()):
            if label >= 0:
                place = (plate,) if across_plates else (plate, well)
                members[label, channel][place].append((dataset, plane))
    return {key: dict(places) for key, places in sorted(members.items()) if len(places) > 1}


def replicates(
    configs: Sequence[SourceConfig],
    sources: Sequence[Source],
    settings: SupconConfig,
    seed: int,
) -> tuple[Replicates, str, list[str]]:
    """The order of samples, a digest of the labels, and complaints.

    Raises:
        TrainingError: see `read_labels` and `Replicates`; or a control is nobody's label.
    """
    labels, complaints = read_labels(configs, sources)
    known = {label for of in labels for label in of if label is not None}
    for control in settings.controls:
        if control not in known:
            some = ", ".join(sorted(known)[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
            raise TrainingError(
                f"supcon.controls {control} is nobody's label: the labels are {some}"
            )
    identities = identify(labels, sources, settings)
    names = [config.name for config in configs]
    order = Replicates(names, identities, settings, seed)
    for name, rows, count in zip(names, identities, order.sizes, strict=True):
        labelled = int((rows[:, 0] >= 0).sum())
        if count < labelled:
            complaints.append(
                f"dataset {name}: {labelled - count} of {labelled} labelled images have no"
                " replicate as supcon.positives asks for, and are left out"
            )
    return order, digest(labels), complaints
