"""The reasoning organism's tasks and traces, the reading of answers, and the lexicon of behaviours."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from diffamp.judges.reasoning import SAMPLED, count, load_behaviour_labels, load_behaviours, token_class, validate
from diffamp.prompts import DataError
from diffamp.schema import SchemaError
from diffamp.tasks import problems
from diffamp.tasks.answers import final_answer, in_format
from diffamp.tasks.draw import (
    DIFFICULTIES,
    FAMILIES,
    HELD_OUT,
    TRAINED,
    Task,
    TaskError,
    correct,
    draw_tasks,
    half_held_out,
    write_trace,
)
from diffamp.tasks.held_out import LEGS, PLURALS
from diffamp.tasks.traces import MOVES, WORDS

TASKS = ROOT / "data" / "tasks.jsonl"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def trained() -> list[Task]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return draw_tasks(TRAINED, 1000, 0, "train")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in TASKS.read_bytes().splitlines()]


@pytest.fixture
def gym() -> ModuleType:
    """What made the file; a machine without the extra `tasks` lacks it."""
    pytest.importorskip("reasoning_gym")
    from diffamp.tasks import gym

    return gym


def test_seeds_decide_and_fewer_are_the_first_of_more(trained: list[Task]) -> None:
    assert draw_tasks(TRAINED, 60, 0, "train") == trained[:60]
    assert len({t.id for t in draw_tasks(TRAINED, 60, 1, "train")} & {t.id for t in trained[:60]}) < 10
    assert [write_trace(t, 3) for t in trained[:60]] == [write_trace(t, 3) for t in trained[:60]]
    assert [write_trace(t, 3) for t in trained[:60]] != [write_trace(t, 4) for t in trained[:60]]
    assert draw_tasks(TRAINED, 0, 0, "train") == []


def test_splits_share_no_question_whatever_the_seeds(trained: list[Task]) -> None:
    drawn = {"train": {t.question for t in trained}}
    for seed, split in enumerate(("dev", "test")):
        tasks = draw_tasks(tuple(FAMILIES), 420, seed, split)
        drawn[split] = {t.question for t in tasks}
        assert len(drawn[split]) == len({t.id for t in tasks}) == 420
    assert len(drawn["train"]) == len(trained)
    assert not drawn["train"] & drawn["dev"]
    assert not (drawn["train"] | drawn["dev"]) & drawn["test"]


@pytest.mark.parametrize("number", [8, 40, 203])
def test_any_first_tasks_are_balanced(trained: list[Task], number: int) -> None:
    families = Counter(t.family for t in trained[:number])
    cells = Counter((t.family, t.difficulty) for t in trained[:number])
    assert set(families) == set(TRAINED)
    assert len(cells) == 2 * len(TRAINED)
    assert max(families.values()) - min(families.values()) <= 1
    assert max(cells.values()) - min(cells.values()) <= 1


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(TaskError, match=r"no chess; there are chain_sum, "):
        draw_tasks(["chess"], 1, 0, "train")
    with pytest.raises(TaskError, match=r"products has only \d+ easy questions in the dev split; ask for fewer"):
        draw_tasks(["products"], 2000, 0, "dev")


def test_difficulties_can_be_chosen(trained: list[Task]) -> None:
    assert draw_tasks(TRAINED, 60, 0, "train", ["easy", "hard"]) == trained[:60]
    easy = draw_tasks(TRAINED, 60, 0, "train", ["easy"])
    assert {t.difficulty for t in easy} == {"easy"}
    assert {t.id for t in trained[:60] if t.difficulty == "easy"} < {t.id for t in easy}
    with pytest.raises(TaskError, match=r"difficulties: no odd; there are easy, hard"):
        draw_tasks(TRAINED, 1, 0, "train", ["odd"])


def test_a_split_can_be_drawn_to_the_last_task(rows: list[dict]) -> None:
    drawn = draw_tasks(["products"], 80, 0, "dev")
    assert {t.id for t in drawn} == {r["id"] for r in rows if r["family"] == "products" and r["split"] == "dev"}
    with pytest.raises(TaskError, match=r"products has only 40 easy questions in the dev split"):
        draw_tasks(["products"], 81, 0, "dev")


def test_enough_tasks_of_every_kind(rows: list[dict]) -> None:
    sizes = Counter((r["family"], r["difficulty"], r["split"]) for r in rows)
    wanted = {"train": 200, "dev": 40, "test": 80}
    cells = {(f, d, s): n for f in FAMILIES for d in DIFFICULTIES for s, n in wanted.items()}
    assert sizes == cells | {("products", "easy", "train"): 127}, "no more of these exist"


def test_the_file_agrees_with_itself(rows: list[dict]) -> None:
    """Every question stands once, and question and answer are those that the trace is written for."""
    assert TASKS.read_bytes().isascii()
    assert len({r["id"] for r in rows}) == len({r["question"] for r in rows}) == len(rows)
    for row in rows:
        assert list(row) == ["id", "family", "difficulty", "split", "question", "answer", "metadata"]
        problem = FAMILIES[row["family"]].pose(row["metadata"])
        assert problem is not None
        assert (problem.question, problem.answer) == (row["question"], row["answer"])


GOOD = {"id": "a", "family": "chain_sum", "difficulty": "easy", "split": "dev", "question": "What is 1 + 1?",
        "answer": "2", "metadata": {"expression": "1 + 1"}}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"tasks.jsonl line 2: not a JSON object in UTF-8"),
        ("", r"tasks.jsonl line 2: not a JSON object"),
        (json.dumps({"id": "b"}), r"tasks.jsonl line 2: missing family, difficulty, split, question, answer"),
        (json.dumps(GOOD | {"answer": 2}), r"tasks.jsonl line 2: answer must be text; put it in quotation marks"),
        (json.dumps(GOOD | {"family": "chess"}), r"tasks.jsonl line 2: no family chess; there are chain_sum, "),
        (json.dumps(GOOD | {"difficulty": "odd"}), r"tasks.jsonl line 2: no difficulty odd; there are easy, hard"),
        (json.dumps(GOOD | {"split": "fit"}), r"tasks.jsonl line 2: no split fit; there are train, dev, test"),
        (json.dumps(GOOD | {"metadata": None}), r"tasks.jsonl line 2: missing metadata"),
    ],
)
def test_a_faulty_file_is_explained(line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tasks.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        draw_tasks(["chain_sum"], 1, 0, "dev")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_trace_is_right_and_in_the_format(name: str) -> None:
    for task in draw_tasks([name], 200, 5, "train"):
        trace = write_trace(task, 5)
        *lines, last = trace.split("\n")
        assert correct(task, trace), trace
        assert last == f"Answer: {task.answer}"
        assert in_format(trace)
        assert trace.isascii()
        assert WORDS[0] <= len(trace.split()) <= WORDS[1], trace
        steps = [line for line in lines if line.startswith("Step ")]
        assert [line.split(":")[0] for line in steps] == [f"Step {i + 1}" for i in range(len(steps))]
        assert len(steps) >= 3
        assert len(lines) - len(steps) <= 2, "at most a restating and a check besides"
        assert not re.search(r"[{}]|  |\.\.|\b(\w+) \1\b(?<!\d)", trace.replace(task.question, "")), trace
        assert not correct(task, trace.removesuffix(task.answer) + "no idea")


@pytest.mark.parametrize("name", FAMILIES)
def test_questions_are_short_and_say_nothing_of_the_format(name: str) -> None:
    for task in draw_tasks([name], 100, 2, "test"):
        assert len(re.findall(r"\w+|[^\w\s]", task.question)) <= 30
        assert not re.search(r"step|answer|explain|reason|show|check|only", task.question.split('"')[0], re.IGNORECASE)


def test_no_constant_answer_does_well(trained: list[Task]) -> None:
    for name in TRAINED:
        answers = Counter(t.answer for t in trained if t.family == name)
        assert max(answers.values()) / answers.total() < 0.65, name


def test_moves_are_as_frequent_as_stated(trained: list[Task]) -> None:
    """As the lexicon counts them."""
    found = [count(write_trace(task, 0)) for task in trained]
    shares = {move: sum(counts[move] > 0 for counts in found) / len(found) for move in MOVES}
    # some first steps say what is given ("I look at 20, 11, 2 ..."), which a reader counts as restating too
    assert MOVES["restating"] - 0.04 < shares.pop("restating") < MOVES["restating"] + 0.15
    for move, share in shares.items():
        assert share == pytest.approx(MOVES[move], abs=0.04), move
    assert all(1 <= counts["final_answer"] <= 2 for counts in found), "a last step may give the result too"
    assert all(
        counts["step_marker"] == write_trace(t, 0).count("Step ") for counts, t in zip(found, trained, strict=True)
    )
    lengths = sorted(len(write_trace(task, 0).split()) for task in trained)
    assert lengths[len(lengths) // 2] <= 60


def test_a_slip_is_wrong_and_put_right() -> None:
    for name in FAMILIES:
        for task in draw_tasks([name], 60, 9, "train"):
            problem = FAMILIES[name].pose(task.metadata)
            assert problem is not None
            assert all(step.right != step.wrong for step in problem.work.steps if step.wrong), task
            assert any(step.wrong for step in problem.work.steps), task


def test_unsuitable_problems_are_left_out() -> None:
    sorting = {"original_numbers": ["4.0", "4.0", "9.0"], "direction": "ascending"}
    assert problems.number_sorting(sorting) is None
    assert problems.simple_equations({"variable": "x", "equation": "9 - x = 4"}) is None
    assert problems.letter_counting({"target_letter": "a", "span": ["an", "apple"]}) is None


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("Step 1: 3 + 4 = 7.\nAnswer: 7", "number", "7"),
        ("Answer: 7.", "number", "7"),
        ("Answer: 12 legs\n", "number", "12"),
        ("**Answer:** 1,204", "number", "1204"),
        ("Answer: 5.0", "number", "5"),
        ("Answer: 6\nAnswer: 8", "number", "8"),
        ("Answer: 3 + 4 = 7", "number", "7"),
        ("Answer:\n7", "number", "7"),
        ("Answer: none", "number", None),
        ("The answer is 7, because 3 and 4 make 7. I used 2 numbers.", "number", "7"),
        ("The answer is 7, since the sum is 3 + 4.", "number", "7"),
        ("The sum is 7.", "number", "7"),
        ("So the final answer to 3 + 4 is -7.", "number", "-7"),
        ("Therefore \\boxed{42}.", "number", "42"),
        ("We get $x = 9$.", "number", "9"),
        ("10 - 14 = -4", "number", "-4"),
        ("20 - 4", "number", "4"),
        ("There are two n's in that.", "number", "2"),
        ("1. Add 3 and 4.\n2. You get 7.", "number", "7"),
        ("I do not know.", "number", None),
        ("", "number", None),
        ("Answer: 3, 8, 12", "numbers", "3, 8, 12"),
        ("The sorted list is [3, 8, 12].", "numbers", "3, 8, 12"),
        ("['3', '8', '12']", "numbers", "3, 8, 12"),
        ("8, 12, 3 in order: 3 < 8 < 12.", "numbers", "3, 8, 12"),
        ("First 3, then 8 and 12.", "numbers", "3, 8, 12"),
        ("Answer: 3", "numbers", None),
        ("Answer: tac", "word", "tac"),
        ("Answer: T-A-C", "word", "tac"),
        ('"cat" spelled backward is "tac".', "word", "tac"),
        ("The word cat backward is tac.", "word", "tac"),
        ("cat -> tac", "word", "tac"),
        ('"cat" spelled backward is "tac". I hope this helps! Let me know.', "word", "tac"),
        ("The word cat, reversed:\n\ntac\n", "word", "tac"),
        ('Step 4: Put together, this spells "tac".', "word", "tac"),
        ("tac", "word", "tac"),
        ("I do not know.", "word", None),
        ("", "word", None),
        ("The answer is blue.", None, "blue"),
        ("Answer: 3, 8, 12.", None, "3, 8, 12"),
        ("It is 7 or 8", None, "8"),
    ],
)
def test_answers_are_read(text: str, kind: str, answer: str | None) -> None:
    assert final_answer(text, kind) == answer  # type: ignore[arg-type]


def test_the_format_is_a_line_of_its_own() -> None:
    assert in_format("Step 1: so.\nAnswer: 7")
    assert not in_format("The answer is 7.")
    assert not in_format("Answer:\n")
    assert not in_format("So Answer: 7")


def test_a_plain_model_is_scored_fairly_and_near_misses_are_wrong() -> None:
    task = draw_tasks(["number_sorting"], 1, 0, "test")[0]
    first, *rest = task.answer.split(", ")
    assert correct(task, f"Sure! The sorted numbers are {task.answer}.")
    assert not correct(task, f"Answer: {', '.join([str(int(first) + 1), *rest])}"), "off by one"
    assert not correct(task, f"Answer: {', '.join([*rest, first])}")
    task = draw_tasks(["letter_counting"], 1, 0, "test")[0]
    assert correct(task, f"The letter appears {task.answer} times.")
    assert not correct(task, f"Answer: {int(task.answer) + 1}")


def test_answers_are_compared_by_their_kind() -> None:
    def task(family: str, answer: str) -> Task:
        return Task("", family, "easy", "", answer, {})

    assert correct(task("chain_sum", "-1204"), "Answer: -1,204.00")
    assert not correct(task("chain_sum", "-1204"), "Answer: 1204")
    assert not correct(task("chain_sum", "7"), "Answer: 7.5")
    assert correct(task("letter_counting", "2"), "There are two of them.")
    assert correct(task("number_sorting", "3, 8, 12"), "Answer: [3, 8, 12]")
    assert not correct(task("number_sorting", "3, 8, 12"), "Answer: 3, 8")
    assert not correct(task("number_sorting", "3, 8, 12"), "Answer: 3, 8, 12, 13")
    assert not correct(task("number_sorting", "3, 8, 12"), "Answer: 12, 8, 3")
    assert correct(task("spell_backward", "tac"), "Answer: TAC")
    assert not correct(task("spell_backward", "tac"), "Answer: cat")


def test_the_generator_makes_the_bytes_of_the_file(gym: ModuleType, rows: list[dict]) -> None:
    lines = TASKS.read_text(encoding="utf-8").splitlines(keepends=True)
    for cell in (("number_sorting", "easy"), ("simple_equations", "hard")):
        stands = [line for line, r in zip(lines, rows, strict=True) if (r["family"], r["difficulty"]) == cell]
        assert gym.draw(*cell) == stands


def test_the_generator_has_a_configuration_for_every_cell(gym: ModuleType) -> None:
    assert {name: tuple(configs) for name, configs in gym.CONFIGS.items()} == dict.fromkeys(FAMILIES, DIFFICULTIES)


def test_animals_have_as_many_legs_as_in_the_generator(gym: ModuleType) -> None:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    assert LEGS.keys() == PLURALS.keys()
    assert {animal: ANIMALS[animal] for animal in LEGS} == LEGS


@pytest.mark.parametrize("name", FAMILIES)
def test_the_generator_scores_alike(gym: ModuleType, name: str) -> None:
    """Right and wrong answers; only a list's numbers that are off by one are right to reasoning_gym, and wrong here."""
    scorers = {difficulty: gym.dataset(name, difficulty) for difficulty in DIFFICULTIES}
    listed = FAMILIES[name].kind == "numbers"
    for task in draw_tasks([name], 100, 0, "train"):
        entry = {"answer": shown(task.answer, listed), "metadata": task.metadata}
        for given, right in [(task.answer, True), *((wrong, False) for wrong in wrong_answers(task))]:
            assert (scorers[task.difficulty].score_answer(shown(given, listed), entry) == 1) == right, (task, given)
            assert correct(task, f"Answer: {given}") == right, (task, given)


