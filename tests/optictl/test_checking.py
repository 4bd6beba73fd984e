"""How checks are found, chosen, run and summed up; and a finding fit for strangers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from boxes import MakeBox, make_box

from optictl import checking
from optictl.anonymous import Anonymous, anonymous
from optictl.checking import (
    Check,
    Checked,
    Finding,
    chosen,
    discover,
    exit_status,
    fail,
    look,
    mend,
    ok,
    run_checks,
    skipped,
    verdict,
    warn,
    without_site,
)
from optictl.errors import OptictlError, UsageError
from proxy.errors import ConfigError

__all__ = ["make_box"]  # a fixture, used by name


def a_check(look: object, name: str = "example", **more: object) -> Check:
    return Check(name, "settings", "It holds.", "", look, **more)  # type: ignore[arg-type]


def results(*findings: Finding) -> list[Checked]:
    return [Checked(a_check(None), each) for each in findings]


class TestKnown:
    def test_all_that_are_asked_for(self) -> None:
        assert {each.name for each in discover()} == {
            *("settings", "drift", "secrets", "environment"),
            *("active", "enabled", "restarts", "daemon_reload", "drop_ins", "exposure", "port"),
            *("ready", "models", "auth", "loop", "degraded", "router"),
            *("upstream", "base_model", "members", "providers"),
            *("gateway", "gateway_settings", "canary", "routing"),
            "neighbours",
        }

    @pytest.mark.parametrize("each", discover(), ids=lambda each: each.name)
    def test_each_says_what_holds_and_more_for_explain(self, each: Check) -> None:
        assert each.about.endswith(".")
        assert each.explanation.endswith(".")
        assert each.name == each.look.__name__

    def test_only_deep_ones_call_models(self) -> None:
        assert {each.name for each in discover() if each.pace == "deep"} == {"canary", "loop"}


class TestChosen:
    def test_by_pace(self) -> None:
        known = discover()
        everyday, fast, deep = (
            chosen(known, []),
            chosen(known, [], fast=True),
            chosen(known, [], deep=True),
        )
        assert {each.pace for each in everyday} == {"fast", "normal"}
        assert {each.pace for each in fast} == {"fast"}
        assert deep == known

    def test_a_name_is_run_whatever_its_pace(self) -> None:
        assert [each.name for each in chosen(discover(), ["canary"], fast=True)] == ["canary"]

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(UsageError, match="did you mean 'drift'"):
            chosen(discover(), ["drfit"])


class TestRunning:
    def test_one_that_crashes_is_a_finding_and_others_go_on(self, make_box: MakeBox) -> None:
        def crash(_: object) -> Finding:
            raise ZeroDivisionError("of ours")

        crashed, well = run_checks([a_check(crash), a_check(lambda _: ok("seen"))], make_box())
        assert crashed.finding.status == "fail"
        assert "ZeroDivisionError: of ours" in crashed.finding.saw
        assert well.finding.status == "ok"

    def test_an_error_of_ours_is_what_was_found(self, make_box: MakeBox) -> None:
        def unusable(_: object) -> Finding:
            raise ConfigError("file:1: no")

        [found] = run_checks([a_check(unusable)], make_box())
        assert (found.finding.status, found.finding.saw) == ("fail", "file:1: no")

    def test_what_only_others_may_read_is_no_failure(self, make_box: MakeBox) -> None:
        def denied(_: object) -> Finding:
            try:
                raise PermissionError
            except PermissionError:
                raise ConfigError("cannot read /etc/litellm/env: Permission denied") from None

        [found] = run_checks([a_check(denied)], make_box())
        assert found.finding == skipped("cannot read /etc/litellm/env: Permission denied")

    def test_they_run_beside_one_another(self, make_box: MakeBox) -> None:
        both = threading.Barrier(2, timeout=30)

        def meet(_: object) -> Finding:
            both.wait()
            return ok("met")

        found = run_checks([a_check(meet), a_check(meet)], make_box())
        assert [each.finding.status for each in found] == ["ok", "ok"]

    def test_who_is_slow_is_named(self, make_box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking, "SLOW", 0.05)
        told = threading.Event()
        heard: list[str] = []

        def tell(line: str) -> None:
            heard.append(line)
            told.set()

        def slow(_: object) -> Finding:
            assert told.wait(30)
            return ok("at last")

        wanted = [a_check(slow, "slow"), a_check(lambda _: ok("at once"), "quick")]
        look(wanted, make_box(), tell=tell)
        assert heard == ["still waiting for: slow"]

    def test_without_network(self, make_box: MakeBox) -> None:
        def never(_: object) -> Finding:
            raise AssertionError

        wanted = [a_check(never, "far", network=True), a_check(lambda _: ok("here"), "near")]
        far, near = look(wanted, make_box(), network=False)
        assert (far.finding.status, near.finding.status) == ("skipped", "ok")


class TestMending:
    def test_what_is_mended_is_looked_at_again(self, make_box: MakeBox) -> None:
        broken, heard = [True], list[str]()

        def repair() -> str:
            broken.clear()
            return "mended it"

        def fragile(_: object) -> Finding:
            return fail("broken", "mend it", repair) if broken else ok("whole")

        def depends(_: object) -> Finding:
            return skipped("see fragile") if broken else ok("too")

        wanted = [a_check(fragile, "fragile"), a_check(depends, "depends")]
        assert verdict(look(wanted, make_box())) == "0 ok, 1 failed, 1 skipped"
        assert verdict(look(wanted, make_box(), fix=True, tell=heard.append)) == "2 ok"
        assert heard == ["fragile: mended it"]

    def test_a_repair_that_fails_says_so_and_others_go_on(self) -> None:
        def refuse() -> str:
            raise OptictlError("only root may")

        found = results(fail("a", "b", refuse), warn("c", "d", lambda: "done"), ok("e"))
        assert mend(found) == [("example", "could not: only root may"), ("example", "done")]


class TestSummed:
    @pytest.mark.parametrize(
        ("findings", "said", "status", "strict"),
        [
            ([ok("")], "1 ok", 0, 0),
            ([ok(""), skipped("")], "1 ok, 1 skipped", 0, 0),
            ([ok(""), warn("", "")], "1 ok, 1 warning", 0, 3),
            ([warn("", ""), warn("", "")], "0 ok, 2 warnings", 0, 3),
            ([ok(""), warn("", ""), fail("", "")], "1 ok, 1 warning, 1 failed", 1, 1),
        ],
    )
    def test_verdict_and_exit_status(
        self, findings: list[Finding], said: str, status: int, strict: int
    ) -> None:
        found = results(*findings)
        assert verdict(found) == said
        assert exit_status(found, strict=False) == status
        assert exit_status(found, strict=True) == strict

    def test_without_a_site_one_thing_is_wrong(self) -> None:
        found = without_site(chosen(discover(), ["auth", "port"]), ConfigError("x.yaml:1: no"))
        assert [(each.check.name, each.finding.status) for each in found] == [
            ("settings", "fail"),
            ("port", "skipped"),
            ("auth", "skipped"),
        ]
        assert found[0].finding.saw == "x.yaml:1: no"


class TestAnonymous:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("the key is hunter2!", "the key is (secret)!"),
            ("Bearer abc.def", "Bearer (secret)"),
            ("got sk-live-0123456789", "got (secret)"),
            ("/home/ann/.optillm and /home/bob", "~/.optillm and ~"),
            ("/srv/ann/x.yaml:3", "~/x.yaml:3"),
            ("/root/next.plan", "~/next.plan"),
            ("http://127.0.0.1:4020 and http://localhost:4000", None),
            (
                "http://mini:8888 and http://studio:8100",
                "http://host-2:8888 and http://host-3:8100",
            ),
            ("http://me:pw@mini/x", "http://host-2/x"),
            ("https://192.168.1.72:8100/v1", "https://host-2:8100/v1"),
            ("listens on 192.168.1.71", "listens on host-2"),
            ("on tower.", "on host-1."),
            ("owned by ann", "owned by (user)"),
            ("annex, /var/lib/optillm-proxy, 1.106.2, /etc/optillm-proxy/env:3", None),
        ],
    )
    def test_names_go_and_the_rest_stays(self, text: str, told: str | None) -> None:
        word = Anonymous(
            secrets=["hunter2"], hosts=["tower"], users=["ann"], homes=[Path("/srv/ann")]
        )
        assert word(text) == (text if told is None else told)

    def test_a_host_is_the_same_everywhere(self) -> None:
        word = Anonymous()
        assert word("http://mini:1") == "http://host-1:1"
        assert word("http://studio:1 http://mini:2") == "http://host-2:1 http://host-1:2"

    def test_the_keys_of_the_site(self, make_box: MakeBox, tmp_path: Path) -> None:
        keys = tmp_path / "keys.env"
        keys.write_text("UP=upstream-key\n")
        box = make_box(
            f"service: {{user: ann}}\nproxy: {{base_model: sim, key: {{file: {tmp_path}/none}}}}\n"
            f"upstream: {{key: {{env_file: {keys}, name: UP}}}}"
        )
        assert anonymous(box)("upstream-key of ann") == "(secret) of (user)"
