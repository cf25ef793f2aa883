#!/bin/sh
# Make this machine ready for the tests: the Debian packages they use, and a virtual environment in .venv.
# Says nothing and takes a moment when all is there. Starts no service. Needs Debian 12 or later.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=$root/.venv
policy=/usr/sbin/policy-rc.d
tree=/var/cache/aioruntime-tests/trixie
tree_packages=ca-certificates,conmon,containerd,docker.io,iptables,netavark,nftables,podman,runc

packages='
    ca-certificates conmon debootstrap docker-registry docker.io iproute2 iptables netavark nftables
    openssh-client openssh-server openssl podman procps python3-venv runc skopeo strace umoci zstd
'

say() { printf '%s\n' "bootstrap: $*" >&2; }

missing_packages() {
    for package in $packages; do
        state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || printf '%s ' "$package"
    done
}

have_lists() {
    lists=''
    eval "$(apt-config shell lists Dir::State::lists/d)"
    find "$lists" -maxdepth 1 -name '*_Packages*' 2>/dev/null | grep -q .
}

# A package's service must not start: the tests run engines and registries of their own.
forbid_services() {
    trap allow_services EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}

allow_services() {
    as_root rm -f "$policy"
    trap - EXIT INT TERM
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -- "$@"; fi
}

may_be_root() {
    [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v 2>/dev/null; }
}

# Runs a command silently; shows what it said only if it fails.
quietly() {
    if ! said=$("$@" 2>&1); then
        printf '%s\n' "$said" >&2
        say "failed: $*"
        return 1
    fi
}

install_packages() {
    missing=$(missing_packages)
    if [ -z "$missing" ] && have_lists; then return 0; fi
    command='apt-get update'
    [ -z "$missing" ] || command="$command && apt-get install --no-install-recommends ${missing% }"
    if ! may_be_root; then
        [ -z "$missing" ] || say "these Debian packages are missing: ${missing% }"
        [ -n "$missing" ] || say "apt has no package lists, which the demonstration images are made from"
        say "run as root: $command"
        return 1
    fi
    say "$command"
    quietly as_root apt-get -q update || return 1
    [ -n "$missing" ] || return 0
    had_policy=$([ -e "$policy" ] && echo yes || echo no)
    [ "$had_policy" = yes ] || forbid_services
    installed=0
    # --no-remove: rather fail than take away another Docker that is in use. $missing is a list of words.
    # shellcheck disable=SC2086
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y --no-install-recommends --no-remove install $missing || installed=1
    [ "$had_policy" = yes ] || allow_services
    return "$installed"
}

# Newer engines live in a Debian of their own, which nothing on this machine sees.
make_tree() {
    if [ -x "$tree/usr/bin/podman" ]; then return 0; fi
    if ! may_be_root; then
        say "for tests on newer engines, run as root: sh tests/bootstrap.sh"
        return 1
    fi
    say "making a Debian 13 with newer engines in $tree"
    quietly as_root rm -rf "$tree.new" || return 1
    quietly as_root mkdir -p "$(dirname "$tree")" || return 1
    quietly as_root debootstrap --variant=minbase --include="$tree_packages" trixie "$tree.new" || return 1
    quietly as_root mv "$tree.new" "$tree"
}

find_python() {
    for name in python3 python3.13 python3.12 python3.11; do
        if good_python "$name"; then
            printf '%s\n' "$name"
            return 0
        fi
    done
    say 'no Python 3.11 or later with venv: on Debian, install python3 and python3-venv'
    return 1
}

good_python() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_venv() {
    wanted=$(cat "$root/pyproject.toml" "$0" | sha256sum | cut -d ' ' -f 1)
    stamp=$venv/.bootstrap
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && good_python "$venv/bin/python"; then
        return 0
    fi
    python=$(find_python) || return 1
    say "installing the library and its test tools into .venv, with $python"
    if ! good_python "$venv/bin/python" || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        quietly "$python" -m venv --clear "$venv" || return 1
    fi
    quietly "$venv/bin/python" -m pip install --disable-pip-version-check --quiet \
        --editable "${root}[cli,test]" || return 1
    printf '%s\n' "$wanted" >"$stamp"
}

status=0
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    install_packages && make_tree || status=1
else
    say "this is not Debian or Ubuntu; install by hand what stands for: $(printf '%s' "$packages" | xargs)"
    status=1
fi
make_venv || status=1
exit "$status"
