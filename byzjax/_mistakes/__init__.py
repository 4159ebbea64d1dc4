"""What a call that cannot work should have been: looked up after it failed, so it costs nothing.

Every message is one line of at most 200 characters and says what to write instead.
"""

from byzjax._mistakes.arguments import no_int, no_value, not_static, unbound, unknown_keyword
from byzjax._mistakes.functions import makes_transformation, no_function, no_transformation
from byzjax._mistakes.leaves import (
    Float64,
    is_array,
    no_array,
    no_axis,
    no_key,
    notice_float64,
)
from byzjax._mistakes.names import SYNONYMS, no_attribute, whereabouts
from byzjax._mistakes.words import (
    LONGEST,
    article,
    fitting,
    is_transformation,
    keystr,
    listed,
    name_of,
    nearest,
    plain,
    shown,
)

__all__ = [
    "LONGEST",
    "SYNONYMS",
    "Float64",
    "article",
    "fitting",
    "is_array",
    "is_transformation",
    "keystr",
    "listed",
    "makes_transformation",
    "name_of",
    "nearest",
    "no_array",
    "no_attribute",
    "no_axis",
    "no_function",
    "no_int",
    "no_key",
    "no_transformation",
    "no_value",
    "not_static",
    "notice_float64",
    "plain",
    "shown",
    "unbound",
    "unknown_keyword",
    "whereabouts",
]
