import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import ARMS, HOSTILE, FakeRun

from lema_local.errors import InputError, LemaError
from lema_local.grades import GRADES_FILE, GradeBook
from lema_local.jsonl import read_records
from lema_local.records import Correction, Prediction, Question
from lema_local.report.charts import arm_style, draw_charts, slug
from lema_local.report.data import Loss, ReportData, TrainedArm
from lema_local.report.files import choose_by_hash
from lema_local.report.funnel import group_reasons
from lema_local.report.rendering import code_span, escape_markdown, fence
from lema_local.report.summary import describe_matching, describe_state, total_seconds
from lema_local.report.words import clean, difference, dollars, duration, number, p_value, percent
from lema_local.runs import RunFolder
from lema_local.stages.report import read_run, read_two_runs, write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
STAGES = ["0_questions", "1_sample", "2_correct", "4_filter", "5_build", "6_train", "7_export", "8_evaluate"]


class Page(HTMLParser):
    """What a browser would make of a page: tags, attributes, text, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags = Counter[str]()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)

    def values(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    return FakeRun().write(tmp_path_factory.mktemp("run") / "fake")


@pytest.fixture(scope="module")
def reported(finished, tmp_path_factory) -> tuple[Path, ReportData, Page, str]:
    """The report of a finished run, written once, beside the run."""
    out_dir = tmp_path_factory.mktemp("report")
    return (out_dir, *report(finished, out_dir))


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    """A copy that a test may damage."""
    shutil.copytree(finished.path, tmp_path / "fake")
    return RunFolder(tmp_path / "fake")


def report(run: RunFolder, out_dir: Path | None = None) -> tuple[ReportData, Page, str]:
    data = read_run(run)
    out_dir = out_dir or run.stage("9_report").path
    write_report(data, out_dir)
    html = (out_dir / "report.html").read_text(encoding="utf-8")
    return data, Page(html), (out_dir / "report.md").read_text(encoding="utf-8")


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


# --- the whole report ---------------------------------------------------------------------------------------


def test_a_finished_run_gives_one_page_that_needs_nothing_else(reported):
    out_dir, data, page, _ = reported
    assert not page.open
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags["script"] == 1
    assert page.values("action") == []
    assert all(value.startswith("#") for name in ("href", "xlink:href", "src") for value in page.values(name))
    style = (out_dir / "report.html").read_text(encoding="utf-8").split("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style
    assert data.problems == []
    assert "This run is finished." in page.text


def test_the_sentences_of_the_comparisons_come_first_and_word_for_word(reported):
    _, data, page, markdown = reported
    first = data.comparisons[0]
    assert (first.first, first.second, first.group) == ("cot", "lema", None)
    assert page.text.index(first.sentence) < page.text.index("pass@1")
    for one in data.comparisons:
        assert one.sentence in page.text
        assert str(escape_markdown(one.sentence)) in markdown


def test_page_and_text_hold_the_parts_in_their_order(reported):
    _, _, page, markdown = reported
    titles = [
        "What may be concluded", "Scores", "Paired comparisons", "Where the students go wrong",
        "From questions to training examples", "Training",
        "Mistakes and their corrections", "What the base got wrong, and what the arms answer now",
        "Is the exported student the trained one?", "Costs, tokens and times", "Run card",
    ]  # fmt: skip
    assert page.headings == titles
    assert re.findall(r"^## (.+)$", markdown, re.MULTILINE) == titles


def test_the_same_run_gives_the_same_bytes(run):
    report(run)
    files = sorted(path for path in (run.path / "9_report").rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    report(run)
    assert [path.read_bytes() for path in files] == before


def test_charts_stand_beside_the_page_as_svg_and_png(reported):
    out_dir, *_ = reported
    names = {path.name for path in (out_dir / "charts").iterdir()}
    for name in (
        "pass_at_1_quickstart",
        "pass_at_1_quickstart_by_held_back",
        "differences",
        "funnel",
        "loss",
    ):
        assert {f"{name}.svg", f"{name}.png"} <= names
    assert not any(name.endswith(".partial") for name in names)


def test_reading_a_run_changes_nothing_in_it(run):
    def state():
        return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    before = state()
    read_run(run)
    assert state() == before


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(reported):
    _, _, page, _ = reported
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [value[1:] for name in ("href", "xlink:href") for value in page.values(name)]
    assert set(links) <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_charts_have_words_and_tables_have_headers(reported):
    _, _, page, _ = reported
    images = [value for tag, name, value in page.attributes if (name, value) == ("role", "img")]
    assert len(images) == page.tags["figure"] == 8
    labels = " ".join(page.values("aria-label"))
    assert "all questions, lema: " in labels
    assert "lema from " in labels
    assert page.values("scope").count("col") >= 30
    assert page.tags["h1"] == page.tags["main"] == 1


def test_prompts_recipe_and_versions_stand_in_the_run_card(reported):
    _, data, page, markdown = reported
    assert [prompt.name for prompt in data.prompts] == ["cot-gsm8k (1_sample)"]
    assert "{question}" in data.prompts[0].text
    assert data.seeds == {"sample.seed": 1, "train.seed": 0}
    for text in (page.text, markdown):
        assert "samples_per_question: 4" in text
        assert "{question}" in text
        assert data.versions["python"] in text


def test_a_prompt_that_has_changed_is_not_passed_off_as_the_one_used(run):
    manifest = run.stage("1_sample").manifest()
    manifest.made_from["prompt"] = "0" * 64
    run.stage("1_sample").save_manifest(manifest)
    data = read_run(run)
    assert data.prompts == []
    assert any("has changed since this run" in problem for problem in data.problems)


# --- numbers ------------------------------------------------------------------------------------------------


def test_the_funnel_adds_up(run):
    data = read_run(run)
    names = [step.name for step in data.funnel]
    assert names == [
        "training questions", "solutions sampled", "wrong solutions", "mistakes", "corrections asked for",
        "corrections accepted", "correction examples",
    ]  # fmt: skip
    for step, following in zip(data.funnel[1:], data.funnel[2:], strict=False):
        assert step.count - sum(loss.count for loss in step.lost) == following.count


def test_mistakes_that_were_not_sent_and_examples_that_were_not_built_are_counted(run):
    corrections = read_records(run.path / "2_correct/corrections.jsonl", Correction)
    gone = next(one for one in corrections if one.verdict == "accepted")
    for name in ("2_correct/corrections.jsonl", "4_filter/accepted.jsonl"):
        path = run.path / name
        lines = [
            line for line in path.read_text().splitlines() if json.loads(line) != gone.model_dump(mode="json")
        ]
        path.write_text("\n".join(lines) + "\n")
    lema = run.path / "5_build/lema.jsonl"
    lema.write_text("\n".join(lema.read_text().splitlines()[:-2]) + "\n")
    steps = {step.name: step for step in read_run(run).funnel}
    assert steps["mistakes"].lost == [Loss("not sent to the teacher", 1)]
    assert steps["corrections accepted"].lost == [Loss("not built into an example", 1)]


def test_what_the_filter_says_overrules_what_the_parser_said(run):
    accepted = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    moved = accepted[0].model_copy(update={"verdict": "rejected", "reason": "its arithmetic does not hold"})
    path = run.path / "4_filter/accepted.jsonl"
    path.write_text("".join(one.model_dump_json() + "\n" for one in accepted[1:]))
    append(run.path / "4_filter/rejected.jsonl", moved.model_dump_json() + "\n")
    data = read_run(run)
    steps = {step.name: step for step in data.funnel}
    assert steps["corrections accepted"].count == len(accepted) - 1
    assert any(
        loss.reason == "rejected: its arithmetic does not hold"
        for loss in steps["corrections asked for"].lost
    )
    assert data.teachers[0].accepted == len(accepted) - 1


def test_reasons_that_differ_in_numbers_only_are_one():
    reasons = Counter(
        {
            "rejected: its final answer 12 is not the gold answer 14": 2,
            r"rejected: its final answer \frac{1}{2} is not the gold answer x+1": 1,
            "failed: HTTP 503 after 3 tries": 1,
            "failed: HTTP 502 after 5 tries": 1,
            "rejected: unknown step 'abc'": 1,
        }
    )
    assert {(loss.reason, loss.count) for loss in group_reasons(reasons)} == {
        ("rejected: its final answer is not the gold answer", 3),
        ("failed: HTTP … after … tries", 2),
        ("rejected: unknown step …", 1),
    }


def test_rare_reasons_are_summed_up():
    losses = group_reasons(Counter({f"reason {chr(97 + at) * 3}": 20 - at for at in range(15)}))
    assert len(losses) == 13
    assert (losses[-1].reason, losses[-1].count) == ("other reasons", 8 + 7 + 6)


def test_the_quantity_that_is_not_matched_is_printed(reported):
    _, data, page, markdown = reported
    sentences = describe_matching(data.arms)
    assert sentences[0].startswith("The same in both arms: examples (")
    assert (
        "Not the same: trained tokens in a pass (cot 61,234, lema 90,412;"
        " the largest has 47.6 % more than the smallest)." in sentences
    )
    assert all(sentence in page.text and sentence in markdown for sentence in sentences)


def test_without_training_the_length_of_the_targets_is_compared():
    arms = [TrainedArm("cot", 10, {"gold": 10}, 1000), TrainedArm("lema", 10, {"gold": 10}, 1500)]
    assert describe_matching(arms) == [
        "The same in both arms: examples (10).",
        "Not the same: characters to be learnt (cot 1,000, lema 1,500; the largest has 50.0 % more than the smallest).",
    ]
    assert describe_matching(arms[:1]) == []


def test_a_training_that_was_resumed_tells_each_step_once(run):
    path = run.path / "6_train/cot/train_log.jsonl"
    append(
        path, '{"step": 120, "loss": 9.0}\n{"step": 121, "loss": "nan"}\n{"train_runtime": 3}\n{"step": 12'
    )
    curve = read_run(run).curves[0]
    assert (curve.arm, curve.steps[-1], curve.losses[-1], len(curve.steps)) == ("cot", 120, 9.0, 120)


def test_the_time_of_arms_is_counted_once(run):
    before = total_seconds(read_run(run).stages)
    part = run.stage("6_train/cot").manifest()
    run.stage("6_train").save_manifest(
        part.model_copy(update={"stage": "6_train", "seconds": 88.0 + 97.5 + 0.5, "counts": {}})
    )
    assert total_seconds(read_run(run).stages) == pytest.approx(before + 0.5)


def test_seconds_and_dollars_of_all_stages_and_arms_are_summed(reported):
    _, _, page, _ = reported
    assert re.search(r"All stages ?\$0\.00 ?5 min 47 s", page.text)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(0.41349), "41.3 %"),
        (difference(-0.0004), "+0.0 points"),
        (difference(-0.021), "-2.1 points"),
        (p_value(0.0004), "< 0.001"),
        (p_value(0.0341), "0.034"),
        (dollars(0.0), "$0.00"),
        (dollars(1234.5), "$1,234.50"),
        (dollars(0.00312), "$0.0031"),
        (dollars(0.00001), "under $0.0001"),
        (duration(4.23), "4.2 s"),
        (duration(200), "3 min 20 s"),
        (duration(7500), "2 h 05 min"),
        (number(None), "not known"),
        (number(True), "yes"),
        (number(1319), "1,319"),
        (number(0.01234), "0.01234"),
        (number(float("nan")), "not known"),
        (clean("a\x00\x1b[31m\u202eb\ud800\r\nc"), "a\ufffd\ufffd[31mb\ufffd\nc"),
        (slug("GSM8K / Größe!"), "gsm8k_gr_e"),
    ],
)
def test_numbers_and_texts_read_plainly(said, expected):
    assert said == expected


# --- examples -----------------------------------------------------------------------------------------------


def test_ten_corrections_show_the_named_step_and_ten_questions_all_arms(reported):
    _, data, page, markdown = reported
    assert len(data.corrections) == len(data.new_answers) == 10
    shown = page.tags["article"]
    assert shown == 20
    assert page.text.count("← named as the incorrect step") >= 10
    for example in data.new_answers:
        assert [answer.arm for answer in example.answers] == list(ARMS)
        assert example.answers[0].is_correct is False
        assert example.question.id == example.question_id
    assert markdown.count("named as the incorrect one:") == 10


def test_the_recipe_says_how_many_examples_are_shown(run):
    run.recipe_path.write_text(run.recipe_path.read_text().replace("examples: 10", "examples: 3"))
    data = read_run(run)
    assert len(data.corrections) == len(data.new_answers) == 3


def test_the_choice_does_not_depend_on_the_order_of_the_lines(run):
    before = [one.correction for one in read_run(run).corrections]
    path = run.path / "4_filter/accepted.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert [one.correction for one in read_run(run).corrections] == before


def test_another_seed_chooses_others():
    items = [(str(number), number) for number in range(100)]
    assert choose_by_hash(items, 5, seed=0) != choose_by_hash(items, 5, seed=1)
    assert len(choose_by_hash(items[:3], 5, seed=0)) == 3


def test_a_step_that_does_not_exist_is_named_and_a_missing_question_told(run):
    path = run.path / "4_filter/accepted.jsonl"
    first = read_records(path, Correction)[0]
    path.write_text(first.model_copy(update={"incorrect_step": 9}).model_dump_json() + "\n")
    shutil.rmtree(run.path / "0_questions")
    _, page, _ = report(run)
    assert "Named as the incorrect step: 9." in page.text
    assert "The question is not in this run's files." in page.text


# --- where students go wrong --------------------------------------------------------------------------------


def test_mended_and_new_mistakes_add_up_to_the_scores(reported):
    _, data, page, _ = reported
    scores = {score.arm: score.share.correct for score in data.scores.arms}
    assert [one.arm for one in data.changes] == ["cot", "lema"]
    for one in data.changes:
        assert one.both_right + one.mended + one.new + one.both_wrong == one.questions == 60
        assert one.both_right + one.mended == scores[one.arm]
        assert one.both_right + one.new == scores["base"]
        assert f"{one.arm} answers {one.mended} rightly that base got wrong" in page.text


def test_kinds_of_mistakes_before_and_after_add_up(reported):
    _, data, _, _ = reported
    (wrong,) = data.wrong
    assert wrong.classified == wrong.questions == wrong.with_rationale
    for arm, changes in wrong.changes.items():
        for one in changes:
            assert one.before - one.away + one.new + one.turned == one.after
        assert sum(one.after for one in changes) == sum(wrong.kinds[arm].values())
        assert sum(one.turned for one in changes) == 0
        (change,) = (one for one in data.changes if one.arm == arm)
        assert sum(one.away for one in changes) == change.mended
        assert sum(one.new for one in changes) == change.new


def test_the_first_wrong_step_is_the_one_with_the_false_arithmetic(reported):
    _, data, page, markdown = reported
    (wrong,) = data.wrong
    # Every wrong answer of the fake run says 4*3=13 in its first step.
    assert set(wrong.kinds["base"]) == {"arithmetic"}
    assert wrong.positions["base"]["1"] == sum(wrong.positions["base"].values())
    for example in data.new_answers:
        assert example.incorrect_step == 1
        assert example.explanation == "4*3 is 12, not 13."
    for text in (page.text, markdown):
        assert "false arithmetic" in text


def test_without_gold_rationales_only_false_arithmetic_is_told(run):
    path = run.path / "0_questions/test.jsonl"
    questions = [one.model_copy(update={"gold_rationale": None}) for one in read_records(path, Question)]
    path.write_text("".join(one.model_dump_json() + "\n" for one in questions))
    data, page, _ = report(run)
    assert data.wrong[0].with_rationale == 0
    assert "have no gold rationale or no number for an answer" in page.text


def test_many_wrong_answers_are_read_in_part_and_the_page_says_so(run, monkeypatch):
    monkeypatch.setattr("lema_local.report.went_wrong.MOST_CLASSIFIED", 20)
    data, page, _ = report(run)
    (wrong,) = data.wrong
    assert 0 < wrong.classified < wrong.questions
    assert 20 <= sum(map(sum, (counts.values() for counts in wrong.kinds.values()))) < 20 + len(ARMS)
    assert (
        f"{wrong.classified} of the {wrong.questions} questions that somebody answered wrongly" in page.text
    )
    assert sum(one.mended for one in data.changes) > 0  # these counts are of all questions


def test_steps_that_the_teachers_named_are_counted(reported):
    _, data, page, _ = reported
    assert set(data.named_steps) == {"reference"}
    assert data.named_steps["reference"]["1"] == data.teachers[0].accepted
    assert "As the teachers named it" in page.text


def test_corrections_show_what_the_arms_answer_to_their_questions(run):
    chosen = {one.correction.question_id for one in read_run(run).corrections}
    made = [
        Prediction(
            question_id=key, arm="lema", sample_index=0, text="Step 1: It is $\\frac{1}{2}$.", final_answer="1/2",
            gold_answer="12", is_correct=False, verdict="wrong", rule="last_statement",
        )
        for key in sorted(chosen)
    ]  # fmt: skip
    path = run.path / "8_evaluate/lema/examples/abc/quickstart.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(one.model_dump_json() + "\n" for one in made))
    data, page, markdown = report(run)
    assert all([one.arm for one in example.answers] == ["lema"] for example in data.corrections)
    assert page.values("data-state").count("wrong") >= 10
    assert page.tags["mfrac"] == 10
    assert markdown.count("**lema** now (wrong):") == 10
    assert data.scores == read_run(run).scores  # no score counts them


def test_arms_of_any_name_are_reported(run):
    for root in ("5_build", "6_train", "8_evaluate"):
        for path in sorted((run.path / root).glob("lema*")):
            path.rename(path.with_name(path.name.replace("lema", "critique")))
    for name in ("8_evaluate/scores.json", "8_evaluate/critique/quickstart.jsonl"):
        path = run.path / name
        path.write_text(path.read_text().replace('"lema"', '"critique"'))
    data, page, _ = report(run)
    assert data.comparisons[0].second == "critique"
    assert data.comparisons[0].first == "cot"
    assert [one.arm for one in data.changes] == ["cot", "critique"]
    assert data.funnel[-1].name == "correction examples"
    assert data.funnel[-1].count > 0
    assert "critique" in page.text


# --- grades, rounds, two runs -------------------------------------------------------------------------------


def test_grades_stand_in_the_report_with_intervals(run):
    accepted = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    book = GradeBook(run.path / GRADES_FILE)
    for at, one in enumerate(accepted[:12]):
        book.mark("ada", one, "excellent" if at < 9 else "poor")
        book.mark("bob", one, "excellent" if at < 10 else "skip")
    book.mark("ada", accepted[0].model_copy(update={"explanation": "of before"}), "poor")
    data, page, markdown = report(run)
    assert [(one.name, one.corrections) for one in data.review.by_reviewer] == [("ada", 12), ("bob", 10)]
    excellent = data.review.by_reviewer[0].lines[0]
    assert (excellent.grade, excellent.count, excellent.share) == ("excellent", 9, 0.75)
    assert 0.45 < excellent.low < 0.5 < 0.9 < excellent.high < 0.92
    for text in (page.text, markdown):
        assert "ada and bob: 10 in common" in text
        assert "1 grades are of corrections that this run no longer holds" in text


def test_damaged_grades_are_told(run):
    (run.path / GRADES_FILE).write_text("no database, but long enough to be looked at" * 100)
    data, page, _ = report(run)
    assert data.review is None
    assert "grades.sqlite" in page.text


def test_rounds_stand_side_by_side(run):
    assert read_run(run).rounds == []
    FakeRun(seed=8).write(run.path / "round_2")
    shutil.rmtree(FakeRun(seed=9).write(run.path / "round_3").path / "8_evaluate")
    (run.path / "round_2_old").mkdir()
    records = [
        {"round": 1, "sampled_from": "base", "new_mistakes": 61},
        {"round": 2, "sampled_from": "lema of round 1", "new_mistakes": 7, "reason": "Nothing new is left."},
    ]
    (run.path / "rounds.json").write_text(json.dumps(records))
    data, page, markdown = report(run)
    assert [(one.number, one.state) for one in data.rounds] == [
        (1, "finished"), (2, "finished"), (3, "unfinished"),
    ]  # fmt: skip
    assert data.rounds[0].shares["lema", "quickstart"] == data.arm_scores("quickstart")[3].share
    assert data.rounds[2].shares == {}
    second = {step.name: step.count for step in read_run(RunFolder(run.path / "round_2")).funnel}
    one = data.rounds[1]
    assert (one.samples, one.wrong, one.accepted) == (
        second["solutions sampled"], second["wrong solutions"], second["corrections accepted"],
    )  # fmt: skip
    assert f"{one.wrong} of {one.samples} samples" in markdown
    assert [(one.sampled_from, one.new_mistakes) for one in data.rounds] == [
        ("base", 61), ("lema of round 1", 7), (None, None),
    ]  # fmt: skip
    assert "Rounds side by side" in page.text
    for text in (page.text, markdown):
        assert "lema of round 1" in text
        assert "Nothing new is left." in text
    assert "## Rounds" in markdown
    assert (run.path / "9_report/charts/rounds_quickstart.png").is_file()


def compared(first: RunFolder, second: RunFolder) -> tuple[ReportData, Page, str]:
    data = read_two_runs(first, second)
    write_report(data, first.stage("9_report").path)
    html = first.stage("9_report").path / "report.html"
    return data, Page(html.read_text(encoding="utf-8")), html.with_suffix(".md").read_text(encoding="utf-8")


def test_two_runs_are_paired_on_the_questions_that_are_the_same(run, tmp_path):
    other = FakeRun(seed=11).write(tmp_path / "other")
    other.recipe_path.write_text(
        other.recipe_path.read_text().replace("temperature: 0.7", "temperature: 0.9")
    )
    data, page, markdown = compared(run, other)
    two = data.compared
    assert two.names == ("fake", "other")  # of the folders: the recipes are called alike
    assert two.settings == [("sample.temperature", "0.7", "0.9")]
    assert [one.arm for one in two.pairs] == list(ARMS)
    shares = {(dataset, arm): pair for dataset, arm, *pair in two.shares}
    for one in two.pairs:
        first, second = shares["quickstart", one.arm]
        assert (one.first, one.second) == (first, second)
        assert one.difference == pytest.approx(second.pass_at_1 - first.pass_at_1)
        assert one.low <= one.difference <= one.high
        assert one.tests == 4
        assert one.p_holm >= one.p_value
    for text in (page.text, markdown):
        assert two.pairs[0].sentence in text.replace("\\", "")
        assert "0.9" in text
    assert (run.path / "9_report/charts/runs.svg").is_file()


def test_questions_that_differ_are_not_paired_and_the_page_says_why(run, tmp_path):
    other = FakeRun(seed=11).write(tmp_path / "other")
    path = other.path / "0_questions/test.jsonl"
    questions = read_records(path, Question)
    changed = [one.model_copy(update={"question": "Another one."}) for one in questions[:50]]
    path.write_text("".join(one.model_dump_json() + "\n" for one in [*changed, *questions[50:]]))
    data, page, _ = compared(run, other)
    assert {one.first.n for one in data.compared.pairs} == {10}
    assert "only the 10 that are the same in both are paired" in page.text
    path.write_text(
        "".join(one.model_copy(update={"gold_answer": "7"}).model_dump_json() + "\n" for one in questions)
    )
    data, page, _ = compared(run, other)
    assert data.compared.pairs == []
    assert "nothing can be paired" in page.text


def test_an_unfinished_run_beside_another_is_said(run, tmp_path):
    other = FakeRun().write(tmp_path / "other")
    shutil.rmtree(other.path / "8_evaluate")
    data, page, _ = compared(run, other)
    assert any("not finished" in note for note in data.compared.notes)
    assert "not in this run" in page.text


# --- unfinished and damaged runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("done", range(len(STAGES)))
def test_an_unfinished_run_gives_what_is_there_and_says_what_is_not(run, done):
    for stage in STAGES[done:]:
        shutil.rmtree(run.path / stage)
    _, page, markdown = report(run)
    assert not page.open
    for text in (page.text, markdown):
        assert "This run is not finished; the report shows what is there." in text.replace("\\", "")
        for stage in STAGES[done:]:
            assert f"{stage} (not run)" in text.replace("\\", "")
        assert "Nothing yet: no arms have been compared in this run." in text


def test_a_stage_at_work_is_read_from_its_unfinished_file(run):
    whole = run.path / "1_sample/paths.jsonl"
    partial = whole.with_name("paths.jsonl.partial")
    lines = whole.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:20]) + lines[20][:30])
    whole.unlink()
    run.stage("1_sample").save_started(run.stage("1_sample").manifest())
    run.stage("1_sample").manifest_path.unlink()
    before = partial.read_bytes()
    data = read_run(run)
    assert data.samples.distinct == 20
    assert data.problems == []
    assert partial.read_bytes() == before
    assert "1_sample (unfinished)" in describe_state(data.stages)


def test_answers_so_far_are_counted_while_the_evaluation_is_at_work(run):
    (run.path / "8_evaluate/scores.json").unlink()
    _, page, _ = report(run)
    assert "base/quickstart: 60" in page.text


def test_damaged_lines_are_named_and_the_rest_is_read(run):
    path = run.path / "1_sample/paths.jsonl"
    count = len(path.read_text().splitlines())
    append(path, '{"torn": \n{"question_id": "of another version", "colour": 1}\nnot json\n')
    data, page, markdown = report(run)
    assert data.samples.distinct == count
    (problem,) = data.problems
    assert problem.startswith(
        f"1_sample/paths.jsonl: 3 damaged line(s) left out, the first one: line {count + 1}: "
    )
    assert "3 damaged line(s) left out" in page.text
    assert "3 damaged line(s) left out" in markdown


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("8_evaluate/scores.json", "{", "8_evaluate/scores.json is damaged"),
        ("8_evaluate/manifest.json", "[]", "manifest.json is damaged"),
        ("6_train/lema/manifest.json", "", "manifest.json is damaged"),
        ("recipe.yaml", "a: [", "recipe.yaml is damaged"),
        ("recipe.yaml", "\x00\xff", "recipe.yaml is damaged"),
        ("0_questions/test.jsonl", "\xff\xfe", "damaged line(s) left out"),
    ],
)
def test_a_damaged_file_is_told_and_the_report_written_all_the_same(run, name, content, said):
    (run.path / name).write_text(content, encoding="latin-1")
    data, page, _ = report(run)
    assert any(said in problem for problem in data.problems)
    assert said in page.text


def test_a_folder_without_a_run_is_an_error_with_a_next_step(tmp_path):
    with pytest.raises(InputError, match="holds no run") as caught:
        read_run(RunFolder(tmp_path))
    assert "lema run" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_one_clear_message(run):
    (run.path / "9_report").write_text("a file in the way")
    with pytest.raises(LemaError, match="cannot write"):
        write_report(read_run(run), run.path / "9_report")


def test_training_on_test_questions_is_said_at_the_top(run):
    path = run.path / "5_build/lema.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    append(path, json.dumps(line | {"question_id": "quickstart/test/3"}) + "\n")
    manifest = run.stage("5_build").manifest()
    manifest.made_from["build"] = {"allow_test": True}
    run.stage("5_build").save_manifest(manifest)
    data, page, markdown = report(run)
    assert len(data.problems) == 2
    for text in (page.text, markdown):
        assert "1 training examples of arm lema come from test questions" in text
        assert text.index("come from test questions") < text.index("On 60 questions")


# --- hostile text -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> RunFolder:
    return FakeRun(hostile=HOSTILE).write(tmp_path_factory.mktemp("run") / "hostile")


def test_hostile_text_stays_text_in_the_page(hostile):
    _, page, _ = report(hostile)
    html = (hostile.path / "9_report/report.html").read_text(encoding="utf-8")
    assert not page.open
    assert not {"img", "a:javascript"} & set(page.tags)
    assert page.tags["script"] == 1  # our own, by its hash
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [value for value in page.values("href") if not value.startswith("#")]
    assert "{{ 7*7 }}" in page.text  # not rendered a second time
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", html)
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'"
    assert ("meta", "content", policy) in page.attributes


def test_hostile_text_stays_text_in_markdown(hostile):
    from markdown_it import MarkdownIt

    _, _, markdown = report(hostile)
    page = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    assert not page.open
    assert set(page.tags) <= {
        "h1", "h2", "h3", "p", "strong", "em", "table", "thead", "tbody", "tr", "th", "td", "pre", "code", "img", "ul",
        "li", "blockquote",
    }  # fmt: skip
    assert all(value.startswith("charts/") for value in page.values("src"))
    assert page.values("href") == []
    assert [text for text in re.findall(r"(?m)^#+ (.*)$", markdown) if "script" in text] == []


def test_hostile_names_make_readable_charts_and_safe_files(hostile):
    import xml.etree.ElementTree as ElementTree

    for chart in draw_charts(read_run(hostile)).values():
        root = ElementTree.fromstring(chart.svg)
        assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
        assert re.fullmatch(r"[a-z0-9_]+", chart.name)


@pytest.mark.parametrize("text", ["plain", "```", "`````\n```", "~~~", "", "a\n" * 3 + "`" * 40])
def test_nothing_closes_a_fence_from_within(text):
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").parse(str(fence(text)))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content.rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize("text", ["x", "`", "``a`", "a`b", "  "])
def test_nothing_closes_a_code_span_from_within(text):
    from markdown_it import MarkdownIt

    (inline,) = (
        token for token in MarkdownIt("commonmark").parse(str(code_span(text))) if token.type == "inline"
    )
    assert [child.type for child in inline.children] in (["code_inline"], ["text"])


def test_long_model_texts_are_cut_and_say_so(run):
    path = run.path / "8_evaluate/lema/quickstart.jsonl"
    answers = [one.model_copy(update={"text": "word " * 40_000}) for one in read_records(path, Prediction)]
    path.write_text("".join(one.model_dump_json() + "\n" for one in answers[:12]))
    _, page, _ = report(run)
    assert (run.path / "9_report/report.html").stat().st_size < 3_000_000
    assert "[... 193,999 more characters]" in page.text


# --- charts and size ----------------------------------------------------------------------------------------


def test_every_arm_looks_the_same_everywhere_and_unlike_the_others():
    styles = [arm_style(arm, ARMS) for arm in ARMS]
    assert (
        len(set(styles))
        == len({colour for colour, _ in styles})
        == len({marker for _, marker in styles})
        == 4
    )
    assert arm_style("lema", ["lema"]) == arm_style("lema", ARMS)
    assert arm_style("lema-2", ["base", "lema-2"]) not in styles


def test_colours_of_charts_follow_the_page(finished):
    chart = draw_charts(read_run(finished))["pass_at_1_quickstart"]
    assert "var(--series-4)" in chart.inline_svg
    assert "var(--ink)" in chart.inline_svg
    assert "#b0410e" in chart.svg
    assert "var(" not in chart.svg
    assert re.findall(r"#[0-9a-f]{6}", chart.inline_svg) == []


def test_names_in_other_scripts_and_dollar_signs_are_drawn(tmp_path):
    run = FakeRun(train=6, test=24, hostile=" 价格 $5 и $6").write(tmp_path / "run")
    charts = draw_charts(read_run(run))
    assert "$5" in charts["pass_at_1_quickstart_by_family"].description


def test_many_groups_are_all_in_the_table(run):
    path = run.path / "8_evaluate/scores.json"
    scores = json.loads(path.read_text())
    for arm in scores["arms"]:
        arm["groups"] = {"level": {f"level {at:02d}": arm["share"] for at in range(40)}}
    path.write_text(json.dumps(scores))
    data, page, _ = report(run)
    assert "level 39" in page.text
    assert "level 39" not in draw_charts(data)["pass_at_1_quickstart_by_level"].svg


def test_questions_of_several_datasets_are_kept_apart(run):
    path = run.path / "8_evaluate/scores.json"
    scores = json.loads(path.read_text())
    scores["arms"] += [arm | {"dataset": "svamp"} for arm in scores["arms"]]
    scores["comparisons"] += [one | {"dataset": "svamp"} for one in scores["comparisons"]]
    path.write_text(json.dumps(scores))
    data, page, _ = report(run)
    assert data.datasets == ["quickstart", "svamp"]
    assert "svamp, held_back=yes (n = 15)" in page.text
    assert "base, svamp" in page.text


MEASURE = """
import resource, sys, time
from pathlib import Path
from lema_local.runs import RunFolder
from lema_local.stages.report import read_run, read_two_runs, write_report
write_report(read_run(RunFolder(Path(sys.argv[1]))), Path(sys.argv[1]) / "9_report")
print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures by getrusage")
def test_ten_thousand_questions_take_seconds_and_little_memory(tmp_path):
    run = FakeRun(train=10_000, test=10_000).write(tmp_path / "run")
    assert len(read_records(run.path / "0_questions/train.jsonl", Question)) == 10_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(run.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    seconds, mebibytes = map(float, done.stdout.split())
    assert seconds < 20
    assert mebibytes < 500
    assert (run.path / "9_report/report.html").stat().st_size < 3_000_000
