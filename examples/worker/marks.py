"""How far each target of each member was published: checkpoints in a NATS key-value bucket."""

from dataclasses import dataclass

import msgspec
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from capillary_targets.pagination import Checkpoint


class Moved(Exception):
    """Another worker has moved the mark since it was read."""


@dataclass(frozen=True)
class Mark:
    key: str
    revision: int  # 0: no mark yet
    checkpoint: Checkpoint | None


class Marks:
    def __init__(self, bucket: KeyValue) -> None:
        self._bucket = bucket

    async def of(self, user_id: int, rule_id: int) -> Mark:
        key = f"{user_id}.{rule_id}"
        try:
            entry = await self._bucket.get(key)
        except KeyNotFoundError:
            return Mark(key, 0, None)
        checkpoint = Checkpoint.from_dict(msgspec.json.decode(entry.value or b""))
        return Mark(key, entry.revision or 0, checkpoint)

    async def move(self, mark: Mark, to: Checkpoint) -> None:
        """Compare-and-set. Raises `Moved` if another worker has written since."""
        try:
            await self._bucket.update(mark.key, msgspec.json.encode(to.to_dict()), mark.revision)
        except KeyWrongLastSequenceError as error:
            raise Moved from error
