"""Run what changed of the pipeline, several stages at a time: `python -m diffamp.repro [--jobs N] [TARGET ...]`.

A target is a dvc.yaml or, as for DVC, one of its stages (`sample@steered`, `03_amplify`), with all that it stands on.

`dvc repro` runs one stage after the other, and most stages here need nothing of each other: two of one thread each get
more done than one of two threads, most of whose start has work for one alone. The order is that of DVC's own graph, and
DVC's own stages say whether they changed, remove what they will make again and take the digests, so dvc.lock,
`dvc status` and a plain `dvc repro` stay what they are. One process for all of them reads and writes dvc.lock now and
then; a `dvc repro --single-item` for each takes four seconds beside the command, most of it for that file.

What a stage takes of the memory (`meta: {memory: GIB}` in dvc.yaml, or GiB by the name behind the @, as measured;
what says nothing is small) decides which run beside each other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from dvc.stage import PipelineStage, Stage
from dvc.stage.exceptions import StageNotFound

GIB = 2**30

UNRECORDED = 300
"""Seconds of work that a kill may cost: as soon as finished stages add up to them, dvc.lock is written."""

LOGS = Path("logs")
"""What each stage printed in its last run."""


def side_by_side(
    needs: Mapping[str, set[str]],
    jobs: int,
    run: Callable[[str], bool],
    sizes: Mapping[str, float] | None = None,
    room: float = 0.0,
) -> bool:
    """Call `run` on every name, after all that it needs, at most `jobs` at a time, in order but for two things: what
    does not fit waits, and what takes more than half of the room goes first when it fits, or it would wait to the end.

    Args:
        needs: name -> names; the order of the keys decides among names that are ready.
        run: whether it went well; after a failure nothing new is started.
        sizes, room: those that run at a time are not larger than `room` together, unless one alone is. Names that are
            absent have no size.

    Returns:
        Whether all went well.
    """
    sizes = sizes or {}
    rank = {name: (sizes.get(name, 0) <= room / 2, n) for n, name in enumerate(needs)}
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    ready: list[str] = []
    running: dict[Future[bool], str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
            while len(running) < jobs:
                left = room - sum(sizes.get(name, 0) for name in running.values())
                fitting = [name for name in ready if sizes.get(name, 0) <= left or not running]
                if not fitting:
                    break
                ready.remove(fitting[0])
                running[pool.submit(run, fitting[0])] = fitting[0]
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            if not all(future.result() for future in done):
                return False  # on leaving, the pool waits for what still runs
            sorter.done(*(running.pop(future) for future in done))
    return True


class Pipeline:
    """Some stages and what they stand on, each command run by a process of its own."""

    def __init__(self, targets: Sequence[str], force: bool) -> None:
        self.force = force
        self.repo = Repo(_wait_for_lock=True)
        self.one_at_a_time = Lock()  # DVC's objects know nothing of threads
        graph = self.repo.index.graph  # an edge from a stage to each that it needs
        wanted = [stage for target in targets for stage in self.repo.stage.collect(target)]
        # what they stand on first, then in the order of the file
        ordered = [stage for stage in plan_repro(graph, wanted) if stage not in wanted] + wanted
        self.stages: dict[str, Stage] = {stage.addressing: stage for stage in ordered}
        self.needs = {stage.addressing: {other.addressing for other in graph.successors(stage)} for stage in ordered}
        self.memory = {name: _memory(stage) for name, stage in self.stages.items()}
        self.seconds: dict[str, float] = {}
        self.unrecorded: list[str] = []

    def reproduce(self, jobs: int, room: float) -> bool:
        """Run what changed, see `side_by_side`. What was finished is in dvc.lock then, unless this is killed."""
        try:
            return side_by_side(self.needs, jobs, self.run, self.memory, room)
        finally:
            with self._dvc():
                self._record()

    def run(self, name: str) -> bool:
        """Run a stage if it changed; whether all is well with it."""
        stage = self.stages[name]
        with self._dvc():
            if not (self.force or stage.changed()):
                return True
            if stage.cmd:  # data have nothing that would make them again
                stage.remove_outs()  # but for those that persist
        log = LOGS / f"{name.replace('/dvc.yaml:', '/')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        _say(f"{name} ...")
        start = time.monotonic()
        with log.open("w") as out:
            process = subprocess.Popen(_command(stage), cwd=stage.wdir, stdout=out, stderr=subprocess.STDOUT)
            peak = _peak_memory(process)
        self.seconds[name] = time.monotonic() - start
        if process.returncode:
            _say(f"{name} FAILED; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")
            return False
        try:
            with self._dvc():
                stage.save(run_cache=False)  # which would copy every output
                stage.commit()
                self.unrecorded.append(name)
                if sum(self.seconds[other] for other in self.unrecorded) > UNRECORDED:
                    self._record()
        except DvcException as error:
            _say(f"{name} FAILED: {error}")
            return False
        _say(f"{name} done in {_minutes(self.seconds[name])}, {peak / GIB:.1f} GiB")
        return True

    @contextmanager
    def _dvc(self) -> Iterator[None]:
        with self.one_at_a_time, self.repo.lock:
            yield

    def _record(self) -> None:
        """Write what the finished stages read and made into the dvc.lock of each, in one go."""
        finished = [self.stages[name] for name in self.needs if name in self.unrecorded]
        pipelines: dict[str, list[PipelineStage]] = {}
        for stage in finished:
            if isinstance(stage, PipelineStage):
                pipelines.setdefault(stage.path, []).append(stage)
            else:  # a data.dvc, a file of its own
                stage.dump(update_pipeline=False)
        for file, stages in pipelines.items():
            Lockfile(self.repo, Path(file).with_suffix(".lock")).dump_stages(stages)
        self.unrecorded.clear()


def _command(stage: Stage) -> list[str]:
    """A shell that runs the stage's lines and stops at the first that fails; nothing for data, which has none."""
    lines = stage.cmd if isinstance(stage.cmd, list) else [stage.cmd or "true"]
    return ["/bin/sh", "-ec", "\n".join(lines)]


