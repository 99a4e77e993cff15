"""The building blocks of a configuration's schema: sections, types, and marks on settings."""

import difflib
import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from common.files import home_path

T = TypeVar("T")

LONGEST_NAME = 255
"""Bytes in the name of a file, in most file systems."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and bytes that are not text."""

HomePath = Annotated[Path, AfterValidator(home_path)]
"""A path, in which ~ is the home folder; every path among the settings has this type."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0, le=10**9)]


class Mark(Enum):
    """A meaning of a setting to other parts of the program."""

    CHANGEABLE = auto()
    PREPARES_IMAGES = auto()


Changeable = Annotated[T, Mark.CHANGEABLE]
"""A setting that a resumed run may change, because it does not touch what is computed."""
PreparesImages = Annotated[T, Mark.PREPARES_IMAGES]
"""A setting that a trained net needs to use an image; it goes with the weights."""


class OneOf:
    """Restricts a string to the keys of ``table``, as in ``Annotated[str, OneOf(VARIANTS)]``."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """The schema of a string, with the check after it."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name in self.table:
            return name
        near = difflib.get_close_matches(name, self.table, n=1)
        hint = f", did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"Input should be one of {', '.join(self.table)}{hint}")


class Section(BaseModel):
    """A group of settings. Unknown keys are errors; the string below a setting is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_scalar(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic accepts: true in place of 1, and text that cannot be a name."""
        kinds = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kinds, *get_args(kinds)):
            raise ValueError("Input should not be true or false; to YAML, on, off, yes and no are")
        if isinstance(value, str) and UNPRINTABLE.search(value):
            raise ValueError("Input should not contain control characters")
        if isinstance(value, str) and max(map(len, value.encode().split(b"/"))) > LONGEST_NAME:
            raise ValueError(f"Input should hold no name longer than {LONGEST_NAME} bytes")
        return value


def list_fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The dotted key and the field of every setting in a section and its subsections."""
    for name, field in section.model_fields.items():
        kind = get_origin(field.annotation) or field.annotation  # to 3.10, tuple[int] is a type
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from list_fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def marked_keys(section: type[Section], mark: Mark) -> set[str]:
    """The dotted keys of the settings that carry ``mark``."""
    return {key for key, field in list_fields(section) if mark in field.metadata}
