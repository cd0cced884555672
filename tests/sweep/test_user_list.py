"""The list of users: lines, CSV, encodings, gzip, pipes; what is no id; what is no list."""

import asyncio
import csv
import gzip
import io
import os
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from capillary_targets.errors import UsageError
from capillary_targets.sweep import BadLine, SweepRefused, SweepStopped, UsersFile
from capillary_targets.sweep.user_list import ListDecoder, UserListParser, read_batches
from tests.conftest import examples


async def read(users) -> list[int | BadLine]:
    return [user async for batch in read_batches(users) for user in batch]


async def read_once(users: UsersFile) -> list[int | BadLine]:
    return await anext(aiter(read_batches(users)))


async def test_lines(tmp_path: Path):
    path = tmp_path / "users.txt"
    path.write_bytes(b'\xef\xbb\xbf1\r\n\n# two, "too\n 2 \n3 # three, or so\n-4\nfive\n6')
    assert await read(UsersFile(path)) == [1, 2, 3, -4, BadLine(7, "five"), 6]


async def test_a_file_without_ids_is_refused(tmp_path: Path):
    path = tmp_path / "users.txt"
    path.write_text("alice\n" * 1500)
    with pytest.raises(
        SweepRefused, match=r"holds no user id \(line 2 is 'alice': not a user id\)"
    ):
        await read(UsersFile(path))


@pytest.mark.parametrize("content", ["", "\n\n", "user_id\n", "id,name\n", "# nobody\n", "sep=;\n"])
async def test_an_empty_list_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "users.csv"
    path.write_text(content)
    with pytest.raises(SweepRefused, match=r"holds no user id \(it is empty\)"):
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
        ("name|userId\nann, eve & co|1\n", None, [1]),
        ("ann,1\nbob,2\n", "2", [1, 2]),
        ("ann,1\nbob,2\n", None, [1, 2]),
        ('id,note\n1,"a, b"\n2,"say ""hi"""\n', None, [1, 2]),
        ('id,note\n1,"two\nlines"\n2,x\n', None, [1, 2]),
        ('id, note\n1, "a, b"\n2, x\n', None, [1, 2]),
        ('id,id2\n# nobody, "here\n\n7,8\n', "id2", [8]),
        # As pandas' to_csv() writes a frame, and a series without a name.
        (",user_id\n0,71\n1,72\n", None, [71, 72]),
        (",name,user_id\n0,ann,71\n1,bob,72\n", None, [71, 72]),
        (",0\n0,71\n1,72\n", None, [71, 72]),
        (",user_id\n0,71.0\n1,72.0\n", None, [71, 72]),
        # As others spell the heading; `id` beside it is the row's own.
        ("User ID,age\n7,40\n", None, [7]),
        ("id,Customer-Id\n1,7\n", None, [7]),
        ("age;memberID;x\n40;7;1\n", None, [7]),
        ("order_id,loyalty_member_id\n1,7\n", None, [7]),
        ('"user_id","name"\n"7","ann"\n', None, [7]),
        ('\ufeff"name, first",user_id\n"ann, eve",7\n', None, [7]),
        ("year,2024,user_id\n1,2,7\n", None, [7]),
        ("2024,amount\n7,8\n", "2024", [7]),
        ("id2\n7\n", "id2", [7]),
        ("7\n8\n", "1", [7, 8]),
        ("a,Größe\n1,7\n", "größe", [7]),
        # Spreadsheets.
        ("sep=;\nuser_id;amount\n7;1,5\n", None, [7]),
        ('"sep=;"\nuser_id;amount\n7;1,5\n', None, [7]),
        ("user_id,name,,\n7,ann,,\n8,bob\n,,,\n", None, [7, 8]),
        ("7,\n8,\n9\n", None, [7, 8, 9]),
        ('="7"\n\'8\n\u00a09\u200b\n+10\n', None, [7, 8, 9, 10]),
        (
            "5.64332013E+08\n564332013.00\n5.643320130000000000e+08\n-7.\n",
            None,
            [564332013] * 3 + [-7],
        ),
        # A quotation mark inside of a field is one, not the beginning of a quoted field.
        ('item,user_id\nTV 55" wide,1\nTV,2\n', None, [1, 2]),
        # A quoted field with a line end before the id; Spark's and MySQL's way to quote.
        ('name,user_id\n"two\nlines",7\n"a\nb\nc",8\n', None, [7, 8]),
        ('user_id,item\n7,"TV \\"wide\\""\n8,"C:\\"\n', None, [7, 8]),
        # Shopify's order names; a comment is what is no row with an id.
        ("order,customer_id\n#1001,71\n# old, ones\n#1002,72\n", None, [71, 72]),
        ('name,note,customer_id\n#1,"two\nlines",7\n#2,"x,8\n#3,y,9\n', None, [7, 9]),
        # Hive's delimiter, Excel's tab, a decimal comma.
        ("7\x01ann\n8\x01bob\n", None, [7, 8]),
        ("SEP=\t\nuser_id\tx\n7\tann\n", None, [7]),
        ("sep=\nuser_id;x\n564332013,0;2\n", None, [564332013]),
    ],
)
async def test_csv(tmp_path: Path, content: str, column: str | None, ids: list[int]):
    path = tmp_path / "users.txt"
    path.write_text(content, encoding="utf-8", newline="")
    assert await read(UsersFile(path, column)) == ids


