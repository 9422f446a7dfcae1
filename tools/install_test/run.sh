#!/usr/bin/env bash
# install_test BUILD CXX WITH-PROGRAM: installs BUILD into a new folder and builds and runs a program against it, through the
# CMake package and through pkg-config.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cmake --install "$1" --prefix "$folder/prefix" >/dev/null
cmake -S "$here" -B "$folder/build" -G Ninja -DCMAKE_CXX_COMPILER="$2" -DCMAKE_PREFIX_PATH="$folder/prefix" >/dev/null
ninja -C "$folder/build" >/dev/null
[[ $("$folder/build/consumer") == exec ]]

# A moved tree: the file speaks of its own place.
mv "$folder/prefix" "$folder/moved"
package=$(find "$folder/moved" -name caisson-sys.pc)
PKG_CONFIG_PATH=${package%/*} pkg-config --cflags --libs caisson-sys >"$folder/flags"
# shellcheck disable=SC2046  # flags are words
"$2" -std=c++20 "$here/consumer.cc" $(<"$folder/flags") -o "$folder/consumer"
[[ $("$folder/consumer") == exec ]]

if [[ $3 == yes ]]; then
  # The program needs nothing beside it: static, and position independent all the same.
  program=$folder/moved/bin/caisson
  if readelf -lW "$program" | grep -q INTERP; then echo "caisson is not static" >&2; exit 1; fi
  readelf -hW "$program" | grep -q 'Type: *DYN' || { echo "caisson is not position independent" >&2; exit 1; }
  env -i "$program" do --help >/dev/null
fi
