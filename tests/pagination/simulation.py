"""A server in a few lines, to drive walks without a socket: a list that moves, in a dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from attrs import define, field, frozen

from capillary_targets import ApiError, CapillaryError, EndpointGone, EventsPage, NoRecordFound
from capillary_targets.models import Pagination, TargetEvent
from capillary_targets.pagination import Batch, Dialect, PageRequest, Walk

START = datetime(2031, 1, 1, tzinfo=UTC)


@frozen
class Move:
    """What happens to the list between two answers: places are shares of its length."""

    deletes: tuple[float, ...] = ()
    inserts: tuple[float, ...] = ()
    appends: int = 0

    @property
    def balance(self) -> int:
        return len(self.inserts) + self.appends - len(self.deletes)


@frozen
class Speech:
    """A dialect: what `offset` counts, what `total` says, and the accidents of pages."""

    offset: str = "page"
    total: str = "rows"
    cap: int | None = None
    echo_cap: bool = True
    past_end: str = "empty"
    hole: int | None = None
    short: int | None = None
    filtered: frozenset[int] = frozenset()
    repeat: str = "no"


@lru_cache(maxsize=65536)
def event(number: int, minute: int | None, ids: str = "unique") -> TargetEvent:
    """A row. `repeated`: three follow each other under one id; `missing`: none has an id;
    `mixed`: every third has none; `alike`: runs of three are alike in every field; `same`: all."""
    date = None if minute is None else START + timedelta(minutes=minute)
    text = str(number)
    match ids:
        case "repeated":
            return TargetEvent(number // 3, event_date=date, unique_id=text)
        case "missing":
            return TargetEvent(None, event_date=date, unique_id=text)
        case "mixed":
            return TargetEvent(number if number % 3 else None, event_date=date, unique_id=text)
        case "alike":
            return TargetEvent(number // 3, event_date=None, unique_id=str(number // 3))
        case "same":
            return TargetEvent(None)
        case _:
            return TargetEvent(number, event_date=date)


@define
class Server:
    """Serves pages of `rows`, (number, minute) pairs, moving them before each answer but the first.

    `numbers` tell rows apart even where no client could.
    """

    rows: list[tuple[int, int]]
    speech: Speech = Speech()
    moves: list[Move] = field(factory=list)
    dated: bool = True
    ids: str = "unique"
    least: Counter[TargetEvent] = field(init=False, factory=Counter)
    """How often each row was there at every answer so far."""
    ever: Counter[TargetEvent] = field(init=False, factory=Counter)
    """How often each row was made."""
    transcript: list[tuple[tuple[int, int], object]] = field(init=False, factory=list)
    _made: set[int] = field(init=False, factory=set)
    _fresh: int = field(init=False, default=1_000_000)

    @classmethod
    def of(
        cls, count: int, speech: Speech = Speech(), moves: Iterable[Move] = (), **rest
    ) -> Server:
        return cls([(n, n // 2) for n in range(count)], speech, list(moves), **rest)

    @property
    def events(self) -> list[TargetEvent]:
        return [self.event(*row) for row in self.rows]

    def event(self, number: int, minute: int) -> TargetEvent:
        return event(number, minute if self.dated else None, self.ids)

    def note(self) -> None:
        now = Counter(self.events)
        self.least = self.least & now if self.transcript else now
        for number, minute in self.rows:
            if number not in self._made:
                self._made.add(number)
                self.ever[self.event(number, minute)] += 1

    def answer(self, request: PageRequest) -> EventsPage | CapillaryError:
        if self.transcript and self.moves:
            self.move(self.moves.pop(0))
        self.note()
        answer = self.page(request.limit, request.offset)
        self.transcript.append(((request.limit, request.offset), seen(answer)))
        return answer

    def move(self, move: Move) -> None:
        for share in move.deletes:
            if self.rows:
                del self.rows[int(share * (len(self.rows) - 1))]
        for share in move.inserts:
            place = int(share * len(self.rows))
            minute = self.rows[place - 1][1] if place else -1
            while place < len(self.rows) and self.rows[place][1] <= minute:
                place += 1
            self.rows.insert(place, (self._new(), minute))
        for _ in range(move.appends):
            self.rows.append((self._new(), self.rows[-1][1] + 1 if self.rows else 0))

    def _new(self) -> int:
        self._fresh += 1
        return self._fresh

    def page(self, limit: int, offset: int) -> EventsPage | CapillaryError:
        speech, count = self.speech, len(self.rows)
        kept = limit if speech.cap is None else min(limit, speech.cap)
        echo = kept if speech.echo_cap else limit
        place = offset
        match speech.offset:
            case "page":
                first = offset * kept
            case "row":
                first = offset
            case "ignored":
                first = 0
            case _:
                place = min(offset, max(0, -(-count // kept) - 1))
                first = place * kept
        if not count:
            return NoRecordFound("none", code=310149)
        if first >= count and first:
            match speech.past_end:
                case "endless":
                    return self._made_up(
                        range(first, first + kept), Pagination(echo, place, first * 2)
                    )
                case "310149":
                    return NoRecordFound("none", code=310149)
                case "error":
                    return ApiError("too far", code=11003)
                case "404":
                    return EndpointGone("gone")
        rows = self.rows[first : first + kept]
        number = first // kept
        if number == speech.hole:
            rows = []
        if number == speech.short:
            rows = rows[:-3]
        rows = [row for row in rows if row[0] not in speech.filtered]
        if speech.repeat != "no" and first and rows:
            rows = [self.rows[first - 1], *(rows[1:] if speech.repeat == "instead" else rows)]
        total = self._total(kept)
        events = tuple(self.event(*row) for row in rows)
        return EventsPage(events, Pagination(echo, place, total))

    def _made_up(self, numbers: range, pagination: Pagination) -> EventsPage:
        return EventsPage(tuple(event(10**7 + number, 0) for number in numbers), pagination)

    def _total(self, kept: int) -> int | None:
        count = len(self.rows)
        match self.speech.total:
            case "pages":
                return -(-count // kept)
            case "absent":
                return None
            case "zero":
                return 0
            case "half":
                return max(1, count // 2)
            case "double":
                return 2 * count
            case "visible":
                return sum(number not in self.speech.filtered for number, _ in self.rows)
        return count


def seen(answer: EventsPage | CapillaryError) -> object:
    """What a client can tell answers apart by."""
    if isinstance(answer, CapillaryError):
        return type(answer).__name__
    return answer.events, answer.pagination


@define
class Driven:
    """What came of a walk."""

    walk: Walk
    batches: list[Batch] = field(factory=list)
    answers: int = 0

    @property
    def events(self) -> list[TargetEvent]:
        return [one for batch in self.batches for one in batch.page.events]

    @property
    def ids(self) -> list[int | None]:
        return [one.event_log_id for one in self.events]

    @property
    def proven(self) -> bool:
        return self.walk.done and self.walk.error is None


def drive(
    walk: Walk,
    server: Server,
    *,
    order: Sequence[int] = (),
    most: int = 5000,
    upto: int | None = None,
) -> Driven:
    """Drive a walk to its end, or until `upto` events are out.

    Pages in flight together are answered in the order asked for, or shuffled by `order`.
    """
    driven = Driven(walk)
    flight: dict[PageRequest, EventsPage | CapillaryError] = {}
    shuffle = list(order)
    while requests := walk.requests():
        fresh = [request for request in requests if request not in flight]
        if shuffle:
            fresh.sort(key=lambda request: (request.offset * 7 + shuffle[0]) % 5)
            shuffle.append(shuffle.pop(0))
        for request in fresh:
            flight[request] = server.answer(request)
            driven.answers += 1
            assert driven.answers < most, "the walk does not end"
        answer = flight.pop(requests[0])
        flight = {request: flight[request] for request in requests[1:]}
        if isinstance(answer, CapillaryError) and not walk.is_response(requests[0], answer):
            raise answer
        driven.batches += walk.feed(requests[0], answer)
        if upto is not None and len(driven.events) >= upto:
            break
    return driven


def warm(speech: Speech, size: int) -> Dialect:
    """What a client knows of this server."""
    return drive(Walk(size), Server.of(40, speech)).walk.lesson
