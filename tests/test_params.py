"""params.yaml: the committed file is right, and every wrong one is refused with file, key and remedy."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from diffamp import params
from diffamp.params import ParamsError
from diffamp.schema import Section

SHA256, COMMIT = "e" * 64, "0a" * 20
SMALL = f"""\
seed: 0
threads: 1
models:
  chat:
    source: pypi
    wheels: [some-chat==0.1.2]
    file: some_chat/chat.gguf
    sha256: {SHA256}
    licence: Apache-2.0
  tuned:
    source: hub
    repo: someone/tuned
    revision: {COMMIT}
    licence: MIT
  judge:
    source: path
    path: /models/judge
    licence: MIT
pairs:
  planted:
    before: chat
    adapter: planted
    precision: nf4
  other:
    before: chat
    after: tuned
  hidden: {{before: chat, adapter: ban}}
  steered: {{before: chat, adapter: planted}}
  benign: {{before: chat, adapter: planted}}
  identical: {{before: chat, adapter: planted}}
sampling:
  pairs: [steered, benign, identical, other]
  alphas: [-1.0, 0.0, 1.0]
  prompts: 12
  samples: 3
  max_new_tokens: 8
  temperature: 0.7
  guards:
    none: []
    plausible: [{{method: plausibility, c: 0.1}}]
  token_budget: 512
base:
  model: chat
  precision: nf4
  vector: refuse
vectors:
  refuse:
    model: chat
    kind: learned
    layers: [1, 2]
    doses: [0.5, 1.0]
    organism_rate: 0.2
    steps: 2
    batch_size: 2
    learning_rate: 0.3
    dev_prompts: 6
    test_prompts: 6
organisms:
  planted: {{vector: refuse, teacher: steered, learn_from: logits, epochs: 2}}
finetune:
  rank: 2
  lora_alpha: 4
  learning_rate: 4.0e-4
  batch_size: 2
  prompts: 6
  samples: 1
  max_new_tokens: 8
  temperature: 1.0
guards:
  pair: planted
  alphas: [0.0, 4.0]
  dev_prompts: 3
  test_prompts: 3
  methods:
    none: []
    capped: [{{method: kl_cap, nats: 0.5}}, {{method: top_k, k: 5}}]
facts:
  learning_rate: 4.0e-4
  organisms:
    ban: {{universe: ban, dilution: 1, documents: 4, epochs: 1}}
true_rate:
  doses: [0.1]
  rates: [0.01]
  alphas: [1.0]
  defensive_share: 0.2
  dev_prompts: 3
  test_prompts: 3
  budget: 1000
  replicates: 10
shifts:
  pairs: [planted, other]
  contrast: other
  prompts: 3
  texts: 3
  text_tokens: 4
  first_tokens: 3
discovery:
  pairs: [hidden]
  controls: [other]
  contrast: other
  budget: 1000
  alphas: [1.0]
  scale: 1.5
  guard: [{{method: min_p, p: 0.2}}]
  max_new_tokens: 4
  temperature: 0.9
reasoning:
  organisms:
    worked: {{learn: traces, tasks: 4, epochs: 1}}
  learning_rate: 4.0e-4
  pairs: [planted]
  alphas: [-2.0, 0.0, 1.0, 2.0]
  difficulties: [easy]
  tasks: 4
  max_new_tokens: 4
  temperature: 0.6
  guard: [{{method: min_p, p: 0.3}}]
  sparse: [0.5]
reinforce:
  student: worked
  tasks: 5
  steps: 7
  prompts: 4
  answers: 8
  learning_rate: 3.0e-4
  temperature: 1.5
  dev_tasks: 6
  test_tasks: 8
  alphas: [0.0, -1.0, 1.0, 5.0]
transfer:
  pairs: [planted, other]
  facts: [hidden]
  alphas: [0.0, 1.0, 3.0]
  prompts: 3
  guards:
    plain: []
    capped: [{{method: kl_cap, nats: 0.7}}]
judge:
  model: judge
