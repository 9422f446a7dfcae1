#!/bin/sh
# The README's example, as whoever runs the test and as an ordinary user: a shell with its own user,
# PID, mount and UTS namespaces, and nothing of it reaches the host.
#   readme_test.sh PROGRAM
# 77: this host refuses user namespaces, as in a chroot.
set -eu
unshare --user true 2>/dev/null || { echo "skipped: no user namespace may be made here"; exit 77; }
program=$1
dir=$(mktemp -d /tmp/caisson-sys-readme-XXXXXX)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cp "$program" "$dir/example"

cat >"$dir/script" <<'SCRIPT'
echo "pid $$ uid $(id -u) gid $(id -g)"
hostname caisson-example && echo "host $(hostname)"
mount -t tmpfs none /mnt && touch /mnt/inside && echo mounted
exit 7
SCRIPT
printf 'pid 1 uid 0 gid 0\nhost caisson-example\nmounted\n' >"$dir/want"

check() {
  status=0
  "$@" "$dir/example" <"$dir/script" >"$dir/got" || status=$?
  cat "$dir/got"
  cmp "$dir/got" "$dir/want"
  test "$status" = 7
  test "$(hostname)" != caisson-example
  test ! -e /mnt/inside
}

check env
if test "$(id -u)" = 0 && command -v setpriv >/dev/null; then
  check setpriv --reuid 65534 --regid 65534 --clear-groups
fi
# A failing start is said and is not a success: who has no number of his own cannot make a user namespace.
status=0
unshare --user "$dir/example" </dev/null >"$dir/got" || status=$?
cat "$dir/got"
test "$(cat "$dir/got")" = "clone: Operation not permitted"
test "$status" = 1