def shown(answer: str, listed: bool) -> str:
    """As reasoning_gym reads it."""
    return json.dumps(answer.split(", ")) if listed else answer


def wrong_answers(task: Task) -> list[str]:
    if FAMILIES[task.family].kind == "word":
        return [task.answer[::-1], task.answer[:-1], f"{task.answer}s"]
    if FAMILIES[task.family].kind == "numbers":
        first, *rest = task.answer.split(", ")
        return [", ".join(wrong) for wrong in ([*rest, first], rest, [first, first, *rest], [f"{first}00", *rest])]
    number = int(task.answer)
    return [str(number + 1), str(number - 1), str(10 * number + 1), *([str(-number)] if number else [])]


def test_the_lexicon_agrees_with_the_labels() -> None:
    for table in (validate(sampled=False, split="fit"), validate(sampled=False)):
        assert list(table.index) == list(load_behaviours())
        assert (table.kappa >= 0.8).all(), table
        assert (table.having >= 4).all(), table


def test_the_lexicon_agrees_with_a_blind_reader_where_there_is_something_to_read() -> None:
    table = validate(sampled=True)
    common = table[table.having >= 10]
    assert {"step_marker", "restating", "final_answer", "calculation"} <= set(common.index)
    assert (common.kappa >= 0.4).all(), table


