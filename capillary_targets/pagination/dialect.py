"""The pagination dialect of a server: what `offset`, `total` and `limit` mean to it."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, get_args

import attrs
from attrs import field, frozen, validators

from capillary_targets.errors import UsageError
from capillary_targets.models import short_repr

OffsetKind = Literal["page", "row", "ignored"]
TotalKind = Literal["rows", "pages", "absent", "zero", "wrong"]
LimitKind = Literal["kept", "capped", "capped-silent"]
PastEndKind = Literal["empty", "refused", "clamped"]


def _one_of(kinds: Any) -> Any:
    return validators.optional(validators.in_(get_args(kinds)))


@frozen
class Dialect:
    """What is known of a server's pagination; None means not known.

    Passed to a walk as `dialect=`, it is believed whatever the responses suggest.

    Args:
        offset: counts pages or rows, or is ignored.
        total: counts rows or pages, or is absent, always zero, or neither count (wrong).
        limit: honoured (kept), or capped at `cap` rows, echoed in the response or silently.
        cap: the most rows on a page.
        past_end: beyond the last row comes an empty page, an error, or the last page again.
    """

    offset: OffsetKind | None = field(default=None, validator=_one_of(OffsetKind))
    total: TotalKind | None = field(default=None, validator=_one_of(TotalKind))
    limit: LimitKind | None = field(default=None, validator=_one_of(LimitKind))
    cap: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    past_end: PastEndKind | None = field(default=None, validator=_one_of(PastEndKind))
    __repr__ = short_repr

    def fill_from(self, other: Dialect) -> Dialect:
        """A dialect with what is unknown here taken from `other`."""
        if other is UNKNOWN or self is other:
            return self
        return dialect_of(
            self.offset or other.offset,
            self.total or other.total,
            self.limit or other.limit,
            self.cap or other.cap,
            self.past_end or other.past_end,
        )

    def updated(self, before: Dialect, after: Dialect) -> Dialect:
        """A dialect with the changes between two others, and without what they forgot."""
        if before is after:
            return self
        changes = {
            name: value
            for name, value in attrs.asdict(after).items()
            if value != getattr(before, name)
        }
        return dialect_of(*(attrs.asdict(self) | changes).values())

    def to_dict(self) -> dict[str, Any]:
        """The known fields as plain JSON values: `Dialect(**values)` is the inverse."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Dialect:
        """The dialect in a `cluster.toml`, which `capillary-targets doctor --out` writes.

        Raises:
            UsageError: the file cannot be read, or is none of these.
        """
        try:
            with Path(path).open("rb") as file:
                return cls(**tomllib.load(file)["dialect"])
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except (KeyError, TypeError, ValueError):
            raise UsageError(f"{path} is no cluster.toml of `capillary-targets doctor`") from None


UNKNOWN: Final = Dialect()


dialect_of: Final = lru_cache(maxsize=256)(Dialect)
"""The one dialect of these values: every walk of a client begins and ends with one of a few."""
