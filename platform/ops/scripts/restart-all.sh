#!/bin/sh
# Restart every unit of the site's restart_order, wait for each, then look whether all is healthy.
set -eu

for word in "$@"; do
    case $word in
    -h | --help)
        cat <<'EOF'
usage: restart-all.sh [OPTION]...

Restarts the units of restart_order in optictl.yaml, one after the other. Each is waited for:
systemd has to say that it runs, and the neighbours with its name as `unit` have to answer. Stops
at the first one that fails and names those that were not restarted. Then runs healthcheck.sh.
The exit status is that of what failed, 0 where nothing did.

  options go to `optictl restart` and `optictl check`, such as --config FILE or --user

OPTICTL names the optictl to use; else it is taken from PATH, or from the service.
EOF
        exit 0
        ;;
    esac
done
here=$(dirname "$(readlink -f "$0")")
. "$here/optictl.sh"

"$OPTICTL" restart --all "$@"
export OPTICTL
exec "$here/healthcheck.sh" "$@"
