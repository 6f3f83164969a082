"""Stages side by side: order, width, and what a failure stops."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffamp import repro
from diffamp.repro import Pipeline, side_by_side

NEEDS: dict[str, set[str]] = {"d": {"b", "c"}, "a": set(), "b": {"a"}, "c": {"a"}, "e": set()}


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_everything_runs_once_after_what_it_needs(jobs: int) -> None:
    finished: list[str] = []

    def run(name: str) -> bool:
        assert NEEDS[name] <= set(finished)
        finished.append(name)
        return True

    assert side_by_side(NEEDS, jobs, run)
    assert sorted(finished) == sorted(NEEDS)


def test_the_order_of_the_file_decides_among_those_that_are_ready() -> None:
    started: list[str] = []

    def run(name: str) -> bool:
        started.append(name)
        return True

    assert side_by_side(NEEDS, 1, run)
    assert started == ["a", "b", "c", "d", "e"]


def test_two_run_at_a_time_and_no_more() -> None:
    both = threading.Barrier(2, timeout=10)  # broken, and the test with it, unless two wait in it at once
    running, most, lock = 0, 0, threading.Lock()

    def run(name: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait()
        with lock:
            running -= 1
        return True

    assert side_by_side({name: set() for name in "abcdef"}, 2, run)
    assert most == 2


def test_what_fits_rarely_goes_first() -> None:
    started: list[str] = []
    sizes = {"c": 7.0, "d": 10.0}
    assert side_by_side({n: set() for n in "abcd"}, 1, lambda n: not started.append(n), sizes, 12.0)
    assert started == ["c", "d", "a", "b"]


@pytest.mark.parametrize(("room", "most"), [(12.0, 12.0), (30.0, 18.0), (5.0, 10.0)])
def test_those_that_run_at_a_time_fit_the_memory(room: float, most: float) -> None:
    sizes = {"a": 10.0, "b": 8.0, "c": 2.0, "e": 4.0}
    running: set[str] = set()
    seen: list[tuple[int, float]] = []
    lock = threading.Lock()

    def run(name: str) -> bool:
        with lock:
            running.add(name)
            seen.append((len(running), sum(sizes.get(n, 0) for n in running)))
        time.sleep(0.05)
        with lock:
            running.discard(name)
        return True

    assert side_by_side({name: set() for name in "abcdef"}, 2, run, sizes, room)
    assert len(seen) == 6
    assert max(total for _, total in seen) <= most
    assert all(total <= room for count, total in seen if count > 1)
    assert max(count for count, _ in seen) == 2


def test_nothing_starts_after_a_failure_and_what_runs_is_waited_for() -> None:
    failed, ended = threading.Event(), []

    def run(name: str) -> bool:
        if name == "bad":
            failed.set()
            return False
        if name == "long":
            failed.wait(10)
        ended.append(name)
        return True

    assert not side_by_side({"long": set(), "bad": set(), "after": {"bad"}, "later": set()}, 2, run)
    assert "long" in ended
    assert not {"after", "later"} & set(ended)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of two stages that copy a file."""
    copy = f'{sys.executable} -c "import shutil, sys; shutil.copy(*sys.argv[1:])"'
    stage = "  {0}:\n    cmd: {1} {2} {0}\n    deps: [{2}]\n    outs: [{0}: {{cache: false}}]\n"
    text = stage.format("last", copy, "first") + stage.format("first", copy, "source")
    text = text.replace("deps: [first]", "deps: [first]\n    meta: {memory: 1.5}")
    (tmp_path / "dvc.yaml").write_text("stages:\n" + text)
    (tmp_path / "source").write_text("one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    return tmp_path


def run(*targets: str, jobs: int = 2, force: bool = False) -> tuple[bool, list[str]]:
    pipeline = Pipeline(targets or ["dvc.yaml"], force)
    return pipeline.reproduce(jobs, 12.0), list(pipeline.seconds)


def test_what_is_stale_runs_and_dvc_agrees(project: Path) -> None:
    assert run() == (True, ["first", "last"])
    assert run() == (True, [])
    assert Pipeline(["dvc.yaml"], force=False).memory == {"first": 0.0, "last": 1.5}
    (project / "source").write_text("two")
    assert run() == (True, ["first", "last"])
    assert (project / "last").read_text() == "two"
    status = subprocess.run([sys.executable, "-m", "dvc", "status"], capture_output=True, text=True, check=True)
    assert "up to date" in status.stdout


def test_a_stage_may_be_asked_for_with_what_it_stands_on(project: Path) -> None:
    assert run("first") == (True, ["first"])
    assert run("last", "first") == (True, ["last"])
    assert run("last", force=True) == (True, ["first", "last"])


@pytest.mark.parametrize(("meta", "small"), [("{large: 11, others: 4.5}", 4.5), ("{large: 11}", 0.0)])
def test_the_memory_of_a_stage_may_go_by_its_name(project: Path, meta: str, small: float) -> None:
    stage = "  train:\n    foreach: [small, large]\n    do:\n      cmd: echo ${item}\n"
    (project / "dvc.yaml").write_text(f"stages:\n{stage}      meta: {{memory: {meta}}}\n")
    assert Pipeline(["dvc.yaml"], force=False).memory == {"train@small": small, "train@large": 11.0}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("frist", "Stage 'frist' not found inside 'dvc.yaml' file. Name one that it has"),
        ("train@frist", "Stage 'train@frist' not found"),
        ("nowhere/dvc.yaml", "nowhere/dvc.yaml' does not exist"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_target_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str, words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["repro", "first", target])
    with pytest.raises(SystemExit):
        repro.main()
    assert words in capsys.readouterr().err


def test_a_stage_that_fails_is_named_with_what_it_printed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "source").unlink()
    (project / "source").mkdir()  # nothing that copies as a file
    assert run() == (False, ["first"])
    said = capsys.readouterr().out
    assert "first FAILED" in said
    assert "IsADirectoryError" in said
    assert "IsADirectoryError" in (project / "logs" / "first.log").read_text()


