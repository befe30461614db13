"""What the stages of thumbnails.toml do: find images, shrink each, and put all of them on one sheet at the end."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import zpipe
from zpipe_plugins.extras import require


@dataclass
class Images:
    paths: Annotated[str, "a glob of files, relative to the config file"]


class Find(zpipe.Source[Images, str]):
    """A message has the name of the file, and not what is in it, which may be large. A position is the name: they are sorted."""

    @zpipe.override
    def source(self, context: zpipe.Context[Images, str]) -> Iterator[tuple[str, Any]]:
        found = glob.glob(context.options.paths, root_dir=context.config_dir, recursive=True)
        for name in sorted(name for name in found if os.path.isfile(context.config_dir / name)):
            if context.position is None or name > context.position:
                yield name, {"path": name}


@dataclass
class Thumbnails:
    folder: Annotated[str, "where thumbnails go, relative to the config file"]
    pixels: Annotated[int, "the longer side of each"] = 128


class Shrink(zpipe.Map[Thumbnails]):
    """Runs in worker processes. A thumbnail gets its name when it is whole, so a kill leaves none that is half."""

    @zpipe.override
    def check(self, options: Thumbnails, config_dir: Path) -> None:
        require("images", "PIL")

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[Thumbnails]) -> Any:
        from PIL import Image, ImageOps, UnidentifiedImageError

        options, path = context.options, message.payload["path"]
        made = context.config_dir / options.folder / f"{Path(path).stem}-{abs(hash_of(path)):08x}.jpg"
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            with Image.open(context.config_dir / path) as image:
                size = image.size
                small = ImageOps.exif_transpose(image).convert("RGB")
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
            raise zpipe.Reject(f"{path}: {error}") from None
        small.thumbnail((options.pixels, options.pixels))
        unfinished = made.with_suffix(f".{os.getpid()}")
        small.save(unfinished, "JPEG", quality=85)
        unfinished.replace(made)
        return {"path": path, "thumbnail": str(made), "width": size[0], "height": size[1]}


def hash_of(text: str) -> int:
    """The same in every process, unlike that of Python."""
    import zlib

    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


@dataclass
class ContactSheet:
    path: Annotated[str, "the image that is made, relative to the config file"]
    columns: Annotated[int, "thumbnails in a row"] = 8
    pixels: Annotated[int, "the side of each place"] = 128


class Sheet(zpipe.Map[ContactSheet]):
    """Holds all messages until the end, since the sheet is made of all of them, and acks them when it is on the disk."""

    def __init__(self) -> None:
        self.held: list[zpipe.Message] = []

    @zpipe.override
    def check(self, options: ContactSheet, config_dir: Path) -> None:
        require("images", "PIL")

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[ContactSheet]) -> None:
        context.hold(message)
        self.held.append(message)

    @zpipe.override
    def flush(self, context: zpipe.Context[ContactSheet]) -> Any:
        if context.leaving or not self.held:
            return None
        from PIL import Image

        options = context.options
        by_path = {message.payload["path"]: message.payload["thumbnail"] for message in self.held}
        rows = -(-len(by_path) // options.columns)
        sheet = Image.new("RGB", (options.columns * options.pixels, rows * options.pixels), "white")
        for number, path in enumerate(sorted(by_path)):
            row, column = divmod(number, options.columns)
            with Image.open(by_path[path]) as small:
                left = column * options.pixels + (options.pixels - small.width) // 2
                top = row * options.pixels + (options.pixels - small.height) // 2
                sheet.paste(small, (left, top))
        whole = context.config_dir / options.path
        unfinished = whole.with_suffix(".unfinished")
        sheet.save(unfinished, "PNG")
        unfinished.replace(whole)
        return context.release(zpipe.DROP, self.held)
