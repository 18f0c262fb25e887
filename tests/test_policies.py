import itertools
import json
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadstream.endpoint import Endpoint
from sadstream.environments import Decision
from sadstream.environments.alfworld import ALFWorld
from sadstream.episodes import Task, Turn, play, play_side_by_side, said
from sadstream.errors import ConfigError, EndpointError, ModelError
from sadstream.local_writer import LocalWriter
from sadstream.manifest import StageFolder
from sadstream.players import ModelOptions, is_model, load_player, with_guide
from sadstream.policies import LEADS, GuidedAgent, ModelAgent, Prompt, decision_stop, read_decision
from sadstream.served_writer import ServedWriter
from sadstream.transcripts import parts_of, text_of, written
from tests.servers import send, serving
from tests.tiny import llama_config, make_tokenizer, save_model
from tests.worlds import Echo, Saying, Script, Unlisted, Winner

STYLES = ("labels", "numbered", "prompt", "webshop")
LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_model(llama_config(len(make_tokenizer())), tmp_path_factory.mktemp("model") / "tiny")


def writer(checkpoint, **options):
    return LocalWriter(checkpoint, name="tiny", **{"max_new_tokens": 10, "device": "cpu", **options})


class Recorded(ModelAgent):
    """A model whose prompts and answers are kept."""

    def __init__(self, writer, **options):
        super().__init__(writer, **options)
        self.said = []

    def read(self, answer):
        self.said.append((self.ask(), answer))
        return super().read(answer)


def texts_of(environment, agent, n_tasks=5, n_seats=1, max_steps=4):
    tasks = [Task(f"word-{number}", number) for number in range(n_tasks)]
    episodes = dict(play_side_by_side(environment, agent, tasks, max_steps=max_steps, n_seats=n_seats))
    return [text_of(parts_of(episodes[number])) for number in range(n_tasks)]


# ---- what is read, and what is understood


@pytest.mark.parametrize("style", STYLES)
@given(thought=st.none() | LINES.filter(str.strip), action=st.none() | LINES.filter(str.strip))
def test_what_the_transcript_writes_is_read_back_as_the_same_decision(style, thought, action):
    thought, action = said(style, Decision(thought, action))
    if style in ("prompt", "webshop") and thought is not None:
        action = None  # a turn says one of the two
    labels = ("Thought", "Action", "Observation", "think[", "think:", "Think:", "ActionPath")
    if any(label in (thought or "") + (action or "") for label in labels) or (thought, action) in (
        (None, ""),
        (None, None),
    ):
        return
    text = text_of(list(written(style, Turn(thought, action, None, True), 3))).removeprefix(LEADS[style])
    stop = decision_stop(style, text + "Observation 3: x\n")
    decision = read_decision(style, text[:stop])
    assert said(style, decision) == said(style, Decision(thought and thought.strip(), action and action.strip()))


@pytest.mark.parametrize("style", STYLES)
@given(text=st.text(max_size=60))
def test_any_words_are_a_decision(style, text):
    stop = decision_stop(style, text)
    said(style, read_decision(style, text if stop is None else text[:stop]))


@pytest.mark.parametrize("style", STYLES)
@given(words=st.lists(st.text("aT:\n >think[]Action0", max_size=20), min_size=1, max_size=4))
def test_each_prompt_is_the_beginning_of_the_transcript_that_is_written_in_the_end(style, words):
    saying = Saying(words)
    agent = ModelAgent(saying, prompt="zero-shot")
    whole = text_of(parts_of(play(Echo(style), agent, "word-1", seed=0, max_steps=5)))
    assert len(saying.asked) == 5
    texts = [prompt.text(0).removesuffix(prompt.lead) for prompt in saying.asked]
    for before, after in itertools.pairwise([*texts, whole]):
        assert after.startswith(before) and len(after) > len(before)


