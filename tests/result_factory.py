"""Results of a well, made up, and the work that they are the results of."""

import numpy as np

from unidino_fast.names import WellName
from unidino_fast.planning import FieldTask, WellTask
from unidino_fast.plate_model import Field, Well
from unidino_fast.results import FieldResult, WellResult


def result(well=(0, 1), dim=5, seed=0):
    """Two fields, two times; the second field lacks a channel."""
    rng = np.random.default_rng(seed)
    fields = []
    for site, labels in (("f/1", ("DNA", "ER")), ("f0", ("ER",))):
        for time in (0, 3):
            features = rng.normal(size=(len(labels), dim)).astype("f4")
            features[0, 0] = np.float32(1e-40)  # subnormal: nothing may round it
            fields.append(FieldResult(site, time, labels, 3, 13, features, 2**64 - 1 - time, "ab"))
    return WellResult(WellName(*well), tuple(fields))


def task(of):
    """The work whose result `of` is, as far as the output folder looks at it."""

    def field(one):
        stored = Field(
            one.site, "", "cyx", None, one.labels, None, None, metadata_digest=one.metadata_digest
        )
        return FieldTask(stored, one.time, (0,), one.labels, 16)

    fields = tuple(field(one) for one in of.fields)
    return WellTask(Well(of.position, "A/1", tuple(f.field for f in fields)), fields)
