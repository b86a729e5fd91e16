#!/bin/sh
# Installs the assistant that lies beside this script: no network, no compiler, no root.
#
#     sh install.sh                    into ~/.local/share/edgellm-bundles
#     sh install.sh --prefix DIR       into another folder
#     sh install.sh --check            only check the machine and the files
#     sh install.sh --check-machine    only check the machine
#     sh install.sh --rollback         make the version before this one current again
#
# What was installed before stays in use until the new version has answered.
set -eu

target='@TARGET@'
machine='@MACHINE@'
features='@FEATURES@'
pythons='@PYTHONS@'
glibc='@GLIBC@'
memory='@MEMORY@'
copied='@COPIED@'
unpacked='@UNPACKED@'
model='@MODEL@'
loras='@LORAS@'
library='@LIBRARY@'
embedder='@EMBEDDER@'

prefix=${XDG_DATA_HOME:-$HOME/.local/share}/edgellm-bundles
bin=$HOME/.local/bin
only_check=no
rollback=no
force=no

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "install: $1"
    if [ $# -gt 1 ]; then say "  hint: $2"; fi
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [ $# -gt 1 ] || fail "--prefix needs a folder"; prefix=$2; shift ;;
        --bin) [ $# -gt 1 ] || fail "--bin needs a folder"; bin=$2; shift ;;
        --check) only_check=yes ;;
        --check-machine) only_check=machine ;;
        --rollback) rollback=yes ;;
        --force) force=yes ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "unknown option $1" "sh install.sh --help lists them" ;;
    esac
    shift
done
case $prefix in
    /*) ;;
    *) prefix=$(pwd)/$prefix ;;
esac
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

switch_to() { # make the version $1 current, in one step
    ln -sfn "versions/$1" "$prefix/current.new"
    mv -T "$prefix/current.new" "$prefix/current"
}
version_of() { # the version that the link $1 names; nothing if there is none
    if [ -L "$prefix/$1" ]; then basename "$(readlink "$prefix/$1")"; fi
}

if [ $rollback = yes ]; then
    before=$(version_of previous)
    now=$(version_of current)
    [ -n "$before" ] && [ -e "$prefix/versions/$before/complete" ] ||
        fail "$prefix holds no version before the current one"
    ln -sfn "versions/$now" "$prefix/previous.new"
    switch_to "$before"
    mv -T "$prefix/previous.new" "$prefix/previous"
    say "install: back at version $before; $now is kept"
    exit 0
fi

# --- the machine, before anything is touched ---

wrong=''
complain() { wrong="$wrong
  - $1"; }

[ "$(uname -s)" = Linux ] || complain "this is $(uname -s), and the bundle is for Linux"
if [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" = 32 ]; then
    complain "this system is a 32-bit one, where numpy has no wheels; the 64-bit system runs on a Raspberry Pi from the third on"
elif [ "$(uname -m)" != "$machine" ]; then
    complain "this machine is $(uname -m), and the bundle is for $machine"
fi
found=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc //') || found=''
if [ -z "$found" ]; then
    complain "the C library of this system is not glibc"
elif [ "$(printf '%s\n%s\n' "$glibc" "$found" | sort -t. -k1,1n -k2,2n | head -n 1)" != "$glibc" ]; then
    complain "glibc is $found here, and the bundle needs $glibc or newer"
fi

python=''
for version in $pythons; do
    for name in "python$version" python3; do
        if [ -z "$python" ] && command -v "$name" >/dev/null 2>&1 &&
            [ "$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; then
            python=$(command -v "$name")
            python_version=$version
        fi
    done
done
if [ -z "$python" ]; then
    complain "no Python of the versions $pythons is here"
elif ! "$python" -c 'import venv, ctypes, sqlite3, ssl' 2>/dev/null; then
    complain "$python lacks modules of the standard library (venv, ctypes, sqlite3 or ssl)"
fi

if [ "$(uname -m)" = "$machine" ]; then
    # What the kernel tells each process (AT_HWCAP, getauxval(3)), and what it lists.
    have=$([ -z "$python" ] || "$python" -c '
import ctypes
getauxval = ctypes.CDLL(None).getauxval
getauxval.restype = ctypes.c_ulong
bits = {1: "asimd", 9: "fphp", 10: "asimdhp", 20: "asimddp"} if "'"$machine"'" == "aarch64" else {}
print(*(name for bit, name in bits.items() if getauxval(16) >> bit & 1))' 2>/dev/null) || have=''
    have=" $have $(sed -n 's/^\(flags\|Features\)[[:space:]]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1) "
    lacking=''
    for feature in $features; do
        case $have in
            *" $feature "*) ;;
            *) lacking="$lacking $feature" ;;
        esac
    done
    [ -z "$lacking" ] || complain "the processor lacks$lacking, and the bundle's kernels need them"
fi

total=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo 2>/dev/null) || total=''
if [ -n "$total" ] && [ "$((total / 1024))" -lt "$((memory / 1048576))" ]; then
    if [ $force = yes ]; then
        say "install: this machine has $((total / 1024)) MiB of memory, and the model wants $((memory / 1048576))"
    else
        complain "this machine has $((total / 1024)) MiB of memory, and the model with its context takes $((memory / 1048576)) (--force installs it all the same)"
    fi
fi
place=$prefix
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
free=$(df -Pk "$place" | sed -n '2s/^[^ ]* *[0-9]* *[0-9]* *\([0-9]*\) .*/\1/p')
disk=$unpacked # what is copied takes no room where it can have a second name
[ "$(df -Pk "$here" | sed -n '2s/ .*//p')" = "$(df -Pk "$place" | sed -n '2s/ .*//p')" ] ||
    disk=$((disk + copied))
