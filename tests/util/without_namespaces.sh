#!/bin/sh
# Runs COMMAND where no namespaces may be made: what a container's host often allows. 77: not to be had here.
set -u
limits='for kind in user mnt pid net ipc uts cgroup; do echo 0 >/proc/sys/user/max_${kind}_namespaces || exit 77; done'
unshare -Ur true 2>/dev/null || { echo "skipped: no user namespace may be made here"; exit 77; }
exec unshare -Ur sh -c "$limits; exec \"\$@\"" sh "$@"
