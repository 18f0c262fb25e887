import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadstream.chat import Rendering, render_chat
from sadstream.chat_template import Template, read_template
from sadstream.errors import RenderError
from sadstream.formats import pieces
from sadstream.frames import Draft, log_frame, row_trajectory
from sadstream.logs import scan_logs
from sadstream.messages import to_messages, tool_definitions
from sadstream.model_files import EMBEDDED
from sadstream.models import load_tokenizer
from sadstream.paths import cache_folder
from sadstream.segment import segment
from sadstream.tokens import ACT, REASON, token_kinds
from sadstream.windows import Plan, windows_of
from sadstream_schemas import Trajectory
from tests.chat_templates import FAMILIES, SMOLLM2, chat_tokenizer
from tests.tiny import make_tokenizer

TOKENIZERS = {name: chat_tokenizer(name) for name in FAMILIES}
TEMPLATES = {name: read_template(tokenizer, name) for name, tokenizer in TOKENIZERS.items()}
TOOLS = ['{"type": "function", "function": {"name": "look_up", "description": "d", "parameters": {"type": "object"}}}']

# Seven families see what one sees in a third of the examples.
FEWER = settings(max_examples=settings().max_examples // 3)

# Words that could be taken for a template's own, and characters that trip offsets.
_words = st.text(alphabet='ab \n{}"\\é🔎\u2028\U000f0000<', max_size=12)
_tricky = st.one_of(_words, st.sampled_from(["</think>", "<tool_call>", "<|im_end|>", "[INST]", "<think>\nx"]))


class Log(NamedTuple):
    """A run with a unique word in everything that is said, `A1.` and so on by the agent, `E1.` by others."""

    trajectory: Trajectory
    agent: list[tuple[str, str]]
    others: list[str]


@st.composite
def chat_logs(draw: st.DrawFn, *, words: st.SearchStrategy[str] = _words) -> Log:
    """Runs of thinking, words and calls in any number, with or without system message and tools."""
    agent: list[tuple[str, str]] = []
    others: list[str] = []

    def own(kind: str) -> str:
        agent.append((kind, f"A{len(agent)}."))
        return draw(words) + agent[-1][1] + draw(words)

    def other() -> str:
        others.append(f"E{len(others)}.")
        return draw(words) + others[-1] + draw(words)

    made: list[dict[str, Any]] = []
    if draw(st.booleans()):
        made.append(pieces.context(other(), message=0, author="system"))
    if draw(st.integers(0, 4)):
        made.append(pieces.context(other(), message=1))
    number = 2
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            made.append(pieces.thought(own("reason"), message=number, hidden=True))
        n_calls = draw(st.integers(0, 2))
        if n_calls:
            if draw(st.booleans()):
                made.append(pieces.thought(own("reason"), message=number))
            ids = [f"call{number:03d}{i:02d}" for i in range(n_calls)]
            for call_id in ids:
                arguments = json.dumps({"query": own("act"), "n": 1}, ensure_ascii=draw(st.booleans()))
                made.append(pieces.call("look_up", arguments, message=number, call_id=call_id))
            for i, call_id in enumerate(ids):
                made.append(pieces.observation(other(), message=number + 1 + i, call_id=call_id))
        else:
            made.append(pieces.say(own("act"), message=number))
            if draw(st.booleans()):
                made.append(pieces.observation(other(), message=number + 1, author="user"))
        number += 4
    tools = TOOLS if draw(st.booleans()) else []
    return Log(trajectory_of(made, tools), agent, others)


def trajectory_of(made: Sequence[dict[str, Any]], tools: Sequence[str] = ()) -> Trajectory:
    frame = log_frame([Draft(file="f", record="0", format="openai-chat", pieces=list(made), tools=list(tools))])
    return row_trajectory(next(segment(frame.lazy()).collect().iter_rows(named=True)))


def learnt(renderings: Sequence[Rendering]) -> list[tuple[str, str]]:
    return [
        (cut.kind, rendering.text[cut.start : cut.stop])
        for rendering in renderings
        for cut in rendering.cuts
        if cut.kind in ("reason", "act")
    ]


def check(log: Log, renderings: Sequence[Rendering]) -> None:
    for rendering in renderings:
        stops = [0, *(cut.stop for cut in rendering.cuts)]
        assert [cut.start for cut in rendering.cuts] == stops[:-1]
        assert stops[-1] == len(rendering.text)
        assert all(cut.stop > cut.start for cut in rendering.cuts)
    taught = learnt(renderings)
    for kind, word in log.agent:
        assert [k for k, text in taught if word in text] == [kind], word
    for word in log.others:
        assert not [text for _, text in taught if word in text], word


@pytest.mark.parametrize("name", FAMILIES)
@FEWER
@given(log=chat_logs())
def test_every_character_of_the_agent_is_learnt_once_and_nothing_of_others(name, log):
    renderings = render_chat(log.trajectory, TEMPLATES[name])
    check(log, renderings)
    check_each_part_is_one_cut(log.trajectory, renderings)


@pytest.mark.parametrize("name", FAMILIES)
@FEWER
@given(log=chat_logs(words=_tricky))
def test_a_run_that_speaks_of_tags_is_rendered_right_or_refused_by_name(name, log):
    try:
        renderings = render_chat(log.trajectory, TEMPLATES[name])
    except RenderError as error:
        assert name in str(error) and error.hint
        return
    check(log, renderings)


def said_by_agent(trajectory: Trajectory) -> list[tuple[str, str]]:
    """Kind and words, without labels and outer blanks, of each part that an agent has in its messages."""
    return [
        (part.kind, part.text[part.core_start : part.core_stop])
        for message in to_messages(trajectory)
        if message.role == "assistant"
        for part in message.parts
        if part.kind in ("reason", "act")
    ]


def check_each_part_is_one_cut(trajectory: Trajectory, renderings: Sequence[Rendering]) -> None:
    """Every character of every part of the agent's stands in one cut, which is that part's alone.

    They come in the log's order, but where turns have to alternate: there thinking goes to the front of what is joined.
    """
    left = learnt(renderings)
    for kind, core in said_by_agent(trajectory):
        found = [(k, text) for k, text in left if k == kind and (core in text or _same_json(core, text))]
        assert found, (kind, core)
        left.remove(found[0])
    assert not left


def check_tokens(log: Log, tokenizer: Any, template: Template, specials: Sequence[str], max_length: int) -> None:
    """What windows of a run supervise: each of the agent's tokens once, nobody else's, the end of each turn."""
    jobs = list(windows_of(log.trajectory, {}, Plan(tokenizer, template, "chat", max_length, "supervised", 0)))
    assert all(len(job.token_ids) <= max_length for job in jobs)
    windows = [job.token_ids[job.window.supervised] for job in jobs]
    ends = tokenizer.convert_tokens_to_ids(list(specials))
    wanted, n_special = [], 0
    is_clean = True  # no token reaches over the edge of a cut
    renderings = render_chat(log.trajectory, template)
    for rendering in renderings:
        encoded = tokenizer(rendering.text, add_special_tokens=False, return_offsets_mapping=True)
        token_ids = np.array(encoded["input_ids"])
        starts = {start for start, _ in encoded["offset_mapping"]}
        is_clean &= all(cut.start in starts for cut in rendering.cuts)
        kinds, _ = token_kinds(encoded["offset_mapping"], np.zeros(len(token_ids), bool), rendering.cuts)
        own = (kinds == REASON) | (kinds == ACT)
        wanted.append(token_ids[own])
        n_special += int(np.isin(token_ids[own], ends).sum())
        last = np.flatnonzero(own & ~np.append(own[1:], False))
        # A turn of the agent's ends in a special token, which is learnt, and what follows is not the agent's.
        assert np.isin(token_ids[last], ends).all()
        turns = [cut.kind in ("reason", "act") for cut in rendering.cuts]
        assert len(last) == sum(now and not before for before, now in zip([False, *turns], turns, strict=False))
    np.testing.assert_array_equal(np.concatenate(windows), np.concatenate(wanted))
    said = tokenizer.decode(np.concatenate(windows), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if is_clean:
        assert said == "".join(text for _, text in learnt(renderings))
    assert [word for _, word in log.agent if said.count(word) != 1] == []
    assert [word for word in log.others if word in said] == []
    kinds = {word: kind for kind, word in log.agent}
    for job in jobs:
        supervised = job.kinds[job.window.supervised]
        assert set(supervised.tolist()) <= {REASON, ACT}
        for kind, code in (("reason", REASON), ("act", ACT)):
            of_kind = tokenizer.decode(job.token_ids[job.window.supervised][supervised == code])
            assert not [word for word, k in kinds.items() if k != kind and word in of_kind]


@pytest.mark.parametrize("name", FAMILIES)
@FEWER
@given(log=chat_logs(), max_length=st.sampled_from([24, 90, 4096]))
def test_windows_supervise_the_agents_tokens_once_with_the_ends_of_its_turns(name, log, max_length):
    check_tokens(log, TOKENIZERS[name], TEMPLATES[name], FAMILIES[name].specials, max_length)


@pytest.fixture(scope="module")
def embedded() -> Path:
    found = sorted(cache_folder().glob(f"{EMBEDDED}-*/tokenizer_config.json"))
    if not found:
        pytest.skip(f"the embedded teacher was never converted here: no {EMBEDDED} in {cache_folder()}")
    return found[-1].parent


def test_the_fixture_is_the_template_that_smollm2_has(embedded):
    tokenizer = load_tokenizer(embedded)
    assert tokenizer.chat_template == SMOLLM2
    assert set(FAMILIES["smollm2"].specials) <= set(tokenizer.all_special_tokens)


@FEWER
@given(log=chat_logs(), max_length=st.sampled_from([24, 4096]))
def test_smollm2_s_own_tokenizer_supervises_the_agents_tokens_once(embedded, log, max_length):
    tokenizer = _loaded(embedded)
    template = read_template(tokenizer, "smollm2")
    check_each_part_is_one_cut(log.trajectory, render_chat(log.trajectory, template))
    check_tokens(log, tokenizer, template, FAMILIES["smollm2"].specials, max_length)


@functools.cache
def _loaded(folder: Path) -> Any:
    return load_tokenizer(folder)


@given(log=chat_logs())
def test_each_message_is_learnt_after_the_prompt_that_inference_gives(log):
    template = TEMPLATES["qwen3"]
    seen: list[str] = []

    def watching(messages: Any, tools: Any, begin: bool) -> str:
        text = template.render(messages, tools, begin)
        if begin:
            seen.append(text)
        return text

    for rendering in render_chat(log.trajectory, template._replace(render=watching)):
        before = ""
        for cut in rendering.cuts:
            if cut.kind in ("reason", "act") and before not in ("reason", "act"):
                assert rendering.text[: cut.start] in seen
            before = cut.kind


def test_thinking_that_the_template_drops_later_gives_one_rendering_a_message():
    made = [pieces.context("Q", message=0)]
    for number in (1, 3, 5):
        made.append(pieces.thought(f"thought {number}", message=number, hidden=True))
        made.append(pieces.say(f"answer {number}", message=number))
        made.append(pieces.observation(f"question {number}", message=number + 1, author="user"))
    trajectory = trajectory_of(made)
    renderings = render_chat(trajectory, TEMPLATES["qwen3"])
    assert len(renderings) == 3
    assert "thought 1" not in renderings[1].text
    assert "answer 1" in renderings[1].text
    assert renderings[1].cuts[0].kind == "context"
    assert len(render_chat(trajectory, TEMPLATES["chatml"])) == 1


def test_a_template_without_tools_gets_them_as_text():
    made = [
        pieces.context("Sum it.", message=0),
        pieces.call("add", '{"a": 1,  "b": 2}', message=1, call_id="c"),
        pieces.observation("3", message=2, call_id="c"),
    ]
    (rendering,) = render_chat(trajectory_of(made, TOOLS), TEMPLATES["chatml"])
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1,  "b": 2}}\n</tool_call><|im_end|>' in rendering.text
    assert "look_up" in rendering.text.split("Sum it.")[0]


