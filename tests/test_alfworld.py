import copy
import gzip
import json
import pickle
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadstream.environments.alfworld import ALFWorld
from sadstream.environments.alfworld_games import PACKAGED, find_game, furnish_game, task_names
from sadstream.environments.alfworld_places import count_places, training_places
from sadstream.environments.alfworld_shuffle import shuffled_game
from sadstream.environments.alfworld_text import this_wording
from sadstream.errors import ConfigError, TaskError

SPLITS = {"train": 395, "valid_unseen": 105}
WORLD = ALFWorld()
TASKS = [task for split in SPLITS for task in WORLD.task_ids(split)]
NOTHING = "Nothing happens."

# What an agent may say: one of the admissible commands (by a number), or anything at all.
SAYINGS = st.lists(
    st.one_of(
        st.integers(0, 200),
        st.text(max_size=30),
        st.sampled_from(
            ["look", " look ", "LOOK", "go to", "go to nowhere 1", "\x00\x1b[2J", "take\nlook", "x" * 10_000]
        ),
    ),
    max_size=25,
)


def said(world, saying):
    """A saying as text, where `world` stands."""
    if isinstance(saying, str):
        return saying
    ways = world.admissible()
    # Fewer trips, so that more happens at each place.
    acts = [way for way in ways if not way.startswith(("go to", "examine"))] if saying % 3 else ways
    return acts[saying % len(acts)] if acts else "look"


def play(world, task, sayings):
    """Text and commands of an episode."""
    seen = [(world.reset(task), world.admissible())]
    spoken = []
    for saying in sayings:
        spoken.append(said(world, saying))
        seen.append((world.step(spoken[-1]), world.admissible()))
    return spoken, seen


def test_every_walkthrough_wins_at_its_last_command_and_not_before():
    for split, n in SPLITS.items():
        tasks = WORLD.task_ids(split)
        assert len(tasks) == len(set(tasks)) == n
        for task in tasks:
            WORLD.reset(task)
            replies = [WORLD.step(command) for command in WORLD.game(task).walkthrough]
            assert all(reply.valid for reply in replies), task
            assert [reply.reward for reply in replies] == [0.0] * (len(replies) - 1) + [1.0], task
            assert [reply.done for reply in replies] == [False] * (len(replies) - 1) + [True], task


@given(st.sampled_from(TASKS), SAYINGS)
def test_an_episode_is_a_function_of_task_and_actions(task, sayings):
    spoken, seen = play(ALFWorld(seed=1), task, sayings)
    assert play(ALFWorld(seed=2), task, spoken) == (spoken, seen)


@given(st.sampled_from(TASKS), SAYINGS)
def test_what_is_not_admissible_changes_nothing_and_what_is_happens(task, sayings):
    world = ALFWorld()
    world.reset(task)
    for saying in sayings:
        ways = world.admissible()
        assert ways == sorted(set(ways))
        text = said(world, saying)
        before = pickle.dumps(world._state)
        reply = world.step(text)
        assert 0 <= reply.reward <= 1
        assert reply.valid == (text.strip() in ways)
        assert reply.valid == (reply.observation != NOTHING)
        if not reply.valid:
            assert pickle.dumps(world._state) == before
            assert world.admissible() == ways


@given(st.sampled_from(TASKS), SAYINGS, SAYINGS)
def test_copies_and_pickles_play_on_by_themselves(task, first, second):
    world = ALFWorld()
    play(world, task, first)
    here = world.admissible()
    twin, stored = copy.copy(world), pickle.loads(pickle.dumps(world))
    spoken = [(said(twin, saying), twin.step(said(twin, saying))) for saying in second]
    assert world.admissible() == stored.admissible() == here
    assert [stored.step(text) for text, _ in spoken] == [reply for _, reply in spoken]
    assert [world.step(text) for text, _ in spoken] == [reply for _, reply in spoken]


@given(SAYINGS)
def test_after_the_end_nothing_happens(sayings):
    world = ALFWorld()
    world.reset(TASKS[0])
    for command in world.game(TASKS[0]).walkthrough:
        world.step(command)
    for saying in [*sayings, "look", "put alarmclock 1 in/on desk 1"]:
        assert world.admissible() == []
        assert world.step(said(world, saying)) == (NOTHING, 1.0, True, False)