def test_few_shot_prompts_begin_with_the_examples_of_the_tasks_kind():
    world, saying = ALFWorld(), Saying([" look"])
    task = world.task_ids("valid_unseen")[0]
    play(world, ModelAgent(saying, prompt="few-shot"), task, seed=0, max_steps=1)
    play(world, ModelAgent(saying, prompt="zero-shot"), task, seed=0, max_steps=1)
    few, zero = saying.asked
    assert few.head == world.examples[world.task_type(task)] + zero.head


def test_a_model_that_only_thinks_ends_by_the_limit():
    for style, words in (("prompt", " think: hm"), ("labels", "Thought: hm"), ("webshop", " think[hm]")):
        episode = play(Echo(style), ModelAgent(Saying([words]), prompt="zero-shot"), "word-0", seed=0, max_steps=6)
        assert episode.ending == "halted" and [turn.thought for turn in episode.turns] == ["hm"] * 6
        assert all(turn.action is None for turn in episode.turns)


# ---- a checkpoint here


@pytest.mark.parametrize("style", ["prompt", "numbered"])
def test_episodes_are_the_same_whatever_the_number_of_seats(checkpoint, style):
    agent = ModelAgent(writer(checkpoint), prompt="zero-shot")
    alone = texts_of(Echo(style), agent)
    assert len(set(alone)) > 1
    for n_seats in (2, 5):
        assert texts_of(Echo(style), agent, n_seats=n_seats) == alone


