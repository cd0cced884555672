"""Every model as a dict, as JSON, and in a repr."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec
import pytest

from capillary_targets import (
    Customer,
    EventsPage,
    Target,
    TargetEvent,
    UserOutcome,
    members,
    models,
)
from capillary_targets.models import Model
from capillary_targets.notifications import models as notified
from capillary_targets.structuring import structurer

from .conftest import sample

AMOUNT = Decimal("7.000")
TIME = datetime(2025, 1, 22, 14, 0, 0, 500, tzinfo=UTC)
TEXT = "919001000001 Farah " * 20


def model_classes(*rooms: ModuleType) -> list[type[Any]]:
    made = [one for room in rooms for one in vars(room).values() if _is_of(one, room)]
    return [one for one in made if attrs.has(one)]


def _is_of(one: Any, room: ModuleType) -> bool:
    return isinstance(one, type) and one.__module__ == room.__name__


CLASSES = model_classes(models, members, notified)


def filled(type_: Any) -> Any:
    """A value of a type with something in every field."""
    if get_origin(type_) is Annotated:
        return filled(get_args(type_)[0])
    if get_origin(type_) in {Union, UnionType}:
        return filled(next(one for one in get_args(type_) if one is not NoneType))
    if get_origin(type_) is tuple:
        return tuple(filled(get_args(type_)[0]) for _ in range(2))
    if get_origin(type_) is Mapping:
        key, item = get_args(type_)
        return {filled(key): {"amount": AMOUNT, "text": TEXT} if item is Any else filled(item)}
    if attrs.has(type_):
        hints = get_type_hints(type_)
        return type_(**{one.name: filled(hints[one.name]) for one in attrs.fields(type_)})
    plain = {int: 2**63 - 1, bool: True, Decimal: AMOUNT, datetime: TIME, date: TIME.date()}
    return {str: TEXT, bytes: b'{"id": 1}', Any: [AMOUNT], **plain}[type_]


def test_they_are_all_there() -> None:
    assert {Target, TargetEvent, EventsPage, Customer} < set(CLASSES)
    assert len(CLASSES) > 40


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
class TestEveryModel:
    def test_has_json_of_exact_amounts_under_its_own_names(self, cls: type[Any]) -> None:
        model = filled(cls)
        text = model.to_json()
        assert "\n" not in text
        assert list(json.loads(text)) == [
            one.name for one in attrs.fields(cls) if one.name not in {"raw", "body"}
        ]
        read = json.loads(text, parse_float=str)
        amounts = [one.name for one in attrs.fields(cls) if getattr(model, one.name) == AMOUNT]
        assert [read[name] for name in amounts] == ["7.000"] * len(amounts)
        assert msgspec.json.decode(text) == msgspec.json.decode(models.JSON.encode(model.to_dict()))

    def test_has_a_dict_of_plain_values(self, cls: type[Any]) -> None:
        model = filled(cls)
        assert not [one for one in leaves(model.to_dict()) if attrs.has(type(one))]
        assert not [one for one in leaves(model.to_dict()) if isinstance(one, float | tuple)]
        assert AMOUNT in list(leaves(model.to_dict())) or AMOUNT not in vars_of(model)

    def test_has_a_short_repr_without_what_is_empty(self, cls: type[Any]) -> None:
        assert issubclass(cls, Model)
        text = repr(filled(cls))
        assert text.startswith(f"{cls.__name__}(")
        assert len(text) < 1_000
        assert "\n" not in text
        required = {one.name: 7 for one in attrs.fields(cls) if one.default is attrs.NOTHING}
        assert "None" not in repr(cls(**required))


def vars_of(model: Any) -> list[object]:
    return [getattr(model, one.name) for one in attrs.fields(type(model))]


def leaves(value: object) -> Any:
    """All values in a dict, however deep, with the containers."""
    yield value
    if isinstance(value, Mapping):
        for key, item in value.items():
            assert isinstance(key, str | int)
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)


@pytest.mark.parametrize(
    "digits", ["1.000", "0.1", "123456789012345678901234567890.123456", "1E+30"]
)
def test_an_amount_comes_back_as_it_was(digits: str) -> None:
    event = TargetEvent(1, target_value=Decimal(digits))
    assert event.to_dict()["target_value"] == Decimal(digits)
    assert f'"target_value":{digits},' in event.to_json()
    read = json.loads(event.to_json(), parse_float=Decimal)
    assert str(read["target_value"]) == digits


def test_a_target_prints_a_line() -> None:
    (target,) = structurer().targets(sample("active_targets_transaction")) or []
    assert str(target.id) in repr(target)
    assert len(repr(target)) < 400
    assert len(repr(UserOutcome(1, (target,) * 9, (TargetEvent(1),) * 9_999))) < 100


@pytest.mark.parametrize("cls", [*model_classes(members), models.Actor], ids=lambda c: c.__name__)
def test_no_repr_shows_personal_data(cls: type[Any]) -> None:
    personal = {"first_name", "last_name", "value", "attributes", "custom_fields", "extra"}
    if cls is models.Actor:
        personal |= {"name", "description"}
    given = {
        one.name: {"k": TEXT} if one.name == "extra" else TEXT
        for one in attrs.fields(cls)
        if one.name in personal
    }
    required = {one.name: 1 for one in attrs.fields(cls) if one.default is attrs.NOTHING}
    assert "9190" not in repr(cls(**given, **required))
