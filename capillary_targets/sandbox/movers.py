"""Data that moves while it is being read: what happens to a history between two requests for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .seeded import mix

if TYPE_CHECKING:
    from .data import World
    from .settings import SandboxSettings


def move(settings: SandboxSettings, world: World, user: int, rule: int, number: int) -> None:
    """Change the world before an events request, as the settings say.

    Args:
        settings: which movers are on.
        world: what they move.
        user: whose history is about to be read.
        rule: and for which target.
        number: events requests before this one.

    """
    if settings.between_requests is not None:
        settings.between_requests(world, number)
    by_flag = (
        settings.append_per_request
        or settings.insert_per_request
        or settings.delete_head_per_request
        or settings.delete_any_per_request
    )
    if not by_flag or not world.count(user, rule):
        return
    for _ in range(settings.append_per_request):
        world.add_event(user, rule)
    for _ in range(settings.insert_per_request):
        world.insert_late(user, rule)
    if settings.delete_head_per_request:
        world.delete_events(user, rule, slice(0, settings.delete_head_per_request))
    for turn in range(settings.delete_any_per_request):
        count = world.count(user, rule)
        if count:
            draw = mix(mix(settings.seed, number), turn)
            world.delete_events(user, rule, draw % count)