def test_long_and_odd_actions_are_answered():
    WORLD.reset(TASKS[0])
    for odd in (
        "a" * 10_000,
        "",
        "\n\n",
        "\x00\x07\x1b[31m",
        "go to desk 1\x00",
        "Go to desk 1",
        "\ud800",
        "put " * 3000,
    ):
        assert WORLD.step(odd) == (NOTHING, 0.0, False, False)


def test_put_as_react_has_it_moves():
    task = "pick_and_place_simple-AlarmClock-None-Shelf-320/trial_T20190907_121126_621870"
    for words in ("put alarmclock 1 in/on shelf 1", "put alarmclock 1 on shelf 1", "move alarmclock 1 to shelf 1"):
        WORLD.reset(task)
        assert not WORLD.step(words).valid
        for command in WORLD.game(task).walkthrough[:-1]:
            WORLD.step(command)
        assert WORLD.step(words) == ("You move the alarmclock 1 to the shelf 1.", 1.0, True, True)


def test_heat_ends_cold_and_cold_ends_heat():
    task = "pick_heat_then_place_in_recep-Apple-None-Fridge-12/trial_T20190909_151749_236238"
    *way, last = WORLD.game(task).walkthrough
    spoil, mend = "cool apple 1 with fridge 1", ["go to microwave 1", "heat apple 1 with microwave 1", "go to fridge 1"]
    for extra, won in (([spoil], False), ([spoil, *mend], True), ([*mend, spoil], False)):
        WORLD.reset(task)
        assert all(WORLD.step(command).valid for command in [*way, *extra])
        facts = WORLD._state.facts
        assert (len(facts.get("ishot", ())), len(facts.get("iscool", ()))) == (won, not won)
        assert WORLD.step(last).done == won


def test_the_original_engine_s_transcript_of_a_room_with_shared_places(shared_data, tmp_path):
    # Recorded from alfworld 0.4.2: sliced, hot, clean and cold things, vessels, what lies beside shared receptacles.
    with gzip.open(shared_data / "env/alfworld/real_game_FloorPlan14_initial_state.pddl.gz", "rt") as file:
        row = {"task": "t", "task_type": "x", "goal": "put a hot potato in sinkbasin", "pddl_problem": file.read()}
    (tmp_path / "games.jsonl").write_text(json.dumps(row))
    world = ALFWorld(tmp_path / "games.jsonl")
    (_, opening), *turns = json.loads((PACKAGED.parents[3] / "tests" / "alfworld_transcript.json").read_text())
    assert world.reset("t") == opening
    for command, observation in turns:
        assert (command, world.step(command).observation) == (command, observation)
    assert world._done


def test_public_transcripts_of_the_original_games_read_the_same(shared_data):
    """KnowAgent's agents in original rooms: some receptacles share a place there, and none does in rebuilt rooms."""
    world = ALFWorld(wording="react")
    known = set(world.task_ids("train"))
    n_logs = n_observations = n_same = n_shared_place = n_same_end = 0
    with (shared_data / "raw/alfworld/knowagent_llama13b_D0.jsonl").open() as file:
        logs = [log for log in map(json.loads, file) if log["name"] in known]
    for log in logs:
        opening, *turns = re.split(r"(?m)^> ", log["traj"])
        assert world.reset(log["name"]) == opening.rstrip("\n")
        n_logs += 1
        done = False
        for turn in turns:
            action, _, observation = turn.partition("\n")
            if re.match(r"[Tt]hink:|ActionPath", action):
                continue
            reply = world.step(action)
            done = reply.done
            if observation := this_wording(observation.rstrip("\n"), arriving=False):
                n_observations += 1
                n_same += reply.observation == observation
                n_shared_place += action.startswith("go to") and observation == NOTHING != reply.observation
        n_same_end += done == log["result"]
    assert (n_logs, n_observations, n_same, n_shared_place, n_same_end) == (395, 7069, 6914, 108, 393)


def test_examples_are_react_s_in_this_version_s_words():
    assert set(WORLD.examples) == {WORLD.task_type(task) for task in TASKS}
    for wording in ("engine", "react"):
        for kind, text in ALFWorld(wording=wording).examples.items():
            assert text.startswith("Interact with a household to solve a task. Here are two examples.\nYou are in the")
            assert text.endswith("\nHere is the task.\n")
            assert text.count("Your task is to: ") == 2
            assert not re.search(r"(?m)^> ?put |You put the", text)
            assert ("You move the" in text) == (kind != "look_at_obj_in_light")
            n_trips = len(re.findall(r"(?m)^> ?go to .*\n(?!Nothing|OK)", text))
            assert text.count("You arrive at ") == (n_trips if wording == "engine" else 0)


