#!/bin/sh
# Runs COMMAND in a mount namespace of its own with a tmpfs at $CAISSON_NOEXEC_DIR that is mounted noexec and nosuid,
# and one in it, nosuid/, that is mounted nosuid alone.
# 77: this host does not allow it.
set -u
if [ -z "${CAISSON_NOEXEC_DIR-}" ]; then
  dir=$(mktemp -d) || exit 1
  trap 'rmdir "$dir"' EXIT
  for user in "" -r; do
    if unshare -m $user mount -t tmpfs none "$dir" 2>/dev/null; then
      CAISSON_NOEXEC_DIR=$dir unshare -m $user "$0" "$@"
      exit $?
    fi
  done
  echo "skipped: no mount namespace may be made here"
  exit 77
fi
mount -t tmpfs -o noexec,nosuid,mode=755 none "$CAISSON_NOEXEC_DIR" || exit 1
mkdir "$CAISSON_NOEXEC_DIR/nosuid" || exit 1
mount -t tmpfs -o nosuid,mode=755 none "$CAISSON_NOEXEC_DIR/nosuid" || exit 1
exec "$@"
