#!/bin/sh
# Finds Python 3.11 or newer and hands over to docker/bootstrap.py. Says what to install where there is none.
# Never changes anything by itself unless YES=1 or CI=true asks it to.
set -eu
cd "$(dirname "$0")/.."

find_python() {
    for candidate in .venv/bin/python "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            return 0
        fi
    done
    return 1
}

if ! find_python; then
    missing="  Python 3.11 or newer (with its venv module)"
    packages="python3 python3-venv" java=default-jre-headless browser=chromium
    # shellcheck disable=SC1091
    case "$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")" in
        "ubuntu 22.04") packages="python3.11 python3.11-venv" java=openjdk-17-jre-headless browser=chromium-browser ;;
        "ubuntu "*) browser=chromium-browser ;;
    esac
    if [ "${STACK:-}" != docker ]; then
        command -v java >/dev/null 2>&1 || { missing="$missing
  Java 17 or newer (runs Kafka)"; packages="$packages $java"; }
        command -v mvn >/dev/null 2>&1 || { missing="$missing
  Maven (fetches Kafka)"; packages="$packages maven"; }
    fi
    if [ "${1:-}" = test ] && ! command -v chromium >/dev/null 2>&1 && ! command -v chromium-browser >/dev/null 2>&1 &&
        ! command -v google-chrome >/dev/null 2>&1; then
        missing="$missing
  Chromium (the tests look at the dashboard in it)"; packages="$packages $browser"
    fi
    root=""
    [ "$(id -u)" = 0 ] || root="sudo "
    line="${root}apt-get update && ${root}apt-get install -y --no-install-recommends $packages"
    printf 'Missing:\n%s\n' "$missing" >&2
    if ! command -v apt-get >/dev/null 2>&1; then
        printf 'Install these with your package manager, then run the same command again.\n' >&2
        exit 1
    fi
    answer=n
    if [ "${YES:-}" = 1 ] || [ "${CI:-}" = true ]; then
        answer=y
    elif [ -t 0 ]; then
        printf 'Install now with\n  %s\n? [y/N] ' "$line" >&2
        read -r answer
    fi
    case "$answer" in
        y | Y | yes) ;;
        *)
            printf 'Way out:\n  %s\n' "$line" >&2
            exit 1
            ;;
    esac
    sh -c "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; $line" >&2
    find_python || { printf 'Still no Python 3.11 or newer: this release is too old.\n' >&2; exit 1; }
fi

exec "$python" -m docker.bootstrap "$@"
