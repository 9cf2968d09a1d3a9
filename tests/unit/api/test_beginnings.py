"""What prompts begin with, as numbers."""

from __future__ import annotations

from broker.api.beginnings import beginnings_of
from broker.core.content import GenerateContent, Message, Prompt, Tool, ToolCall
from broker.core.prefixes import PREFIX_BYTES


def of(content: GenerateContent, text_bytes: int = 1 << 20) -> tuple[int, ...]:
    return beginnings_of(content, text_bytes)


def prompt(text: str, system: str = "", *, raw: bool = False) -> GenerateContent:
    return GenerateContent(input=Prompt(text=text, system=system, raw=raw))


def chat(*texts: str, tools: tuple[Tool, ...] = ()) -> GenerateContent:
    roles = ("system", "user", "assistant")
    messages = [Message(role=roles[n % 3], content=text) for n, text in enumerate(texts)]
    return GenerateContent(input=tuple(messages), tools=tools)


def test_there_is_a_number_for_each_length_that_it_has() -> None:
    for count, length in enumerate(PREFIX_BYTES, start=1):
        end = 2  # the ends of the system text, of which there is none, and of the text
        assert len(of(prompt("x" * (length - end - 1)))) == count - 1
        assert len(of(prompt("x" * (length - end)))) == count
    assert len(of(prompt("x" * 10 * PREFIX_BYTES[-1]))) == len(PREFIX_BYTES)


def test_short_text_has_none_without_being_looked_at() -> None:
    assert beginnings_of(prompt("x" * 5_000), PREFIX_BYTES[0] - 1) == ()


def test_what_goes_on_differently_begins_alike() -> None:
    one, other = of(prompt("a" * 5_000 + "b" * 20_000)), of(prompt("a" * 5_000 + "c" * 20_000))
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert of(prompt("b" * 5_000))[0] != one[0]


def test_a_conversation_begins_as_it_did_when_it_was_shorter() -> None:
    before = of(chat("s" * 2_000, "u" * 3_000))
    after = of(chat("s" * 2_000, "u" * 3_000, "a" * 900, "u" * 20_000))
    assert len(before) == 2
    assert after[:2] == before


def test_everything_that_a_model_reads_counts() -> None:
    tool = Tool(name="t", description="d", parameters_json="{}")
    plain = chat("s" * 2_000)
    calls = (ToolCall("1", "t", "{}"),)
    called = Message(role="system", content="", tool_calls=calls)
    pictured = GenerateContent(input=Prompt(text="x" * 2_000, images=(b"picture",)))
    different = [
        of(plain),
        of(chat("s" * 2_000, tools=(tool,))),
        of(chat("t" + "s" * 1_999)),
        of(GenerateContent(input=(called, *_messages(plain)))),
        of(prompt("x" * 2_000)),
        of(prompt("x" * 2_000, raw=True)),
        of(prompt("x" * 2_000, system="s")),
        of(pictured),
    ]
    assert all(len(each) == 1 for each in different)
    assert len(set(different)) == len(different)


def test_characters_of_several_bytes_are_counted_as_bytes() -> None:
    assert len(of(prompt("\u00fc" * (PREFIX_BYTES[1] // 2)))) == 2


def _messages(content: GenerateContent) -> tuple[Message, ...]:
    assert not isinstance(content.input, Prompt)
    return content.input


def test_an_image_counts_by_what_tells_it_from_others_and_not_by_its_length() -> None:
    """Lengths of prompts are those of their text: a picture is no part of what was read of it."""

    def numbers(image: bytes) -> tuple[int, ...]:
        return beginnings_of(
            GenerateContent(input=Prompt(text="x" * 2_000, images=(image,))), text_bytes=2_000
        )

    large, other = b"a" * 50_000 + b"b" * 50_000, b"a" * 50_000 + b"c" * 50_000
    assert len(numbers(large)) == len(numbers(b"small")) == 1
    assert len({numbers(large), numbers(other), numbers(large + b"b"), numbers(b"small")}) == 4