@pytest.mark.parametrize(
    ("content", "column", "words"),
    [
        (
            "name,member_no\nann,1\n",
            None,
            "several columns: name one with --column, of name, member_no",
        ),
        ("7,8\n9,10\n", None, r"several columns: name one with --column, of 7, 8"),
        ("user_id,customer_id\n7,8\n", None, "name one with --column, of user_id, customer_id"),
        (",0,1\n0,7,8\n", None, "name one with --column, of 0, 1"),
        ("user_id,a,user_id\n7,0,8\n", None, "name one with --column, of user_id, user_id"),
        (
            "user_id,a,user_id\n7,0,8\n",
            "user_id",
            "has 2 columns named user_id: give --column the number of one, of 1, 3",
        ),
        ("name,member\nann,1\n", "user", "no column user"),
        ("name,member\nann,1\n", "3", "no column 3: name one with --column, of name, member"),
        ("name,member\nann,1\n", "\u00b2", "no column \u00b2"),
        ("name,member\nann,1\n", "\u0662", "no column"),
        ("name,member\nann,1\n", "", "no column"),
        ("name,member\nann,1\n", "0", "no column 0"),
        ("name,member\nann,1\n", "-1", "no column -1"),
    ],
)
async def test_a_csv_whose_column_is_unclear(
    tmp_path: Path, content: str, column: str | None, words: str
):
    path = tmp_path / "users.csv"
    path.write_text(content)
    with pytest.raises(SweepRefused, match=words):
        await read(UsersFile(path, column))


async def test_it_says_which_column_it_took(tmp_path: Path):
    said: list[str] = []
    path = tmp_path / "users.csv"
    for content in ("name,User ID\nann,1\n", "1\n", "ann,1\n"):
        path.write_text(content)
        await read(UsersFile(path, on_column=said.append))
    assert said == ["column 2, User ID", "column 2, 1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5.64E+08", "lost digits"),
        ("1E+15", "lost digits"),
        ("9007199254740994.0", "may have lost digits"),
        ("9.007199254740994E+15", "may have lost digits"),
        ("1.5", "not a whole number"),
        ("15E-1", "not a whole number"),
        ("1,234", "digits in groups"),
        ("1.234.567", "digits in groups"),
        ("12,34,567", "digits in groups"),
        ("1_234", "digits in groups"),
        ("5,64E+08", "lost digits"),
        ("564\u202f332\u202f013", "digits in groups"),
        ("007", "leading zeros"),
        ("9223372036854775808", "larger than 64 bits"),
        ("-9223372036854775809", "larger than 64 bits"),
        ("1" * 5000, "not a user id"),
        ("\u0661\u0662", "not a user id"),
        ("7\0\0", "not a user id"),
        ("0x1F", "not a user id"),
        ("nan", "not a user id"),
        ("NULL", "not a user id"),
        ("#REF!", "not a user id"),
        ("=A1", "not a user id"),
        ("", "empty"),
    ],
)
def test_what_is_no_id_and_why(text: str, reason: str):
    parser = UserListParser("x")
    quoted = f'"{text}"'
    found = parser.feed(f"user_id,note\n{quoted},x\n5,x\n")
    assert found == [BadLine(2, f"{quoted},x"[:80], found[0].reason), 5]
    assert reason in found[0].reason


