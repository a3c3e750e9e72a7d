"""One sample of a shard or stream: the bytes of its members."""

from __future__ import annotations

from dataclasses import dataclass

from distill.errors import BadSample


@dataclass(frozen=True)
class Sample:
    """The raw bytes of one sample's members; None for a member that is absent or was not asked for.

    Attributes:
        hint: why members may be absent, as part of a sentence; "" if nothing is known of that.
    """

    key: str
    shard: str
    image: bytes | None
    txt: bytes | None
    json: bytes | None
    hint: str = ""

    @property
    def size(self) -> int:
        """Bytes of all its members together."""
        return sum(len(part) for part in (self.image, self.txt, self.json) if part is not None)

    def error(self, reason: str) -> BadSample:
        """The exception that says this sample cannot be used."""
        return BadSample(self.shard, self.key, reason)

    def lacks(self, what: str) -> BadSample:
        """The exception that says this sample cannot be used because there is no image, or no caption."""
        return self.error(f"there is no {what}{self.hint and f'; {self.hint}'}")
