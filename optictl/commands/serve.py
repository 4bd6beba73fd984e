"""``optictl serve``: the data plane in the foreground, under every flag OptiLLM has."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from optictl import __version__
from optictl.approach_flags import ApproachFlags, with_approach_flags
from optictl.console import data, emit_json, warn
from optictl.peer_flags import refuse_environment, refuse_leftovers
from optictl.result import Result
from optictl.router_flags import with_router_flags
from optictl.serve_settings import (
    LogLevel,
    ensembles_of,
    exists,
    log_level,
    pattern,
    pool_of,
    proxy_key_of,
    refuse_local_inference,
)
from optictl.sharing_flags import with_sharing_flags
from optictl.telemetry_flags import with_telemetry_flags
from optictl.upstream_flags import upstream
from proxy.ensembles import aliases_of
from proxy.errors import ConfigError
from proxy.hops import instance_id
from proxy.router.config import RouterSettings
from proxy.settings import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    Limits,
    Settings,
    Sharing,
    is_loopback,
    read_ca_bundle,
)
from proxy.upstream.config_search import find

#: Flags of OptiLLM that are not built yet arrive as leftovers, and get an answer of their own.
CONTEXT_SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True}


class NativeN(StrEnum):
    SINGLE = "single"
    NATIVE = "native"


class Cancel(StrEnum):
    CLOSE = "close"
    STREAM = "stream"


@with_approach_flags
@with_sharing_flags
@with_telemetry_flags
@with_router_flags
def serve(
    context: typer.Context,
    approach_flags: ApproachFlags,
    sharing: Sharing,
    telemetry: dict[str, Any],
    router: RouterSettings | None,
    host: Annotated[
        str, typer.Option(envvar="OPTILLM_HOST", help="Address to listen on.")
    ] = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option(envvar="OPTILLM_PORT", min=1, max=65535, help="Port to listen on.")
    ] = DEFAULT_PORT,
    allow_external: Annotated[
        bool, typer.Option("--allow-external", help="Permit an address that is not loopback.")
    ] = False,
    base_url: Annotated[
        str,
        typer.Option(
            "--base-url", "--base_url", envvar="OPTILLM_BASE_URL", help="The upstream's /v1 URL."
        ),
    ] = "",
    upstream_api_key_file: Annotated[
        str | None,
        typer.Option(
            "--upstream-api-key-file",
            "--upstream_api_key_file",
            help="File with the upstream's key; else OPENAI_API_KEY.",
        ),
    ] = None,
    proxy_config: Annotated[
        str | None,
        typer.Option(
            "--proxy-config",
            "--proxy_config",
            envvar="OPTILLM_PROXY_CONFIG",
            help="The pool of providers; else ~/.optillm/proxy_config.yaml where that exists.",
        ),
    ] = None,
    ensembles: Annotated[
        str | None,
        typer.Option(
            envvar="OPTILLM_ENSEMBLES", help="The registry of ensembles: JSON, one a line."
        ),
    ] = None,
    single_model_ensembles: Annotated[
        bool,
        typer.Option("--single-model-ensembles", help="Permit ensembles of one model."),
    ] = False,
    degraded: Annotated[
        bool,
        typer.Option("--degraded", help="Answer every request by none, in one call."),
    ] = False,
    degraded_file: Annotated[
        str | None,
        typer.Option(
            "--degraded-file",
            help="As with --degraded while this file exists; looked for on start and on SIGHUP.",
        ),
    ] = None,
    approach: Annotated[
        str,
        typer.Option(
            envvar="OPTILLM_APPROACH",
            help="Default approach or pipeline. proxy: the pool of providers serves every request.",
        ),
    ] = "auto",
    model: Annotated[
        str, typer.Option(envvar="OPTILLM_MODEL", help="Base model where a request names none.")
    ] = "gpt-4o-mini",
    optillm_api_key: Annotated[
        str,
        typer.Option(
            "--optillm-api-key",
            "--optillm_api_key",
            help="Key that clients must send. Visible in ps: prefer the file.",
        ),
    ] = "",
    optillm_api_key_file: Annotated[
        str | None,
        typer.Option(
            "--optillm-api-key-file",
            "--optillm_api_key_file",
            help="File with the key that clients must send.",
        ),
    ] = None,
    best_of_n: Annotated[
        int,
        typer.Option(
            "--best-of-n",
            "--best_of_n",
            envvar="OPTILLM_BEST_OF_N",
            min=1,
            max=64,
            help="Samples of bon.",
        ),
    ] = 3,
    n: Annotated[
        int, typer.Option("--n", envvar="OPTILLM_N", min=1, help="Choices by default.")
    ] = 1,
    return_full_response: Annotated[
        bool,
        typer.Option(
            "--return-full-response",
            "--return_full_response",
            envvar="OPTILLM_RETURN_FULL_RESPONSE",
            help="cot_reflection shows its thinking.",
        ),
    ] = False,
    log: Annotated[
        LogLevel, typer.Option("--log", envvar="OPTILLM_LOG", help="What is logged.")
    ] = LogLevel.INFO,
    ssl_verify: Annotated[
        bool,
        typer.Option(
            "--ssl-verify/--no-ssl-verify",
            "--ssl_verify/--no_ssl_verify",
            envvar="OPTILLM_SSL_VERIFY",
            help="Verify the upstream's certificate.",
        ),
    ] = True,
    ssl_cert_path: Annotated[
        str,
        typer.Option(
            "--ssl-cert-path",
            "--ssl_cert_path",
            envvar="OPTILLM_SSL_CERT_PATH",
            help="CA bundle for the upstream.",
        ),
    ] = "",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    threads: Annotated[
        int, typer.Option(min=2, max=8192, help="Requests a worker can hold at once.")
    ] = 512,
    request_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds a request may take; best so far at the end.")
    ] = 600.0,
    graceful_timeout: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds to finish on SIGTERM; else request timeout + 5."),
    ] = None,
    upstream_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds of silence on one upstream call.")
    ] = 300.0,
    connect_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to connect to the upstream.")
    ] = 5.0,
    upstream_n: Annotated[
        NativeN,
        typer.Option(help="Draw k samples as k calls, or as one call with n: k."),
    ] = NativeN.SINGLE,
    upstream_cancel: Annotated[
        Cancel,
        typer.Option(help="How the upstream notices a cancelled call: on close, or if it streams."),
    ] = Cancel.CLOSE,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Largest request body.")] = 32,
    max_choices: Annotated[int, typer.Option(min=1, help="Most choices of one request.")] = 8,
    max_fanout: Annotated[
        int, typer.Option(min=1, help="Calls of one request that may be under way at once.")
    ] = 16,
    patience: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="With two thirds of a stage's samples there, wait so many times as long again.",
            show_default="for all",
        ),
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(min=1, help="Most upstream calls of one request.")
    ] = None,
    max_total_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of one request.")
    ] = None,
    allow_prompt_tags: Annotated[
        bool,
        typer.Option("--allow-prompt-tags", help="Honour <optillm_approach> in prompts."),
    ] = False,
    task_pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--task-pattern",
            help="Regex of prompts that are chores (titles, tags), besides Open WebUI's: they run "
            "none. Repeatable.",
        ),
    ] = None,
    progress: Annotated[
        bool,
        typer.Option("--progress", help="Tell about early stages as reasoning_content."),
    ] = False,
    loop_stuck_after: Annotated[
        float,
        typer.Option(min=1.0, help="Seconds after which a stuck worker is replaced."),
    ] = 20.0,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="What keeps it from starting is said in JSON.")
    ] = False,
) -> None:
    """Run the proxy in the foreground.

    Takes over an OptiLLM command line as it stands. SIGTERM finishes what is
    in flight, SIGHUP reads keys, providers and ensembles again.

    \b
    Examples:
      optictl serve --base-url http://127.0.0.1:4000/v1 --model qwen3
      optillm --host 127.0.0.1 --port 4020 --base-url http://127.0.0.1:4000/v1 --approach proxy
    """
    if version:
        if as_json:
            emit_json(Result("serve", {"version": __version__}))
        else:
            data(f"optictl {__version__}")
        return
    refuse_leftovers(context.args)
    refuse_environment(os.environ)
    if not allow_external and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from outside this machine; if that is meant, "
            "add --allow-external (and a key: --optillm-api-key-file)"
        )
    refuse_local_inference(os.environ, base_url)
    if optillm_api_key and optillm_api_key_file is not None:
        raise ConfigError("give --optillm-api-key or --optillm-api-key-file, not both")
    if optillm_api_key:
        warn("--optillm-api-key is visible in ps; use --optillm-api-key-file")
    source = context.get_parameter_source("log")
    flag = None if source is None or source.name == "DEFAULT" else log.value
    found: list[Path] = []

    def snapshot() -> Settings:
        """Built again on SIGHUP: files may have changed."""
        # A file that served once has to stay: to serve on without it would surprise.
        file = found[0] if found else find(proxy_config, Path.home())
        pool = None
        if file is not None:
            pool = pool_of(file)
            found[:] = [file]
        level = log_level(flag, os.environ, pool)
        return Settings(
            pool=pool,
            **upstream(base_url, upstream_api_key_file, os.environ, pooled=pool is not None),
            proxy_key=proxy_key_of(optillm_api_key, optillm_api_key_file),
            host=host,
            port=port,
            approach=approach,
            model=model,
            choices=n,
            workers=workers,
            threads=threads,
            request_timeout=request_timeout,
            graceful_timeout=graceful_timeout,
            upstream_timeout=upstream_timeout,
            connect_timeout=connect_timeout,
            upstream_n=upstream_n.value,
            upstream_cancel=upstream_cancel.value,
            ssl_verify=ssl_verify,
            ssl_ca=read_ca_bundle(ssl_cert_path, "--ssl-cert-path") if ssl_cert_path else None,
            max_body=max_body_mb * 1024 * 1024,
            max_choices=max_choices,
            max_fanout=max_fanout,
            patience=patience,
            sharing=sharing,
            **telemetry,
            router=router,
            limits=Limits(max_calls=max_calls, max_total_tokens=max_total_tokens),
            options={
                "bon.samples": best_of_n,
                "cot_reflection.full": return_full_response,
                **approach_flags.options(),
            },
            allow_prompt_tags=allow_prompt_tags,
            task_patterns=tuple(map(pattern, task_pattern or ())),
            ensembles=ensembles_of(ensembles, single_model_ensembles),
            aliases=aliases_of(os.environ),
            degraded=degraded or exists(degraded_file),
            progress=progress,
            log_level=level,
            loop_stuck_after=loop_stuck_after,
            instance=instance_id(host, port),
            version=__version__,
        )

    settings = snapshot()
    # Imported here: `optictl --help` needs no web server.
    from proxy.server import serve as serve_forever

    raise typer.Exit(serve_forever(settings, reload=snapshot))