@torch.inference_mode()
def greedy(local, ids, n_tokens):
    """Token by token, each time reading all from the start."""
    ids = list(ids)
    for _ in range(n_tokens):
        ids.append(int(local._model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids


def test_what_is_kept_from_turn_to_turn_changes_no_word(checkpoint):
    local = writer(checkpoint)
    agent = Recorded(local, prompt="zero-shot")
    texts_of(Echo("prompt", observation="So be it."), agent, n_tasks=6, n_seats=3)
    assert len(agent.said) == 24
    for prompt, answer in agent.said:
        ids = local._encoded(prompt.text(0), opens_line=False)
        words = local._tokenizer.decode(greedy(local, ids, answer.n_written)[len(ids) :], skip_special_tokens=True)
        assert words[: len(answer.text)] == answer.text
        assert answer.cut_off == (answer.n_written == 10 and "\n" not in words)
    last = [(p, answer) for p, answer in agent.said if len(p.turns) == 3]
    lengths = [len(local._encoded(p.text(0), opens_line=False)) for p, _ in last]
    firsts = [answer.n_read for prompt, answer in agent.said if not prompt.turns]
    # What the questions have in common was read once, and is counted once.
    assert min(firsts) < 0.5 * max(firsts) and max(firsts) == len(
        local._encoded(agent.said[0][0].text(0), opens_line=False)
    )
    assert len(last) == 6 and sum(answer.n_read for _, answer in last) < 0.6 * sum(lengths)


def test_of_what_it_wrote_only_the_last_token_is_read_again(tmp_path):
    # Without merges, of printable characters: what it writes is cut into the same tokens when it is read.
    tokenizer = make_tokenizer(vocab_size=258)
    path = save_model(llama_config(len(tokenizer)), tmp_path / "tiny", tokenizer=tokenizer)
    local = writer(path)
    printable = [tokenizer.convert_tokens_to_ids(chr(code)) for code in range(33, 127)]
    with torch.no_grad():
        embedding = local._model.get_input_embeddings().weight
        embedding[[n for n in range(len(tokenizer)) if n not in printable]] *= 1e-3
    turns: tuple[str, ...] = ()
    n_known = 0
    for number in range(4):
        prompt = Prompt(0, "prompt", "Question: x", turns, "\n>", 0, (0, number))
        ids = local._encoded(prompt.text(0), opens_line=False)
        (answer,) = local.write([prompt])
        assert answer.cut_off and answer.n_read == len(ids) - n_known
        assert local._tokenizer.decode(greedy(local, ids, 10)[len(ids) :]) == answer.text
        turns, n_known = (*turns, f"\n>{answer.text}\nSo be it."), len(ids) + 9


def test_beginnings_that_prompts_share_are_read_once_from_the_widest_to_the_narrowest(checkpoint):
    examples, rooms = "Question: who? Thought: it is late. " * 3, ["a desk and a lamp, ", "a mug, a pan and a sink, "]
    texts = [examples + room * 4 + f"task {n}" for room in rooms for n in range(3)] + ["Nothing alike"]
    prompts = [Prompt(n, "prompt", text, (), "\n>", 0, (0, n)) for n, text in enumerate(texts)]
    local = writer(checkpoint)
    together = local.write(prompts)
    assert [a.text for a in together] == [writer(checkpoint).write([p])[0].text for p in prompts]
    lengths = [len(local._encoded(prompt.text(0), opens_line=False)) for prompt in prompts]
    shared = len(local._encoded(examples, opens_line=False))
    at_most = shared + sum(length - shared for length in lengths[::3]) + 4 * 40
    assert max(lengths) <= sum(answer.n_read for answer in together) <= at_most < 0.6 * sum(lengths)


def test_blank_lines_before_a_label_are_cut_into_tokens_as_in_training(checkpoint):
    local = writer(checkpoint)
    whole = local._tokenizer("Observation: x\n\nThought: y")["input_ids"]
    ids = local._encoded("Observation: x\n\n", opens_line=True)
    assert whole[: len(ids)] == ids.tolist()
    assert local._tokenizer.decode(ids, skip_special_tokens=True) == "Observation: x\n\n"


def test_drawn_words_depend_on_the_seed_and_not_on_the_seats(checkpoint):
    agent = ModelAgent(writer(checkpoint, temperature=1.0), prompt="zero-shot")
    alone = texts_of(Echo("prompt"), agent)
    assert texts_of(Echo("prompt"), agent, n_seats=4) == alone
    prompts = [Prompt(number, "prompt", "Question: x", (), "\n>", 0, (5, number)) for number in range(4)]
    assert len({answer.text for answer in agent.writer.write(prompts)}) > 1  # each turn draws anew
    other = play(Echo("prompt"), agent, "word-0", seed=99, max_steps=4)
    assert text_of(parts_of(other)) != alone[0]


def test_draws_follow_the_models_probabilities(checkpoint):
    local = writer(checkpoint, temperature=2.0)
    logits = torch.tensor([[0.0, 2.0, 4.0, -2.0]])
    chance = np.random.default_rng(0)
    drawn = np.bincount([local._picked(logits, [chance])[0] for _ in range(4000)], minlength=4) / 4000
    assert np.abs(drawn - (logits[0] / 2).softmax(0).numpy()).max() < 0.03


def test_a_full_context_drops_the_oldest_turns_and_says_so(checkpoint):
    world = Echo("prompt", observation="You said: {} " + "and then some more " * 3)
    local = writer(checkpoint, context=150)
    agent = Recorded(local, prompt="zero-shot")
    episode = play(world, agent, "word-0", seed=0, max_steps=9)
    n_dropped = [answer.n_dropped for _, answer in agent.said]
    assert n_dropped == sorted(n_dropped) and n_dropped[0] == 0 and n_dropped[-1] == episode.costs["n_dropped"] > 0
    assert n_dropped[-1] < 8  # not all at once
    for (_, before), (prompt, _) in itertools.pairwise(agent.said):
        assert prompt.n_dropped == before.n_dropped
    for prompt, answer in agent.said:
        ids = local._encoded(prompt.text(answer.n_dropped), opens_line=False)
        assert len(ids) <= 140 and prompt.text(answer.n_dropped).startswith("Question: what is word-0?\n")


def test_no_room_for_a_prompt_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="room"):
        writer(checkpoint, max_new_tokens=510)


@pytest.mark.parametrize("style", ["prompt", "labels"])
def test_a_constrained_action_is_the_admissible_one_with_the_highest_probability(checkpoint, style):
    class Acting(LocalWriter):
        """Where the model is free it says an action that is not there."""

        def write(self, prompts):
            answers = super().write(prompts)
            free = {"prompt": " jump", "labels": "Thought: well\nAction: jump"}[style]
            return [a if p.choices else a._replace(text=free) for p, a in zip(prompts, answers, strict=True)]

    local = Acting(checkpoint, name="tiny", max_new_tokens=3)
    world = Echo(style)
    whole = texts_of(world, ModelAgent(local, prompt="zero-shot", constrain=True), n_tasks=6, n_seats=4)
    label = {"prompt": ">", "labels": "Thought: well\nAction:"}[style]
    for number, text in enumerate(whole):
        head = f"Question: what is word-{number}?\n{label}"
        n_head = len(local._encoded(head, opens_line=False))
        scores = {}
        for action in ("hum", "say", "win", "finish[it]"):
            ids = local._encoded(f"{head} {action}\n", opens_line=True)
            with torch.inference_mode():
                logprobs = local._model(torch.tensor(ids)[None]).logits[0].log_softmax(-1)
            scores[action] = sum(float(logprobs[at - 1, ids[at]]) for at in range(n_head, len(ids)))
        assert text.startswith(f"{head} {max(scores, key=scores.get)}\n")


def test_actions_that_no_one_lists_cannot_be_constrained():
    with pytest.raises(ConfigError, match="does not list"):
        play(Unlisted(), ModelAgent(Saying(["x"]), prompt="zero-shot", constrain=True), "word-0", seed=0, max_steps=1)


def test_a_checkpoint_without_tokenizer_is_one_line(checkpoint, tmp_path):
    bare = shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    with pytest.raises(ModelError, match="tokenizer") as caught:
        load_player(str(bare), "alfworld", {}, ModelOptions(), lambda note: None)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_model_that_train_made_reads_no_examples_and_any_other_does(checkpoint, tmp_path):
    StageFolder(tmp_path / "run", "train", {}, [])
    shutil.copytree(checkpoint, tmp_path / "run" / "model")
    prompts = [
        load_player(str(path), "alfworld", {}, ModelOptions(prompt=asked), lambda note: None).prompt
        for path in (tmp_path / "run" / "model", checkpoint)
        for asked in ("auto", "zero-shot", "few-shot")
    ]
    assert prompts == ["zero-shot", "zero-shot", "few-shot", "few-shot", "zero-shot", "few-shot"]


def test_names_of_models_are_told_from_names_of_players(checkpoint):
    here = ModelOptions()
    assert all(is_model(name, here) for name in (str(checkpoint), "smollm2-135m", "owner/model"))
    assert not any(is_model(name, here) for name in ("expert", "random", "tests.worlds:Winner", "exprt"))
    assert is_model("gpt", ModelOptions(endpoint="http://x/v1")) and not is_model("expert", ModelOptions(endpoint="x"))


# ---- a guide


@pytest.mark.parametrize("n_seats", [1, 3])
def test_turns_are_the_guides_with_their_probability_whatever_the_seats(n_seats):
    player = ModelAgent(Saying([" hum"]), prompt="zero-shot")
    guide = ModelAgent(Saying([" say"]), prompt="few-shot")
    world = Unlisted("prompt")
    tasks = [Task(f"word-{number}", number) for number in range(6)]
    guided = play_side_by_side(world, GuidedAgent(player, guide, 0.3), tasks, max_steps=40, n_seats=n_seats)
    shares, firsts = [], []
    for _, episode in sorted(guided):
        turns_by = episode.notes["turns_by"]
        assert [turn.action for turn in episode.turns] == [{"player": "hum", "guide": "say"}[who] for who in turns_by]
        shares.append(turns_by.count("guide") / 40)
        firsts.append(turns_by[:12])
    assert 0.2 < np.mean(shares) < 0.4 and len({tuple(first) for first in firsts}) > 1
    # Both read what the other said.
    assert "> hum" in guide.writer.asked[-1].text(0) and "> say" in player.writer.asked[-1].text(0)


def test_with_no_share_the_player_plays_alone_and_with_all_the_guide_does():
    player = ModelAgent(Saying([" think: hm", " say"]), prompt="zero-shot")
    for seed in range(3):
        for share, who in ((0.0, player), (1.0, Winner())):
            guided = play(Echo("prompt"), with_guide(player, Winner(), share), "word-0", seed=seed, max_steps=6)
            assert guided.turns == play(Echo("prompt"), who, "word-0", seed=seed, max_steps=6).turns
    with pytest.raises(ConfigError, match="only a model"):
        with_guide(Winner(), player, 0.5)


def test_a_scripted_guide_begins_anew_after_a_turn_of_the_players():
    guide = Script([Decision(None, "say"), Decision(None, "hum")])
    agent = GuidedAgent(ModelAgent(Saying([" no"]), prompt="zero-shot"), guide, 0.5)
    episode = play(Unlisted("prompt"), agent, "word-0", seed=1, max_steps=30)
    turns = list(zip(episode.notes["turns_by"], [turn.action or turn.thought for turn in episode.turns], strict=True))
    assert {words for who, words in turns if who == "player"} == {"no"}
    n_since = 0
    for who, words in turns:
        assert who == "player" or words == ["say", "hum", "hm"][min(n_since, 2)]
        n_since = n_since + 1 if who == "guide" else 0
    assert len({words for who, words in turns if who == "guide"}) == 3


# ---- a server


def served(url, **options):
    given = {"timeout": 5.0, "tries": 3, "wait": 0.01, **options}
    return ServedWriter(Endpoint(url, **given), "", max_new_tokens=9, temperature=0.0, concurrency=4)


def completing(complete):
    """A server of one model whose completions are what `complete(payload)` gives."""

    def answer(handler, path, payload):
        if path == "/models":
            send(handler, {"data": [{"id": "org/tiny"}]})
        else:
            assert path == "/completions"
            complete(handler, payload)

    return serving(answer)


def test_a_served_model_plays_and_is_cut_where_a_decision_ends():
    asked = []

    def complete(handler, payload):
        asked.append(payload)
        words = " win\nYou said: win\n> more" if payload["prompt"].count("\n>") > 1 else " hum\n>"
        choice = {"text": words, "finish_reason": "length"}
        send(handler, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 4}})

    with completing(complete) as url:
        agent = ModelAgent(served(url), prompt="zero-shot")
        tasks = [Task(f"word-{number}", number) for number in range(4)]
        episodes = [e for _, e in play_side_by_side(Echo("prompt"), agent, tasks, max_steps=9, n_seats=4)]
    assert agent.name == "tiny (zero-shot)"
    assert [[turn.action for turn in episode.turns] for episode in episodes] == [["hum", "win"]] * 4
    assert episodes[0].costs == {"tokens_read": 14, "tokens_written": 8, "n_cut_off": 0, "n_failed": 0, "n_dropped": 0}
    assert asked[0]["stop"] == ["\n"] and asked[0]["max_tokens"] == 9 and asked[0]["temperature"] == 0