@pytest.mark.parametrize(
    ("content", "found"),
    [
        # A row with fewer fields than the heading, or more; an empty id.
        (
            "order,user_id,x\n1,7,a\n2\n3,8\n4,9,a,b\n5,,a\n6,10,\n",
            [
                7,
                BadLine(3, "2", "1 field where there should be 3"),
                BadLine(4, "3,8", "2 fields where there should be 3"),
                BadLine(5, "4,9,a,b", "4 fields where there should be 3"),
                BadLine(6, "5,,a", "empty"),
                10,
            ],
        ),
        # Quotes that are not closed, closed early, closed by another row's.
        (
            'user_id,item\n1,"TV\n2,x\n3,y\n',
            [BadLine(2, '1,"TV', "a quoted field is not closed"), 2, 3],
        ),
        (
            'user_id,item\n1,"TV" wide\n2,x\n',
            [BadLine(2, '1,"TV" wide', "a quoted field is not closed"), 2],
        ),
        (
            'user_id,item\n1,"TV\n2,x\n3,"TV\n4,y\n',
            [
                BadLine(2, '1,"TV', "a quoted field is not closed"),
                2,
                BadLine(4, '3,"TV', "a quoted field is not closed"),
                4,
            ],
        ),
        (
            'user_id,a,b\n1,"TV,\n2,x,y\n3,z,"\n4,y,\n',
            [
                BadLine(2, '1,"TV,', "a quoted field is not closed"),
                2,
                BadLine(4, '3,z,"', "a quoted field is not closed"),
                4,
            ],
        ),
    ],
)
def test_a_row_that_is_wrong_is_one_bad_line(content: str, found: list[int | BadLine]):
    parser = UserListParser("x")
    assert parser.feed(content, final=True) == found


async def test_the_first_line_may_be_bad(tmp_path: Path):
    path = tmp_path / "users.txt"
    for bad in ("5643320l3", "\uff17\uff18", "\u0661\u0662"):
        path.write_text(f"{bad}\n7\n", encoding="utf-8")
        assert await read(UsersFile(path)) == [BadLine(1, bad), 7]


