#!/bin/sh
# The signal handler calls nothing outside of its own file, so it cannot allocate, lock or touch errno and thread-local
# variables: its object has no undefined symbol (but the linker's own table).
#   handler_symbols_test.sh NM OBJECT...
set -eu
nm=$1
shift
found=
for object; do
  case $object in */handler.cc.o) found=$object ;; esac
done
undefined=$("$nm" --undefined-only "$found" | grep -v ' _GLOBAL_OFFSET_TABLE_$' || true)
if test -n "$undefined"; then
  echo "$found refers to: $undefined"
  exit 1
fi
"$nm" --defined-only "$found" | grep -q install_handler
