"""Lists of models that are data frames, too: for Arrow, pandas, polars, DuckDB."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import UsageError
from .models import ApiWarning, Target, TargetEvent, short_repr

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


@contextmanager
def _explained() -> Iterator[None]:
    """What data frames raise, as one of our errors."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = "'capillary-targets[parquet]'" if error.name == "pyarrow" else error.name
        raise UsageError(f"this data frame needs {error.name}: pip install {package}") from error
    except ValueError as error:
        raise UsageError(str(error)) from None


class Frame:
    """Rows as a table (extra `parquet`), with the columns that a sweep's Parquet files have.

    No rows make an empty table of the same schema. Amounts are decimal(38, 6), exact in every
    library; `event_date` is a time without a zone, `event_date_iso` an instant in UTC. Libraries
    that read Arrow's C stream (DuckDB, polars, pandas, ...) take a `UserOutcome` as it is; of a
    list they take the objects, so call `to_arrow()` for them.

    Raises:
        UsageError: A package is not installed, or decimal(38, 6) cannot hold an amount exactly.

    """

    __slots__ = ()
    __repr__ = short_repr

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """A pyarrow table."""

    @_explained()
    def to_pandas(self) -> pd.DataFrame:
        """A pandas frame of Arrow's types: numpy's have no decimals, and no integers with gaps."""
        import pandas as pd  # noqa: PLC0415 - optional

        return self.to_arrow().to_pandas(types_mapper=pd.ArrowDtype)

    @_explained()
    def to_polars(self) -> pl.DataFrame:
        """A polars frame."""
        import polars as pl  # noqa: PLC0415 - optional

        return pl.DataFrame(self.to_arrow())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Arrow's C stream (a PyCapsule): https://arrow.apache.org/docs/format/CDataInterface."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)


class EventList(Frame, list[TargetEvent]):
    """Events of one user towards one target, in chronological order."""

    def __init__(self, events: Iterable[TargetEvent], user_id: int) -> None:
        super().__init__(events)
        self.user_id: int = user_id

    @_explained()
    def to_arrow(self) -> pa.Table:
        """A table with the columns of a sweep's `events/`."""
        from .arrow import events_table  # noqa: PLC0415 - an extra

        return events_table(self.user_id, self)


class TargetList(Frame, list[Target]):
    """The targets of one user, with the `warnings` of the service and this client's notes."""

    def __init__(
        self, targets: Iterable[Target] = (), warnings: tuple[ApiWarning, ...] = ()
    ) -> None:
        super().__init__(targets)
        self.warnings: tuple[ApiWarning, ...] = warnings

    @_explained()
    def to_arrow(self) -> pa.Table:
        """A table with the columns of a sweep's `targets/` that are the target's own."""
        from .arrow import targets_table  # noqa: PLC0415 - an extra

        return targets_table(self)
