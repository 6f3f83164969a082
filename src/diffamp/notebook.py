"""Execute a notebook into reports/, free of everything that varies between runs: `python -m diffamp.notebook NAME`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill

from diffamp import paths

VOLATILE = "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info"


def main(name: str) -> None:
    root = paths.find_root()
    target = paths.report(f"{name}.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}")
    try:
        papermill.execute_notebook(
            root / "notebooks" / f"{name}.ipynb", scratch, cwd=root, kernel_name="python3", progress_bar=False
        )
        strip = ["--keep-output", "--keep-count", "--extra-keys", VOLATILE]
        subprocess.run([sys.executable, "-m", "nbstripout", *strip, str(scratch)], check=True)
        _drop_stderr(scratch)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _drop_stderr(path: Path) -> None:
    """Progress bars and libraries' warnings carry rates, times and paths of the machine."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1])
