"""A batch of images, made smaller and softer on all cores.

Each image is an activity in a process: they compute at once, and one that crashes takes
nothing along but its own attempt. The third image crashes its process the first time.
"""

import asyncio
import os
from pathlib import Path

from durable import Engine, activity, activity_info, workflow

Pixels = list[list[int]]


def read_image(path: Path) -> Pixels:
    """Read a plain PGM: its kind, its size, the brightest value, and the pixels."""
    kind, width, _, _, *values = path.read_text().split()
    assert kind == "P2"
    row = int(width)
    numbers = [int(value) for value in values]
    return [numbers[begin : begin + row] for begin in range(0, len(numbers), row)]


def write_image(path: Path, pixels: Pixels) -> None:
    """Write it whole or not at all."""
    lines = [f"P2 {len(pixels[0])} {len(pixels)} 255"]
    lines += [" ".join(map(str, row)) for row in pixels]
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    os.replace(new, path)


def halve(pixels: Pixels) -> Pixels:
    """Let each pixel be the mean of four."""
    return [
        [
            sum(pixels[y + dy][x + dx] for dy in (0, 1) for dx in (0, 1)) // 4
            for x in range(0, len(pixels[0]), 2)
        ]
        for y in range(0, len(pixels), 2)
    ]


@activity(run_in="process")
def draw_image(path: Path, number: int, size: int) -> Path:
    """Draw rings, each image other ones."""
    middle = size / 2
    write_image(
        path,
        [
            [
                int(((x - middle) ** 2 + (y - middle) ** 2) * number / size) % 256
                for x in range(size)
            ]
            for y in range(size)
        ],
    )
    return path


@activity(run_in="process")
def shrink_image(path: Path, number: int) -> Path:
    """Halve an image twice; doing it again gives the same file."""
    if number == 3 and activity_info().attempt == 1:
        os._exit(1)  # as if it had run out of memory
    small = path.with_name(f"small-{path.name}")
    write_image(small, halve(halve(read_image(path))))
    return small


@workflow
async def prepare_image(folder: Path, number: int) -> Path:
    """Draw one and shrink it."""
    path = await draw_image(folder / f"rings-{number}.pgm", number, 64)
    return await shrink_image(path, number)


@workflow
async def prepare_all(folder: Path, count: int) -> list[Path]:
    """Prepare all at once: as many compute together as there are processes."""
    calls = [prepare_image(folder, number) for number in range(1, count + 1)]
    return list(await asyncio.gather(*calls))


def make_folder() -> Path:
    """Make it here, where it may be there already."""
    folder = Path("images").absolute()
    folder.mkdir(exist_ok=True)
    return folder


async def main() -> None:
    folder = make_folder()
    async with Engine("sqlite:///images.db", max_activity_processes=2) as engine:
        small = await engine.execute(prepare_all(folder, 6), id="images-1-to-6")
        health = await engine.health()
    assert all(len(read_image(path)) == 16 for path in small)
    assert health is not None
    print(f"{len(small)} images, {health.lost_processes} process lost:")
    for path in small:
        print(" ", path.name)


if __name__ == "__main__":
    asyncio.run(main())