def test_react_wording_leaves_out_welcome_and_arriving():
    world = ALFWorld(wording="react")
    assert world.name == "alfworld (ReAct's wording)"
    opening = world.reset(TASKS[0])
    assert opening.startswith("You are in the middle of a room. ")
    assert opening.endswith("\nYour task is to: look at alarmclock under the desklamp.")
    assert "\n\n" not in opening
    assert world.step("go to drawer 1").observation == "The drawer 1 is closed."


def test_packaged_games_are_the_shared_ones(shared_data):
    for split in SPLITS:
        packaged = PACKAGED / f"games_{split}.jsonl.gz"
        assert packaged.read_bytes()[4:8] == b"\0\0\0\0"
        with gzip.open(packaged) as ours, gzip.open(shared_data / f"env/alfworld/games_{split}.jsonl.gz") as theirs:
            rows = [json.loads(line) for line in ours]
            kept = ("task", "split", "task_type", "goal", "pddl_problem", "walkthrough")
            assert rows == [{name: json.loads(line)[name] for name in kept} for line in theirs]


def test_places_are_what_the_training_games_give():
    counted = count_places(find_game(PACKAGED, task) for task in task_names(PACKAGED, "train"))
    assert counted == training_places()


def test_new_games_are_proven_by_a_walkthrough_and_keep_the_room():
    world = ALFWorld(shuffle=2, seed=3)
    assert world.name == "alfworld (shuffled 2 times by seed 3)"
    assert len(world.task_ids("train")) == 790
    kinds = set()
    for task in [*world.task_ids("train")[::17], *world.task_ids("valid_unseen")[::11]]:
        game, old = world.game(task), WORLD.game(task.partition("#")[0])
        opening = world.reset(task)
        assert game.task == task
        assert opening.endswith(f"Your task is to: {game.goal}.")
        assert opening.split("\n\n")[1] == WORLD.reset(old.task).split("\n\n")[1]
        assert not world._state.won
        replies = [world.step(command) for command in game.walkthrough]
        assert replies[-1].done and not replies[-2].done
        kinds.add(game.task_type)
        assert world.task_type(task) == game.task_type

        (house, state), (was, _) = furnish_game(game), furnish_game(old)
        assert house.names == was.names
        for _, thing, where in state.facts["inreceptacle"]:
            if house.has("pickupable", thing):
                outer, inner = house.kinds[where], house.kinds[thing]
                assert any(("cancontain", o, i) in house.facts["cancontain"] for o in outer for i in inner)
                assert ("objectatlocation", thing, house.places[where]) in state.facts["objectatlocation"]
            else:
                assert ("inreceptacle", thing, where) in was.facts["inreceptacle"]
    assert len(kinds) == 6


def test_new_games_are_a_function_of_room_number_and_seed():
    tasks = ALFWorld(shuffle=2).task_ids("valid_unseen")[:6]
    made = {}
    for seed in (0, 1):
        for task in tasks:
            made[task, seed] = ALFWorld(shuffle=2, seed=seed).game(task)
    shuffled_game.cache_clear()
    for (task, seed), game in reversed(made.items()):
        assert ALFWorld(shuffle=2, seed=seed).game(task) == game
    assert len({game.pddl_problem for game in made.values()}) == len(made)


def test_a_folder_as_alfworld_has_it_is_read(tmp_path):
    tasks = WORLD.task_ids("valid_unseen")[:3]

    def put(split, task, **fields):
        game = WORLD.game(tasks[0])
        folder = tmp_path / split / task
        folder.mkdir(parents=True)
        grammar = '"task": [{"rhs": "Your task is to: heat some apple and put it in fridge."}]'
        whole = {"pddl_domain": "", "grammar": grammar, "pddl_problem": game.pddl_problem, "solvable": True} | fields
        (folder / "game.tw-pddl").write_text(json.dumps(whole))
        (folder / "traj_data.json").write_text("{}")

    put("valid_unseen", tasks[1])
    put("valid_unseen", tasks[0], walkthrough=["look"])
    put("valid_unseen", "pick_and_place_with_movable_recep-Apple-Bowl-Fridge-1/trial_1")
    put("valid_unseen", "pick_and_place_simple-AppleSliced-None-Fridge-1/trial_1")
    put("valid_unseen", "pick_and_place_simple-Apple-None-Fridge-1/trial_1", solvable=False)
    put("train", tasks[2])
    world = ALFWorld(tmp_path)
    assert list(world.task_ids("train")) == [tasks[2]]
    assert list(world.task_ids("valid_unseen")) == sorted(tasks[:2])
    assert world.reset(tasks[0]).endswith("\n\nYour task is to: heat some apple and put it in fridge.")
    assert world.reset(tasks[0]).split("\n\n")[1] == WORLD.reset(tasks[0]).split("\n\n")[1]
    assert world.task_type(tasks[0]) == "look_at_obj_in_light"
    assert ALFWorld(tmp_path, shuffle=1).reset(f"{tasks[2]}#0")

    (tmp_path / "train" / tasks[2] / "game.tw-pddl").write_text('{"pddl_problem": "", "grammar": ""}')
    with pytest.raises(TaskError, match=r"game\.tw-pddl: no `Your task is to"):
        world.reset(tasks[2])
    (tmp_path / "train" / tasks[2] / "game.tw-pddl").write_text('{"pddl_problem": ')
    with pytest.raises(TaskError, match=r"game\.tw-pddl: Input data was truncated"):
        world.reset(tasks[2])