def test_prompt_opened_thinking_is_put_back():
    made = [
        pieces.context("Q", message=0),
        pieces.thought("I think.", message=1, hidden=True),
        pieces.say("I say.", message=1),
    ]
    (rendering,) = render_chat(trajectory_of(made), TEMPLATES["deepseek-r1"])
    assert [(cut.kind, rendering.text[cut.start : cut.stop]) for cut in rendering.cuts] == [
        ("context", "<s><|User|>Q\n<|Assistant|><think>\n".replace("Q\n", "Q")),
        ("reason", "I think.\n</think>\n\n"),
        ("act", "I say.<|end_of_sentence|>"),
    ]


def test_the_day_of_the_rendering_does_not_show():
    (rendering,) = render_chat(
        trajectory_of([pieces.context("Q", message=0), pieces.say("A", message=1)]), TEMPLATES["llama3"]
    )
    assert "Today: 26 Jul 2024" in rendering.text


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(RenderError, match="some-model: its tokenizer has no chat template"):
        read_template(make_tokenizer(), "some-model")


def test_a_template_that_raises_is_named_with_the_part():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template += "{%- if messages | length > 3 -%}{{ raise_exception('too long') }}{%- endif -%}"
    made = [pieces.context("Q", message=0)]
    for number in (1, 3):
        made += [pieces.say("A", message=number), pieces.observation("B", message=number + 1, author="user")]
    with pytest.raises(RenderError, match=r"other: its chat template refuses .* step 1: too long"):
        render_chat(trajectory_of(made), read_template(tokenizer, "other"))


