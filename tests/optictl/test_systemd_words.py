"""A unit that does not come up is told with what it has said last."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from optictl.errors import SystemdFailed, UnitFailed
from optictl.systemd import Systemd


@pytest.mark.parametrize("permitted", [True, False])
def test_what_was_said_just_now_is_written_before_it_is_read(permitted: bool) -> None:
    ran: list[str] = []

    def run(command: Sequence[str]) -> str:
        ran.append(command[1])
        if command[0] == "systemctl" or (command[1] == "--sync" and not permitted):
            raise SystemdFailed(f"{command[1]} failed")
        return "Address already in use\n"

    with pytest.raises(UnitFailed) as caught:
        Systemd(run=run).start("a.socket")
    said = "start failed\n  Address already in use\nmore: journalctl -u a.socket --since -10min"
    assert str(caught.value) == said
    assert ran == ["start", "--sync", "--no-pager"]
