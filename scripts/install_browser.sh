#!/bin/sh
# Installs what `make test-browser` needs and lacks: a browser without a window. Debian or Ubuntu.
set -eu
for program in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$program" >/dev/null; then exit 0; fi
done

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: a browser must be installed, but chromium is missing; run: sudo apt-get install chromium" >&2
    exit 2
fi
log=$(mktemp)
echo "installing chromium (Debian's package; once)"
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: the package chromium must install, but apt-get failed; its last words stand above and all of them in $log" >&2
    exit 1
fi
rm -f "$log"
