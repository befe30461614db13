"""Makes images to try thumbnails.toml with: python make_images.py FOLDER [COUNT]. One file among them is no image."""

from __future__ import annotations

import colorsys
import math
import sys
from pathlib import Path


def make(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        width, height = 640 + 40 * (n % 5), 480 + 60 * (n % 3)
        ground = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(n / count, 0.6, 0.9))
        image = Image.new("RGB", (width, height), ground)
        for step in range(0, 360, 2):  # a rose, with as many petals as its number
            angle = math.radians(step)
            reach = abs(math.cos((n % 7 + 2) * angle)) * height * 0.45
            x, y = int(width / 2 + reach * math.cos(angle)), int(height / 2 + reach * math.sin(angle))
            image.paste((255, 255, 255), (x - 6, y - 6, x + 6, y + 6))
        image.save(folder / f"{n:04d}.{'png' if n % 2 else 'jpg'}")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is not the rest of an image")


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print("usage: python make_images.py FOLDER [COUNT]", file=sys.stderr)
        return 2
    make(Path(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 60)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
