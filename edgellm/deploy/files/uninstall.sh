#!/bin/sh
# Removes what install.sh has installed: every version, and the link in ~/.local/bin.
#
#     sh uninstall.sh [--prefix DIR]
set -eu

prefix=${XDG_DATA_HOME:-$HOME/.local/share}/edgellm-bundles
bin=$HOME/.local/bin
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=$2; shift ;;
        --bin) bin=$2; shift ;;
        *) printf 'uninstall: unknown option %s\n' "$1" >&2; exit 1 ;;
    esac
    shift
done
case $prefix in
    /*) ;;
    *) prefix=$(pwd)/$prefix ;;
esac
if [ ! -d "$prefix/versions" ]; then
    printf 'uninstall: nothing is installed in %s\n' "$prefix" >&2
    exit 1
fi
if [ "$(readlink "$bin/edgellm" 2>/dev/null || :)" = "$prefix/current/bin/edgellm" ]; then
    rm -f "$bin/edgellm"
fi
rm -rf "$prefix/versions" "$prefix/blobs" "$prefix/incoming"
rm -f "$prefix/current" "$prefix/previous"
rmdir "$prefix" 2>/dev/null || :
printf 'uninstall: removed %s; conversations and models of your own were not in there\n' "$prefix" >&2
