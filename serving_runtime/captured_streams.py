"""A streamed answer on its way through capture: what is kept of it while it comes, and when it is offered.

Rules:
- It is offered at its end, once, whatever ends it. One that nobody ever reads is none: it got no answer.
- Nothing is held back from its reader, and nothing is changed.
- Whole events are kept, up to what capture reads of one request (`LARGEST_BYTES`) and while there is room for what is
  not written yet; what comes after that is not kept, and the row says so (`cut`).

This module must not know what a row is: `captured_rows.py` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable

from serving_runtime.event_stream import DONE
from serving_runtime.outcomes import Ending
from serving_runtime.protocol import Answer


@dataclasses.dataclass
class Kept:
    """The events of one stream as far as they are kept."""

    limit_bytes: int
    take: Callable[[int], bool]
    """Room for so many bytes more? Then they are taken."""
    events: bytearray = dataclasses.field(default_factory=bytearray)
    cut: bool = False

    def add(self, event: bytes) -> None:
        """Keep one more event, if all before it were kept and there is room."""
        size = len(event)
        self.cut = self.cut or len(self.events) + size > self.limit_bytes or not self.take(size)
        if not self.cut:
            self.events += event


async def keeping(
    head: Answer, kept: Kept, offer: Callable[[Kept, Ending], None]
) -> AsyncGenerator[bytes | Answer, None]:
    """The rest of a streamed answer, as it is; `offer` is called once, at its end."""
    rest = head.rest
    if rest is None:
        return
    kept.add(head.body)
    ending = Ending.WHOLE if head.body == DONE else Ending.LEFT
    try:
        async for item in rest:
            if isinstance(item, Answer):
                ending = Ending.BROKE
            else:
                kept.add(item)
                ending = Ending.WHOLE if item == DONE else ending
            yield item
    except Exception:
        ending = Ending.LOST
        raise
    finally:
        offer(kept, ending)
        await rest.aclose()
