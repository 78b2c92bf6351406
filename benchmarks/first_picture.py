"""Print the seconds from Start in the live page to a picture whose loss is a tenth of the first.

python benchmarks/first_picture.py SIZE ROUNDS
"""

import sys
import time

from styleinv.live.board import Board, References, wishes_of
from styleinv.live.widget import CHOICE, FRAME_SECONDS, png

TENTH = 0.1


def first_picture(size: int) -> float:
    """As the page does it, with its own first choice of all but the size."""
    board = Board(References(None))
    began = time.perf_counter()
    board.start(wishes_of({**CHOICE, "size": size}))
    while board.session.is_alive():
        board.session.want_pictures()
        state, (picture, *_), _ = board.look()
        points = state["runs"][0]["points"]
        if picture is not None and points[-1][1] < TENTH * points[0][1]:
            png(picture)
            break
        board.session.join(FRAME_SECONDS)
    seconds = time.perf_counter() - began
    board.session.stop()
    board.session.join()
    return seconds


if __name__ == "__main__":
    size, rounds = (int(word) for word in sys.argv[1:])
    for _ in range(rounds):
        print(first_picture(size), flush=True)
