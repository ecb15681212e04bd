"""Whose an exit's position is: how much of what is held now the exit was decided on. Pure: no I/O, no clock.

Never gives an exit what was entered anew after it was decided: closing that would be an order nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moved:
    """A fill of the position, booked after the exit was decided. `quantity` is signed: positive adds to what the exit would close.

    `younger`: its order was decided after the exit.
    """

    quantity: int
    younger: bool


@dataclass(frozen=True, slots=True)
class Share:
    """Units in the exit's direction. `mine` the exit may close; `anew` is what was entered after it was decided.

    `at_decision`: what was held when it was decided, negative where the position was on the other side.
    """

    mine: int
    anew: int
    at_decision: int


def share(held: int, since: Sequence[Moved]) -> Share:
    """Tell what is held now apart. `since` is in the order of the fills.

    What orders from before the exit still make of the position is the exit's, what younger entries make is not. A younger exit takes of
    what was entered anew first, any other of what is the exit's own: each closes what it was decided on. A position that was flat in
    between has nothing left that is the exit's, but for what orders from before it add later.
    """
    at_decision = held - sum(move.quantity for move in since)
    mine, anew = at_decision, 0
    for move in since:
        if move.quantity >= 0:
            back = min(move.quantity, max(-mine, 0))  # back from the other side first
            mine += back
            if move.younger:
                anew += move.quantity - back
            else:
                mine += move.quantity - back
            continue
        left = -move.quantity
        if move.younger:
            taken = min(anew, left)
            anew, mine = anew - taken, mine - (left - taken)
        else:
            taken = min(max(mine, 0), left)
            rest = left - taken
            mine -= taken
            theirs = min(anew, rest)
            anew, mine = anew - theirs, mine - (rest - theirs)
        if mine < 0 < anew:  # nothing of its own is left: what goes on goes of the rest
            back = min(anew, -mine)
            anew, mine = anew - back, mine + back
    return Share(max(mine, 0), anew, at_decision)
