"""In which receptacles the training rooms hold which kind of thing."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from sadstream.environments.alfworld_games import PACKAGED, Game, furnish_game

_TABLE = PACKAGED / "places.json"


class Places(msgspec.Struct, frozen=True):
    """Counts over rooms.

    Attributes:
        held: by kind of thing and kind of receptacle, of the receptacles in rooms that have such a thing: how many
            held one, and how many there were.
        doors: by kind of receptacle, how many have a door, and how many there are.
    """

    held: dict[str, dict[str, tuple[int, int]]]
    doors: dict[str, tuple[int, int]]

    def rate(self, thing: str, receptacle: str) -> float:
        """How often a receptacle of the kind holds such a thing; small, not 0, where it was never seen to."""
        held, seen = self.held.get(thing, {}).get(receptacle, (0, 0))
        return (held + 0.1) / (seen + 1)

    def turns(self, receptacle: str) -> float:
        """Turns that looking into a receptacle of the kind takes: going there, and opening it where there is a door."""
        with_door, seen = self.doors.get(receptacle, (0, 0))
        return 1 + with_door / max(seen, 1)


def count_places(games: Iterable[Game]) -> Places:
    """The counts of these games' rooms as they are at the start; `places.json` is that of the training games."""
    held: dict[str, Counter[str]] = defaultdict(Counter)
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    doors: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for game in games:
        house, state = furnish_game(game)
        kind = {thing: name.split(" ")[0] for thing, name in house.names.items()}
        receptacles = Counter(kind[receptacle] for receptacle in house.places)
        pairs = {(kind[thing], where) for _, thing, where in state.facts.get("inreceptacle", ())}
        for thing, where in pairs:
            held[thing][kind[where]] += 1
        for thing in {thing for thing, _ in pairs}:
            seen[thing] += receptacles
        doors += Counter(kind[receptacle] for receptacle in house.places if house.has("openable", receptacle))
        there += receptacles
    return Places(
        {thing: {where: (held[thing][where], n) for where, n in sorted(seen[thing].items())} for thing in sorted(held)},
        {where: (doors[where], n) for where, n in sorted(there.items())},
    )


@lru_cache(maxsize=1)
def training_places() -> Places:
    """The counts of the training games that come with sadstream."""
    return msgspec.json.decode(_TABLE.read_bytes(), type=Places)
