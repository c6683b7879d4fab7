#!/usr/bin/env bash
# A browser for the tests of the page, for continuous integration: Debian's, where this is root and apt-get is there.
# It asks for nothing and never fails: without a browser those tests skip, and the last line says why.
set -uo pipefail
package=chromium-headless-shell  # Chromium without windows, three quarters of its size

for name in chromium $package google-chrome; do
    if command -v "$name" >/dev/null; then
        echo "the page is tested in $(command -v "$name")"
        exit 0
    fi
done
if [ "$(id -u)" != 0 ]; then
    reason="only root installs packages; install $package or chromium yourself"
elif ! command -v apt-get >/dev/null; then
    reason="there is no apt-get; install Chromium as your system does"
elif apt-get update -qq && apt-get install -y -qq --no-install-recommends $package >/dev/null; then
    echo "the page is tested in $(command -v $package)"
    exit 0
else
    reason="apt-get could not install $package"
fi
echo "the page is not tested in a browser: $reason" >&2
