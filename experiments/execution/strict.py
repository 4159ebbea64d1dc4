"""JSON as the standard defines it, without NaN and Infinity.

NaN is written as null and infinity as the text `inf` or `-inf`, which reading turns back into a
number. Files of former versions, with NaN and Infinity, can be read.
"""

import json
import math
from typing import Any

_INFINITE = {"inf": math.inf, "-inf": -math.inf}


def plain(content: Any) -> Any:
    """The content with numbers that JSON has only: what is not finite is replaced."""
    if isinstance(content, float) and not math.isfinite(content):
        return None if math.isnan(content) else str(float(content))
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return content


def dumps(content: Any, **layout: Any) -> str:
    """The content as one JSON text.

    Args:
      content: dicts, lists, strings and numbers.
      **layout: as for `json.dumps`.
    """
    return json.dumps(plain(content), allow_nan=False, **layout)


def loads(text: str) -> Any:
    """Reads a JSON text, also one with NaN; infinity becomes a number again.

    Raises:
      ValueError: the text is not JSON.
      RecursionError: it is nested too deep.
    """
    return _revived(json.loads(text))


def _revived(content: Any) -> Any:
    if isinstance(content, str):
        return _INFINITE.get(content, content)
    if isinstance(content, dict):
        return {key: _revived(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_revived(value) for value in content]
    return content
