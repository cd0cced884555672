"""Frozen attrs classes in msgspec's layout, for the models that come by the million."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import msgspec

from .scalars import wire_name

__all__ = ["as_sent", "compact"]

T = TypeVar("T")

if TYPE_CHECKING:
    from attrs import frozen as compact
else:

    def compact(cls: type[T]) -> type[T]:
        """A frozen attrs class whose instances msgspec lays out and compares.

        To attrs, cattrs and everybody else it is an attrs class: `fields`, `asdict`, `evolve`. To
        msgspec it is a `Struct`. The garbage collector does not look at its instances, which is
        safe as long as they hold plain values and each other, and no way back.
        """
        body = {
            name: value
            for name, value in vars(cls).items()
            if name not in {"__dict__", "__weakref__"}
        }
        made = msgspec.StructMeta(cls.__name__, (msgspec.Struct,), body, frozen=True, gc=False)
        fields = {name: attrs.field(default=default) for name, default in _defaults(made).items()}
        # What a Struct has (__init__, __eq__, ...) stays its own.
        own = dict.fromkeys(("slots", "init", "eq", "repr", "match_args"), False)
        return attrs.frozen(made, these=fields, **own)


def as_sent(cls: type[T]) -> type[T]:
    """The twin of a compact class that msgspec reads under the names that the API gives it.

    Its instances are not frozen yet. To assign `cls` to their `__class__` makes them its own, which
    is cheaper than to make new ones.
    """
    made: Any = cls
    body = {
        **{name: value for name, value in _defaults(made).items() if value is not attrs.NOTHING},
        "__annotations__": made.__annotations__,
        "__module__": cls.__module__,
        # Without both, CPython does not know that attributes are set the plain way.
        "__setattr__": object.__setattr__,
        "__delattr__": object.__delattr__,
    }
    twin: Any = msgspec.StructMeta(
        f"{cls.__name__}AsSent", (made,), body, frozen=False, gc=False, rename=wire_name
    )
    return cast("type[T]", twin)


def _defaults(struct: Any) -> dict[str, Any]:
    """A struct's fields and their defaults, `NOTHING` where one must be given."""
    names, defaults = struct.__struct_fields__, struct.__struct_defaults__
    missing = [attrs.NOTHING] * (len(names) - len(defaults))
    return dict(zip(names, (*missing, *defaults), strict=True))