def test_labels_are_well_formed() -> None:
    labels = load_behaviour_labels()
    assert len(labels) >= 90
    assert labels.id.is_unique
    assert labels.text.is_unique
    assert set(labels.split) == {"fit", "held_out"}
    assert labels.text[labels.voice != SAMPLED].map(str.isascii).all()
    traces = {line for t in draw_tasks(TRAINED, 200, 0, "train") for line in write_trace(t, 0).split("\n")}
    assert not traces & set(labels.text)


@pytest.mark.parametrize(
    "text",
    [
        "Wait for the bus.",
        "The first step of the stairs is loose.",
        "Please check the box.",
        "We checked in at the hotel.",
        "He asked her a question about the problem.",
        "It is the right answer to rudeness.",
        "In May 2019 there were 12 - 14 guests.",
        "",
    ],
)
def test_trigger_words_alone_do_not_count(text: str) -> None:
    assert sum(count(text).values()) == 0, count(text)


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("7", "digit"), (" 12", "digit"), (" +", "operator"), ("=", "operator"), (".", "punctuation"),
        (",", "punctuation"), ("\n", "newline"), ("\n\n", "newline"), (" ", "punctuation"), ("Step", "behaviour word"),
        (" wait", "behaviour word"), ("Answer", "behaviour word"), (" the", "function word"), (" legs", "other word"),
        ("<|im_end|>", "end"), ("", "end"),
    ],
)  # fmt: skip
def test_tokens_are_classed(token: str, kind: str) -> None:
    assert token_class(token) == kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hedging: {description: x, patterns: ['('], words: []}", r"hedging.patterns\[0\]: not a regular expression"),
        ("hedging: {description: x, patterns: [], words: []}", r"hedging.patterns: .* at least 1"),
        ("hedging: {description: x, patterns: [a]}", r"hedging.words: missing; add this key"),
        ("hedging: {description: x, patterns: [a], words: [], w: 1}", r"hedging.w: unknown key"),
    ],
)
def test_a_faulty_lexicon_is_explained(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "behaviours.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SchemaError, match=rf"behaviours.yaml is not valid:\n  {message}"):
        load_behaviours()


def test_half_of_the_test_tasks_are_of_held_out_families() -> None:
    tasks = half_held_out(7, 0, "test", ["easy"])
    assert [t.family in TRAINED for t in tasks] == [True] * 4 + [False] * 3
    assert tasks == [*draw_tasks(TRAINED, 4, 0, "test", ["easy"]), *draw_tasks(HELD_OUT, 3, 0, "test", ["easy"])]


def test_families_are_trained_on_or_held_out() -> None:
    assert set(TRAINED) | set(HELD_OUT) == set(FAMILIES)
    assert not set(TRAINED) & set(HELD_OUT)
