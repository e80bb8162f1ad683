"""Which image a task of Label Studio is about, from the address under which the server shows it."""

import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from semiseg_jax.data.records import IMAGE_SUFFIXES


def image_name(address: str) -> str:
    """The path that an address ends with.

    >>> image_name("/data/local-files/?d=photos/my%20cat.jpg"), image_name("s3://bucket/photos/1.png")
    ('photos/my cat.jpg', 'photos/1.png')
    """
    address = address.strip()
    bucket = re.match(r"(?!https?:)[a-z][a-z0-9.+-]+://[^/]*/(.+)", address, re.IGNORECASE)
    if bucket or not re.match(r"https?://|/data/", address, re.IGNORECASE):
        return unquote(bucket[1] if bucket else address)
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d", [""])[0]
    except ValueError:
        return address
    is_local = local and parts.path.rstrip("/").endswith("local-files")
    return local if is_local else unquote(parts.path).lstrip("/")


def names_an_image(address: str) -> bool:
    """Whether an address ends like the name of an image."""
    return PurePosixPath(image_name(address).replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def without_prefix(name: str) -> str:
    """The name before it was uploaded, when the server put eight digits and a dash before it; "" if it did not.

    >>> without_prefix("upload/3/0a1b2c3d-cat.jpg"), without_prefix("cat.jpg")
    ('upload/3/cat.jpg', '')
    """
    path = PurePosixPath(name.replace("\\", "/"))
    plain = re.sub(r"^[0-9a-f]{8}-(?=.)", "", path.name)
    return str(path.with_name(plain)) if plain not in ("", ".", path.name) else ""
