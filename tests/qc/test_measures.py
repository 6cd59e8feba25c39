"""Measures of pixels against naive loops, and what they must and must not follow."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from unidino_fast.compiled import Compiled
from unidino_fast.qc import MEASURES, measure_planes, measures, passes
from unidino_fast.qc.compiled_passes import compiled_pass, watcher
from unidino_fast.simulate import simulate_field


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return simulate_field(np.random.default_rng(0), size=(203, 230), channels=("DNA", "ER"))


def measured(planes: Any, name: str) -> np.ndarray:
    return measure_planes(np.asarray(planes))[:, MEASURES.index(name)]


def naive_focus(plane: np.ndarray) -> float:
    """Haar coefficients square by square, in float64, of whole strips of eight rows."""
    n_strips = plane.shape[0] // 8
    every = max(1, n_strips // 32)
    plane = np.concatenate([plane[8 * n : 8 * n + 8] for n in range(0, n_strips, every)])

    def quarters(edge: int) -> Any:
        half = edge // 2
        for y in range(0, plane.shape[0] // edge * edge, edge):
            for x in range(0, plane.shape[1] // edge * edge, edge):
                square = plane[y : y + edge, x : x + edge].astype(np.float64)
                yield (
                    square[:half, :half].sum(),
                    square[:half, half:].sum(),
                    square[half:, :half].sum(),
                    square[half:, half:].sum(),
                )

    def cross(edge: int) -> float:
        return float(np.mean([((a - b - c + d) / edge) ** 2 for a, b, c, d in quarters(edge)]))

    def along(edge: int) -> float:
        down = [((c + d - a - b) / edge) ** 2 for a, b, c, d in quarters(edge)]
        right = [((a - b + c - d) / edge) ** 2 for a, b, c, d in quarters(edge)]
        return float((np.mean(down) + np.mean(right)) / 2)

    noise, fine, coarse = cross(2), cross(4), along(8)
    if coarse <= 1.5 * noise:
        return float("nan")
    return float(np.log2(max(fine - noise, fine / 16) / (coarse - noise)))


def naive_empty(plane: np.ndarray) -> float:
    values = plane.astype(np.float64)
    n_strips = len(plane) // 8
    cross = [
        abs(values[y, x] - values[y, x + 1] - values[y + 1, x] + values[y + 1, x + 1]) / 2
        for strip in range(0, n_strips, max(1, n_strips // 32))
        for y in (8 * strip, 8 * strip + 4)
        for x in range(0, values.shape[1] // 2 * 2, 4)
    ]
    noise = max(sorted(cross)[len(cross) // 2] / 0.67449, 12**-0.5)
    empty = []
    for y in range(0, values.shape[0] // 64 * 64, 64):
        for x in range(0, values.shape[1] // 64 * 64, 64):
            square = values[y : y + 64, x : x + 64]
            means = [
                square[j : j + 8, i : i + 8].mean()
                for j in range(0, 64, 8)
                for i in range(0, 64, 8)
            ]
            empty.append(max(means) - min(means) <= 1.25 * noise)
    return float(np.mean(empty))


def test_naive_loops(field: np.ndarray) -> None:
    values = measure_planes(field)
    for plane, row in zip(field, values, strict=True):
        found = dict(zip(MEASURES, row, strict=True))
        assert found["Intensity"] == pytest.approx(plane.mean(), rel=1e-6)
        ordered = np.sort(plane, axis=None)
        low, high = (ordered[round((plane.size - 1) * share)] for share in (0.05, 0.99))
        assert found["Background"] == low
        assert found["Signal"] == high - low
        assert found["Focus"] == pytest.approx(naive_focus(plane), abs=1e-4)
        assert found["EmptyTiles"] == naive_empty(plane)
        assert found["Saturated"] == (np.count_nonzero(plane == plane.max()) - 1) / plane.size


def test_a_straight_rise_of_light() -> None:
    y, x = np.mgrid[:160, :240]
    plane = 1000 * (1 + 0.3 * (y / 160 - 0.5) - 0.1 * (x / 240 - 0.5))
    # of means of 8 pixels, whose outermost lie 4 pixels inside: the line goes on to the edges
    assert measured([plane], "GradientY") == pytest.approx(0.3, rel=1e-3)
    assert measured([plane], "GradientX") == pytest.approx(-0.1, rel=1e-3)


def test_focus_does_not_follow_brightness(field: np.ndarray) -> None:
    usual = measured(field, "Focus")
    for factor, offset in ((2, 0), (1, 500), (3, 77)):
        changed = field.astype(np.int32) * factor + offset
        # to the rounding of float32 sums
        np.testing.assert_allclose(measured(changed, "Focus"), usual, atol=1e-3)


@pytest.mark.parametrize("light", [0.25, 1, 4])
def test_focus_falls_with_blur(light: float) -> None:
    """Of light, not of noise: a dim field has more of that, which a blur does not take away."""
    found = [
        measured(
            simulate_field(
                np.random.default_rng(1), size=(256, 256), channels=("DNA", "Mito"),
                light=light, defocus=defocus,
            ),
            "Focus",
        )
        for defocus in (0, 2, 5)
    ]  # fmt: skip
    sharp, soft, blurred = found
    assert (soft < sharp - 0.8).all()
    assert (blurred < soft - 0.8).all()


def test_some_strips_of_a_large_field_say_what_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a fraction of what tells a blurred field from others, which is 1.5 octaves."""
    rng = np.random.default_rng(8)
    field = simulate_field(rng, size=(1080, 1080), channels=("DNA", "Mito"))
    some = measure_planes(field)
    monkeypatch.setattr(measures, "_STRIPS", 1080)
    measures._plan.cache_clear()
    every = measure_planes(field)
    measures._plan.cache_clear()
    focus = MEASURES.index("Focus")
    assert (some[:, focus] != every[:, focus]).all()
    np.testing.assert_allclose(some[:, focus], every[:, focus], atol=0.3)
    np.testing.assert_array_equal(np.delete(some, focus, 1), np.delete(every, focus, 1))


