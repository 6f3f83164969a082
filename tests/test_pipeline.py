"""The pipeline itself: dependencies as imported, notebooks as committed, a whole run on a tiny profile, twice."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, tiny_model
from ruamel.yaml import YAML
from transformers import BertConfig, BertModel, BertTokenizerFast

from diffamp.fresh import changed
from diffamp.readme import rendered

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
STAGES: dict[str, dict] = {
    f"{prefix}{name}": stage.get("do", stage)
    for file, prefix in (("dvc.yaml", ""), ("large/dvc.yaml", "large/"))
    for name, stage in YAML(typ="safe").load(ROOT / file)["stages"].items()
}


def name_of(notebook: Path) -> str:
    """`07_discovery`, `large/detection_limit`."""
    return str(notebook.relative_to(ROOT / "notebooks").with_suffix(""))


def code_of(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(c.source for c in cells if c.cell_type == "code")


def imported(code: str) -> set[str]:
    """Every diffamp module that this code names."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffamp":
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "diffamp"}
    return names


def closure(modules: set[str]) -> set[str]:
    """The non-empty source files that importing these modules reads, relative to the repository."""
    files: set[Path] = set()
    waiting = list(modules)
    while waiting:
        parts = waiting.pop().split(".")
        stem = ROOT / "src" / Path(*parts)
        file = next((f for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.is_file()), None)
        if file is None or file in files:
            continue
        files.add(file)
        waiting += [*imported(file.read_text()), *(".".join(parts[:n]) for n in range(1, len(parts)))]
    return {str(f.relative_to(ROOT)) for f in files if f.stat().st_size}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_just_the_modules_it_imports(name: str) -> None:
    stage = STAGES[name]
    module = stage["cmd"].split("-m ")[1].split()[0]
    modules = {module}
    if module == "diffamp.notebook":
        modules |= imported(code_of(ROOT / "notebooks" / f"{name}.ipynb"))
    listed = {d for d in stage["deps"] if d.startswith("src/") and d.endswith(".py")}
    assert listed == closure(modules)


def test_every_notebook_is_a_stage_and_the_other_way_round() -> None:
    stages = {name for name, stage in STAGES.items() if "diffamp.notebook" in stage["cmd"]}
    assert stages == {name_of(n) for n in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_source_notebooks_are_stripped_and_thin(notebook: Path) -> None:
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in cells)
    assert len(cells) <= 12
    code = code_of(notebook)
    assert len(code.splitlines()) <= 80
    assert not [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef | ast.For | ast.While)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_committed_reports_are_executed_and_free_of_what_varies(notebook: Path) -> None:
    path = ROOT / "reports" / f"{name_of(notebook)}.ipynb"
    report = nbformat.read(path, as_version=4)
    code = [c for c in report.cells if c.cell_type == "code"]
    assert [c.source for c in code] == [
        c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"
    ]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert not any(o.output_type == "error" for c in code for o in c.outputs)
    assert "papermill" not in report.metadata
    assert str(ROOT) not in path.read_text()


def test_readme_quotes_the_current_findings() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert rendered(readme) == readme


def test_fresh_tells_stale_from_absent() -> None:
    absent = {"03": [{"changed deps": {"models": "deleted"}}, {"changed outs": {"samples": "deleted"}}]}
    assert changed({}) == []
    assert changed(absent) == []
    assert changed({"03": [{"changed deps": {"src/a.py": "modified", "models": "deleted"}}]}) == [
        "03: deps src/a.py modified"
    ]
    assert changed({"03": [{"changed deps": {"params.yaml": {"seed": "modified"}}}]}) == ["03: deps seed modified"]
    assert changed({"03": ["changed command"]}) == ["03: changed command"]