def damaged(path, change):
    """A file of three games with its second line changed."""
    rows = [msgspec.json.encode(WORLD.game(task)) for task in TASKS[:3]]
    rows[1] = change(rows[1])
    path.write_bytes(b"\n".join(rows) + b"\n")
    return ALFWorld(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row[:-20], "games.jsonl:2: "),
        (lambda row: row.replace(b'"goal"', b'"gaol"'), "games.jsonl:2: Object missing required field `goal`"),
        (lambda row: row[:40] + b"\xff" + row[41:], "games.jsonl:2: "),
        (lambda row: msgspec.json.encode(WORLD.game(TASKS[0])), "games.jsonl:2: task `look_at_obj_in_light-Ala"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, change, said):
    with pytest.raises(TaskError) as error:
        damaged(tmp_path / "games.jsonl", change).task_ids("train")
    assert said in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.replace(b"(:goal", b"(goal"), "no `(:goal ...)` in the problem"),
        (lambda row: row.replace(b"(atLocation agent1", b"(at agent1"), "one `(atLocation agent place)` is needed"),
        (lambda row: row.replace(b"(receptacleAtLocation", b"(stands"), "no receptacle stands anywhere"),
        (lambda row: row.replace(b"(inReceptacle ", b"(inReceptacle agent1 "), "`inreceptacle` is between two"),
    ],
)
def test_a_damaged_problem_is_named_with_its_line(tmp_path, change, said):
    world = damaged(tmp_path / "games.jsonl", change)
    assert world.reset(TASKS[0]) == WORLD.reset(TASKS[0])
    with pytest.raises(TaskError) as error:
        world.reset(TASKS[1])
    assert f"games.jsonl:2: {said}" in str(error.value)


def test_a_damaged_archive_and_a_changed_file_are_noticed(tmp_path):
    whole = (PACKAGED / "games_valid_unseen.jsonl.gz").read_bytes()
    path = tmp_path / "games_valid_unseen.jsonl.gz"
    for broken in (whole[:-100], whole[:500] + b"\0" * 50 + whole[550:], b""):
        path.write_bytes(broken)
        with pytest.raises(TaskError, match=r"games_valid_unseen\.jsonl\.gz: "):
            ALFWorld(tmp_path).task_ids("valid_unseen")
    path.write_bytes(whole)
    assert len(ALFWorld(tmp_path).task_ids("valid_unseen")) == 105


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(TaskError, match="no split `test`") as error:
        WORLD.task_ids("test")
    assert error.value.hint == "there are train, valid_unseen"
    for task in ("", "nothing", TASKS[0] + "#0", "x" * 10_000):
        with pytest.raises(TaskError, match="no task") as error:
            WORLD.reset(task)
        assert len(str(error.value)) < 600
    for number in ("2", "-1", "", "0x", "²"):
        with pytest.raises(TaskError, match="no task"):
            ALFWorld(shuffle=2).reset(f"{TASKS[0]}#{number}")
    with pytest.raises(TaskError, match="no game is under way"):
        ALFWorld().step("look")
    with pytest.raises(TaskError, match="does not exist"):
        ALFWorld(tmp_path / "nowhere")
    with pytest.raises(TaskError, match="no ALFWorld games here"):
        ALFWorld(tmp_path).task_ids("train")
    with pytest.raises(ConfigError):
        ALFWorld(shuffle=-1)
    with pytest.raises(ConfigError):
        ALFWorld(wording="other")
