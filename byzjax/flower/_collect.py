"""Sending a round's messages and waiting for the replies, node by node."""

import math
import time
from collections.abc import Iterable
from typing import Any

from byzjax.flower._replies import Fault, absent, malformed, quoted

_POLL = 1.0  # seconds between questions for replies


def collect(
    grid: Any, messages: Iterable[Any], timeout: float, enough: int = 0, patience: float = math.inf
) -> dict[int, Any]:
    """The reply of each node that was asked, or the fault that it has instead.

    Each reply is asked for by the id of the message that it answers: Flower binds that id to the
    node, whereas the text of a reply is the client's own. A reply that cannot be decoded raises
    inside of Flower, and with it all replies of the same request would be lost.

    Args:
      grid: the grid.
      messages: one per node.
      timeout: seconds to wait.
      enough: how many replies shorten the wait for the others, 0 for none.
      patience: to this multiple of the time that these took.

    Returns:
      For each node a message or a `Fault`.
    """
    messages = list(messages)
    ids = list(grid.push_messages(messages)) if messages else []
    ids += [None] * (len(messages) - len(ids))
    nodes = [message.metadata.dst_node_id for message in messages]
    replies: dict[int, Any] = {}
    waiting: dict[int, str] = {}
    for node, message_id in zip(nodes, ids):
        if message_id is None:
            replies[node] = absent("the message could not be sent")
        else:
            waiting[node] = message_id
    begun, trouble, shortened = time.monotonic(), {}, False
    deadline = begun + timeout
    while waiting:
        for node, message_id in list(waiting.items()):
            reply = _pull(grid, message_id, trouble)
            if reply is not None:
                replies[node] = reply
                del waiting[node]
        now = time.monotonic()
        if not shortened and 0 < enough <= len(replies):
            shortened, deadline = True, min(deadline, now + patience * (now - begun))
        if not waiting or now >= deadline:
            break
        time.sleep(min(_POLL, max(deadline - time.monotonic(), 0)))
    for node, message_id in waiting.items():
        why = f" ({trouble[message_id]})" if message_id in trouble else ""
        replies[node] = absent(f"no reply within {deadline - begun:.3g} s{why}")
    return replies


def _pull(grid: Any, message_id: str, trouble: dict[str, str]) -> Any:
    """The reply to a message, a fault, or None if there is none yet."""
    try:
        replies = list(grid.pull_messages([message_id]))
    except Exception as error:
        home = type(error).__module__.partition(".")[0]
        if home in ("httpx", "httpcore") or isinstance(error, OSError):
            trouble[message_id] = type(error).__name__  # of the connection: asked again
            return None
        return malformed(f"cannot be decoded ({type(error).__name__})")
    if not replies:
        return None
    if len(replies) > 1:
        return malformed(f"{len(replies)} replies to one message")
    (reply,) = replies
    if isinstance(reply, Fault):
        return reply
    if reply.has_error():
        return absent(f"error {quoted(reply.error.reason)}")
    answered = reply.metadata.reply_to_message_id
    if answered != message_id:
        return malformed(f"names another message, {quoted(answered)}, as the one it answers")
    return reply