def _memory(stage: Stage) -> float:
    """GiB that the stage says it takes, 0 where it says nothing."""
    said: Any = (stage.meta or {}).get("memory", 0)
    if isinstance(said, dict):
        said = said.get(stage.addressing.rpartition("@")[2], said.get("others", 0))
    return float(said)


def _peak_memory(process: subprocess.Popen) -> int:
    """Wait for a process; the most bytes that it and its children have held at one of the looks."""
    peak = 0
    while True:
        held = 0
        try:
            parent = psutil.Process(process.pid)
            for one in [parent, *parent.children(recursive=True)]:
                held += one.memory_info().rss
        except psutil.NoSuchProcess:  # ended in between
            pass
        peak = max(peak, held)
        try:
            process.wait(timeout=2)
            return peak
        except subprocess.TimeoutExpired:
            continue


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m diffamp.repro", description="Run what changed of the pipeline.")
    parser.add_argument("targets", nargs="*", default=["dvc.yaml"], help="pipelines or stages (default: dvc.yaml)")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time (default: 1)")
    parser.add_argument("--force", action="store_true", help="run every stage, changed or not")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB that stages may take together (default: 12)")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: at least 1 is needed")
    start = time.monotonic()
    try:
        pipeline = Pipeline(options.targets, options.force)
    except StageNotFound as error:
        parser.error(f"{error}. Name one that it has, or one of a group with the name behind an @: sample@steered")
    except DvcException as error:
        parser.error(str(error))
    if not pipeline.reproduce(options.jobs, options.memory):
        sys.exit(1)
    ran = pipeline.seconds
    # no claim of what they would take one after the other: side by side each is slower
    _say(
        f"{len(ran)} of {len(pipeline.stages)} stages ran in {_minutes(time.monotonic() - start)} "
        f"({_minutes(sum(ran.values()))} of stages)"
    )


if __name__ == "__main__":
    main()
