"""The list of users: text, CSV, gzip, pipes; what is no id; what is no list."""

import asyncio
import gzip
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.errors import UsageError
from capillary_targets.sweep import BadLine, SweepRefused, UsersFile
from capillary_targets.sweep.user_list import UserListParser, read_batches


async def read(users) -> list[int | BadLine]:
    return [user async for batch in read_batches(users) for user in batch]


async def read_once(users: UsersFile) -> list[int | BadLine]:
    return await anext(aiter(read_batches(users)))


async def test_text(tmp_path: Path):
    path = tmp_path / "users.txt"
    path.write_bytes(b"\xef\xbb\xbf1\r\n\n# two\n 2 \n3 # three\n-4\nfive\n9223372036854775808\n6")
    assert await read(UsersFile(path)) == [
        *(1, 2, 3, -4),
        BadLine(7, "five"),
        BadLine(8, "9223372036854775808"),
        6,
    ]


async def test_a_file_without_ids_is_refused(tmp_path: Path):
    path = tmp_path / "users.txt"
    path.write_text("alice\n" * 1500)
    with pytest.raises(SweepRefused, match=r"holds no user id \(line 1 is 'alice'\)"):
        await read(UsersFile(path))


async def test_a_late_bad_line_is_only_that(tmp_path: Path):
    path = tmp_path / "users.txt"
    path.write_text("1\n" + "alice\n" * 1500)
    found = await read(UsersFile(path))
    assert found[0] == 1
    assert found[-1] == BadLine(1501, "alice")


@pytest.mark.parametrize(
    ("content", "column", "ids"),
    [
        ("user_id\n1\n2\n", None, [1, 2]),
        ("1\n2\n", None, [1, 2]),
        ("name,customerId\nann,1\nbob,2\n", None, [1, 2]),
        ("name;member\nann;1\nbob;2\n", "member", [1, 2]),
        ("name\tmember\nann\t1\n", "MEMBER", [1]),
        ("ann,1\nbob,2\n", "2", [1, 2]),
        ('id,note\n1,"a, b"\n2,"say ""hi"""\n', None, [1, 2]),
        ('id,note\n1,"two\nlines"\n2,x\n', None, [1, 2]),
        ("id,id2\n# nobody\n\n7,8\n", "id2", [8]),
    ],
)
async def test_csv(tmp_path: Path, content: str, column: str | None, ids: list[int]):
    path = tmp_path / "users.csv"
    path.write_text(content)
    assert await read(UsersFile(path, column)) == ids


@pytest.mark.parametrize(
    ("content", "column", "words"),
    [
        ("name,member\nann,1\n", None, "several columns: name one with --column, of name, member"),
        ("name,member\nann,1\n", "user", "no column user"),
        ("name,member\nann,1\n", "3", "no column 3"),
    ],
)
async def test_a_csv_whose_column_is_unclear(
    tmp_path: Path, content: str, column: str | None, words: str
):
    path = tmp_path / "users.csv"
    path.write_text(content)
    with pytest.raises(SweepRefused, match=words):
        await read(UsersFile(path, column))


async def test_a_csv_with_bad_rows(tmp_path: Path):
    path = tmp_path / "users.csv"
    path.write_text("name,id\nann,1\nbob\ncid,\ndan,x\neve,5\n")
    assert await read(UsersFile(path)) == [1, BadLine(3, "bob"), BadLine(5, "x"), 5]


async def test_gzip_of_several_members(tmp_path: Path):
    path = tmp_path / "users.csv.gz"
    path.write_bytes(gzip.compress(b"id\n1\n2\n") + gzip.compress(b"3\n"))
    assert await read(UsersFile(path)) == [1, 2, 3]


@pytest.mark.parametrize(("keep", "words"), [(20, "cut off"), (-1, "cut off")])
async def test_a_gzip_that_is_cut_off(tmp_path: Path, keep: int, words: str):
    path = tmp_path / "users.gz"
    path.write_bytes(gzip.compress(b"1\n2\n")[:keep])
    with pytest.raises(SweepRefused, match=words):
        await read(UsersFile(path))


async def test_a_damaged_gzip(tmp_path: Path):
    path = tmp_path / "users.gz"
    whole = bytearray(gzip.compress(b"\n".join(b"%d" % n for n in range(1000))))
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(SweepRefused, match="damaged"):
        await read(UsersFile(path))


async def test_a_pipe_is_waited_for_without_holding_anybody_up(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)  # so that opening it to read does not wait
    reading = asyncio.create_task(read_once(UsersFile(path)))
    await asyncio.sleep(0)
    os.write(writer, b"1\n2\n")
    assert await reading == [1, 2]
    os.close(writer)


async def test_a_directory_and_a_binary_file_are_no_lists(tmp_path: Path):
    with pytest.raises(SweepRefused, match="cannot be read"):
        await read(UsersFile(tmp_path))
    path = tmp_path / "users.txt"
    path.write_bytes(b"\0" * (2 << 20))
    with pytest.raises(SweepRefused, match="no text of lines"):
        await read(UsersFile(path))


async def test_the_callers_own_ids():
    async def stream():
        yield 3
        yield 4

    assert await read(range(3)) == [0, 1, 2]
    assert await read(stream()) == [3, 4]
    with pytest.raises(UsageError, match="64 bits"):
        await read(["1"])


def test_how_many_to_expect(tmp_path: Path):
    path = tmp_path / "users.txt"
    for content, lines in [(b"", 0), (b"1\n2\n", 2), (b"1\n2", 2), (b"1\n" * 100_000, 100_000)]:
        path.write_bytes(content)
        assert UsersFile(path).expected() == lines
    path.write_bytes(gzip.compress(b"1\n"))
    assert UsersFile(path).expected() is None
    assert UsersFile(Path("-")).expected() is None
    assert UsersFile(tmp_path / "none").expected() is None


async def test_memory_is_flat(tmp_path: Path):
    path = tmp_path / "users.txt"
    with path.open("w") as file:
        file.writelines(f"{number}\n" for number in range(10_000_000, 10_300_000))
    tracemalloc.start()
    try:
        number = 0
        async for batch in read_batches(UsersFile(path)):
            number += len(batch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert number == 300_000
    assert peak < 4 << 20


@given(st.lists(st.one_of(st.integers(), st.text(max_size=12)), max_size=30))
def test_every_line_is_an_id_a_bad_line_or_does_not_count(texts: list[int | str]):
    lines = UserListParser("x")
    for number, text in enumerate(texts, 1):
        found = lines.feed(str(text))
        if isinstance(text, int) and -(2**63) <= text < 2**63:
            assert found == text
        elif isinstance(found, BadLine):
            assert found.number == number
            assert found.text