if [ -n "$free" ] && [ "$free" -lt "$((disk / 1024))" ]; then
    complain "$place has $((free / 1024)) MiB free, and $((disk / 1048576)) are needed"
fi
[ -w "$place" ] || complain "$place cannot be written"

[ -z "$wrong" ] || fail "this machine does not suit the bundle ($target):$wrong"

[ $only_check != machine ] || exit 0

# --- the files, before any of them is used ---

command -v sha256sum >/dev/null 2>&1 || fail "sha256sum is not here (package coreutils)"
cd "$here"
[ -f SHA256SUMS ] || fail "$here/SHA256SUMS is missing"
if ! bad=$(LC_ALL=C sha256sum -c --quiet --strict SHA256SUMS 2>&1); then
    fail "files are not what they were when the bundle was made:
$(printf '%s\n' "$bad" | sed -n 's/^\(.*\): FAILED.*/  - \1/p' | sort -u)" "copy the bundle again"
fi
listed=$(sed 's/^[0-9a-f]\{64\}  //' SHA256SUMS)
extra=$(find . ! -type d ! -name manifest.json ! -name SHA256SUMS | sed 's/^\.\///' |
    while IFS= read -r name; do
        printf '%s\n' "$listed" | grep -Fxq -- "$name" || printf '%s ' "$name"
    done)
[ -z "$extra" ] || fail "files lie here that do not belong to the bundle: $extra"
id=$(sha256sum SHA256SUMS | cut -c 1-12)
say "install: $target, version $id: the machine suits, and every file is whole"
[ $only_check = no ] || exit 0

# --- the new version, beside what is there ---

