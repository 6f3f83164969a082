"""Write the findings into the README: `python -m diffamp.readme`, which `make repro` and `make large` call last."""

from __future__ import annotations

import json

from diffamp import paths
from diffamp.report import load_findings

BEGIN, END = "<!-- findings: written by `make repro` -->", "<!-- end of findings -->"


def rendered(readme: str) -> str:
    """The README with the block between the marks replaced by what reports/metrics says now."""
    head, _, rest = readme.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"README.md lacks the marks {BEGIN!r} and {END!r}, between which the findings are written")
    written = sorted(paths.report("metrics/large").glob("*.json"))
    large = {f"large/{file.stem}": json.loads(file.read_text()) for file in written}
    rows = [
        f"**[{name}](reports/{name}.ipynb)** · {f['question']}  \n{f['answer']}\n"
        for name, f in (load_findings() | large).items()
    ]
    return "\n".join([head + BEGIN, "", *rows, END + tail])


def main() -> None:
    path = paths.find_root() / "README.md"
    path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
