#!/bin/sh
# deb.sh: build the Debian package from this checkout, below build/deb.
#
#   deb.sh          carbonseal_VERSION_ARCHITECTURE.deb for this machine's architecture
#   deb.sh lock     look up the newest Python packages that fit, write debian/*.lock anew
#
# A copy of the checkout is built, so that nothing here is changed: build/deb/VERSION/source with
# debian/ on its top level and the locked Python packages in vendor/.  The network is used to fetch
# those, before dpkg-buildpackage begins; each has to have one of the SHA-256 sums of the lock.
#
# Environment: REVISION  replaces the Debian revision of the changelog, for trying upgrades
set -eu
cd "$(dirname "$0")/.."

PYTHON=/usr/bin/python3.11
TOOLS=build/deb/tools
FETCHED=build/deb/fetched
EXTRAS=providers,mysql,timestamp
CONTENT="CHANGELOG.md LICENSE README.md SECURITY.md docs keys milter packaging policies pyproject.toml setup.cfg"

fail() {
    echo "deb: $*" >&2
    exit 1
}

# pip says for each local index which package it has not; that is no news.
quiet_pip() {
    "$TOOLS/bin/python" -m pip --quiet --disable-pip-version-check "$@" 2>build/deb/pip.log ||
        { grep -v 'is ignored: it is neither' build/deb/pip.log >&2; return 1; }
}

make_tools() {
    [ -x "$PYTHON" ] || fail "$PYTHON is missing: the package is built for Debian 12's Python"
    mkdir -p build/deb
    [ -x "$TOOLS/bin/pip" ] || "$PYTHON" -m venv "$TOOLS" || fail "the virtualenv failed, see above"
}

# --- What is vendored -----------------------------------------------------------------------------

# One line for each file that may be installed: name==version --hash=sha256:…
write_lock() {
    "$TOOLS/bin/python" - build/deb/report.json packaging/debian/"$1" "$2" <<'PYTHON'
import json, sys
from pathlib import Path

report, target, what = sys.argv[1:]
lines = [f"# {what}", "# Written by `make deb-lock`; pip refuses whatever has another sum."]
for one in sorted(json.loads(Path(report).read_text())["install"],
                  key=lambda one: one["metadata"]["name"].lower()):
    if "archive_info" in one["download_info"]:
        about, archive = one["metadata"], one["download_info"]["archive_info"]
        sums = archive.get("hashes") or dict([archive["hash"].split("=")])
        lines.append(f"{about['name'].lower().replace('_', '-')}=={about['version']}"
                     f" --hash=sha256:{sums['sha256']}")
Path(target).write_text("\n".join(lines) + "\n")
PYTHON
}

lock() {
    make_tools
    # psycopg[c] is built here against Debian's libpq; its wheels would bring a libpq of their own.
    quiet_pip install --dry-run --ignore-installed --report build/deb/report.json \
        ".[$EXTRAS]" 'psycopg[c]' || fail "no set of packages fits, see above"
    write_lock python.lock "Python packages that are vendored into /usr/lib/carbonseal."
    quiet_pip install --dry-run --ignore-installed --report build/deb/report.json \
        'setuptools==83.0.0' wheel || fail "no setuptools was found, see above"
    write_lock python-build.lock "Python packages that build the others, and stay out of the package."
    add_other_architecture
}

# The sums of the same versions for the other architecture that Debian is used on.
add_other_architecture() {
    rm -rf build/deb/other && mkdir -p build/deb/other
    sed -i 's/ --hash/ \\\n    --hash/' packaging/debian/python.lock
    sed -n 's/^\([a-z0-9.-]*==[^ ]*\).*/\1/p' packaging/debian/python.lock |
        while read -r wanted; do
            quiet_pip download --no-deps --only-binary=:all: --python-version 3.11 \
                --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
                --platform manylinux_2_34_aarch64 --dest build/deb/other "$wanted" 2>/dev/null ||
                echo "deb: $wanted is built from source"
            for found in build/deb/other/*aarch64.whl; do
                [ -e "$found" ] || continue
                sum=$(sha256sum "$found" | cut -d' ' -f1)
                sed -i "s|^\($wanted \\\\\)\$|\1\n    --hash=sha256:$sum \\\\|" \
                    packaging/debian/python.lock
            done
            rm -f build/deb/other/*
        done
}

fetch() {
    mkdir -p "$FETCHED"
    if cat packaging/debian/*.lock | cmp -s - "$FETCHED/lock"; then
        return
    fi
    rm -rf "$FETCHED" && mkdir -p "$FETCHED"
    for lock in python-build python; do
        # Sources that are built later; here only their names are wanted, so no isolation.
        quiet_pip download --no-deps --require-hashes --dest "$FETCHED" \
            -r "packaging/debian/$lock.lock" || fail "$lock.lock could not be fetched, see above"
    done
    cat packaging/debian/*.lock >"$FETCHED/lock"
}

# --- The package ----------------------------------------------------------------------------------

build() {
    command -v dh >/dev/null || fail "debhelper is missing: PACKAGE=1 sh packaging/setup.sh"
    make_tools
    fetch
    version=$(dpkg-parsechangelog -l packaging/debian/changelog -S Version)
    [ -z "${REVISION:-}" ] || version=${version%-*}-$REVISION
    place=build/deb/$version
    rm -rf "$place" && mkdir -p "$place/source"
    # shellcheck disable=SC2086
    tar -c --exclude=__pycache__ --exclude='*.so' --exclude='*.egg-info' $CONTENT |
        tar -x -C "$place/source"
    mv "$place/source/packaging/debian" "$place/source/debian"
    cp -r "$FETCHED" "$place/source/vendor"
    [ -z "${REVISION:-}" ] || revise "$place/source/debian/changelog"
    (cd "$place/source" && dpkg-buildpackage --build=binary --no-sign) >"$place/build.log" 2>&1 ||
        { tail -n 30 "$place/build.log" >&2; fail "dpkg-buildpackage failed: $place/build.log"; }
    # For the container file, which cannot know the version.
    [ -n "${REVISION:-}" ] || cp "$place"/carbonseal_*.deb build/deb/carbonseal.deb
    ls -l "$place"/*.deb
}

# An entry of its own on top, with the date of the last one: the same input makes the same package.
revise() {
    {
        echo "carbonseal ($version) unstable; urgency=medium"
        echo
        echo "  * Rebuilt as revision $REVISION."
        echo
        grep -m 1 '^ -- ' "$1"
        echo
        cat "$1"
    } >"$1.new" && mv "$1.new" "$1"
}

case ${1:-build} in
build) build ;;
lock) lock ;;
*) fail "build or lock, not $1" ;;
esac
