"""An upload is inspected in a sandbox, also where no packages are taken; one that would fill the memory is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tapeworks_workers.sandbox import isolation
from tests.support.serving import Served


def test_uploads_are_inspected_in_a_sandbox_and_refused_by_what_they_claim(served: Served, tmp_path: Path) -> None:
    column = pa.array(np.zeros(8_000_000, "int64"))
    pq.write_table(
        pa.table({f"n{at}": column for at in range(10)}), tmp_path / "large.parquet", row_group_size=8_000_000
    )
    (tmp_path / "small.csv").write_text("a,b\n1,2\n3,4\n")
    datasets = served.client.datasets
    refused = datasets.settled(datasets.push(tmp_path / "large.parquet"), 120)
    assert refused.failure is not None
    assert (refused.state, refused.failure.code) == ("refused", "invalid_data")
    assert ".parquet: row group 0 unpacks to 640000000 bytes" in refused.failure.message
    read = datasets.settled(datasets.push(tmp_path / "small.csv"), 120)
    assert read.state == "ready", read.failure
    (worker,) = served.client.workers()
    assert (worker.packages, worker.sandbox) == (False, dict(isolation.of_this_machine().layers))
    kept = sorted(one.name for one in (served.data / "worker/sandboxes").iterdir())
    assert kept == ["0", "0.sealed"], "one, warm for the next, and where bundles are sealed for it"
