"""What can go wrong and be mended by the user.

SadstreamError
├── InputError      a path, file or folder that is not what it should be
├── FormatError     a raw log that cannot be read as it stands
├── RecordError     one of our own records is malformed or of a newer version
├── ManifestError   an output folder holds something else, or is unfinished or damaged
├── ShardError      a tar or its index is damaged or disagrees with the manifest
├── ConfigError     an option, or two that don't go together
├── ModelError      a teacher or student that cannot be used
├── TrainingError   a loss that is no number, or that leaps
├── RenderError     a trajectory that a chat template does not take
├── EndpointError   a server that does not answer as it should
├── TaskError       an environment, a task of it or its data that cannot be played
└── ShapeError      arrays or tensors that don't fit each other
"""


class SadstreamError(Exception):
    """Root of all errors that a user can mend.

    Args:
        message: where, what.
        hint: what to do about it, one line.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # The default drops keyword-only arguments when an error crosses to another process.
        return (_rebuild, (type(self), str(self), self.hint))


def _rebuild(kind: type[SadstreamError], message: str, hint: str) -> SadstreamError:
    return kind(message, hint=hint)


class InputError(SadstreamError):
    """A path, file or folder that is not what it should be."""


class FormatError(SadstreamError):
    """A raw log that cannot be read as it stands."""


class RecordError(SadstreamError):
    """One of our own records is malformed or of a newer version."""


class ManifestError(SadstreamError):
    """An output folder holds something else, or is unfinished or damaged."""


class ShardError(SadstreamError):
    """A tar or its index is damaged or disagrees with the manifest."""


class ConfigError(SadstreamError):
    """An option, or two that don't go together."""


class ModelError(SadstreamError):
    """A teacher or student that cannot be used."""


class TrainingError(SadstreamError):
    """A loss that is no number, or that leaps."""


class RenderError(SadstreamError):
    """A trajectory that a chat template does not take."""


class EndpointError(SadstreamError):
    """A server that does not answer as it should."""


class TaskError(SadstreamError):
    """An environment, a task of it or its data that cannot be played."""


class ShapeError(SadstreamError):
    """Arrays or tensors that don't fit each other."""