EVERYTHING = """
stages:
  sorted:
    cmd: sleep 0.2; sort source > sorted
    deps: [source]
    outs: [sorted]
  folder:
    cmd:
      - mkdir -p folder/deeper && cp source folder/deeper
      - echo ran >> folder/runs
    deps: [source]
    params: [list]
    outs: [folder]
  uncached:
    cmd: echo uncached > uncached
    deps: [source]
    outs: [uncached: {cache: false}]
  repeated:
    foreach: [one, two]
    do:
      cmd: echo ran >> ${item}-kept; echo ran >> ${item}-removed
      deps: [sorted]
      params:
        - rates.${item}
      outs:
        - ${item}-kept: {cache: false, persist: true}
        - ${item}-removed: {cache: false}
  summary:
    cmd: echo "{\\"runs\\":" $(cat *-kept | wc -l) "}" > summary.json
    deps: [one-kept, two-kept, folder, added]
    metrics: [summary.json: {cache: false}]
"""


def test_dvc_itself_would_have_left_the_same(project: Path) -> None:
    (project / "dvc.yaml").write_text(EVERYTHING)
    (project / "params.yaml").write_text("rates: {one: 1e-5, two: 0.25}\nlist: [a, 'b: c', {d: null}]\n")
    (project / "added").write_text("data")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "added"], check=True)
    other = shutil.copytree(project, project.parent / "other")

    def both(*arguments: str) -> set[str]:
        theirs = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q", *arguments], cwd=other)
        well, ran = run(force="--force" in arguments)
        assert well
        assert theirs.wait() == 0
        for file in [f.relative_to(other) for f in other.rglob("*") if ".dvc" not in f.parts and f.is_file()]:
            assert (project / file).read_bytes() == (other / file).read_bytes()
        return set(ran)

    names = {"sorted", "folder", "uncached", "repeated@one", "repeated@two", "summary"}
    assert both() == names
    kept = [{f.name for f in (folder / ".dvc/cache").rglob("*") if f.is_file()} for folder in (project, other)]
    assert kept[0] <= kept[1]  # nothing of what is not to be cached
    for folder in (project, other):
        (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("0.25", "0.5"))
        (folder / "added").write_text("newer data")
    assert both() == {"added.dvc", "repeated@two", "summary"}
    assert [(project / f"two-{kind}").read_text() for kind in ("kept", "removed")] == ["ran\nran\n", "ran\n"]
    assert both("--force") == names | {"added.dvc"}
    assert both() == set()


def test_what_is_finished_is_recorded_whatever_happens_next(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(stage: repro.PipelineStage, **options: bool) -> None:
        if stage.name == "last":
            raise KeyboardInterrupt
        save(stage, **options)

    save = repro.PipelineStage.save
    monkeypatch.setattr(repro.PipelineStage, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(jobs=1)
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert run() == (True, ["last"])


def test_a_long_run_is_recorded_on_the_way(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repro, "UNRECORDED", 0.0)
    seen: list[bool] = []
    pipeline = Pipeline(["dvc.yaml"], False)

    def watched(name: str) -> bool:
        seen.append((project / "dvc.lock").exists())
        return pipeline.run(name)

    assert side_by_side(pipeline.needs, 1, watched)
    assert seen == [False, True]
