"""Episodes side by side against one at a time: tokens a second, and whether the episodes are the same.

    python benchmarks/acting.py [MODEL] [--episodes 16] [--turns 8] [--rounds 1] [--prompt zero-shot]

Greedy, in float32, on ALFWorld, one thread. Prints CPU and wall time of each; on a machine that others use too, the
ratio of CPU times is the one to trust. `bare` is what batching can give at most here: the model alone writes a token a
step, one row against as many as there are seats, after as many tokens as half of an episode has.
"""

import argparse
import sys
import time
from typing import Any

import torch
from transformers import DynamicCache

from sadstream.environments.chosen import load_environment
from sadstream.episodes import Task, play_side_by_side
from sadstream.model_files import resolve_model
from sadstream.models import load_model
from sadstream.players import ModelOptions, load_player
from sadstream.policies import ModelAgent
from sadstream.transcripts import parts_of, text_of


def played(agent: ModelAgent, tasks: list[Task], n_seats: int, n_turns: int) -> tuple[list[str], dict[str, float]]:
    """The episodes' texts, and tokens written and read, CPU seconds and wall seconds."""
    world = load_environment("alfworld", {})
    cpu, wall = time.process_time(), time.perf_counter()
    episodes = dict(play_side_by_side(world, agent, tasks, max_steps=n_turns, n_seats=n_seats))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    written, read = (
        sum(episode.costs[name] for episode in episodes.values()) for name in ("tokens_written", "tokens_read")
    )
    texts = [text_of(parts_of(episodes[number])) for number in range(len(tasks))]
    return texts, {"written": written, "read": read, "cpu": cpu, "wall": wall}


@torch.inference_mode()
def bare_step(model: Any, n_rows: int, n_context: int, *, n_steps: int = 8) -> float:
    """CPU seconds in which a model alone writes a token in each of some rows that have read `n_context` tokens."""
    cache = DynamicCache()
    model.base_model(input_ids=torch.full((n_rows, n_context), 5), past_key_values=cache, use_cache=True)
    ids = torch.full((n_rows, 1), 5)
    for step in range(n_steps + 2):
        if step == 2:
            since = time.process_time()
        hidden_BTH = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        ids = model.lm_head(hidden_BTH[:, -1]).argmax(-1)[:, None]
    return (time.process_time() - since) / n_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seats", type=int, default=16)
    parser.add_argument("--prompt", choices=["zero-shot", "few-shot"], default="zero-shot")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = ModelOptions(prompt=options.prompt, dtype="float32", max_new_tokens=options.max_new_tokens)
    ids = load_environment("alfworld", {}).task_ids("valid_unseen")
    tasks = [Task(ids[number * len(ids) // options.episodes], number) for number in range(options.episodes)]
    for number in range(options.rounds):
        measures = {}
        texts = {}
        for n_seats in (1, options.seats):
            agent = load_player(options.model, "alfworld", {}, asked, lambda note: None)
            assert isinstance(agent, ModelAgent)
            texts[n_seats], measures[n_seats] = played(agent, tasks, n_seats, options.turns)
            m = measures[n_seats]
            sys.stdout.write(
                f"round {number}, {n_seats:>2} seats: {m['written']:.0f} tokens written, {m['read']:.0f} read, "
                f"{m['written'] / m['cpu']:.1f} written a CPU second, {m['written'] / m['wall']:.1f} a wall second\n"
            )
            sys.stdout.flush()
        one, many = measures[1], measures[options.seats]
        differ = sum(a != b for a, b in zip(texts[1], texts[options.seats], strict=True))
        sys.stdout.write(
            f"round {number}: {one['cpu'] / many['cpu']:.2f} times by CPU, {one['wall'] / many['wall']:.2f} by wall; "
            f"{differ} of {len(tasks)} episodes differ\n"
        )
        n_context = sum(agent.writer.count_tokens(text) or 0 for text in texts[1]) // (2 * len(tasks))
        model = load_model(resolve_model(options.model, lambda note: None), torch.device("cpu"), torch.float32)
        alone, together = (n_rows / bare_step(model, n_rows, n_context) for n_rows in (1, options.seats))
        sys.stdout.write(
            f"round {number}, bare after {n_context} tokens: {alone:.1f} tokens a CPU second with 1 row, "
            f"{together:.1f} with {options.seats}: {together / alone:.2f} times\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
