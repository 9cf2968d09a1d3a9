"""What a further attempt is asked for that goes on from the text so far.

A backend is handed the conversation with the assistant's own message begun and not ended: its chat
template leaves such a message open, and the model writes on. (Ollama executes a template up to the
answer's place where the last message is the assistant's, and the parsers of models that think
expect no thoughts then: template/template.go, Execute and collate.) Messages of one role in a row
would be joined there with an empty line between them, so they are joined here without one.
"""

from __future__ import annotations

from dataclasses import replace

from broker.core.content import GenerateContent, Message, Prompt
from broker.runtime.pieces import SoFar

_ASSISTANT = "assistant"


def can_continue(content: GenerateContent, so_far: SoFar) -> bool:
    """Could another attempt go on from here? Where nothing has come it may begin."""
    if so_far.has_tool_calls or not so_far.is_whole or content.format_json is not None:
        return False
    if isinstance(content.input, Prompt) and (content.input.raw or content.input.suffix):
        return False
    return bool(so_far.text) or not so_far.thinking


def continued(content: GenerateContent, so_far: SoFar) -> GenerateContent:
    """The content that goes on from here; as it is where there is no text to go on from."""
    if not so_far.text:
        return content
    asked = content.input
    messages = _conversation(asked) if isinstance(asked, Prompt) else asked
    begun = Message(role=_ASSISTANT, content=so_far.text, thinking=so_far.thinking)
    last = messages[-1]
    if last.role == _ASSISTANT and not last.tool_calls:  # the caller itself had begun it
        begun = replace(
            last, content=last.content + so_far.text, thinking=last.thinking + so_far.thinking
        )
        messages = messages[:-1]
    return replace(content, input=(*messages, begun), continues=True)


def _conversation(prompt: Prompt) -> tuple[Message, ...]:
    """The same prompt in the words of a chat."""
    user = Message(role="user", content=prompt.text, images=prompt.images)
    return (Message(role="system", content=prompt.system), user) if prompt.system else (user,)
