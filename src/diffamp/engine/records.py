"""Samples on disk: fixed units of work, each a parquet file that is whole or absent.

A run that is killed at any moment and started again repeats nothing that is whole, and ends with the same bytes as
one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1


def read_units(folder: Path) -> pd.DataFrame:
    """All samples that a finished run left in a folder of `Records`, in order."""
    return pd.concat([pd.read_parquet(unit) for unit in sorted(folder.glob("unit-*.parquet"))], ignore_index=True)


def by_guard(frame: pd.DataFrame, guards: Iterable[str]) -> pd.DataFrame:
    """The samples of these guards, guard after guard."""
    return pd.concat([frame[frame.guard == guard] for guard in guards], ignore_index=True)


class RecordsError(RuntimeError):
    """The folder belongs to another configuration, or cannot be written."""


class Records:
    """A folder of units that all come from one configuration, kept beside them in config.json.

    Args:
        folder: created when missing.
        config: everything that the bytes depend on, JSON-able.
        discard_stale: remove the units of another configuration instead of refusing.

    Raises:
        RecordsError: the folder holds units of another configuration (the differing keys are named).
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, discard_stale: bool = False) -> None:
        self.folder = folder
        text = json.dumps({"schema_version": SCHEMA_VERSION, **config}, indent=2, sort_keys=True) + "\n"
        self._stamp = {b"diffamp_config": text.encode()}
        written = folder / "config.json"
        if written.is_file() and (found := written.read_text()) != text:
            if not discard_stale:
                raise RecordsError(
                    f"{folder} was made with another configuration ({', '.join(_differing(found, text))} differ). "
                    "Choose another folder, or delete this one to start afresh."
                )
            for file in folder.glob("unit-*"):
                file.unlink()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for torn in folder.glob(".*.tmp"):
                torn.unlink()
            _write_whole(written, text.encode())
        except OSError as error:
            raise RecordsError(f"cannot write to {folder}: {error.strerror}") from error

    def path(self, unit: int) -> Path:
        return self.folder / f"unit-{unit:05d}.parquet"

    def _digest(self, unit: int) -> Path:
        # of the whole file: parquet's own page checksums do not cover its footer
        return self.folder / f"unit-{unit:05d}.sha256"

    def read(self, unit: int) -> pa.Table | None:
        """The unit, or None when it is absent, damaged (its SHA-256 is verified) or of another configuration."""
        path = self.path(unit)
        if not path.is_file():
            return None
        try:
            content = path.read_bytes()
            if self._digest(unit).read_text() != hashlib.sha256(content).hexdigest():
                return None
            table = pq.read_table(pa.BufferReader(content))
        except (OSError, ValueError, pa.ArrowException):
            return None
        return table if (table.schema.metadata or {}).get(b"diffamp_config") == self._stamp[b"diffamp_config"] else None

    def write(self, unit: int, table: pa.Table) -> None:
        """Write a unit under a temporary name, flush it to the disk, and only then give it its own."""
        sink = pa.BufferOutputStream()
        stamped = table.replace_schema_metadata({**(table.schema.metadata or {}), **self._stamp})
        pq.write_table(stamped, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        try:
            _write_whole(self._digest(unit), hashlib.sha256(content).hexdigest().encode())
            _write_whole(self.path(unit), content)
        except OSError as error:
            raise RecordsError(f"cannot write {self.path(unit)}: {error.strerror}; whole units are kept") from error


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _differing(found: str, wanted: str) -> list[str]:
    try:
        old, new = json.loads(found), json.loads(wanted)
    except ValueError:
        return ["config.json is damaged: all keys"]
    return [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)] or ["the formatting"]
