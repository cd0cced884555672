"""Parts of a sweep copied to S3: every row once, after an interruption and after an increment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import SweepOptions, run
from tests.conftest import client_of
from tests.needs import required

required("boto3", "moto.server", "pyarrow")

import boto3
import pyarrow.dataset as ds
from moto.server import ThreadedMotoServer
from pyarrow import fs

from examples.s3_copy import copy_parts


@pytest.fixture
def uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a prefix in a bucket of a local S3."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1"
    ).create_bucket(Bucket="loyalty")
    yield f"s3://loyalty/night?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
    server.stop()


def rows(where: str, uri: str | None = None) -> list[tuple[int, int]]:
    store: fs.FileSystem = fs.LocalFileSystem()
    if uri is not None:
        store, where = fs.FileSystem.from_uri(uri)
    table = ds.dataset(f"{where}/events", filesystem=store, format="parquet").to_table()
    return sorted(zip(table["user_id"].to_pylist(), table["event_log_id"].to_pylist(), strict=True))


async def test_a_bucket_has_every_row_once(
    uri: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, options = sandbox.world.user_ids(), SweepOptions(format="parquet", incremental=True)
    async with client_of(sandbox) as client:
        await run(client, users, tmp_path, options)
        (tmp_path / "events" / ".part-99999.parquet.tmp").write_bytes(b"unfinished")
        copy = fs.copy_files
        calls: list[Any] = []

        def interrupted(*arguments: object) -> None:
            if len(calls) == 1:
                raise KeyboardInterrupt
            calls.append(arguments)
            copy(*arguments)

        monkeypatch.setattr(fs, "copy_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy_parts(tmp_path, uri)
        monkeypatch.setattr(fs, "copy_files", copy)
        first = copy_parts(tmp_path, uri)
        assert rows("", uri) == rows(str(tmp_path))
        assert not any(".part" in name for name in first)

        rule = sandbox.world.targets(users[0])[0].id
        sandbox.world.add_event(users[0], rule, value="12.340")
        await run(client, users, tmp_path, options)
        again = copy_parts(tmp_path, uri)
    assert not {*again} & {*first} - {"summary.json"}
    assert rows("", uri) == rows(str(tmp_path))
