"""Frozen attrs classes in msgspec's layout, for the models that come by the million."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs
import msgspec

from .scalars import wire_name

__all__ = ["compact"]

T = TypeVar("T")

if TYPE_CHECKING:
    from attrs import frozen as compact
else:

    def compact(cls: type[T]) -> type[T]:
        """A frozen attrs class whose instances msgspec lays out, reads and compares.

        To attrs, cattrs and everybody else it is an attrs class: `fields`, `asdict`, `evolve`. To
        msgspec it is a `Struct` that knows the API's spelling of its names, so that JSON is read
        straight into it. The garbage collector does not look at its instances, which is safe as
        long as they hold plain values and each other, and no way back.
        """
        body = {
            name: value
            for name, value in vars(cls).items()
            if name not in {"__dict__", "__weakref__"}
        }
        made = msgspec.StructMeta(
            cls.__name__, (msgspec.Struct,), body, frozen=True, gc=False, rename=wire_name
        )
        names, defaults = made.__struct_fields__, made.__struct_defaults__
        required = len(names) - len(defaults)
        fields = {
            name: attrs.field(
                default=attrs.NOTHING if place < required else defaults[place - required]
            )
            for place, name in enumerate(names)
        }
        # What a Struct has (__init__, __eq__, ...) stays its own.
        own = dict.fromkeys(("slots", "init", "eq", "repr", "match_args"), False)
        return attrs.frozen(made, these=fields, **own)
