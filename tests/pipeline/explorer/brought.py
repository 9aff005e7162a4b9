"""Pictures that are brought."""

from PIL import Image

from tests.pipeline.images.kit import encode


def picture(colour: str, size: tuple[int, int] = (8, 6)) -> bytes:
    """A file of one colour."""
    return encode(Image.new("RGB", size, colour))