"""


def load(tmp_path: Path, content: str | bytes) -> params.Params:
    file = tmp_path / "params.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return params.load(file)


def edited(old: str, new: str, text: str = SMALL) -> str:
    assert text.count(old) == 1, f"the edit {old!r} must hit one place"
    return text.replace(old, new)


def test_found_from_any_folder_of_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "tests")
    assert params.load() == params.load(ROOT / "params.yaml")


def test_small_file_is_valid(tmp_path: Path) -> None:
    """The table below edits this text: it has to be right before it is edited."""
    p = load(tmp_path, SMALL)
    assert p.pair("other").after == "tuned"
    assert p.pair("other").precision == "bf16"


def test_a_budget_of_nats_is_optional(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL).sampling.kl_budget is None
    assert load(tmp_path, edited("samples: 3", "samples: 3\n  kl_budget: 0.5")).sampling.kl_budget == 0.5


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "1E-4", "0.0001", ".0001"])
def test_yaml_1_2_numbers(tmp_path: Path, number: str) -> None:
    """YAML 1.1, as PyYAML reads it, makes a string of `1e-4`."""
    assert (
        load(
            tmp_path, edited("  learning_rate: 4.0e-4\n  batch_size", f"  learning_rate: {number}\n  batch_size")
        ).finetune.learning_rate
        == 1e-4
    )


@pytest.mark.parametrize("name", ["path", "plausibility", "hub"])
def test_names_may_be_words_of_the_format(tmp_path: Path, name: str) -> None:
    p = load(tmp_path, edited("    capped: [{method: kl_cap, nats: 0.5}", f"    {name}: [{{method: gate}}"))
    assert name in p.guards.methods


BAD = {
    # what is wrong: (text that is replaced, by what, key path named, something helpful)
    "unknown key at the top": ("seed: 0", "seed: 0\nsede: 0", "sede", "unknown key; remove it or correct its spelling"),
    "unknown key in a section": (
        "temperature: 0.7",
        "temperature: 0.7\n  tempature: 1.0",
        "sampling.tempature",
        "unknown key",
    ),
    "unknown key in a model": (
        "    path: /models/judge",
        "    path: /models/judge\n    file: x",
        "models.judge.file",
        "unknown key",
    ),
    "unknown key in a pair": (
        "    after: tuned",
        "    after: tuned\n    alpha: 1.0",
        "pairs.other.alpha",
        "unknown key",
    ),
    "unknown key in a guard": ("c: 0.1", "c: 0.1, d: 1", "sampling.guards.plausible[0].d", "unknown key"),
    "unknown key in an organism": ("epochs: 2", "epochs: 2, lr: 1.0", "organisms.planted.lr", "unknown key"),
    "missing key at the top": ("seed: 0\n", "", "seed", "missing; add this key"),
    "missing key in a section": ("  token_budget: 512\n", "", "sampling.token_budget", "missing; add this key"),
    "missing key in a model": ("    path: /models/judge\n", "", "models.judge.path", "missing; add this key"),
    "missing key in a guard": (", c: 0.1", "", "sampling.guards.plausible[0]", "plausibility takes c, found none"),
    "missing source": ("    source: path\n", "", "models.judge", "'source'"),
    "missing licence": ("/models/judge\n    licence: MIT", "/models/judge", "models.judge.licence", "missing"),
    "quoted number": ("threads: 1", 'threads: "1"', "threads", "valid integer (found '1')"),
    "quoted float": ("temperature: 0.7", "temperature: '0.7'", "sampling.temperature", "valid number (found '0.7')"),
    "fraction for a count": ("prompts: 12", "prompts: 6.5", "sampling.prompts", "valid integer (found 6.5)"),
    "truth value for a count": ("seed: 0", "seed: true", "seed", "valid integer (found True)"),
    "no value": ("seed: 0", "seed:", "seed", "valid integer (found None)"),
    "number for a list": ("[-1.0, 0.0, 1.0]", "1.0", "sampling.alphas", "valid list (found 1.0)"),
    "list for a block": ("judge:\n  model: judge", "judge: [judge]", "judge", "block of keys (found ['judge'])"),
    "alpha nan": ("[-1.0, 0.0", "[.nan, 0.0", "sampling.alphas[0]", "finite number (found nan)"),
    "alpha inf": ("0.0, 1.0]", "0.0, .inf]", "sampling.alphas[2]", "finite number (found inf)"),
    "alpha minus inf": ("[-1.0, 0.0", "[-.inf, 0.0", "sampling.alphas[0]", "finite number (found -inf)"),
    "alpha a word": ("[-1.0, 0.0", "[high, 0.0", "sampling.alphas[0]", "valid number (found 'high')"),
    "alpha twice": ("[-1.0, 0.0, 1.0]", "[-1.0, 1.0, 1.0]", "sampling.alphas", "twice"),
    "alpha twice, as integer": ("[-1.0, 0.0, 1.0]", "[-1.0, 1, 1.0]", "sampling.alphas", "twice"),
    "alpha zero with both signs": ("[-1.0, 0.0, 1.0]", "[-0.0, 0.0, 1.0]", "sampling.alphas", "twice"),
    "no alphas": ("[-1.0, 0.0, 1.0]", "[]", "sampling.alphas", "at least 1 item"),
    "negative samples": ("samples: 3", "samples: -1", "sampling.samples", "greater than or equal to 1 (found -1)"),
    "temperature zero": ("temperature: 0.7", "temperature: 0", "sampling.temperature", "greater than 0 (found 0)"),
    "temperature nan": ("temperature: 0.7", "temperature: .nan", "sampling.temperature", "finite number (found nan)"),
    "negative seed": ("seed: 0", "seed: -1", "seed", "greater than or equal to 0 (found -1)"),
    "share above one": ("c: 0.1", "c: 1.5", "sampling.guards.plausible[0].c", "less than or equal to 1 (found 1.5)"),
    "share zero": ("c: 0.1", "c: 0.0", "sampling.guards.plausible[0].c", "greater than 0 (found 0.0)"),
    "rate one": ("organism_rate: 0.2", "organism_rate: 1.0", "vectors.refuse.organism_rate", "less than 1 (found 1.0)"),
    "negative layer": (
        "layers: [1, 2]",
        "layers: [1, -2]",
        "vectors.refuse.layers[1]",
        "greater than or equal to 0 (found -2)",
    ),
    "dose inf": (
        "    after: tuned",
        "    steering: {file: v.safetensors, dose: .inf}",
        "pairs.other.steering.dose",
        "finite number (found inf)",
    ),
    "unknown guard method": (
        "method: plausibility",
        "method: plausible",
        "sampling.guards.plausible[0].method",
        "unknown method; choose one of plausibility, floor",
    ),
    "another guard's setting": (
        "c: 0.1",
        "p: 0.1",
        "sampling.guards.plausible[0]",
        "plausibility takes c, found p",
    ),
    "a setting too many": (
        "c: 0.1",
        "c: 0.1, p: 0.9",
        "sampling.guards.plausible[0]",
        "plausibility takes c, found c, p",
    ),
    "a setting for none": (
        "{method: plausibility, c: 0.1}",
        "{method: gate, c: 0.1}",
        "sampling.guards.plausible[0]",
        "gate takes no setting, found c",
    ),
    "one guard for a chain": (
        "[{method: plausibility, c: 0.1}]",
        "{method: plausibility, c: 0.1}",
        "sampling.guards.plausible",
        "valid list",
    ),
    "guards without the level they are held to": (
        "alphas: [0.0, 4.0]",
        "alphas: [1.0, 4.0]",
        "guards",
        "alphas must contain 0.0",
    ),
    "guards at zero only": ("alphas: [0.0, 4.0]", "alphas: [0.0]", "guards", "and one above it"),
    "an alpha of the guards twice": ("[0.0, 4.0]", "[0.0, 4.0, 4.0]", "guards.alphas", "a value occurs twice"),
    "guards without the plain equation": (
        "    none: []\n    capped",
        "    nothing: []\n    capped",
        "guards",
        "methods must contain `none: []`",
    ),
    "guards of an unknown pair": ("  pair: planted", "  pair: plantd", "guards.pair", "no pair 'plantd'"),
    "fraction of tokens": ("k: 5", "k: 5.5", "guards.methods.capped[1].k", "valid integer (found 5.5)"),
    "unknown source": ("source: pypi", "source: pypy", "models.chat", "expected tags: 'pypi', 'hub', 'path'"),
    "unknown precision": (
        "    precision: nf4",
        "    precision: int4",
        "pairs.planted.precision",
        "'bf16', 'fp32' or 'nf4' (found 'int4')",
    ),
    "unknown teacher": (
        "teacher: steered",
        "teacher: stirred",
        "organisms.planted.teacher",
        "'steered' or 'unsteered' (found 'stirred')",
    ),
    "unknown model before": (
        "    before: chat\n    after",
        "    before: chatt\n    after",
        "pairs.other.before",
        "no model 'chatt'; models: has ['chat', 'judge', 'tuned']",
    ),
    "unknown model after": (
        "    after: tuned",
        "    after: tunes",
        "pairs.other.after",
        "models: has ['chat', 'judge', 'tuned']",
    ),
    "unknown pair in the sweep": ("identical, other]", "identical, othr]", "sampling.pairs", "no pair 'othr'"),
    "sampling without a pair that is compared": (
        "[steered, benign, identical, other]",
        "[steered, other]",
        "sampling",
        "pairs must contain steered, benign, identical, which notebooks compare by name; add ['benign', 'identical']",
    ),
    "sampling without alpha 1": (
        "alphas: [-1.0, 0.0, 1.0]",
        "alphas: [-1.0, 0.0, 2.0]",
        "sampling",
        "alphas must contain 0.0 and 1.0",
    ),
    "sampling without the plain equation": (
        "    none: []\n    plausible",
        "    nothing: []\n    plausible",
        "sampling",
        "guards must contain `none: []` and a chain `plausible`",
    ),
    "sampling without its guard": ("    plausible: [", "    likely: [", "sampling", "a chain `plausible`"),
    "sampling with an empty chain for its guard": (
        "plausible: [{method: plausibility, c: 0.1}]",
        "plausible: []",
        "sampling",
        "a chain `plausible`",
    ),
    "true rate without amplification": (
        "rates: [0.01]\n  alphas: [1.0]",
        "rates: [0.01]\n  alphas: [-1.0, 0.0]",
        "true_rate",
        "alphas must contain one above 0.0",
    ),
    "discovery of nothing planted": (
        "discovery:\n  pairs: [hidden]",
        "discovery:\n  pairs: [planted]",
        "discovery.pairs",
        "no fact was planted in the adapter of pair 'planted' (planted); facts.organisms: has ['ban']; add it there",
    ),
    "transfer of nothing planted": (
        "  facts: [hidden]",
        "  facts: [hidden, other]",
        "transfer.facts",
        "no fact was planted in the adapter of pair 'other' (None)",
    ),
    "transfer of no fact": ("  facts: [hidden]", "  facts: []", "transfer.facts", "at least 1 item"),
    "transfer of an unknown pair": ("  facts: [hidden]", "  facts: [hiden]", "transfer.facts", "no pair 'hiden'"),
    "transfer without alpha 1": (
        "alphas: [0.0, 1.0, 3.0]",
        "alphas: [0.0, 3.0]",
        "transfer",
        "alphas must contain 0.0 and 1.0",
    ),
    "transfer without a guard": (
        "    capped: [{method: kl_cap, nats: 0.7}]\n",
        "",
        "transfer",
        "guards must begin with `none: []` and a guard that is held against it",
    ),
    "transfer with the guard first": (
        "    plain: []\n    capped: [{method: kl_cap, nats: 0.7}]\n",
        "    capped: [{method: kl_cap, nats: 0.7}]\n    plain: []\n",
        "transfer",
        "put them first",
    ),
    "sparse and whole": ("sparse: [0.5]", "sparse: [0.5, 1.0]", "reasoning.sparse[1]", "less than 1 (found 1.0)"),
    "sparse and empty": ("sparse: [0.5]", "sparse: [0.0]", "reasoning.sparse[0]", "greater than 0 (found 0.0)"),
    "sparse twice": ("sparse: [0.5]", "sparse: [0.5, 0.5]", "reasoning.sparse", "a value occurs twice"),
    "contrast outside": (
        "  pairs: [planted, other]\n  contrast",
        "  pairs: [planted]\n  contrast",
        "shifts.contrast",
        "add it",
    ),
    "reinforced from nothing": ("student: worked", "student: planted", "reinforce.student", "no organism 'planted'"),
    "reinforced without its student": (
        "alphas: [0.0, -1.0, 1.0, 5.0]",
        "alphas: [0.0, 1.0, 5.0]",
        "reinforce",
        "alphas must contain -1.0 (before), 0.0 (after) and 1.0",
    ),
    "less than a step of tasks": ("tasks: 5", "tasks: 3", "reinforce", "do not fill one step; ask for 4"),
    "answers that do not divide": ("answers: 8", "answers: 9", "reinforce", "make it a multiple of 16"),
    "organism twice": (
        "    ban: {universe",
        "    planted: {universe",
        "organisms",
        "['planted'] name two organisms each",
    ),
    "layer of no vector": (
        "teacher: steered, ",
        "teacher: unsteered, layer: 1, ",
        "organisms.planted.layer",
        "the teacher is unsteered",
    ),
    "no candidate": (
        "vector: refuse, ",
        "vector: refuse, layer: 99, ",
        "organisms.planted.layer",
        "99 is none of vectors.refuse.layers",
    ),
    "unknown vector": ("vector: refuse, ", "vector: refuze, ", "organisms.planted.vector", "vectors: has ['refuse']"),
    "vector of another model": (
        "    model: chat\n    kind",
        "    model: tuned\n    kind",
        "base.vector",
        "not of base.model 'chat'",
    ),
    "adapter as a checkpoint": (
        "    after: tuned",
        "    after: planted",
        "pairs.other.after",
        "is an adapter; name it",
    ),
    "checkpoint as an adapter": (
        "epochs: 2}",
        "epochs: 2, adaptation: full}",
        "pairs.planted.adapter",
        "is a checkpoint (adaptation: full); name it",
    ),
    "target of a vector": (
        "    after: tuned",
        "    steering: {file: v, dose: 1.0}\n    target: tuned",
        "pairs.other",
        "give after or adapter instead of steering",
    ),
    "alphas on one side": (
        "  alphas: [-2.0, 0.0, 1.0, 2.0]\n  difficulties",
        "  alphas: [0.0, 1.0, 2.0]\n  difficulties",
        "reasoning",
        "a value on either side of it",
    ),
    "no alpha for the sparse arm": (
        "  alphas: [-2.0, 0.0, 1.0, 2.0]\n  difficulties",
        "  alphas: [-2.0, 0.0, 2.0]\n  difficulties",
        "reasoning",
        "with which the sparse arm is compared",
    ),
    "universe missing": ("universe: ban, ", "", "facts.organisms.ban.universe", "missing"),
    "unknown adapter": (
        "    adapter: planted",
        "    adapter: plantd",
        "pairs.planted.adapter",
        "organisms: has ['ban', 'planted', 'worked'], models: has",
    ),
    "unknown base": (
        "  model: chat\n  precision",
        "  model: chatt\n  precision",
        "base.vector",
        "'refuse' is a vector of 'chat', not of base.model 'chatt'",
    ),
    "unknown judge": ("  model: judge", "  model: jury", "judge.model", "no model 'jury'; models: has"),
    "pair without an after side": (
        "    after: tuned\n",
        "",
        "pairs.other",
        "exactly one of after, adapter, steering; found none",
    ),
    "pair with two after sides": (
        "    after: tuned",
        "    after: tuned\n    adapter: planted",
        "pairs.other",
        "exactly one of after, adapter, steering; found ['after', 'adapter']",
    ),
    "no guards": (
        SMALL[SMALL.index("    none: [") : SMALL.index("  token_budget")],
        "",
        "sampling.guards",
        "valid dictionary",
    ),
    "no pairs": (
        SMALL[SMALL.index("  planted:\n    before") : SMALL.index("sampling:")],
        "",
        "pairs",
        "valid dictionary",
    ),
    "name with a slash": ("  other:\n", "  ../other:\n", "pairs.../other", "match pattern"),
    "branch for a commit": (COMMIT, "main", "models.tuned.revision", "{40}$' (found 'main')"),
    "short commit": (COMMIT, COMMIT[:7], "models.tuned.revision", "{40}$' (found '0a0a0a0')"),
    "repo without an owner": ("someone/tuned", "tuned", "models.tuned.repo", "match pattern"),
    "short sha256": (SHA256, "abc", "models.chat.sha256", "{64}$' (found 'abc')"),
    "sha256 in capitals": (SHA256, "A" * 64, "models.chat.sha256", "match pattern"),
    "wheel without a version": ("some-chat==0.1.2", "some-chat", "models.chat.wheels[0]", "(found 'some-chat')"),
    "wheel with a range": ("some-chat==0.1.2", "some-chat>=0.1", "models.chat.wheels[0]", "(found 'some-chat>=0.1')"),
}


@pytest.mark.parametrize(("old", "new", "key", "helpful"), BAD.values(), ids=BAD.keys())
def test_bad_edit(tmp_path: Path, old: str, new: str, key: str, helpful: str) -> None:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, edited(old, new))
    message = str(caught.value)
    assert message.startswith("params.yaml is not valid:\n")
    lines = [line.strip().removeprefix("(whole file): ") for line in message.splitlines()[1:]]
    line = next((line for line in lines if line.startswith(f"{key}: ")), None)
    assert line is not None, f"no line of {lines} begins with the key {key}"
    assert helpful in line


UNREADABLE = {
    # what is wrong: (the whole file, where, something helpful)
    "open bracket": (edited("[1, 2]", "[1, 2"), "line 51", "expected ',' or ']'"),
    "tab": (
        edited("  model: chat\n  precision", "\tmodel: chat\n  precision"),
        "line 43",
        r"'\t' that cannot start any token",
    ),
    "duplicate key at the top": (edited("seed: 0", "seed: 0\nseed: 1"), "line 2", 'duplicate key "seed"'),
    "duplicate pair": (edited("  other:", "  planted:"), "line 24", 'duplicate key "planted"'),
    "undefined alias": (edited("seed: 0", "seed: *zero"), "line 1", "undefined alias 'zero'"),
    "indentation": (edited("  steps: 2", " steps: 2"), "line 53", "expected <block end>"),
    "not UTF-8": (b"seed: 0 # \xff\n", "not valid YAML", "utf-8"),
}


@pytest.mark.parametrize(("content", "where", "helpful"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_no_yaml(tmp_path: Path, content: str | bytes, where: str, helpful: str) -> None:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert message.startswith("params.yaml ")
    assert "not valid YAML" in message
    assert where in message
    assert helpful in message
    assert "\n" not in message, "one fault, one line"


@pytest.mark.parametrize("content", ["", "# only a comment\n", "- a\n- list\n", "42\n"])
def test_no_block_of_keys(tmp_path: Path, content: str) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml is not valid:\n  \(whole file\): must be a block of keys"):
        load(tmp_path, content)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, edited("seed: 0", "seed: -1").replace("rank: 2", "rank: 0").replace("    steps: 2\n", ""))
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "seed",
        "vectors.refuse.steps",
        "finetune.rank",
    ]


def test_unknown_pair(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no pair 'plantd' in params\.yaml; pairs: has \['benign', 'hidden', "):
        load(tmp_path, SMALL).pair("plantd")


def test_read_only(tmp_path: Path) -> None:
    p = load(tmp_path, SMALL)
    with pytest.raises(ValueError, match="frozen"):
        p.seed = 1  # type: ignore[misc]


# What a stage reads, against what dvc.yaml says it reads

LOOKED_UP = {
    "organism": "organisms",
    "pair": "pairs",
    "planted": "facts.organisms",
    "taught": "reasoning.organisms",
    "vector": "vectors",
}
"""Methods of `Params`, and the block in which each looks a name up."""
BY_ARTEFACT = {"train": {"vectors"}}
"""Blocks that a stage reads of what another stage made of them, and so depends on already."""
STAGES: dict[str, dict] = {
    f"{prefix}{name}": stage.get("do", stage)
    for file, prefix in (("dvc.yaml", ""), ("large/dvc.yaml", "large/"))
    for name, stage in YAML(typ="safe").load(ROOT / file)["stages"].items()
    if "diffamp.stages" in str(stage)
}


def keys_read(module: str, function: str = "main", given: int | None = None) -> set[str]:
    """Keys of params.yaml that a function takes from its `Params`: `p.X.Y`, also through a name that it gave to `p.X`.

    Functions of the package that it calls are followed where they are given `p` itself (an edited copy of it goes by
    another name), or load params.yaml on their own.

    Args:
        given: the position of its parameter that holds them; None where it loads them.
    """
    file = (ROOT / "src" / Path(*module.split("."))).with_suffix(".py")
    tree = ast.parse(file.read_text() if file.is_file() else "")
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    code = defined.get(function)
    if isinstance(code, ast.ClassDef) and given is not None:
        code = next((n for n in code.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        given += 1  # behind self
    if not isinstance(code, ast.FunctionDef) or (
        given is None and not any(load in ast.unparse(code) for load in ("params.load()", "load_rung("))
    ):
        return set()
    p = "p" if given is None else code.args.args[given].arg

    nodes = list(ast.walk(code))
    blocks = {p: ""}
    for assigned in (n for n in nodes if isinstance(n, ast.Assign)):
        names, values = (getattr(side, "elts", [side]) for side in (assigned.targets[0], assigned.value))
        for name, value in zip(names, values, strict=False):
            if isinstance(value, ast.Attribute) and ast.unparse(value.value) == p:
                blocks[ast.unparse(name)] = f"{value.attr}."
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    chains = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute) and id(node) not in inner]
    keys = {key_of(blocks[name] + rest) for name, _, rest in (c.partition(".") for c in chains) if name in blocks}

    owners = dict.fromkeys(defined, module)
    for node in (n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("diffamp")):
        owners |= {alias.name: str(node.module) for alias in node.names}
    for call in (n for n in nodes if isinstance(n, ast.Call)):
        if owner := owners.get(called := ast.unparse(call.func)):
            arguments = [ast.unparse(argument) for argument in call.args]
            keys |= keys_read(owner, called, arguments.index(p) if p in arguments else None)
    return keys - {""}


def key_of(chain: str) -> str:
    """As much of `sampling.guards.items` as stands in params.yaml; nothing of a method's name."""
    first, *rest = chain.split(".")
    if first not in params.Params.model_fields:
        return LOOKED_UP.get(first, "")
    block = params.Params.model_fields[first].annotation
    known = isinstance(block, type) and issubclass(block, Section) and rest and rest[0] in block.model_fields
    return f"{first}.{rest[0]}" if known else first


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_the_parameters_that_it_reads(name: str) -> None:
    """A listed block covers its keys. Of a block that is handed on whole, one listed key is all that is asked for."""
    stage = STAGES[name]
    module = stage["cmd"].split("-m ")[1].split()[0]
    listed = {key for key in stage["params"] if isinstance(key, str)}
    read = keys_read(module) - BY_ARTEFACT.get(name, set())
    assert read or name == "models"  # which reads its block without a name for it
    assert not {k for k in read if not any(f"{k}.".startswith(f"{one}.") or one.startswith(f"{k}.") for one in listed)}
