#!/bin/sh
# setup.sh: everything a checkout needs to build and test, and nothing when it is all there.
#
#   1. installs what is missing of packaging/debian-packages.txt, as root or through sudo;
#   2. makes the virtualenv .venv and installs the checkout into it, editable, with its test tools;
#   3. for `make bench`, also what packaging/benchmark-packages.txt lists and the plotting library;
#      for `make deb`, also what packaging/package-packages.txt lists.
#
# Promises: no service is started or configured, now or at the next boot; no installed package is
# removed (another mail server would be); a second run only looks and changes nothing; what fails,
# fails with one sentence.
#
# Environment: PYTHON         interpreter of the virtualenv, 3.11 or later (/usr/bin/python3, python3)
#              SKIP_PACKAGES  not empty: leave the system's packages alone
#              BENCH          not empty: what benchmarks need as well
#              PACKAGE        not empty: what building and trying the Debian package needs as well
set -eu
cd "$(dirname "$0")/.."

PACKAGES="packaging/debian-packages.txt${BENCH:+ packaging/benchmark-packages.txt}"
PACKAGES="$PACKAGES${PACKAGE:+ packaging/package-packages.txt}"
POLICY=/usr/sbin/policy-rc.d
STAMP=.venv/.setup-stamp

fail() {
    echo "setup: $*" >&2
    exit 1
}

[ $# -eq 0 ] || fail "no arguments are taken; read the first lines of $0"

# --- 1. Debian packages ---------------------------------------------------------------------------

missing_packages() {
    # shellcheck disable=SC2086
    wanted=$(sed 's/#.*//' $PACKAGES)
    # dpkg-query fails when it does not know one of them, and still lists the others.
    # shellcheck disable=SC2086
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $wanted 2>/dev/null |
        sed -n 's/ installed$//p')
    for package in $wanted; do
        echo "$installed" | grep -qxF "$package" || echo "$package"
    done
}

# Root's own commands, or sudo's; env because sudo drops the environment.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# invoke-rc.d and deb-systemd-invoke ask this file whether a package may start its service.  One that
# the owner of the machine has put there stays as it is.
policy_is_ours=
forbid_services() {
    if [ -e "$POLICY" ] || [ -L "$POLICY" ]; then
        return
    fi
    policy_is_ours=yes
    trap 'as_root rm -f "$POLICY"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | as_root sh -c "cat >$POLICY && chmod 755 $POLICY" ||
        fail "$POLICY cannot be written, so services could not be kept from starting"
}

allow_services() {
    [ -n "$policy_is_ours" ] || return 0
    trap - EXIT HUP INT TERM
    as_root rm -f "$POLICY"
}

# Debian enables what it installs: without this, opendkim would run after the next boot.
disable_services() {
    for package in "$@"; do
        for unit in $(dpkg -L "$package" | sed -n 's,.*/systemd/system/\([^/@]*\.service\)$,\1,p'); do
            as_root systemctl --quiet disable "$unit" >/dev/null 2>&1 || true
        done
        if [ -e "/etc/init.d/$package" ]; then
            as_root update-rc.d "$package" disable >/dev/null 2>&1 || true
        fi
    done
}

apt_install() {
    as_root apt-get install -q -y --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

install_packages() {
    command -v apt-get >/dev/null ||
        fail "apt-get is missing; install the counterparts of $PACKAGES and set SKIP_PACKAGES=1"
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
        fail "run as root, or install sudo, to get the Debian packages: $missing"

    echo "setup: installing $missing"
    case " $missing" in
    *" postfix "*)
        # The postinst then writes no main.cf, and Postfix without one does not start.
        echo "postfix postfix/main_mailer_type select No configuration" |
            as_root debconf-set-selections || fail "debconf did not take the answer for postfix"
        ;;
    esac
    forbid_services
    # shellcheck disable=SC2086
    if ! apt_install $missing; then
        echo "setup: trying again with fresh package lists"
        as_root apt-get update -q </dev/null || fail "apt-get update failed, see above"
        apt_install $missing ||
            fail "apt-get cannot install $missing(it may not remove packages), see above"
    fi
    # shellcheck disable=SC2086
    disable_services $missing
    allow_services
}

# --- 2. virtualenv --------------------------------------------------------------------------------

is_usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_usable "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or later with venv"
        echo "$PYTHON"
        return
    fi
    for candidate in /usr/bin/python3 python3; do
        if is_usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or later with venv was found; name one: PYTHON=/path/to/python3 make setup"
}

# What the virtualenv depends on: the metadata, what is compiled, the place that an editable install
# points to, and the names of what came of compiling, which may be nothing where no compiler is.
stamp() {
    {
        pwd -P && cat setup.cfg pyproject.toml keys/*.[ch] milter/*.[ch] milter/*/*.[ch]
        ls keys/*.so milter/*.so milter/*/*.so 2>/dev/null || true
    } | sha256sum
}

install_checkout() {
    if .venv/bin/python -c '' 2>/dev/null && [ "$(cat "$STAMP" 2>/dev/null)" = "$(stamp)" ]; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(choose_python)
        echo "setup: making .venv with $python"
        "$python" -m venv --clear .venv || fail "$python could not make .venv, see above"
    fi
    echo "setup: installing the checkout and its test tools into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,check]' ||
        fail "pip could not install the checkout into .venv, see above"
    stamp >"$STAMP"
}

install_plotting() {
    if .venv/bin/python -c 'import matplotlib' 2>/dev/null; then
        return
    fi
    echo "setup: installing the plotting library into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]' ||
        fail "pip could not install the plotting library into .venv, see above"
}

[ -n "${SKIP_PACKAGES:-}" ] || install_packages
install_checkout
[ -z "${BENCH:-}" ] || install_plotting
