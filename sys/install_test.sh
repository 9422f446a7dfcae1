#!/bin/sh
# A program outside of the tree builds against what is installed, and runs.
#   install_test.sh BUILD_DIR CXX EXAMPLE.cc
set -eu
dir=$(mktemp -d /tmp/caisson-sys-install-XXXXXX)
trap 'rm -rf "$dir"' EXIT
cmake --install "$1" --component caisson_sys --prefix "$dir/prefix" >/dev/null
cp "$3" "$dir/example.cc"

# By hand, as the .pc file says it.
pc=$(find "$dir/prefix" -name caisson_sys.pc)
flags=$(sed -n 's/^Cflags: //p' "$pc" | sed "s|\${includedir}|$dir/prefix/include|g")
lib=$(dirname "$(dirname "$pc")")
libs=$(sed -n 's/^Libs: //p' "$pc" | sed "s|\${libdir}|$lib|g")
# shellcheck disable=SC2086  # lists of flags
"$2" -std=c++20 -Wall -Wextra -Werror $flags "$dir/example.cc" -o "$dir/example" $libs
test "$(echo 'echo $$' | "$dir/example")" = 1

# By find_package.
cat >"$dir/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(example LANGUAGES CXX)
find_package(caisson_sys REQUIRED)
add_executable(example example.cc)
target_link_libraries(example PRIVATE caisson::sys)
CMAKE
cmake -S "$dir" -B "$dir/build" -DCMAKE_CXX_COMPILER="$2" -DCMAKE_PREFIX_PATH="$dir/prefix" >/dev/null
cmake --build "$dir/build" >/dev/null
test "$(echo 'echo $$' | "$dir/build/example")" = 1
