"""What the page's numbers are, against naive loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from report_tables import CHANNELS, DIM, made_up, table
from sklearn.decomposition import PCA

import unidino_fast as uf
from unidino_fast.names import WellName, distinct_names
from unidino_fast.report import position, projections, similarity
from unidino_fast.report.charts import MOST_KINDS, OTHERS, numbers
from unidino_fast.report.gather import read_results
from unidino_fast.report.labels import find_labels, shown
from unidino_fast.report.plate_maps import distances
from unidino_fast.report.position import position_section
from unidino_fast.report.replicates import replicate_section


def test_distance_to_controls_is_the_root_mean_square(tmp_path):
    frame = table()
    gone = [None, *frame["ER_003"][1:]]
    frame = frame.with_columns(pl.Series("ER_003", gone, pl.Float32))  # a null feature is left out
    results = read_results(made_up(tmp_path / "out" / "P1", frame) / "P1")
    labels = find_labels(results.profiles)
    profiles = uf.normalize(frame)
    names = uf.feature_columns(profiles)
    controls = profiles.filter(pl.col("Metadata_Compound") == "DMSO")
    expected = []
    for row in profiles.iter_rows(named=True):
        squares = [
            (row[name] - controls[name].median()) ** 2 for name in names if row[name] is not None
        ]
        expected.append(np.sqrt(sum(squares) / len(squares)))
    assert distances(results, labels) == pytest.approx(expected, rel=1e-5)  # float32 features
    er = distances(results, labels, "ER")
    first = [name for name in names if name.startswith("ER_") and name != "ER_003"]
    square = [(profiles[name][0] - controls[name].median()) ** 2 for name in first]
    assert er[0] == pytest.approx(np.sqrt(np.mean(square)), rel=1e-5)


def test_principal_components_are_those_of_scikit_learn():
    values = np.random.default_rng(0).normal(size=(20, 6)) * [9, 5, 3, 1, 1, 1]
    scores, shares = projections.principal_components(values, 2)
    fitted = PCA(2, svd_solver="full").fit(values)
    assert np.abs(scores) == pytest.approx(np.abs(fitted.transform(values)))
    assert shares == pytest.approx(fitted.explained_variance_ratio_)


def test_umap_is_the_same_again_and_keeps_groups_together():
    rng = np.random.default_rng(0)
    values = np.repeat(np.eye(3, 10), 12, axis=0) * 5 + rng.normal(size=(36, 10)) * 0.1
    start, _ = projections.principal_components(values, 2)
    one, other = (projections.neighbour_plane(values, start, densmap=False) for _ in range(2))
    assert np.array_equal(one, other)
    distance = np.linalg.norm(one[:, None] - one[None], axis=2) + 1e9 * np.eye(36)
    assert (distance.argmin(axis=1) // 12 == np.arange(36) // 12).all()


def test_share_of_variance_is_that_of_a_naive_analysis():
    rng = np.random.default_rng(1)
    values, codes = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    values[codes == 1] += 2
    between = total = 0.0
    for column in values.T:
        for code in range(3):
            own = column[codes == code]
            between += len(own) * (own.mean() - column.mean()) ** 2
        total += ((column - column.mean()) ** 2).sum()
    share, chance = position.share_of_variance(position.gram_matrix(values), codes)
    assert share == pytest.approx(between / total)
    shuffled = rng.permutation(codes)
    assert position.share_of_variance(position.gram_matrix(values), shuffled)[0] < share
    assert chance < share


def test_an_edge_is_seen_and_a_clean_plate_is_not_accused(tmp_path):
    """Five plates without an effect, and one whose rim is shifted by half a standard deviation."""
    accused = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        frame = table(seed=seed, features=rng.normal(size=(48, len(CHANNELS) * DIM)))
        results = read_results(made_up(tmp_path / f"clean{seed}" / "P", frame) / "P")
        section = position_section(results, find_labels(results.profiles))
        accused += section.findings[0].state == "look"
    assert accused == 0
    features = np.random.default_rng(9).normal(size=(48, len(CHANNELS) * DIM))
    wells = [WellName(i // 8, i % 8 + 1) for i in range(48)]
    features[position.is_rim(wells) == 1] += 0.5
    results = read_results(made_up(tmp_path / "rim" / "P", table(features=features)) / "P")
    finding = position_section(results, find_labels(results.profiles)).findings[0]
    assert finding.state == "look"
    assert "rim" in finding.value


def test_treatments_in_columns_are_not_called_position(tmp_path):
    rng = np.random.default_rng(0)
    column = np.tile(np.arange(8), 6)
    features = rng.normal(size=(8, len(CHANNELS) * DIM))[column] * 4
    features += rng.normal(size=features.shape)
    frame = table(features=features).with_columns(
        pl.Series("Metadata_Compound", [f"c{i}" for i in column])
    )
    results = read_results(made_up(tmp_path / "out" / "P", frame) / "P")
    section = position_section(results, find_labels(results.profiles))
    assert section.findings[0].state == "good"
    shares = {(row["name"], row["when"]): row["share"] for row in section.data["position"]}
    assert shares["Plate column", "after"] > 0.5
    assert shares["Plate column", "after, within treatments"] == pytest.approx(0, abs=1e-9)


def test_correlations_and_their_order():
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(3), 4))
    rows = rng.normal(size=(3, 40))[kinds] * 3 + rng.normal(size=(12, 40))
    found = similarity.correlations(rows)
    assert found == pytest.approx(np.corrcoef(rows))
    ordered = kinds[similarity.leaf_order(found)]
    assert (np.diff(ordered) != 0).sum() == 2  # each kind in one block
    flat = similarity.correlations(np.array([[1.0, 1, 1], [1, 2, 3]]))
    assert flat.tolist() == [[1, 0], [0, 1]]


def test_group_means_are_those_of_polars():
    frame = table()
    names = uf.feature_columns(frame)
    values = frame.select(names).to_numpy().astype(float)
    found, means, counts = similarity.group_means(frame["Metadata_MoA"], values)
    expected = (
        frame.filter(pl.col("Metadata_MoA").is_not_null())
        .group_by("Metadata_MoA")
        .agg(pl.len().alias("n"), pl.col(names).cast(pl.Float64).mean())
        .sort("Metadata_MoA")
    )
    assert found == expected["Metadata_MoA"].to_list()
    assert counts == expected["n"].to_list()
    assert means == pytest.approx(expected.select(names).to_numpy())


def test_many_kinds_keep_the_commonest():
    values = pl.Series([f"kind {i}" for i in range(60)] + ["kind 59"] * 5 + [None])
    patch, shown_values = projections.colouring(values, "k0", "kind")
    domain = patch[0][1]["scale"]["domain"]
    assert len(domain) == MOST_KINDS + 1  # and those without a label
    assert domain[0] == "kind 59"
    assert set(shown_values) == set(domain)
    assert shown_values.count(OTHERS) == 60 - (MOST_KINDS - 1)


def test_names_are_short_and_stay_distinct():
    names = distinct_names(["a" * 100, "a" * 99 + "b", "a", "\u202eevil"], shown)
    assert len(set(names.values())) == 4
    assert max(map(len, names.values())) <= 64
    assert shown("\u202eevil\x1b[31m") == "_evil_[31m"


def test_numbers_are_such_as_json_knows():
    assert numbers([1.23456789, float("nan"), float("inf"), None, 3.0, -0.000123456]) == [
        *(1.235, None, None, None, 3, -0.0001235)
    ]


@pytest.mark.parametrize(
    ("column", "values", "is_control"),
    [
        ("Metadata_Role", ["negcon", "trt"] * 24, True),
        ("Metadata_SBS_Controls", [-1, 0] * 24, True),
        ("Metadata_Dose", [-1, 0] * 24, False),
        ("Metadata_Compound", ["dmso ", "x"] * 24, True),
    ],
)
def test_controls_are_found_by_usual_names(column, values, is_control):
    frame = (
        table().drop("Metadata_Compound", "Metadata_MoA").with_columns(pl.Series(column, values))
    )
    labels = find_labels(frame)
    if is_control:
        assert labels.controls.tolist() == [True, False] * 24
    else:
        assert labels.controls is None


def test_labels_can_be_named():
    frame = table().with_columns(pl.Series("Metadata_Batch", ["a", "b"] * 24))
    labels = find_labels(frame, compound="Batch", controls='Metadata_Batch == "a"')
    assert labels.compound == "Metadata_Batch"
    assert labels.controls.sum() == 24
    assert find_labels(frame).compound == "Metadata_Compound"
    assert find_labels(frame).moa == "Metadata_MoA"


def test_wells_that_the_platemap_leaves_out(tmp_path):
    """Empty wells and controls without a dose, as platemaps have them, are no reason to fail."""
    frame = table(seed=3)
    is_control = pl.col("Metadata_Compound") == "DMSO"
    doses = [1.0 if i % 2 else 10.0 for i in range(len(frame))]
    frame = frame.with_columns(pl.Series("Metadata_Dose", doses)).with_columns(
        pl.when(is_control).then(None).otherwise("Metadata_Dose").alias("Metadata_Dose"),
        pl.when(pl.col("Metadata_Compound") == "compound 3")
        .then(None)
        .otherwise("Metadata_Compound")
        .alias("Metadata_Compound"),
    )
    results = read_results(made_up(tmp_path / "out" / "P1", frame) / "P1")
    labels = find_labels(results.profiles)
    assert labels.replicates == ("Metadata_Compound", "Metadata_Dose")
    codes = labels.treatment_codes(results.profiles)
    pairs = results.profiles.select("Metadata_Compound", "Metadata_Dose").rows()
    assert [[a == b for b in codes] for a in codes] == [[a == b for b in pairs] for a in pairs]
    section = replicate_section(results, labels)
    assert "3 wells without Compound or Dose took no part" in section.values["notes"]
    known = results.profiles.filter(~is_control)  # drops null, too
    expected = uf.percent_replicating(known, ["Compound", "Dose"])
    [finding] = [f for f in section.findings if f.label == "Replicates"]
    n_agree = sum(group.passes for group in expected.groups)
    assert finding.value == f"{n_agree} of {len(expected.groups)} agree"
    assert position_section(results, labels) is not None


def test_mechanisms_of_one_compound_each_are_not_judged(tmp_path):
    """Nearest neighbours of another compound cannot be right then, which is no fault of a plate."""
    frame = table().with_columns(pl.col("Metadata_Compound").alias("Metadata_MoA"))
    results = read_results(made_up(tmp_path / "out" / "P1", frame) / "P1")
    section = replicate_section(results, find_labels(results.profiles))
    [finding] = [f for f in section.findings if f.label == "MoA of the nearest other compound"]
    assert (finding.value, finding.state) == ("not known", "none")
    assert finding.detail == "no MoA is that of two compounds"


def test_profiles_of_zeros_are_given_no_precision(tmp_path):
    """Ties rank positives first, so that profiles which say nothing would look perfect."""
    frame = table(features=np.zeros((48, len(CHANNELS) * DIM)))
    results = read_results(made_up(tmp_path / "out" / "P1", frame) / "P1")
    section = replicate_section(results, find_labels(results.profiles))
    assert "mAP" not in section.findings[0].detail
    told = [note for note in section.values["notes"] if "all zeros" in note]
    assert len(told) == 2
    assert told[0].startswith("mean average precision was not computed: 36 of 36 wells")
