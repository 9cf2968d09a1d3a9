"""The models of the recordings: small real ones that a real Ollama served (tests/data/recorded).

Figures are those that tags, show and ps reported; what a model says is what it said. Rates are
chosen so that the proportions between the recorded times hold: a token of tiny-s, tiny-m and
tiny-l took about 1.3, 10 and 33 ms, their loads one, one and three polls of 250 ms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from broker.sim.ollama_model_card import (
    BrokenFile,
    Capability,
    Says,
    SaysKind,
    SimModel,
    Speed,
    Template,
    ToolCallScript,
)
from broker.sim.ollama_models import hash_of

_CREATED_NS: Final = 1_795_226_300_000_000_000  # 2026-11-21T01:58:20Z
_LOAD_BYTES_PER_S: Final = 0.8e9
_SPAWN_MS: Final = 60.0
_THINKS: Final = frozenset({Capability.COMPLETION, Capability.TOOLS, Capability.THINKING})
_JINJA: Final = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
_GO: Final = (
    "{{ if .System }}system {{ .System }}\n{{ end }}"
    "{{ if .Tools }}Tools{{ range .Tools }} {{ . }}{{ end }}\n{{ end }}"
    "{{ range .Messages }}{{ .Role }} "
    "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}"
    "{{ if .ToolCalls }}{{ range .ToolCalls }}"
    '<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}'
    "</tool_call>{{ end }}{{ end }}\n{{ end }}assistant:"
)
# Random weights never come to an end by themselves (recorded: 83_context_shift).
_ENDLESS: Final = Says(output_tokens_min=1_000_000, output_tokens_max=1_000_000)


def _speed(prefill: float, decode: float, *, restore_ms: float = 0.0) -> Speed:
    return Speed(
        prefill_tokens_per_s=prefill,
        decode_tokens_per_s=decode,
        batch_slowdown=0.3,
        load_bytes_per_s=_LOAD_BYTES_PER_S,
        load_cached_bytes_per_s=_LOAD_BYTES_PER_S,
        spawn_ms=_SPAWN_MS,
        restore_ms=restore_ms,
    )


_TINY_S: Final = SimModel(
    name="tiny-s:latest",
    blob="b0471ffec8266db8e3618a63123398046436e9a8f7dc98b2715a40b81370bd5a",
    digest="962d56841c54b03e5ad96e2ea527bfc89dd6a1f0502df681a0a07c3cab216571",
    size_bytes=11_120_053,
    parameter_count=5_507_328,
    architecture="llama",
    quantization="F16",
    file_type=1,
    layers=4,
    heads=4,
    kv_heads=4,
    head_dim=64,
    embedding_length=256,
    feed_forward_length=768,
    vocab_size=4096,
    context_length_train=2048,
    compute_bytes=7_796_256,
    template=Template.NATIVE,
    template_text=_JINJA,
    says=_ENDLESS,
    speed=_speed(5400.0, 750.0),
    modified_unix_ns=_CREATED_NS - 18_220_439_206,
)

_TINY_M: Final = replace(
    _TINY_S,
    name="tiny-m:latest",
    blob="4000" + hash_of("blob tiny-m")[4:],
    digest="27ec997a61aa4dfcba512d5672f8dd82d1b30d793c7a3bc2eb78352ef864d0a9",
    size_bytes=135_421_430,
    parameter_count=67_646_208,
    layers=8,
    heads=8,
    kv_heads=8,
    head_dim=96,
    embedding_length=768,
    feed_forward_length=2304,
    compute_bytes=21_424_566,
    speed=_speed(400.0, 100.0, restore_ms=30.0),
    modified_unix_ns=_CREATED_NS - 14_486_187_212,
)

_TINY_L: Final = replace(
    _TINY_S,
    name="tiny-l:latest",
    blob="c35e" + hash_of("blob tiny-l")[4:],
    digest="88ac32c40f95fc6bbd90f1f2158a7aefa119b8d142f5a7c44024cd858883e71c",
    size_bytes=453_227_191,
    parameter_count=226_526_208,
    layers=16,
    heads=16,
    kv_heads=16,
    head_dim=64,
    embedding_length=1024,
    feed_forward_length=3072,
    compute_bytes=28_247_449,
    speed=_speed(110.0, 30.0, restore_ms=80.0),
    modified_unix_ns=_CREATED_NS + 249_073_861,
)

_TINY_E: Final = SimModel(
    name="tiny-e:latest",
    blob="de762cf9fc5c2d6ff798c41167770124097908c1e47c5235130c31c5b5bf62f9",
    digest="fe6f5009361d7a202ecab9a5996437d93e92fdc0e6fc2184056d5e8788a9a733",
    size_bytes=2_065_234,
    parameter_count=921_088,
    architecture="bert",
    quantization="F16",
    file_type=1,
    layers=2,
    heads=4,
    kv_heads=4,
    head_dim=32,
    embedding_length=128,
    feed_forward_length=384,
    vocab_size=4096,
    context_length_train=512,
    compute_bytes=2_045_182,
    capabilities=frozenset({Capability.EMBEDDING}),
    speed=replace(_speed(20_000.0, 1000.0), embed_call_ms=2.3),
    modified_unix_ns=_CREATED_NS + 311_018_473,
)

_PLAIN: Final = SimModel(
    name="plain:latest",
    blob="abe8c48d27e161cbb3f3a4c61a1f11b45506b1e143b94d057103a03b60c3231f",
    digest="775873e914d2aa3db3431c40b50b3d026bbfdfe643f6148da208dbfa40c9a676",
    size_bytes=2_756_442,
    parameter_count=1_372_672,
    architecture="llama",
    quantization="F16",
    file_type=1,
    layers=1,
    heads=4,
    kv_heads=4,
    head_dim=128,
    embedding_length=512,
    feed_forward_length=32,
    vocab_size=267,
    context_length_train=2048,
    compute_bytes=7_341_344,
    capabilities=_THINKS,
    template_text=_GO,
    says=Says(
        kind=SaysKind.SCRIPT,
        pieces=(b" The", b" capital", b" of", b" France", b" is", b" Paris", b"."),
    ),
    model_info={"tokenizer.ggml.add_space_prefix": False},
    speed=_speed(6000.0, 1200.0),
    modified_unix_ns=_CREATED_NS + 395_839_939,
)


def _scripted(name: str, says: Says, *, native: bool) -> SimModel:
    """A model made as `plain` was, with another fixed text in its weights."""
    if native:
        changed = replace(
            _PLAIN,
            capabilities=frozenset({Capability.COMPLETION}),
            template=Template.NATIVE,
            template_text=_JINJA,
        )
    else:
        changed = _PLAIN
    return replace(
        changed,
        name=f"{name}:latest",
        blob=hash_of(f"blob {name}"),
        digest=hash_of(f"manifest {name}"),
        says=says,
    )


def _script(*pieces: bytes) -> Says:
    return Says(kind=SaysKind.SCRIPT, pieces=pieces)


_THOUGHT: Final = Says(
    kind=SaysKind.SCRIPT,
    thinking=(b" Let", b" me", b" see."),
    pieces=(b" It", b" is", b" four."),
)
_CALLED: Final = Says(
    kind=SaysKind.SCRIPT,
    pieces=(
        b"<tool_call>",
        b'{"name": "get_weather", ',
        b'"arguments": ',
        b'{"city": "Paris"}}',
        b"</tool_call>",
    ),
    tool_call=ToolCallScript(name="get_weather", arguments='{"city": "Paris"}'),
)
_AGAIN: Final = Says(kind=SaysKind.LOOP, pieces=(b" again",))
_EURO: Final = (b"\xe2", b"\x82", b"\xac")
_SMILE: Final = (b"\xf0", b"\x9f", b"\x98", b"\x80")

# Made apart from nthink: its pieces are cut elsewhere (20_chat_thinking_stream).
_THOUGHT_GO: Final = Says(
    kind=SaysKind.SCRIPT,
    thinking=(b"Let me", b" see."),
    pieces=(b" It", b" is", b" four", b"."),
)

_THINK: Final = replace(
    _scripted("think", _THOUGHT_GO, native=False),
    digest="ded0a1a3d336031f2241966ae3d08b5b86db6126e6a75a1b8c0f3132321eb274",
    size_bytes=2_758_490,
    modified_unix_ns=_CREATED_NS + 469_495_675,
)
_TOOLS: Final = replace(
    _scripted("tools", _CALLED, native=False),
    digest="84981f600989d862703536b521dbaefc9f64ab5407f38cc31d963ab3b2e5cf59",
    size_bytes=2_752_346,
    modified_unix_ns=_CREATED_NS + 549_573_709,
)
_VARIANT: Final = replace(
    _TINY_S,
    name="tiny-s-variant:v2",
    digest="218425895031f33b6f677c966f4a3aa198dd713046c26ed7d557ef5bc3adb14b",
    size_bytes=11_120_104,
    parent_model="tiny-s:latest",
    system="Be brief.",
    parameters=(("num_ctx", 512), ("stop", ("</s>",))),
    modified_unix_ns=_CREATED_NS + 553_869_390,
)
_UNI: Final = replace(
    _scripted(
        "uni",
        _script(b" price", *_EURO, b" smile", *_SMILE, b" <&>", b"."),
        native=True,
    ),
    blob="8130b33eca171818acd0e470f9004669330a24d947e062800b025c8c7e2805a5",
    digest="df8fc765cb7cbd429d257da1b73c2bdc472192aebac3754f24b2f790618a7c97",
    parameter_count=1_369_600,
    vocab_size=264,
)
_NTHINK: Final = replace(_scripted("nthink", _THOUGHT, native=True), capabilities=_THINKS)
_NTOOLS: Final = replace(_scripted("ntools", _CALLED, native=True), capabilities=_THINKS)
_BROKEN: Final = replace(
    _scripted("broken", _ENDLESS, native=True),
    digest="28416dfb8f1fb074035aa5764ed6ac829b77a89c41c586fe3dddb3ef84f9d2c8",
    size_bytes=2_756_053,
    broken=BrokenFile.MISSING,
)
_TORN: Final = replace(
    _scripted("torn", _ENDLESS, native=True), size_bytes=2_756_053, broken=BrokenFile.MAGIC
)
_BAD: Final = replace(
    _scripted("bad", _ENDLESS, native=True),
    blob="a46cc399f4c6b453d395b75178af1889965758a72227dd6c90d56b23e3fa271b",
    digest="10d1a7f6adc5095a6bd529333338d3c5ce4f471a8335869ca8e701cebf35267b",
    size_bytes=39_891,
    broken=BrokenFile.RUNNER,
)

RECORDED_MODELS: Final = (
    _TINY_S,
    _TINY_M,
    _TINY_L,
    _TINY_E,
    _PLAIN,
    _THINK,
    _TOOLS,
    _VARIANT,
    _scripted("loop", _AGAIN, native=False),
    _UNI,
    _scripted("badutf", _script(b" cut", b"\xe2", b"\x82", b" end"), native=True),
    _NTHINK,
    _NTOOLS,
    _scripted("loopn", _AGAIN, native=True),
    _BROKEN,
    _TORN,
    _BAD,
)
