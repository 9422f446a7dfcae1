// Uses the installed library as its users would: starts a program and reads its wait status.
#include <caisson/sys.h>

#include <cstdio>

int main() {
  caisson::sys::WaitStatus status(7 << 8);
  std::puts(std::string(caisson::sys::step_name(caisson::sys::Step::kExec)).c_str());
  return status.exit_status() == 7 ? 0 : 1;
}
