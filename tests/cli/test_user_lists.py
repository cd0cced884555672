"""`sweep` of lists as people have them: every user of them, or one line that says why not."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from capillary_targets.sandbox import World

from .conftest import Cli

MANY = list(World().user_ids()[:80])
USERS = MANY[:20]


def swept(out: Path) -> set[int]:
    parts = (out / "targets").glob("part-*")
    return {json.loads(row)["user_id"] for part in parts for row in part.read_text().splitlines()}


def by_pandas(name: str) -> str:
    """What `DataFrame.to_csv()` writes: the index in a column without a heading."""
    rows = [f"{number},{user}" for number, user in enumerate(USERS)]
    return "\n".join([f",{name}", *rows, ""])


def quoted() -> str:
    """Rows of which every third has a lone quotation mark in another field."""
    items = ['TV 55" wide', "radio", '"TV, 55"""']
    rows = [f"{items[number % 3]},{user},x" for number, user in enumerate(USERS)]
    return "\n".join(["item,customer_id,note", *rows, ""])


def by_excel() -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=";").writerows([("Name", "User ID"), *(("ö", u) for u in USERS)])
    return f"sep=;\r\n{out.getvalue()}".encode("utf-16")


LISTS = {
    "pandas.csv": by_pandas("user_id").encode(),
    "quoted.csv": quoted().encode(),
    "excel.csv": by_excel(),
    "excel.csv.gz": gzip.compress(by_excel()),
    "floats.csv": "\n".join(["user_id", *(f"{user}.0" for user in USERS)]).encode(),
    "sql.txt": "\n".join(f" '{user}' " for user in USERS).encode(),
    "mac.txt": "\r".join(map(str, USERS)).encode(),
    "wide.csv": ("user_id,note\n" + f"{USERS[0]},{'x' * 200_000}\n").encode()
    + "\n".join(f"{user},y" for user in USERS[1:]).encode(),
}


@pytest.mark.parametrize("name", LISTS)
def test_every_user_of_the_list_is_swept(cli: Cli, tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(LISTS[name])
    ran = cli("sweep", path, "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 0, ran.err
    assert swept(tmp_path / "out") == set(USERS)
    if b"," in LISTS[name] or b";" in LISTS[name]:
        assert ran.err.startswith("user ids: column ")


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        (b"a,b\nx,y\n", [], "may have its ids in several columns: name one with --column, of a, b"),
        (b"a,b\nx,1\n", ["--column", "\u00b2"], "has no column \u00b2"),
        (
            b"PK\x03\x04xlsx",
            [],
            "no text but a workbook, an archive or the like; export it as CSV",
        ),
        (b'a,user_id\n"x,1\ny,2', ["--column", "3"], "has no column 3"),
        (b"", [], "holds no user id (it is empty)"),
        (b"1,234\n", [], "name one with --column, of 1, 234"),
        (b'"1,234"\n5.64E+08\n', [], "digits in groups"),
        (b"[1,2,3]\n", [], "looks like JSON; put one user id on each line"),
        (b'{"user_id": 1000001}\n', [], "looks like JSON"),
        (b"<!DOCTYPE html><p>1,2</p>\n", [], "looks like HTML or XML"),
        (b"\x93\x01,\xff\x00\x7f,\x02\n" * 9, [], "is no text of lines"),
        (
            ",".join(f"c{n}" * 40 for n in range(5_000)).encode(),
            [],
            "name one with --column, of c0c0",
        ),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, content: bytes, flags: list[str], words: str
):
    path = tmp_path / "users.csv"
    path.write_bytes(content)
    ran = cli("sweep", path, *flags, "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert len(ran.err) < 700


def test_bad_lines_are_named_and_no_user_is_lost_to_them(cli: Cli, tmp_path: Path):
    path = tmp_path / "users.csv"
    rows = [f'{USERS[0]},"TV', f"{USERS[1]},x", "7", f"{USERS[2]}E+3,x", f"{USERS[3]},x"]
    path.write_text("\n".join(["user_id,item", *rows]))
    ran = cli("sweep", path, "--out", tmp_path / "out", "--sandbox")
    assert ran.status != 0
    assert swept(tmp_path / "out") == {USERS[1], USERS[3]}
    failures = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert [(row["line"], row["error"]) for row in map(json.loads, failures)] == [
        (2, "a quoted field is not closed"),
        (4, "1 field where there should be 2"),
        (5, f"the number has lost digits ({USERS[2]}E+3): export the column as text"),
    ]


def test_a_list_that_is_cut_off_is_swept_as_far_as_it_goes_and_ends_with_status_1(
    cli: Cli, tmp_path: Path
):
    path = tmp_path / "users.gz"
    whole = gzip.compress("".join(f"{user}\n" for user in MANY).encode())
    path.write_bytes(whole[:-9])
    ran = cli("sweep", path, "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 1
    assert f"{path} is cut off (a gzip without its end) behind line" in ran.err
    assert "run the same command to go on" in ran.err
    found = swept(tmp_path / "out")
    assert found < set(MANY)
    assert len(found) > len(MANY) / 2
    path.write_bytes(whole)
    ran = cli("sweep", path, "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 0
    assert f"({len(found)} of the list were done before)" in ran.out
    assert swept(tmp_path / "out") == set(MANY)


@pytest.mark.parametrize("make", [False, True])
def test_a_directory_without_a_sweep_has_no_failed_users(cli: Cli, tmp_path: Path, make: bool):
    out = tmp_path / "out"
    if make:
        out.mkdir()
    ran = cli("sweep", "--retry-failed", "--out", out, "--sandbox")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "holds no sweep whose failed users could be asked again" in ran.err
    assert out.exists() == make
    assert not make or not [*out.iterdir()]


def test_an_error_line_is_never_longer_than_a_few_hundred_characters(cli: Cli, tmp_path: Path):
    path = tmp_path / ("d" * 200) / ("e" * 200) / ("f" * 200) / ("g" * 200)
    ran = cli("sweep", path, "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 2
    assert len(ran.err) < 700
    assert ran.err.startswith("error: the users file")
    assert ran.err.endswith("give a file with one user id a line\n")
