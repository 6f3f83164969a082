"""`python -m benchmarks`: time every contender on this machine and write benchmarks/results/."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded; the Makefile sets the same

from benchmarks import machine, report
from benchmarks.measure import ALPHAS, MEASUREMENTS, QUICK, Effort, Record
from benchmarks.subject import SHAPES, load_subject, random_subject
from diffamp import params, paths
from diffamp.engine.checkpoints import PairError
from diffamp.runtime import setup

MODEL, ORGANISM = "smollm2-135m-instruct", "steered"


def main() -> None:
    options = _options()
    settings = params.load()
    setup(settings.seed, options.threads)
    found = machine.facts(options.threads) | _what(options)
    try:
        subject = (
            random_subject(options.shape, options.base, options.nf4)
            if options.shape
            else load_subject(options.base, options.adapter)
        )
    except (PairError, FileNotFoundError) as error:
        sys.exit(str(error))
    effort = QUICK if options.quick else Effort()
    effort = replace(effort, **{k: v for k in ("rows", "context", "steps") if (v := getattr(options, k)) is not None})
    gc.freeze()  # the models' objects are not walked through again between any two calls
    timings = {}
    start = time.monotonic()
    for name in options.only:
        print(f"{name} ...", flush=True)
        timings[name] = MEASUREMENTS[name](subject, effort)
    found["minutes"] = round((time.monotonic() - start) / 60, 1)
    found["peak memory of the process, GiB"] = round(machine.peak_memory() / 2**30, 1)
    _write(_name(found, options), found, timings)


def _write(name: str, found: machine.Facts, timings: dict[str, list[Record]]) -> None:
    folder = paths.find_root() / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"machine": found, "timings": timings}, indent=1) + "\n")
    text = report.markdown(found, timings)
    if "decode" in timings:
        report.figure(timings["decode"]).savefig(folder / f"{name}.png")
        text += f"\n![Tokens per second against rows]({name}.png)\n"
    (folder / f"{name}.md").write_text(text)
    print(f"{text}\nwritten: benchmarks/results/{name}.*")


def _what(options: argparse.Namespace) -> machine.Facts:
    if options.shape:
        return {
            "model": f"random weights in the shape of {options.shape}",
            "precision": "nf4" if options.nf4 else "bf16",
        }
    return {"model": options.base.name, "adapter": options.adapter.name}


def _name(found: machine.Facts, options: argparse.Namespace) -> str:
    """The device; a run of less, or of another model, never takes the place of the full one."""
    parts = [machine.slug(found)]
    if options.shape:
        parts += [options.shape, *(["nf4"] if options.nf4 else [])]
    elif options.base.name != MODEL or options.adapter.name != ORGANISM:
        parts += [options.base.name, options.adapter.name]
    if options.quick:
        parts.append("quick")
    parts += [f"{k}-{v}" for k in ("context", "steps") if (v := getattr(options, k)) is not None]
    if options.rows:
        parts.append("-".join(["rows", *map(str, options.rows)]))
    if options.only != list(MEASUREMENTS):
        parts += options.only
    return "-".join(parts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 and 16 rows, fewer repeats, no full grid")
    parser.add_argument("--only", type=_names, default=list(MEASUREMENTS), help=f"of {','.join(MEASUREMENTS)}")
    parser.add_argument("--base", type=Path, default=paths.model(MODEL), help="folder of another base model")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape, tokenizer of --base")
    parser.add_argument("--nf4", action="store_true", help="quantise the random weights of --shape")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (default: every core)")
    parser.add_argument("--rows", type=_rows, help="decoded together, e.g. 1,8,32")
    parser.add_argument("--context", type=int, help="tokens in the prompt")
    parser.add_argument("--steps", type=_steps, help="new tokens, 8 or more")
    parser.add_argument("--adapter", type=Path, default=paths.organism(ORGANISM), help="folder of its LoRA adapter")
    options = parser.parse_args()
    if options.nf4 and not options.shape:
        parser.error("--nf4 quantises random weights: name their --shape")
    return options


def _steps(text: str) -> int:
    if int(text) < 8:  # a quarter of them is timed as well, and one alone
        raise argparse.ArgumentTypeError(f"{text}: 8 or more")
    return int(text)


def _rows(text: str) -> tuple[int, ...]:
    rows = tuple(int(n) for n in text.split(","))
    for n in rows:  # samples of as many alphas as there are, up to `ALPHAS`
        if n < 1 or (n > len(ALPHAS) and n % len(ALPHAS)):
            raise argparse.ArgumentTypeError(f"{n}: 1 to {len(ALPHAS)}, or a multiple of {len(ALPHAS)}")
    return rows


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(MEASUREMENTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(MEASUREMENTS)}")
    return [name for name in MEASUREMENTS if name in names]


if __name__ == "__main__":
    main()
