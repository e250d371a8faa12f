"""Fields of a Hugging Face `config.json`, checked one by one; UserError if wrong."""

from collections.abc import Mapping
from typing import Any

from soler1_jax.common.errors import UserError

CONFIG = "config.json"


def require(field: str, value: Any, *wanted: Any) -> None:
    """Raises UserError unless a value is one of those that are implemented."""
    if value not in wanted:
        choices = " or ".join(map(repr, wanted))
        raise UserError(
            f"this model implements {field} {choices} only; {CONFIG} says {value!r}; "
            "use a Qwen3-VL or PaliGemma 2 checkpoint as it was released"
        )


def obj(data: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Returns the object in a field."""
    if not isinstance(data.get(field), Mapping):
        raise UserError(f"{CONFIG} must hold an object {field}; restore the file")
    return data[field]


def rope(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """What transformers 5 calls rope_parameters and 4.57 rope_scaling."""
    for field in ("rope_parameters", "rope_scaling"):
        if data.get(field) is not None:
            return obj(data, field)
    return {}


def numbers(field: str, value: Any) -> tuple[int, ...]:
    """Checks a list of whole numbers, 0 included."""
    whole = isinstance(value, (list, tuple))
    if not whole or not all(isinstance(v, int) and v >= 0 for v in value):
        raise UserError(
            f"{field} must be a list of whole numbers; {CONFIG} says {value!r}; "
            "restore the file"
        )
    return tuple(value)


def whole(data: Mapping[str, Any], field: str, default: int | None = None) -> int:
    """Returns the positive whole number in a field; `default` where it is silent."""
    value = data.get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(
            f"{field} must be a positive whole number; {CONFIG} says {value!r}; "
            "restore the file"
        )
    return value


def number(field: str, value: Any) -> float:
    """Checks a positive number."""
    if not isinstance(value, (int, float)) or not value > 0:
        raise UserError(
            f"{field} must be a positive number; {CONFIG} says {value!r}; "
            "restore the file"
        )
    return float(value)