@pytest.fixture(scope="module")
def real_runs(shared_data) -> list[Trajectory]:
    rows = segment(scan_logs(str(shared_data / "formats"))).collect().iter_rows(named=True)
    return [row_trajectory(row) for row in rows if row["refused"] is None][::7]


@pytest.mark.parametrize("name", FAMILIES)
def test_real_logs_are_rendered_whole(name, real_runs):
    refused = set()
    for trajectory in real_runs:
        try:
            renderings = render_chat(trajectory, TEMPLATES[name])
        except RenderError:
            refused.add(trajectory.source.format)
            continue
        check_each_part_is_one_cut(trajectory, renderings)
    # Those whose words hold the tags of thinking.
    assert refused <= {"responses", "openhands-sdk", "chatml-text", "llamafactory"}


def _same_json(core: str, text: str) -> bool:
    """Whether a call's arguments stand in a text as the template's own JSON writes them."""
    try:
        value = json.loads(core or "{}")
    except ValueError:
        return False
    return json.dumps(value, ensure_ascii=False) in text or json.dumps(core, ensure_ascii=False) in text


def test_tools_of_other_apis_take_the_shape_that_templates_read():
    assert tool_definitions([b'{"functionDeclarations": [{"name": "f"}, {"name": "g"}]}']) == [
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "function": {"name": "g"}},
    ]