@pytest.mark.parametrize("nonsense", [[], {}, {"choices": []}, {"choices": [{"text": 3}]}, {"choices": 1}, "x", None])
def test_nonsense_from_a_server_is_counted_and_ends_by_the_limit(nonsense):
    with completing(lambda handler, payload: send(handler, nonsense)) as url:
        episode = play(Echo("prompt"), ModelAgent(served(url), prompt="zero-shot"), "word-0", seed=0, max_steps=3)
    assert episode.costs["n_failed"] == 3 and [turn.action for turn in episode.turns] == [""] * 3


def test_drawn_words_are_asked_for_with_the_seed_of_episode_and_turn():
    asked = []

    def complete(handler, payload):
        asked.append((payload["temperature"], payload["seed"]))
        send(handler, {"choices": [{"text": " hum"}]})

    with completing(complete) as url:
        drawing = ServedWriter(Endpoint(url), "", max_new_tokens=9, temperature=0.7, concurrency=1)
        for seed in (3, 4, 3):
            play(Echo("prompt"), ModelAgent(drawing, prompt="zero-shot"), "word-0", seed=seed, max_steps=2)
    assert {temperature for temperature, _ in asked} == {0.7}
    seeds = [seed for _, seed in asked]
    assert len(set(seeds[:4])) == 4 and seeds[4:] == seeds[:2]