def test_nothing_to_see() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(300, 10, (1, 256, 256)).astype(np.uint16)
    assert np.isnan(measured(noise, "Focus"))
    assert measured(noise, "EmptyTiles") == 1
    constant = np.full((1, 64, 64), 7, np.uint8)
    values = dict(zip(MEASURES, measure_planes(constant)[0], strict=True))
    assert values["Intensity"] == values["Background"] == 7
    assert values["Signal"] == values["Saturated"] == values["GradientX"] == 0
    assert values["EmptyTiles"] == 1
    black = np.zeros((1, 64, 64), np.uint16)
    assert np.isnan(measured(black, "GradientY"))


@pytest.mark.parametrize(
    ("dtype", "ceiling"), [("u1", 255), ("u2", 65535), ("u2", 4095), ("u2", 3687), ("f4", 1)]
)
def test_saturation_by_any_ceiling(dtype: str, ceiling: float) -> None:
    """Cameras of 12 bits stop at 4095, those whose offset is taken off at anything."""
    rng = np.random.default_rng(3)
    light = rng.gamma(2, 0.2, (1, 100, 100)) * ceiling
    plane = np.minimum(light, ceiling).astype(dtype)
    share = (np.count_nonzero(light >= ceiling) - 1) / light.size
    assert share > 0.01
    assert measured(plane, "Saturated") == pytest.approx(share, abs=0.003)
    dim = rng.integers(0, 9, (1, 100, 100), dtype=np.uint8)  # an eighth stands at the highest
    assert measured(dim, "Saturated") == 0


def test_the_same_bits_in_any_company_and_layout(field: np.ndarray) -> None:
    whole = measure_planes(field)
    for at in range(len(field)):
        np.testing.assert_array_equal(measure_planes(field[at : at + 1])[0], whole[at])
    padded = np.zeros((2, 210, 240), np.uint16)
    padded[:, :203, :230] = field
    np.testing.assert_array_equal(measure_planes(padded[:, :203, :230]), whole)
    np.testing.assert_array_equal(measure_planes(field[::-1])[::-1], whole)


PASSES = pytest.mark.parametrize("go", [passes.pass_by_numpy, compiled_pass])


