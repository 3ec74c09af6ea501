"""Settings: frozen dataclass-like models, filled from keyword arguments or from `key=value` text."""

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from slatewise.errors import InputError, unknown_name


class Settings(BaseModel):
    """Base of all settings: every field has a type, a default and a one-line description."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def of(cls, owner: str, values: Mapping[str, Any]) -> Self:
        """Check `values` (text is converted) and return the settings of `owner`.

        Raises InputError for an unknown key, with the nearest known one, or a value that does not fit.
        """
        for key in values:
            if key not in cls.model_fields:
                raise unknown_name(f"setting of {owner}", key, cls.model_fields)
        try:
            return cls(**{key: _split(cls, key, value) for key, value in values.items()})
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else ""
            about = f"{owner}: {key}={values.get(key)!r}" if key else owner
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{about}: {message[0].lower()}{message[1:]}") from None

    @classmethod
    def table(cls) -> list[dict[str, str]]:
        """Return name, type, default and description of every field, for help and docs."""
        return [
            {
                "name": name,
                "type": _type_name(field.annotation),
                "default": str(field.default),
                "description": field.description or "",
            }
            for name, field in cls.model_fields.items()
        ]


def _split(cls: type[Settings], key: str, value: Any) -> Any:
    """Turn `a,b` into a list where the field is a tuple of names."""
    if isinstance(value, str) and get_origin(cls.model_fields[key].annotation) is tuple:
        return [part for part in value.split(",") if part]
    return value


def _type_name(annotation: Any) -> str:
    """Name a type as its user writes it."""
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list: a,b"
    return getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
