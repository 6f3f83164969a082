"""Run what changed of the pipeline, several stages at a time: `python -m diffamp.repro [--jobs N] [dvc.yaml]`.

`dvc repro` runs one stage after the other, and most stages here need nothing of each other: two of one thread each get
more done than one of two threads, most of whose start has work for one alone. The order is that of DVC's own graph, and
a stage is run by DVC's own `Stage.run` under the lock of the repository, so dvc.lock, `dvc status` and a plain
`dvc repro` stay what they are.

A `dvc repro --single-item` for each stage would do the same and takes 4 s beside the command, nearly all of it for
reading and writing the whole of dvc.lock by a YAML parser in Python, three passes a stage. So the pipeline is loaded
once, the processes that run stages are forked with it, and the entry of a stage is put into dvc.lock as text. What this
stands on in DVC (3.67) and is no documented API: `Stage.changed`, `.run` and `.dump`, `lock_repo` and `scm_context`
around them, `to_lockfile` and `dumps_yaml` for the text of an entry, and how dvc.lock is laid out; where it is laid out
otherwise, `Stage.dump` writes it.

What a stage takes of the memory (`meta: {memory: GIB}` in dvc.yaml, or GiB by the name behind the @, as measured;
what says nothing is small) decides which run beside each other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, NamedTuple

import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import plan_repro
from dvc.stage import PipelineStage, Stage
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml

GIB = 2**30

LOGS = Path("logs")
"""What each stage printed in its last run."""


def side_by_side(
    needs: Mapping[str, set[str]],
    jobs: int,
    run: Callable[[str], bool],
    sizes: Mapping[str, float] | None = None,
    room: float = 0.0,
) -> bool:
    """Call `run` on every name, after all that it needs, at most `jobs` at a time, in order but for what does not fit.

    Args:
        needs: name -> names; the order of the keys decides among names that are ready.
        run: whether it went well; after a failure nothing new is started.
        sizes, room: those that run at a time are not larger than `room` together, unless one alone is. Names that are
            absent have no size.

    Returns:
        Whether all went well.
    """
    sizes = sizes or {}
    rank = {name: n for n, name in enumerate(needs)}
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


class Worker(NamedTuple):
    """A process that runs stages, and the pipe by which it gets their names and answers."""

    pid: int
    pipe: Connection


class Pipeline:
    """The stages of a dvc.yaml and what they stand on."""

    def __init__(self, file: str, force: bool) -> None:
        self.force = force
        self.repo = Repo(_wait_for_lock=True)
        graph = self.repo.index.graph  # an edge from a stage to each that it needs
        targets = self.repo.stage.collect(file)
        # what the targets stand on first, then in the order of the file
        ordered = [stage for stage in plan_repro(graph, targets) if stage not in targets] + targets
        self.stages: dict[str, Stage] = {stage.addressing: stage for stage in ordered}
        self.needs = {stage.addressing: {other.addressing for other in graph.successors(stage)} for stage in ordered}
        self.memory = {name: _memory(stage) for name, stage in self.stages.items()}
        self.seconds: dict[str, float] = {}
        known = {file: set(map(_name, _entries(_read(file)))) for file in map(_lockfile, ordered)}
        self.new = [s for s in ordered if isinstance(s, PipelineStage) and s.name not in known[_lockfile(s)]]
        self.idle: SimpleQueue[Worker] = SimpleQueue()
        self.one_at_a_time = Lock()  # who finds DVC's lock taken looks again only after half a second

    def reproduce(self, jobs: int, room: float) -> bool:
        """Run what changed, `jobs` stages at a time and in `room` GiB, see `side_by_side`."""
        self.repo.state.close()  # a connection to SQLite must not be carried through a fork
        workers = [self._fork() for _ in range(jobs)]  # before there are threads, whose locks would be copied as held
        for worker in workers:
            self.idle.put(worker)
        try:
            return side_by_side(self.needs, jobs, self.run, self.memory, room)
        finally:
            for worker in workers:
                worker.pipe.close()  # by which it ends

    def _fork(self) -> Worker:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self._serve, args=(theirs, ours), daemon=True)
        process.start()
        theirs.close()
        assert process.pid
        return Worker(process.pid, ours)

    def run(self, name: str) -> bool:
        """Have a worker run a stage if it changed; whether all is well with it."""
        worker = self.idle.get()
        try:
            with self.one_at_a_time:
                worker.pipe.send(name)
                if not worker.pipe.recv():
                    return True
            _say(f"{name} ...")
            start = time.monotonic()
            peak = _peak_memory(worker)
            self.seconds[name] = time.monotonic() - start
            try:
                went_well = worker.pipe.recv()
            except EOFError:  # the worker was killed
                went_well = False
        finally:
            self.idle.put(worker)
        if not went_well:
            log = _log(name)
            _say(f"{name} FAILED; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")
            return False
        _say(f"{name} done in {_minutes(self.seconds[name])}, {peak / GIB:.1f} GiB")
        return True

    def _serve(self, pipe: Connection, other_end: Connection) -> None:
        """A worker: answer each name by whether that stage changed, and if so, later by whether its run went well."""
        other_end.close()  # or it would never be seen to be closed
        # Ctrl-C goes to every process of the terminal: a command ends by it, but what DVC is writing gets written
        signal.signal(signal.SIGINT, lambda *_: None)
        with suppress(EOFError, ConnectionError):  # nobody is there any more
            while True:
                name = pipe.recv()
                with lock_repo(self.repo):
                    if answer := self.force or self.stages[name].changed():
                        pipe.send(True)
                        answer = self._run_here(name)
                pipe.send(answer)  # now that the lock is free for what this starts

    def _run_here(self, name: str) -> bool:
        with _printing_to(_log(name)):
            try:
                with self.repo.scm_context:
                    self.stages[name].run(force=self.force)  # the repository is unlocked while the command runs
                    self._record(self.stages[name])
            except DvcException as error:
                print(f"ERROR: {error}", file=sys.stderr)
            except Exception:
                traceback.print_exc()
            else:
                return True
        return False

    def _record(self, stage: Stage) -> None:
        """Put what a stage read and wrote into its dvc.lock."""
        if isinstance(stage, PipelineStage):
            file = _lockfile(stage)
            later = self.new[self.new.index(stage) + 1 :] if stage in self.new else []
            entry = dumps_yaml({"stages": to_lockfile(stage)}).removeprefix("stages:\n")
            old = _read(file)
            new = with_entry(old, entry, {other.name for other in later if other.path == stage.path})
            if new is not None:
                if new != old:
                    part = Path(self.repo.tmp_dir, f"{file.name}.part")
                    part.write_text(new, encoding="utf-8")
                    part.replace(file)  # at once, whatever ends this process
                    self.repo.scm_context.track_file(os.path.relpath(file))
                return
        stage.dump(update_pipeline=False)


def with_entry(lock: str, entry: str, later: Collection[str] = ()) -> str | None:
    """A dvc.lock with the entry of a stage in the place of the old one, or if there is none, at the end.

    Args:
        lock, entry: the text of the file and of the entry, as DVC writes them.
        later: the names of entries that a new one goes before. With those of stages that are new as well and come
            behind in the pipeline, the text is the same whichever ended first.

    Returns:
        None where the file is not laid out as expected.
    """
    entries = _entries(lock)
    # something behind the stages, or references within YAML, which are numbered throughout a file
    if not entries or re.search(r"^ ?\S", "".join(entries), re.MULTILINE) or "&id" in lock + entry:
        return None
    names = [_name(other) for other in entries]
    if _name(entry) in names:
        entries[names.index(_name(entry))] = entry
    else:
        entries.insert(next((n for n, name in enumerate(names) if name in later), len(names)), entry)
    return HEAD + "".join(entries)


HEAD = "schema: '2.0'\nstages:\n"
"""How a dvc.lock starts. Then the entries, each a line of a name and lines that are indented further."""


def _entries(lock: str) -> list[str]:
    """The entries of a dvc.lock as text, none if it starts otherwise."""
    head, *entries = re.split(r"^(?=  \S)", lock, flags=re.MULTILINE)
    return entries if head == HEAD else []


def _name(entry: str) -> str:
    return entry.partition("\n")[0].strip(" :'\"")


def _lockfile(stage: Stage) -> Path:
    return Path(stage.path).with_suffix(".lock")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _log(name: str) -> Path:
    return LOGS / f"{name.replace('/dvc.yaml:', '/')}.log"


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Meanwhile what this process and those that it starts print goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _memory(stage: Stage) -> float:
    """GiB that the stage says it takes, 0 where it says nothing."""
    said: Any = (stage.meta or {}).get("memory", 0)
    if isinstance(said, dict):
        said = said.get(stage.addressing.rpartition("@")[2], said["others"])
    return float(said)


def _peak_memory(worker: Worker) -> int:
    """Wait for an answer; the most bytes that the worker and its children have held at one of the looks."""
    peak = 0
    while True:
        held = 0
        try:
            parent = psutil.Process(worker.pid)
            for one in [parent, *parent.children(recursive=True)]:
                held += one.memory_info().rss
        except psutil.NoSuchProcess:  # ended in between
            pass
        peak = max(peak, held)
        if worker.pipe.poll(2):
            return peak


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m diffamp.repro", description="Run what changed of the pipeline.")
    parser.add_argument("file", nargs="?", default="dvc.yaml", help="the pipeline (default: dvc.yaml)")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time (default: 1)")
    parser.add_argument("--force", action="store_true", help="run every stage, changed or not")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB that stages may take together (default: 12)")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: at least 1 is needed")
    start = time.monotonic()
    pipeline = Pipeline(options.file, options.force)
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
