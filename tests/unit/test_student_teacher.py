from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lema_local.errors import BackendError, BackendUnavailable, InputError
from lema_local.students.base import Completion, Message, PromptStyle, Refusal, SampleRequest
from lema_local.students.scripted import ScriptedModel
from lema_local.teachers import open_teacher
from lema_local.teachers.base import Answered, Failed, TeacherRequest
from lema_local.teachers.desk import TeacherDesk
from lema_local.teachers.journal import Journal
from lema_local.teachers.scheduler import DeskSettings
from lema_local.teachers.student_teacher import StudentTeacher, join_messages

CHAT: tuple[Message, ...] = (
    Message(role="user", content="Instruction\n\nQuestion: 1\nIncorrect Step:"),
    Message(role="assistant", content="Step 1."),
    Message(role="user", content="Question: 2\nIncorrect Step:"),
)


def requests(count: int, temperature: float | None = 0.0) -> Iterator[tuple[int, TeacherRequest]]:
    for number in range(count):
        yield number, TeacherRequest((*CHAT[:2], Message(role="user", content=f"ask {number}")), temperature)


def ask(
    teacher: StudentTeacher, path: Path, *more: tuple[int, TeacherRequest]
) -> dict[int, Answered | Failed]:
    with Journal(path / "journal.sqlite") as journal, TeacherDesk(teacher, journal) as desk:
        return dict(desk.ask_many([*requests(20), *more]))


@pytest.mark.parametrize("style", ["chat", "completion"])
def test_a_student_answers_as_a_teacher(tmp_path: Path, style: PromptStyle) -> None:
    def script(request: SampleRequest) -> Completion:
        text = request.prompt if isinstance(request.prompt, str) else request.prompt[-1]["content"]
        return Completion(f"reply to {text[-6:].strip()}", "end", 10, 3)

    student = ScriptedModel(script, prompt_style=style)
    answers = ask(StudentTeacher(lambda: student, "llamacpp/x.gguf", "sha256 0"), tmp_path)
    assert [answers[n].reply.text for n in range(20)] == [f"reply to {f'ask {n}'[-6:]}" for n in range(20)]  # type: ignore[union-attr]
    assert {type(request.prompt) for request in student.requests} == {str if style == "completion" else tuple}


def test_seeds_are_those_of_the_requests(tmp_path: Path) -> None:
    seeds: list[dict[str, int]] = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        student = ScriptedModel(lambda request: "x", prompt_style="chat")
        ask(StudentTeacher(lambda student=student: student, "llamacpp/x.gguf", "sha256 0"), folder)  # type: ignore[misc]
        seeds.append({str(request.prompt[-1]): request.seed for request in student.requests})
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0].values())) == 20


def test_requests_that_are_decoded_otherwise_go_into_a_run_of_their_own(tmp_path: Path) -> None:
    temperatures: Counter[float] = Counter()

    class Watched(ScriptedModel):
        def complete_many(self, requests, settings, *, is_exact=False):  # type: ignore[no-untyped-def]
            for pair in super().complete_many(requests, settings):
                temperatures[settings.temperature] += 1
                yield pair

    teacher = StudentTeacher(lambda: Watched(lambda request: "x", prompt_style="chat"), "llamacpp/x.gguf", "")
    hotter = [(100 + number, request) for number, request in requests(7, temperature=0.9)]
    assert len(ask(teacher, tmp_path, *hotter)) == 27
    assert temperatures == {0.0: 20, 0.9: 7}


def test_a_prompt_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    def script(request: SampleRequest) -> str | Refusal:
        return Refusal("too long") if request.prompt[-1]["content"] == "ask 3" else "x"  # type: ignore[index]

    teacher = StudentTeacher(lambda: ScriptedModel(script, prompt_style="chat"), "llamacpp/x.gguf", "")
    answers = ask(teacher, tmp_path)
    assert answers[3] == Failed("too long")
    assert sum(isinstance(answer, Answered) for answer in answers.values()) == 19


def test_an_engine_that_breaks_ends_the_run(tmp_path: Path) -> None:
    def script(request: SampleRequest) -> str:
        raise BackendError("llama_decode failed")

    teacher = StudentTeacher(lambda: ScriptedModel(script, prompt_style="chat"), "llamacpp/x.gguf", "")
    with pytest.raises(BackendError, match="llama_decode failed"):
        ask(teacher, tmp_path)


def test_messages_become_one_text_for_a_model_without_a_template() -> None:
    assert join_messages(CHAT) == (
        "Instruction\n\nQuestion: 1\nIncorrect Step: Step 1.\n\nQuestion: 2\nIncorrect Step:"
    )


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(BackendUnavailable, match="no file"):
        open_teacher("llamacpp/nowhere.gguf")
    with pytest.raises(InputError, match="runs in this process"):
        open_teacher("llamacpp/nowhere.gguf", url="http://127.0.0.1:1/v1")


def test_a_real_gguf_answers_in_this_process(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from tiny_gguf import TinyModel, write_model

    path = write_model(tmp_path / "tiny.gguf", TinyModel(seed=1))
    asked = [(number, TeacherRequest(CHAT, max_tokens=8, attempt=number)) for number in range(6)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        with TeacherDesk(open_teacher(f"llamacpp/{path}", slots=4), journal, settings=DeskSettings()) as desk:
            answers = dict(desk.ask_many(asked))
        with TeacherDesk(open_teacher(f"llamacpp/{path}", slots=2), journal, settings=DeskSettings()) as desk:
            assert dict(desk.ask_many(asked)).keys() == answers.keys()
            assert desk.count.calls == 0, "the file's hash is the key: the journal knows it"
    assert all(isinstance(answer, Answered) for answer in answers.values()), answers


def test_the_model_is_loaded_for_the_first_call_only_and_its_thoughts_are_kept_apart(tmp_path: Path) -> None:
    loaded: list[ScriptedModel] = []

    def load() -> ScriptedModel:
        loaded.append(ScriptedModel(lambda request: "<think>\nhm\n</think>\nStep 1.", prompt_style="chat"))
        return loaded[-1]

    for expected in (1, 1):
        answers = ask(StudentTeacher(load, "llamacpp/x.gguf", "sha256 0"), tmp_path)
        assert len(loaded) == expected
        reply = answers[0].reply  # type: ignore[union-attr]
        assert (reply.text, reply.reasoning) == ("Step 1.", "hm")


def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    def load() -> ScriptedModel:
        raise BackendUnavailable("x.gguf is no GGUF file")

    with pytest.raises(BackendUnavailable, match="no GGUF file"):
        ask(StudentTeacher(load, "llamacpp/x.gguf", "sha256 0"), tmp_path)
