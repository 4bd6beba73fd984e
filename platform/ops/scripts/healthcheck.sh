#!/bin/sh
# Is everything on the way healthy: the proxy, LiteLLM, the neighbours that the site names?
set -eu

quiet=
for word in "$@"; do
    case $word in
    -h | --help)
        cat <<'EOF'
usage: healthcheck.sh [OPTION]...

Looks at the service and at the neighbours of optictl.yaml, in about two seconds; no model is
called. Says what is wrong and what mends it, or that all is well. The exit status is that of
`optictl check`: 0 healthy, 1 not.

  -q, --quiet   say nothing where all is well
  other options go to `optictl check`, such as --config FILE, --user, --json, --strict

OPTICTL names the optictl to use; else it is taken from PATH, or from the service.
EOF
        exit 0
        ;;
    -q | --quiet) quiet=yes ;;
    esac
done
. "$(dirname "$(readlink -f "$0")")/optictl.sh"

"$OPTICTL" check --fast --quiet "$@"
[ -n "$quiet" ] || echo "all is well" >&2
