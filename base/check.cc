#include "base/check.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace caisson {
namespace {
std::atomic<void (*)()> check_hook{nullptr};
}  // namespace

void set_check_hook(void (*hook)()) { check_hook = hook; }

void check_failed(const char* file, int line, const char* expression) {
  char text[512];
  int length =
      snprintf(text, sizeof text, "caisson: %s:%d: CHECK failed: %s\n", file, line, expression);
  if (length > 0) {
    auto count =
        static_cast<size_t>(length) < sizeof text ? static_cast<size_t>(length) : sizeof text - 1;
    if (write(STDERR_FILENO, text, count) < 0) _exit(125);
  }
  if (auto hook = check_hook.exchange(nullptr)) hook();
  abort();
}

}  // namespace caisson