@pytest.mark.parametrize("highest", [1, 30, 4095, 65535])
@pytest.mark.parametrize("shape", [(8, 8), (9, 65), (64, 63), (203, 230), (520, 1037), (790, 801)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_both_passes_find_the_same(dtype: Any, shape: tuple[int, int], highest: int) -> None:
    rng = np.random.default_rng(6)
    highest = min(highest, int(np.iinfo(dtype).max))
    flat = rng.integers(0, highest, shape, endpoint=True).astype(dtype)
    dim = rng.poisson(highest / 20, shape).astype(dtype)
    planes = np.stack([flat, dim, dim[::-1]])
    numbers = [2, 0]
    for step, every in ((1, 1), (2, 3), (3, 2)):
        n_sampled = flat[::step, ::step].size
        places = n_sampled // 20, n_sampled - 1
        one, other = (
            go(planes, numbers, passes.Sampling(step, places, every, (9.0, 23.0)))
            for go in (passes.pass_by_numpy, compiled_pass)
        )
        np.testing.assert_array_equal(one, other)
        assert one.shape == (2, len(passes.Found._fields))
        for number, row in zip(numbers, one, strict=True):
            found = passes.Found(*row)
            ordered = np.sort(planes[number, ::step, ::step], axis=None)
            assert (found.low, found.high) == (ordered[places[0]], ordered[places[1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_give_what_floating_point_gives(
    dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = np.random.default_rng(7).poisson(40, (2, 131, 1001)).astype(dtype)
    found = measure_planes(planes)
    monkeypatch.setattr(measures, "_COUNTED_BYTES", 0)
    computed = measure_planes(planes)
    focus = MEASURES.index("Focus")  # of squares that float32 rounds
    np.testing.assert_allclose(found[:, focus], computed[:, focus], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(np.delete(found, focus, 1), np.delete(computed, focus, 1))


@PASSES
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_widest_differences_overflow_nothing(dtype: Any, go: Any) -> None:
    """A chequerboard of squares of each size has the largest energy that level can have."""
    highest = int(np.iinfo(dtype).max)
    y, x = np.mgrid[:1024, :1024]
    for edge, kind in ((1, "cross"), (2, "fine"), (4, "coarse")):
        bright = y // edge % 2 if kind == "coarse" else (y // edge + x // edge) % 2
        plane = (bright * highest).astype(dtype)
        sampling = passes.Sampling(4, (0, 65535), 1, (1.0, 1.0))
        found = passes.Found(*go(plane[None], [0], sampling)[0].tolist())
        energies = {"cross": found.cross, "fine": found.fine, "coarse": found.coarse}
        largest = (2 * edge**2 * highest) ** 2 * (1024 // edge // 2) ** 2
        assert energies == dict.fromkeys(energies, 0) | {kind: largest}
        assert found.total == plane.size // 2 * highest
        assert (found.lowest, found.highest, found.n_highest) == (0, highest, plane.size // 2)
        assert found.middle == (2 * highest if kind == "cross" else 0)


def test_many_planes_are_compiled_for_once(
    field: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever threads they are measured; the others go on meanwhile."""
    usual = measure_planes(field)
    made, taken = [], []

    def make() -> Any:
        made.append(1)
        time.sleep(0.05)  # in which the other threads measure some planes
        return passes._Passes(lambda *given: taken.append(1) or compiled_pass(*given), watcher)

    choice = Compiled(make, after=20 * field[0].size, lack="")
    monkeypatch.setitem(passes._COMPILED, 2, choice)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(measure_planes, [field] * 400):
            np.testing.assert_array_equal(found, usual)
    assert made == [1]
    assert 0 < len(taken) <= 400 - 20 // len(field)


def test_a_compiler_that_fails_is_said_and_done_without(
    field: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = measure_planes(field)
    monkeypatch.setattr(passes, "PIXELS_BY_NUMPY", 0)
    monkeypatch.setitem(passes._COMPILED, 2, passes._compiled_for(np.uint16))
    monkeypatch.setitem(sys.modules, "unidino_fast.qc.compiled_passes", None)
    for _ in range(2):
        np.testing.assert_array_equal(measure_planes(field), usual)
    assert [record.getMessage()[:49] for record in caplog.records] == [
        "quality is measured by numpy, which is slower: im"
    ]


def test_planes_that_cannot_be_written(field: np.ndarray) -> None:
    frozen = np.frombuffer(field.tobytes(), field.dtype).reshape(field.shape)
    np.testing.assert_array_equal(measure_planes(frozen), measure_planes(field))


def test_pixels_of_the_other_byte_order(field: np.ndarray) -> None:
    swapped = field.astype(field.dtype.newbyteorder())
    np.testing.assert_array_equal(measure_planes(swapped), measure_planes(field))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_open(value: float) -> None:
    """Embedding says it, with the field's name; measuring must not fail in its thread."""
    planes = np.random.default_rng(4).random((2, 40, 40), np.float32)
    planes[1, 3, 3] = value
    found = measure_planes(planes)
    assert np.isfinite(found[0, MEASURES.index("Intensity")])
    assert np.isnan(found[1]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e300])
def test_values_beyond_what_squares_can_hold(scale: float) -> None:
    """Are not of a camera; they must fail in no thread, and need not be right."""
    y, x = np.mgrid[:64, :64]
    planes = np.stack([y // 8 % 2 * scale, (y // 4 + x // 4) % 2 * scale, x * scale])
    found = measure_planes(planes)
    if scale < 1e30:
        np.testing.assert_allclose(found[:, 0], planes.mean(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (7, 100), (8, 8), (9, 65), (64, 63), (33, 1000)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    plane = np.random.default_rng(5).integers(0, 60000, (1, *shape), dtype=np.uint16)
    found = measure_planes(plane)
    assert found.shape == (1, len(MEASURES))
    assert np.isnan(found[0, 0]) == (min(shape) < 8)
