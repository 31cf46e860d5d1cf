"""Difficulty settings of clips, and the published levels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..world.shapes import SHAPES

MOST_ROOMS = 4
"""Residents, signs, a screen, four stops and three tiles take 2 · rooms + 8 of the 16 cells."""
SHORTEST_GLYPH = 7
TALLEST_GLYPH = 18


@dataclass(frozen=True)
class Difficulty:
    """Contents of the clips.

    Attributes:
        rooms: number of different rooms per clip; the first two are always seen.
        visits: maximum number of visits to rooms; at least two, of at least `visit` frames each.
        visit: minimum number of frames of a visit.
        flashes: minimum and maximum number of shapes shown on a white tile for one frame.
        decoys: number of shapes shown on a black tile for one frame, never asked about.
        lookalikes: share of the decoys that have the shape of a flash.
        movers: number of textured discs that cross the view, never asked about.
        screen: share of the frames in which the screen of a room shows a new picture.
        dimmed: share of visits with dimmed light.
        darkness: brightness of a dimmed visit.
        contrast: contrast of the photographs; 1 leaves them unchanged.
        glyph: height of the letters on signs, in pixels.
        noise: minimum and maximum standard deviation of the sensor noise, on a scale of 255.
        crf: best and worst constant rate factor of the H.264 files.
    """

    rooms: int = 3
    visits: int = 6
    visit: int = 12
    flashes: tuple[int, int] = (2, 5)
    decoys: int = 3
    lookalikes: float = 0.5
    movers: int = 2
    screen: float = 0.5
    dimmed: float = 0.3
    darkness: float = 0.6
    contrast: float = 0.5
    glyph: float = 16.0
    noise: tuple[float, float] = (2.0, 6.0)
    crf: tuple[int, int] = (14, 22)

    def __post_init__(self) -> None:
        if not 2 <= self.rooms <= MOST_ROOMS:
            raise ValueError(f"rooms is {self.rooms}: a clip has 2 to {MOST_ROOMS} rooms")
        if self.visits < 2 or self.visit < 4:
            raise ValueError(f"visits is {self.visits} of {self.visit} frames: ask for at least 2 of 4 frames")
        most = len(SHAPES) - self.rooms - 1
        if not 2 <= self.flashes[0] <= self.flashes[1] <= most:
            raise ValueError(f"flashes is {self.flashes}: with {self.rooms} rooms a clip has 2 to {most} flashes")
        if not SHORTEST_GLYPH <= self.glyph <= TALLEST_GLYPH:
            raise ValueError(f"glyph is {self.glyph}: letters are {SHORTEST_GLYPH} to {TALLEST_GLYPH} pixels high")


STANDARD = Difficulty()
LEVELS: dict[str, Difficulty] = {
    "easy": replace(STANDARD, visits=3, decoys=1, movers=1, screen=0.1, dimmed=0.0, contrast=0.3, noise=(2.0, 3.0)),
    "standard": STANDARD,
    "hard": replace(
        STANDARD,
        rooms=4,
        visits=10,
        decoys=6,
        lookalikes=1.0,
        movers=4,
        screen=1.0,
        contrast=0.9,
        glyph=9.0,
        noise=(2.0, 10.0),
        crf=(16, 28),
    ),
}
"""Settings by name."""
