#!/bin/sh
# The code between clone and exec calls nothing outside of its own file: its object has no undefined
# symbol (but the linker's own table).
#   child_symbols_test.sh NM OBJECT...
set -eu
nm=$1
shift
for object; do
  case $object in */child.cc.o) found=$object ;; esac
done
undefined=$("$nm" --undefined-only "$found" | grep -v ' _GLOBAL_OFFSET_TABLE_$' || true)
if test -n "$undefined"; then
  echo "$found refers to: $undefined"
  exit 1
fi
"$nm" --defined-only "$found" | grep -q run_child
