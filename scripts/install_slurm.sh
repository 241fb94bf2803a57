#!/bin/sh
# Installs what `make test-slurm` needs and lacks: SLURM, or with --accounting its database too. Debian or Ubuntu.
set -eu
packages="slurm-wlm munge"
programs="sbatch slurmctld slurmd munged"
if [ "${1-}" = --accounting ]; then
    packages="$packages slurmdbd mariadb-server"
    programs="$programs slurmdbd mariadbd mariadb-install-db mariadb"
fi

# An ordinary user's PATH lacks the folder of the daemons.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
missing=
for program in $programs; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: the programs$missing must be installed, but are missing; run: sudo apt-get install $packages" >&2
    exit 2
fi

# The tests start daemons of their own. Those of the packages would fail without systemd, and are not wanted with it:
# dpkg asks this file before it starts a service, and 101 means no.
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
log=$(mktemp)
echo "installing $packages (Debian's packages; once)"
# shellcheck disable=SC2086
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: the packages $packages must install, but apt-get failed; its last words stand above and all of them in $log" >&2
    exit 1
fi
rm -f "$log"
