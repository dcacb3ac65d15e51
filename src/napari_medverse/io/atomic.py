"""Writing files so that a reader never meets half of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import MedverseError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place on success.

    When the block raises (disk full, cancel, bad data) the temporary file is removed
    and whatever stood at ``path`` before stands there still.

    Parameters
    ----------
    path
        The file to write; its folder must exist.

    Yields
    ------
    Path
        Where to write. It ends as ``path`` does, so that writers which look at the
        suffix choose the same format.

    Raises
    ------
    MedverseError
        The system refused to write; the message names ``path`` and says why.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise MedverseError(
            f"{target}: the folder {target.parent} does not exist; create it or choose another."
        )
    temporary = target.with_name(f".{uuid4().hex[:8]}-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise MedverseError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, replacing ``path`` in one step.

    Raises
    ------
    MedverseError
        The system refused to write; the message names ``path`` and says why.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