@pytest.mark.parametrize("usage", [None, 3, {"prompt_tokens": "many", "completion_tokens": -4}, {"prompt_tokens": 1.5}])
def test_a_count_of_tokens_that_is_none_counts_nothing(usage):
    with completing(lambda handler, payload: send(handler, {"choices": [{"text": " hum"}], "usage": usage})) as url:
        episode = play(Echo("prompt"), ModelAgent(served(url), prompt="zero-shot"), "word-0", seed=0, max_steps=2)
    assert episode.costs["tokens_read"] == episode.costs["tokens_written"] == episode.costs["n_failed"] == 0


def test_only_a_refusal_of_the_prompt_makes_it_shorter():
    asked = []

    def complete(handler, payload):
        asked.append(payload["prompt"])
        if len(asked) < 4:
            send(handler, {"choices": [{"text": " hum"}]})
        else:
            send(handler, {"error": {"message": "maximum number of requests"}}, code=403)

    with completing(complete) as url, pytest.raises(EndpointError, match="maximum number"):
        play(Echo("prompt"), ModelAgent(served(url), prompt="zero-shot"), "word-0", seed=0, max_steps=9)
    assert len(asked) == 4 and asked[3].startswith(asked[2])


def test_an_answer_that_is_cut_off_or_late_is_asked_for_again():
    asked = itertools.count()

    def complete(handler, payload):
        number = next(asked)
        if number == 0:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choi')
            handler.close_connection = True
        elif number == 1:
            time.sleep(0.5)
        else:
            send(handler, {"choices": [{"text": " win"}]})

    with completing(complete) as url:
        agent = ModelAgent(served(url, timeout=0.2), prompt="zero-shot")
        episode = play(Echo("prompt"), agent, "word-0", seed=0, max_steps=3)
    assert episode.success and next(asked) == 3


