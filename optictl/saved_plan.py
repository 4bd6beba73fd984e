"""A plan in a file: what was asked for, and a fingerprint of all that it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from optictl.errors import CannotRead, CannotWrite


class SavedPlan(BaseModel):
    """Holds no file's content: `Plan.require` compares with what is planned anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optictl_plan_version: Literal[1] = 1
    config: Path
    sets: tuple[str, ...] = ()
    systemd: int | None = None
    root: Path = Path("/")
    force: bool = False
    fingerprint: str
    #: For people.
    summary: str

    def write(self, path: Path) -> None:
        """For the owner alone: the fingerprint is made from secrets too."""
        text = orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
        except OSError as error:
            raise CannotWrite(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CannotRead(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            why = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise CannotRead(
                f"{path} is no saved plan of this optictl ({why}); make one: optictl plan --out F"
            ) from None
