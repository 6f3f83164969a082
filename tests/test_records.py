"""Units on disk: killed and restarted runs end with the same bytes, and nothing damaged is ever trusted."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import separate, tiny_tokenizer

import diffamp.engine.sampling as sampling
from diffamp.engine.records import Records, RecordsError
from diffamp.prompts import Prompt

PROMPTS = [
    Prompt(f"p{i}", "any", text) for i, text in enumerate(["a", "cats and dogs", "a text about x", "dogs", "zebra"])
]
ALPHAS, SAMPLES, UNITS = [-1.0, 0.0, 2.0], 2, 5

# a clean server that has imported everything, from which every run is forked
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["diffamp.engine.sampling", "peft", "hypothesis", "transformers.models.llama.modeling_llama"]
)


def run(folder: Path, kill_at: tuple[str, int] | None = None, delay: float | None = None) -> None:
    """A small grid with one prompt per unit; it kills itself at the n-th call of a function, or after a delay."""
    torch.set_num_threads(1)
    sampling.ROWS_PER_UNIT = len(ALPHAS) * SAMPLES
    pair, law = separate("llama", tiny_tokenizer()), sampling.Law()
    if kill_at:
        moment, calls_left = kill_at
        owner, name = {"fsync": (os, "fsync"), "replace": (Path, "replace"), "draw": (sampling.Law, "draw")}[moment]
        original = getattr(owner, name)

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal calls_left
            calls_left -= 1
            if calls_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, counted)
    if delay is not None:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    records = Records(folder, sampling.configuration(PROMPTS, {"": sampling.Grid(law, ALPHAS)}, SAMPLES, seed=1))
    sampling.sample_grid(pair, PROMPTS, ALPHAS, SAMPLES, max_new_tokens=12, law=law, seed=1, records=records)
    os._exit(0)  # a timer that is still ticking is of no more interest


def in_subprocess(folder: Path, **when: object) -> int:
    process = SERVER.Process(target=run, args=(folder,), kwargs=when)
    process.start()
    process.join(60)
    return process.exitcode


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """Every file of a run that was never stopped, and the seconds it took to write them."""
    folder = tmp_path_factory.mktemp("records") / "whole"
    assert in_subprocess(folder) == 0
    times = [file.stat().st_mtime for file in folder.iterdir()]
    files = content(folder)
    assert len([name for name in files if name.startswith("unit-") and name.endswith(".parquet")]) == UNITS
    return files, max(times) - min(times)


def assert_restarts(folder: Path, kills: list[dict], expected: dict[str, bytes]) -> int:
    """After every kill only whole units are there; a last run keeps them and ends with the expected bytes."""
    exits = []
    for kill in kills:
        exits.append(in_subprocess(folder, **kill))
        found = {name: data for name, data in content(folder).items() if not name.endswith(".tmp")}
        assert found.items() <= expected.items()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("unit-*.parquet")}
    assert in_subprocess(folder) == 0
    assert content(folder) == expected
    assert {file: file.stat().st_mtime_ns for file in kept} == kept  # nothing whole is written twice
    return exits.count(-signal.SIGKILL)


@pytest.mark.parametrize("moment", ["fsync", "replace", "draw"])
def test_killed_at_the_worst_moments(moment: str, uninterrupted: tuple[dict, float], tmp_path: Path) -> None:
    calls = [0, 1, 2, 1] if moment != "draw" else [0, 20, 30]  # counted anew in every run
    kills = [{"kill_at": (moment, n)} for n in calls]
    assert assert_restarts(tmp_path / "killed", kills, uninterrupted[0]) == len(kills)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(seed: int, uninterrupted: tuple[dict, float], tmp_path: Path) -> None:
    files, seconds = uninterrupted
    # the shortest first: a run that gets to its end leaves nothing to kill in the next
    delays = np.sort(np.random.default_rng(seed).uniform(0, seconds, 3))
    (folder := tmp_path / "killed").mkdir()
    assert assert_restarts(folder, [{"delay": float(d)} for d in delays], files) >= 1


@pytest.fixture
def table() -> pa.Table:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"prompt_id": ["p0", "p1"] * 4, "alpha": [0.5, 1.0] * 4, "text": ["abc é", "def"] * 4})
    frame["tokens"] = [generator.integers(0, 99, 3) for _ in range(8)]
    frame["logp"] = [generator.random(3, dtype=np.float32) for _ in range(8)]
    return pa.Table.from_pandas(frame, preserve_index=False)


def test_a_unit_is_read_back_as_written(table: pa.Table, tmp_path: Path) -> None:
    records = Records(tmp_path / "c=0.1", {"seed": 1})  # pyarrow takes name=value in a path for a column
    assert records.read(3) is None
    records.write(3, table)
    assert records.read(3).equals(table)
    assert Records(tmp_path / "c=0.1", {"seed": 1}).read(3).equals(table)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_no_flipped_bit_is_trusted(bit: int, table: pa.Table, tmp_path: Path) -> None:
    records = Records(tmp_path, {"seed": 1})
    records.write(0, table)
    whole, trusted = records.path(0).read_bytes(), []
    for place in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        records.path(0).write_bytes(damaged)
        try:
            found = records.read(0)
            if found is not None and not found.equals(table):
                trusted.append((place, found.schema.names))
        except Exception as error:  # a damaged unit is absent, not an error
            trusted.append((place, repr(error)))
    assert trusted == []


def test_no_truncated_unit_is_trusted(table: pa.Table, tmp_path: Path) -> None:
    records = Records(tmp_path, {"seed": 1})
    records.write(0, table)
    whole = records.path(0).read_bytes()
    for length in range(0, len(whole), 7):
        records.path(0).write_bytes(whole[:length])
        assert records.read(0) is None


def test_a_damaged_unit_is_sampled_again(uninterrupted: tuple[dict, float], tmp_path: Path) -> None:
    files = dict(uninterrupted[0])
    names = sorted(name for name in files if name.endswith(".parquet"))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / names[1]).write_bytes(files[names[1]][:-100])
    (tmp_path / names[2]).write_bytes(files[names[2]][:200] + b"\0" * 9 + files[names[2]][209:])
    (tmp_path / names[3]).unlink()
    assert in_subprocess(tmp_path) == 0
    assert content(tmp_path) == files


@pytest.mark.parametrize(
    ("other", "named"), [({"seed": 2}, "seed"), ({"seed": 1, "extra": 0}, "extra"), ({"alphas": [1]}, "alphas, seed")]
)
def test_another_configuration_is_refused_or_discarded(
    other: dict, named: str, table: pa.Table, tmp_path: Path
) -> None:
    Records(tmp_path, {"seed": 1}).write(0, table)
    before = content(tmp_path)
    with pytest.raises(RecordsError, match=rf"\({named} differ\)"):
        Records(tmp_path, other)
    assert content(tmp_path) == before
    assert Records(tmp_path, other, discard_stale=True).read(0) is None
    assert list(content(tmp_path)) == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text()).items() >= other.items()
    assert Records(tmp_path, other)


def test_a_unit_of_another_configuration_is_not_trusted(table: pa.Table, tmp_path: Path) -> None:
    Records(tmp_path / "a", {"seed": 1}).write(0, table)
    records = Records(tmp_path / "b", {"seed": 2})
    for name, data in content(tmp_path / "a").items():
        if name != "config.json":
            (tmp_path / "b" / name).write_bytes(data)
    assert records.read(0) is None


def test_a_damaged_configuration_is_refused_or_discarded(table: pa.Table, tmp_path: Path) -> None:
    Records(tmp_path, {"seed": 1}).write(0, table)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(RecordsError, match="another configuration"):
        Records(tmp_path, {"seed": 1})
    assert Records(tmp_path, {"seed": 1}, discard_stale=True).read(0) is None


def test_leftovers_of_a_killed_run_are_removed(table: pa.Table, tmp_path: Path) -> None:
    Records(tmp_path, {"seed": 1}).write(0, table)
    before = content(tmp_path)
    (tmp_path / ".unit-00001.parquet.123.tmp").write_bytes(b"half")
    assert Records(tmp_path, {"seed": 1}).read(1) is None
    assert content(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_disk_that_refuses_leaves_nothing_behind(
    number: int, call: str, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(tmp_path, {"seed": 1})
    records.write(0, table)
    before = content(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, refuse)
    with pytest.raises(RecordsError, match=os.strerror(number)):
        records.write(1, table)
    with pytest.raises(RecordsError, match="cannot write to"):
        Records(tmp_path / "new", {"seed": 1})
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new").rmdir()
    assert content(tmp_path) == before
    assert records.read(0).equals(table)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="cannot write to"):
        Records(tmp_path / "file" / "records", {})