TEXT = "user_id;name\r\n1;ann\r\n2;\u00fcber 2 m\u00b2\r\n"
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("zipped", [False, True])
async def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str, zipped: bool):
    path = tmp_path / "users.csv"
    data = TEXT.replace("\r\n", end).encode(encoding)
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert await read(UsersFile(path)) == [1, 2]
    assert UsersFile(path).expected() == (None if zipped else 3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_that_comes_byte_by_byte(encoding: str):
    """As a pipe may deliver it: nothing depends on where a chunk ends."""
    for data in (TEXT.encode(encoding), gzip.compress(TEXT.encode(encoding))):
        decoder, parser = ListDecoder("x"), UserListParser("x")
        texts = [text for byte in data for text in decoder.feed(bytes([byte]))]
        texts += decoder.feed(b"", final=True)
        found = [one for text in texts for one in parser.feed(text)]
        assert found + parser.feed("", final=True) == [1, 2]


def test_what_a_cut_gzip_holds_is_read():
    decoder, parser = ListDecoder("x"), UserListParser("x")
    packer = zlib.compressobj(wbits=31)
    data = packer.compress(b"1\n2") + packer.flush(zlib.Z_SYNC_FLUSH)
    texts = [*decoder.feed(data)]
    with pytest.raises(EOFError):
        texts.extend(decoder.feed(b"", final=True))
    assert [one for text in texts for one in parser.feed(text)] == [1]


async def test_a_wide_field_and_a_long_quoted_one(tmp_path: Path):
    path = tmp_path / "users.csv"
    before = csv.field_size_limit()
    path.write_text(
        f'id,a\n1,{"x" * 200_000}\n2,"{"y" * 99 + chr(10)}"\n3,"' + "zz\n" * 30_000 + '"\n4,b\n'
    )
    assert await read(UsersFile(path)) == [1, 2, 3, 4]
    assert csv.field_size_limit() == before
    path.write_text('id,a\n9,x\n1,"' + f"{'z' * 99}\n" * 51_000 + "4,b\n")
    found = await read(UsersFile(path))
    assert found[:2] == [9, BadLine(3, f'1,"{"z" * 77}', "a quoted field is not closed")]
    assert found[-1] == 4


@pytest.mark.parametrize(
    "head",
    [
        *(b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"PAR1", b"SQLite format 3\0", b"%PDF-1.7", b"BZh9"),
        *(b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
async def test_a_file_of_another_kind_is_refused(tmp_path: Path, head: bytes, zipped: bool):
    path = tmp_path / "users.csv"
    data = head + bytes(range(256)) * 9
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(SweepRefused, match=r"is no text but a workbook.*; export it as CSV"):
        await read(UsersFile(path))


IDS = st.integers(-(2**63), 2**63 - 1)
NOTES = st.text(st.characters(codec="utf-8", exclude_characters="\0#"), max_size=6)


@examples(40)
@given(
    st.lists(st.tuples(IDS, NOTES), min_size=1, max_size=20),
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.lists(st.integers(0, 500), max_size=9),
)
def test_every_csv_that_python_writes_is_read(rows, delimiter, quoting, cuts):
    assume(not any(note.strip("+-0123456789., ") != note for _, note in rows))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
    writer.writerows([("user_id", "note"), *rows])
    text = io.IncrementalNewlineDecoder(None, translate=True).decode(out.getvalue(), final=True)
    parser = UserListParser("x")
    places = [0, *sorted(cuts), None]
    found = [one for a, b in pairwise(places) for one in parser.feed(text[a:b])]
    assert found + parser.feed("", final=True) == [user for user, _ in rows]


async def test_gzip_of_several_members(tmp_path: Path):
    path = tmp_path / "users.csv.gz"
    path.write_bytes(gzip.compress(b"id\n1\n2\n") + gzip.compress(b"3\n") + bytes(512))
    assert await read(UsersFile(path)) == [1, 2, 3]


@pytest.mark.parametrize("keep", [20, -1])
async def test_a_gzip_that_is_cut_off(tmp_path: Path, keep: int):
    path = tmp_path / "users.gz"
    path.write_bytes(gzip.compress(b"1\n2\n")[:keep])
    with pytest.raises((SweepRefused, SweepStopped), match="cut off"):
        await read(UsersFile(path))


async def test_a_list_that_breaks_off_says_how_far_it_came(tmp_path: Path):
    path = tmp_path / "users.gz"
    whole = gzip.compress(b"".join(b"%d\n" % n for n in range(100_000)))
    path.write_bytes(whole[: len(whole) // 2])
    found: list[int | BadLine] = []

    async def collect():
        async for batch in read_batches(UsersFile(path)):
            found.extend(batch)

    with pytest.raises(SweepStopped, match=r"cut off .* behind line \d+") as caught:
        await collect()
    assert f"behind line {len(found)}:" in str(caught.value)


async def test_a_damaged_gzip(tmp_path: Path):
    path = tmp_path / "users.gz"
    whole = bytearray(gzip.compress(b"\n".join(b"%d" % n for n in range(1000))))
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises((SweepRefused, SweepStopped), match="damaged"):
        await read(UsersFile(path))


async def test_a_named_pipe_that_nobody_writes_to_yet(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = asyncio.create_task(read(UsersFile(path)))
    await asyncio.sleep(0)
    assert not reading.done()
    writer = await asyncio.to_thread(os.open, path, os.O_WRONLY)
    os.write(writer, b"1\n2")
    os.close(writer)
    assert await reading == [1, 2]
    waiting = asyncio.create_task(read(UsersFile(path)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


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
    for data in (b"\0" * (2 << 20), b"Obj\1\4\n", b"\x1f\x9d\x90abc", b"u.csv\0\0\n1\n2\n"):
        path.write_bytes(data)
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
    assert UsersFile(tmp_path / ("long" * 100)).expected() is None


async def test_memory_is_flat(tmp_path: Path):
    path = tmp_path / "users.txt"
    with path.open("w") as file:
        file.writelines(f"{number}\n" for number in range(10_000_000, 10_060_000))
    tracemalloc.start()
    try:
        number = 0
        async for batch in read_batches(UsersFile(path)):
            number += len(batch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert number == 60_000
    assert peak < 2 << 20


@given(st.lists(st.one_of(st.integers(), st.text(max_size=12)), max_size=30))
@example([0, '"', 0, 1, '"'])
@example(['"', 0, 0, '"'])
@example(["{", 0])
def test_no_line_with_an_id_is_lost(texts: list[int | str]):
    parser = UserListParser("x")
    lines = [str(text) for text in texts]
    ids = [text for text in texts if isinstance(text, int) and -(2**63) <= text < 2**63]
    text = io.IncrementalNewlineDecoder(None, translate=True).decode("\n".join(lines), final=True)
    try:
        found = parser.feed(text, final=True)
    except SweepRefused:
        odd = any(set(line) & set(",;|=[{<") or not line.isprintable() for line in lines)
        assert odd or not ids
        return
    if not any(set(line) & set(",;\t|\1=") for line in lines):
        assert [user for user in ids if user in found] == ids
