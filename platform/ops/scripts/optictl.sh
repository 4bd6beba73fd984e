# Sourced by the scripts beside it. Sets OPTICTL: as given, else from PATH, else the one that the
# service is run by.
if [ -z "${OPTICTL:-}" ]; then
    OPTICTL=$(command -v optictl) ||
        OPTICTL=$(systemctl show --property ExecStart --value optillm-proxy.service 2>/dev/null |
            sed -n 's/^{ path=\([^ ;]*\).*/\1/p')
    if [ -z "$OPTICTL" ]; then
        echo "${0##*/}: there is no optictl in PATH, and no service to take it from;" \
            "say where it is: OPTICTL=/path/to/optictl $0" >&2
        exit 1
    fi
fi