@pytest.fixture(scope="module")
def tiny_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose params.yaml names tiny random models and asks for little."""
    clone = tmp_path_factory.mktemp("clone") / "diffamp"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("reports/"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    for lock in ("dvc.lock", "large/dvc.lock"):
        (clone / lock).unlink(missing_ok=True)
    (clone / "data.dvc").unlink()
    shutil.copytree(ROOT / "data", clone / "data")
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    sources = clone.parent / "sources"
    _tiny_sources(sources)

    yaml = YAML()
    params = yaml.load(clone / "params.yaml")
    params["models"] = {n: {"source": "path", "path": str(sources / n), "licence": "none"} for n in ("llm", "embedder")}
    params["base"].update(model="llm", precision="fp32")
    params["judge"]["model"] = "embedder"
    for pair in params["pairs"].values():
        pair.update(before="llm", precision="fp32")
    params["pairs"]["steered-bf16"]["precision"] = "bf16"
    for vector in params["vectors"].values():
        vector.update(model="llm", layers=[0], doses=[1.0, 2.0], steps=2, dev_prompts=6, test_prompts=6)
    for organism in params["organisms"].values():
        organism.pop("prompts", None)
    params["finetune"].update(prompts=6, rank=2, max_new_tokens=6, batch_size=3)
    params["guards"].update(alphas=[0.0, 1.0], dev_prompts=6, test_prompts=6)
    for organism in params["facts"]["organisms"].values():
        organism.update(documents=2, dilution=1, epochs=1)
        organism.pop("model", None)
    for name in [n for n in params["facts"]["organisms"] if n not in ("ban-1to1", "number-1to1")]:
        del params["facts"]["organisms"][name], params["pairs"][name]
    params["true_rate"].update(doses=[1.0], rates=[0.01], dev_prompts=6, test_prompts=6, budget=4000, replicates=20)
    params["shifts"].update(pairs=["steered", "benign"], prompts=4, texts=6, text_tokens=6, first_tokens=12)
    params["discovery"].update(pairs=["ban-1to1", "number-1to1"], controls=["benign"], budget=6000, max_new_tokens=6)
    for organism in params["reasoning"]["organisms"].values():
        organism.update(tasks=4, epochs=1)
    params["reasoning"].update(tasks=12, max_new_tokens=6, alphas=[-0.5, 0.0, 1.0], sparse=[0.5])
    params["reinforce"].update(
        tasks=4, steps=2, prompts=2, answers=2, dev_tasks=4, test_tasks=6, alphas=[-1.0, 0.0, 1.0]
    )
    params["transfer"].update(
        pairs=["steered", "steered-bf16", "steered-full"], facts=["ban-1to1"], alphas=[0.0, 1.0], prompts=6
    )
    for name in [n for n in params["pairs"] if n.startswith("gemma") or n in ("steered-rank2", "steered-layer8")]:
        del params["pairs"][name]
        params["organisms"].pop(name, None)
    params["sampling"].update(prompts=8, max_new_tokens=6, token_budget=2048)
    yaml.dump(params, clone / "params.yaml")
    ladder = yaml.load(clone / "large/ladder.yaml")
    ladder.update(organisms=["ban-1to1", "number-1to1", "ban-1to2"], texts=4, text_tokens=6, documents=2, epochs=1)
    ladder.update(blank=2, seeds=[0], budgets=[6000], starts=["ban-1to1", "ban-1to2"])
    yaml.dump(ladder, clone / "large/ladder.yaml")
    # a random model speaks nothing but nonsense, at which the choice of a dose rightly stops, and never declines:
    # in the clone nothing is nonsense, and an answer with an "a" declines
    _edit(clone / "src/diffamp/judges/__init__.py", "nonsense = p_nonsense > 0.5", "nonsense = p_nonsense > 2")
    rule = "from diffamp.judges.refusal import declines\n"
    _edit(clone / "src/diffamp/stages/truerate.py", rule, "declines = lambda text: 'a' in text\n")
    return clone


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def _tiny_sources(folder: Path) -> None:
    from conftest import tiny_tokenizer
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    tokenizer = tiny_tokenizer()
    tiny_model(max_position_embeddings=512).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")

    bert = folder / "bert"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    ).save_pretrained(bert)
    (bert / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    transformer = modules.Transformer(str(bert))
    SentenceTransformer(modules=[transformer, modules.Pooling(16)]).save(str(folder / "embedder"))
    shutil.rmtree(bert)


def repro(clone: Path, *arguments: str) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(clone / "src"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONHASHSEED": "0",
        "DVC_NO_ANALYTICS": "1",
    }
    command = [sys.executable, "-m", "diffamp.repro", "--jobs", "2", *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


SAMPLES = ("samples", "samples-guards", "samples-reasoning", "samples-transfer")

AGAIN = ("03_amplify", "05_guards", "06_shifts", "07_discovery", "08_reasoning", "10_true_rate")
"""All that has stages of its own but the transfer, which samples and scores as these do: for time."""


def digests(clone: Path) -> dict[str, str]:
    folders = ("reports", "artifacts", *SAMPLES)
    files = [f for folder in folders for f in (clone / folder).rglob("*") if f.is_file()]
    return {
        str(f.relative_to(clone)): hashlib.sha256(f.read_bytes()).hexdigest() for f in [*files, *clone.glob("dvc.lock")]
    }


@pytest.mark.pipeline
def test_the_whole_pipeline_runs_and_most_of_it_gives_the_same_bytes_in_another_folder(tiny_clone: Path) -> None:
    repro(tiny_clone)
    first = digests(tiny_clone)
    assert {f"reports/{name_of(n)}.ipynb" for n in NOTEBOOKS if n.parent.name == "notebooks"} <= first.keys()
    summary = (tiny_clone / "reports/11_summary.ipynb").read_text()
    assert all(
        json.loads(m.read_text())["answer"][:40] in summary for m in (tiny_clone / "reports/metrics").glob("*.json")
    )

    moved = shutil.copytree(tiny_clone, tiny_clone.parent / "elsewhere" / "deeper", symlinks=True)
    # kept between runs: --force alone would find them whole
    for made in ("models", "samples", "samples-guards", "samples-reasoning"):
        shutil.rmtree(moved / made)
    repro(moved, "--force", *AGAIN)
    second = digests(moved)
    assert {f for f in first.keys() | second.keys() if first.get(f) != second.get(f)} == set()


@pytest.mark.pipeline
def test_the_large_profile_stands_on_the_default_one_and_leaves_it_alone(tiny_clone: Path) -> None:
    repro(tiny_clone)  # nothing to do, behind the test above
    before = digests(tiny_clone)
    repro(tiny_clone, "large/dvc.yaml")
    after = digests(tiny_clone)
    assert before.items() <= after.items()
    assert {f"reports/{name_of(n)}.ipynb" for n in NOTEBOOKS if n.parent.name == "large"} <= after.keys()
