"""The errors that a person sees, each one sentence: what is wrong, the value, what to do.

Exception
|-- ValueError
|   |-- UsageError                  the command cannot work as given       exit 2
|   |   +-- DamagedOutputError      a file of the output is spoilt or gone
|   +-- UnreadableImageError        (digits/decoding.py) becomes a row
|-- ConnectionError
|   |-- StorageUnreachableError     the store does not answer              exit 1
|   +-- DatasetUnavailableError     (training/mnist.py) no download         exit 1
|-- JobFailedError                  the cluster lost too much             exit 1
+-- OSError
    +-- ObjectError                 one object cannot be read; becomes a row

None of them says a secret: their sentences go through `redact`.
"""

from mnist_ocr.redaction import redact


class _RedactedError(Exception):
    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class UsageError(_RedactedError, ValueError):
    """The command cannot work as it was given.

    Most are found before anything is written; of those that are not, such as a full disk, the
    same command resumes once the cause is gone.
    """


class DamagedOutputError(UsageError):
    """A file of an output is not as it was written, or gone; says what to do about it."""


class StorageUnreachableError(_RedactedError, ConnectionError):
    """The store did not answer, after retries; the same command may work later."""


class JobFailedError(_RedactedError, RuntimeError):
    """The cluster could not finish a job; what is done is kept, and the same command goes on."""


class ObjectError(OSError):
    """One object could not be read.

    Attributes:
        status: `missing`, `forbidden`, `throttled` or `changed`: the row's status.
    """

    def __init__(self, status: str, error: str) -> None:
        # file names that are not UTF-8 hold lone surrogates, which a string column cannot
        super().__init__(redact(error.encode(errors="backslashreplace").decode()))
        self.status = status

    def __reduce__(self) -> tuple[type["ObjectError"], tuple[str, str]]:
        """Travel between processes with the status."""
        return type(self), (self.status, str(self))
