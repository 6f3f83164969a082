"""YAML files, read and checked in one place.

YAML 1.2 (so that `1e-4` is a number), unknown keys refused, every error naming the file, the key and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
ASCII = r"^[ -~]+$"
Text = Annotated[str, Field(min_length=1, pattern=ASCII)]
"""One line of printable ASCII."""
T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """A block of a file: no unknown keys, no silent conversion of a string to a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SchemaError(ValueError):
    """A file is wrong; the message says where and what to write instead."""


def read_yaml(path: Path, schema: type[T], error: type[SchemaError] = SchemaError) -> T:
    """A YAML file, checked against `schema`.

    Raises:
        SchemaError: of the type `error`, with one line per fault: file, key, what is wrong.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        raise error(f"{path.name} line {mark.line + 1} is not valid YAML: {fault.problem}") from None
    except (YAMLError, UnicodeDecodeError) as fault:
        raise error(f"{path.name} is not valid YAML: {' '.join(str(fault).split())}") from None
    try:
        return schema.model_validate(content)
    except ValidationError as fault:
        faults = [f"  {_key(e['loc'])}: {_remedy(e)}" for e in fault.errors()]
        raise error(f"{path.name} is not valid:\n" + "\n".join(faults)) from None


def _key(location: tuple[int | str, ...]) -> str:
    parts = [p for p in location if p != "[key]"]
    if location[:1] == ("models",):  # behind the name of a model pydantic puts which kind it took it for
        del parts[2:3]
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, parts))) or "(whole file)"


def _remedy(error: Mapping[str, Any]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if error["type"] == "invalid_key":
        return 'not text: put the key in quotation marks ("false":, "true":)'
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == ASCII:
        return f"must be one line of plain ASCII (found {error['input']!r:.60})"
    if error["type"] == "string_type":
        return f"must be text; put it in quotation marks (found {error['input']!r:.60})"
    if error["type"] == "missing":
        return "missing; add this key"
    if error["type"] == "model_type":
        return f"must be a block of keys (found {error.get('input')!r:.60})"
    shown = repr(error.get("input"))
    return f"{message} (found {shown})" if len(shown) <= 60 else message
