"""ALFWorld's wording, to the letter.

Source: `alfred.twl2` and `Demangler` of alfworld 0.4.2 (MIT).
"""

import re
from collections.abc import Collection, Sequence

_HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


class Names(dict[str, str]):
    """Name by id, as `cabinet 3`."""

    @classmethod
    def of(cls, ids: Collection[str]) -> "Names":
        """Names of things: those of a kind are numbered downwards in the order of their ids."""
        kinds: dict[str, list[str]] = {}
        for thing in sorted(ids):
            kind, bar, _ = thing.partition("_bar_")
            kinds.setdefault((kind + "basin" if "basin" in thing else kind) if bar else "", []).append(thing)
        names = cls()
        for kind, things in kinds.items():
            for number, thing in zip(range(len(things), 0, -1), things, strict=True):
                names[thing] = f"{kind} {number}" if kind else f"{thing} "
        return names


def listing(names: Names, things: Sequence[str]) -> str:
    """`a mug 2, and a mug 1`; `nothing`."""
    return _joined([f"a {names[thing]}" for thing in things]) or "nothing"


def _joined(words: Sequence[str]) -> str:
    return ", and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def view(names: Names, receptacle: str, contents: Sequence[str], *, opened: bool | None) -> str:
    """What is seen of a receptacle; `opened` is None where it has no door."""
    if opened is None:
        return f"On the {names[receptacle]}, you see {listing(names, contents)}."
    if opened:
        return f"The {names[receptacle]} is open. In it, you see {listing(names, contents)}."
    return f"The {names[receptacle]} is closed."


def look(names: Names, here: Sequence[str], *, around: Sequence[str] = (), beside: Sequence[str] = ()) -> str:
    """What is seen around.

    Args:
        here: receptacles at one's place.
        around: those of the room, seen where there is none here; only the first look of a game has them.
        beside: things next to the receptacles.
    """
    if here:
        # The article stands once, before the first.
        facing = _joined([names[thing] for thing in here])
        return f"You are facing the {facing}. Next to it, you see {listing(names, beside)}."
    return f"You are in the middle of a room. Looking quickly around you, you see {listing(names, around)}."


def inventory(names: Names, held: Sequence[str]) -> str:
    """What is carried."""
    return f"You are carrying: {listing(names, held)}." if held else "You are not carrying anything."


def look_closely(
    names: Names,
    thing: str,
    *,
    inside: Sequence[str] | None = None,
    is_so: Collection[str] = (),
    sliceable: bool = False,
) -> str:
    """What a thing in the hand looks like.

    Args:
        inside: what lies in it; None where it is no vessel.
        is_so: of isclean, ishot, iscool, issliced and istoggled what holds.
        sliceable: whether it can be sliced.
    """
    name = names[thing]
    if inside is not None:
        return f"This is a normal {name}. In it, you see {listing(names, inside)}."
    sliced = "issliced" in is_so
    heat = "hot" if "ishot" in is_so else "cool" if "iscool" in is_so else ""
    state = " and ".join(filter(None, (heat, "clean" if "isclean" in is_so else "")))
    if state and sliced:
        return f"This is a {state} sliced {name}."
    if state:
        # Cool alone is `cold`, as the original has it.
        return f"This is a {'cold' if state == 'cool' else state} {name}."
    if "istoggled" in is_so:
        return f"This {name} is on."
    if sliced and sliceable:
        return f"This is a sliced {name}."
    return f"There's nothing special about {name}."


def help_text() -> str:
    """The list of commands."""
    return _HELP


def react_wording(observation: str) -> str:
    """An observation as ReAct's runner shows it: no welcome, no word of arriving, no empty line."""
    if observation.startswith("-= Welcome"):
        return "\n".join(observation.split("\n\n")[1:])
    return re.sub(r"^You arrive at [a-z]+ [0-9]+\. ", "", observation)


def this_wording(transcript: str, *, arriving: bool) -> str:
    """A transcript of ReAct's in this version's words: `move X to Y` for `put X in/on Y`.

    Args:
        arriving: whether `You arrive at Y.` opens what `go to Y` shows, which ReAct leaves out.
    """
    said = re.sub(r"(?m)^(> ?)put (.+) in/on (.+)$", r"\1move \2 to \3", transcript)
    said = re.sub(r"\bYou put the (.+?) in/on the (.+?)\.", r"You move the \1 to the \2.", said)
    if arriving:
        said = re.sub(r"(?m)^(> ?go to (.+)\n)(?=(?:On the|The) \2\b)", r"\1You arrive at \2. ", said)
    return said


def command_of(text: str) -> str:
    """An action with `put A in/on B` said as `move A to B`; anything else stripped and as it is."""
    text = text.strip()
    put = re.fullmatch(r"put ([a-z]+ [0-9]+) (?:in/on|in|on) ([a-z]+ [0-9]+)", text)
    return f"move {put[1]} to {put[2]}" if put else text
