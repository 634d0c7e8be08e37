"""Where the content of a manifest's row lies: what its `etag` column says.

Of an object of its own it is the etag. Of others it has more fields, with tabs between them, which
no etag contains: a worker fetches a member of an archive by its position, without the directory.
"""

from typing import NamedTuple

from mnist_ocr.redaction import redact


class Locator(NamedTuple):
    """The fields; those at the end are left out where they are empty."""

    etag: str = ""
    """The object's, or the archive's."""
    position: str = ""
    """Of a member in its archive, in the words of the archive's format."""
    line: str = ""
    """Of an object or archive in the list that names it, from 1."""
    status: str = ""
    """Of what is known to be unreadable since it was listed."""
    error: str = ""

    def encode(self) -> str:
        """As the manifest holds it."""
        error = redact(self.error).replace("\t", " ").encode(errors="backslashreplace").decode()
        return "\t".join((*self[:-1], error)).rstrip("\t")

    @classmethod
    def parse(cls, text: str) -> "Locator":
        """The other way round."""
        return cls(*text.split("\t"))