version=$prefix/versions/$id
mkdir -p "$prefix/versions"
if [ ! -e "$version/complete" ]; then
    rm -rf "$version"
    mkdir "$version"
    trap 'rm -rf "$version"' EXIT
    trap 'exit 130' INT TERM HUP
    say "install: installing with $python ..."
    "$python" -m venv --without-pip "$version/venv"
    pip=$(ls wheels/pip-*.whl)
    PYTHONPATH=$here/$pip PIP_CONFIG_FILE=/dev/null "$version/venv/bin/python" -m pip \
        --disable-pip-version-check --no-input --quiet install --no-index --no-deps --no-compile \
        --no-cache-dir --require-hashes --find-links wheels -r "requirements-$python_version.txt"
    for folder in models adapters libraries embedders; do
        if [ -d "$folder" ]; then # a second name for the same bytes, where the disk allows it
            cp -al "$folder" "$version/$folder" 2>/dev/null ||
                { rm -rf "${version:?}/$folder"; cp -a "$folder" "$version/$folder"; }
        fi
    done
    # A library names its embedder as the store does; one that is there already stays.
    store=${XDG_DATA_HOME:-$HOME/.local/share}/edgellm/models
    if [ -n "$embedder" ] && [ ! -e "$store/$(basename "$embedder")" ]; then
        mkdir -p "$store"
        ln "$version/$embedder" "$store/" 2>/dev/null || cp "$version/$embedder" "$store/"
    fi
    cp -a install.sh uninstall.sh manifest.json SHA256SUMS "$version/"
    mkdir "$version/bin"
    {
        printf '#!/bin/sh\n'
        printf 'version=%s\n' "'$(printf '%s' "$version" | sed "s/'/'\\\\''/g")'"
        [ -z "$model" ] || printf 'EDGELLM_MODEL=${EDGELLM_MODEL-$version/%s}\nexport EDGELLM_MODEL\n' "$model"
        if [ -n "$loras" ]; then
            printf 'if [ -z "${EDGELLM_LORA+x}" ]; then EDGELLM_LORA="'
            first=yes
            for lora in $loras; do
                [ $first = yes ] || printf '\n'
                first=no
                printf '$version/%s' "$lora"
            done
            printf '"; export EDGELLM_LORA; fi\n'
        fi
        [ -z "$library" ] || printf 'EDGELLM_DB=${EDGELLM_DB-$version/%s}\nexport EDGELLM_DB\n' "$library"
        printf 'exec "$version/venv/bin/python" -m edgellm "$@"\n'
    } >"$version/bin/edgellm"
    chmod 755 "$version/bin/edgellm"
    if [ -n "$model" ]; then
        say "install: a first answer ..."
        "$version/bin/edgellm" run --json -n 16 --temp 0 --seed 1 --prompt-cache-size 0 \
            -p 'Hello' >"$version/first.json" </dev/null ||
            fail "the new version gives no answer, so that nothing was changed"
        "$version/venv/bin/python" -c '
import json, sys
first = json.load(open(sys.argv[1]))
speed = first["completion_tokens_per_s"]
print("  %r, %.1f tokens/s" % (first["text"][:60], speed), file=sys.stderr)' "$version/first.json"
    fi
    : >"$version/complete"
    trap - EXIT INT TERM HUP
fi

# --- the switch ---

now=$(version_of current)
if [ "$now" != "$id" ]; then
    if [ -n "$now" ]; then
        ln -sfn "versions/$now" "$prefix/previous.new"
        mv -T "$prefix/previous.new" "$prefix/previous"
    fi
    switch_to "$id"
fi
mkdir -p "$bin"
if [ -L "$bin/edgellm" ] || [ ! -e "$bin/edgellm" ]; then
    ln -sfn "$prefix/current/bin/edgellm" "$bin/edgellm.new"
    mv -T "$bin/edgellm.new" "$bin/edgellm"
else
    say "install: $bin/edgellm is another program and stays; ours is $prefix/current/bin/edgellm"
fi
keep="$(version_of current) $(version_of previous)"
for old in "$prefix"/versions/*; do # the current version and the one before it are kept
    name=$(basename "$old")
    case " $keep " in
        *" $name "*) ;;
        *) rm -rf "$old" ;;
    esac
done
say "install: done. Talk to it: $bin/edgellm chat"
case ":$PATH:" in
    *":$bin:"*) ;;
    *) say "  ($bin is not in your PATH)" ;;
esac