def test_a_server_that_is_down_is_one_line_that_names_it():
    with completing(lambda handler, payload: None) as url:
        agent = ModelAgent(served(url, tries=2), prompt="zero-shot")
    with pytest.raises(EndpointError, match="no answer after 2 tries") as caught:
        play(Echo("prompt"), agent, "word-0", seed=0, max_steps=3)
    assert "word-0, turn 1" in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_a_server_does_not_list_is_asked_for_and_refused_by_name():
    def complete(handler, payload):
        known = payload["model"] == "on demand"
        send(handler, {"choices": [{"text": ""}]} if known else {"error": "no such model"}, code=200 if known else 404)

    with completing(complete) as url:
        where = Endpoint(url, tries=1)
        options = {"max_new_tokens": 9, "temperature": 0.0, "concurrency": 1}
        assert ServedWriter(where, "on demand", **options).name == "on demand"
        with pytest.raises(EndpointError, match="serves org/tiny, not other"):
            ServedWriter(where, "other", **options)


def test_a_prompt_too_long_for_a_server_loses_its_oldest_turns():
    lock, longest = threading.Lock(), []

    def complete(handler, payload):
        if len(payload["prompt"]) > 100:
            send(handler, {"error": {"message": "maximum context length is 100"}}, code=400)
            return
        with lock:
            longest.append(payload["prompt"])
        send(handler, {"choices": [{"text": " hum"}]})

    with completing(complete) as url:
        episode = play(Echo("prompt"), ModelAgent(served(url), prompt="zero-shot"), "word-0", seed=0, max_steps=9)
    assert len(episode.turns) == 9 and episode.costs["n_dropped"] > 0
    assert all(prompt.startswith("Question: what is word-0?\n") for prompt in longest)


def test_a_server_cannot_constrain():
    with completing(lambda handler, payload: None) as url, pytest.raises(ConfigError, match="server"):
        ModelAgent(served(url), prompt="zero-shot", constrain=True)


def test_facts_can_be_written_as_json(checkpoint):
    json.dumps(writer(checkpoint).facts)
