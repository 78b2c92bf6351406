"""Print the seconds from Start in the live page to a picture whose loss is a tenth of the first.

python benchmarks/first_picture.py SIZE ROUNDS
"""

import sys
import time

from styleinv.live.choices import CHOICE, runs_of
from styleinv.live.session import Session
from styleinv.live.view import References, View
from styleinv.live.widget import FRAME_SECONDS, png

TENTH = 0.1


def first_picture(size: int) -> float:
    """As the page does it, with its own first choice of all but the size."""
    session = Session()
    view = View(session, References())
    began = time.perf_counter()
    session.start(runs_of({**CHOICE, "size": size}))
    while session.is_alive():
        session.want_pictures()
        state, (picture, *_), _ = view.look()
        points = state["runs"][0]["points"]
        if picture is not None and points[-1][1] < TENTH * points[0][1]:
            png(picture)
            break
        session.join(FRAME_SECONDS)
    seconds = time.perf_counter() - began
    session.tell("stop")
    session.join()
    return seconds


if __name__ == "__main__":
    size, rounds = (int(word) for word in sys.argv[1:])
    for _ in range(rounds):
        print(first_picture(size), flush=True)
