"""Are the committed reports as new as what makes them? `python -m diffamp.fresh` exits 1 and says what is not.

`dvc status` compares every dependency with dvc.lock. In a fresh clone the models, adapters and samples are absent,
which says nothing about the reports; a dependency that is there and differs does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def changed(status: dict[str, Any]) -> list[str]:
    """Faults in the answer of `dvc status --json`: what is neither unchanged nor merely absent."""
    faults = []
    for stage, entries in status.items():
        for entry in entries:
            if not isinstance(entry, dict):  # "changed command", "always changed"
                faults.append(f"{stage}: {entry}")
                continue
            for kind, items in entry.items():
                for item, state in items.items():
                    # a params.yaml entry is itself {key: state}
                    states = state.items() if isinstance(state, dict) else [(item, state)]
                    faults += [f"{stage}: {kind[8:]} {name} {how}" for name, how in states if how != "deleted"]
    return faults


def main() -> None:
    answer = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"dvc status failed:\n{answer.stderr.strip()}")
    if faults := changed(json.loads(answer.stdout or "{}")):
        sys.exit(
            "reports/ are older than what makes them; run `make repro` (for large/ `make large`) and commit:\n  "
            + "\n  ".join(faults)
        )
    print("reports are up to date")


if __name__ == "__main__":
    main()
