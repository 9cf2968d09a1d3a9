"""A further attempt is asked to go on from the text so far, in words that every backend takes."""

from __future__ import annotations

import pytest

from broker.core.content import GenerateContent, Message, Prompt, ToolCall
from broker.runtime.continuing import can_continue, continued
from broker.runtime.pieces import SoFar

ASKED = GenerateContent(input=Prompt(text="Count.", system="Be short.", images=(b"i",)))
SO_FAR = SoFar("one, ", "", False, True)


def messages_of(content: GenerateContent) -> tuple[Message, ...]:
    assert not isinstance(content.input, Prompt)
    return content.input


def test_a_prompt_becomes_a_chat_whose_answer_has_begun() -> None:
    onward = continued(ASKED, SO_FAR)
    assert onward.continues
    assert onward.input == (
        Message(role="system", content="Be short."),
        Message(role="user", content="Count.", images=(b"i",)),
        Message(role="assistant", content="one, "),
    )


def test_a_prompt_without_a_system_text_gets_none() -> None:
    onward = continued(GenerateContent(input=Prompt(text="Count.")), SO_FAR)
    assert [each.role for each in messages_of(onward)] == ["user", "assistant"]


def test_a_chat_goes_on_with_what_was_thought() -> None:
    asked = GenerateContent(input=(Message(role="user", content="Count."),), think=True)
    onward = continued(asked, SoFar("one, ", "easy", False, True))
    assert messages_of(onward)[-1] == Message(role="assistant", content="one, ", thinking="easy")
    assert onward.think is True


def test_a_message_that_the_caller_had_begun_is_one_with_what_came() -> None:
    user = Message(role="user", content="Count.")
    asked = GenerateContent(input=(user, Message(role="assistant", content="zero, ")))
    assert continued(asked, SO_FAR).input == (
        user,
        Message(role="assistant", content="zero, one, "),
    )


def test_a_message_that_called_tools_is_left_as_it_is() -> None:
    called = Message(role="assistant", content="", tool_calls=(ToolCall("1", "f", "{}"),))
    onward = continued(GenerateContent(input=(called,)), SO_FAR)
    assert onward.input == (called, Message(role="assistant", content="one, "))


def test_where_there_is_no_text_the_content_is_as_it_was() -> None:
    assert continued(ASKED, SoFar("", "", False, True)) is ASKED


@pytest.mark.parametrize(
    ("content", "so_far", "can"),
    [
        (ASKED, SO_FAR, True),
        (ASKED, SoFar("", "", False, True), True),
        (ASKED, SoFar("one", "easy", False, True), True),
        (ASKED, SoFar("", "easy", False, True), False),
        (ASKED, SoFar("one", "", True, True), False),
        (ASKED, SoFar("one", "", False, False), False),
        (GenerateContent(input=Prompt(text="x"), format_json="json"), SO_FAR, False),
        (GenerateContent(input=Prompt(text="x", raw=True)), SO_FAR, False),
        (GenerateContent(input=Prompt(text="x", suffix="y")), SO_FAR, False),
    ],
)
def test_what_can_be_gone_on_from(content: GenerateContent, so_far: SoFar, can: bool) -> None:
    assert can_continue(content, so_far) is can
