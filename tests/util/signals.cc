#include "tests/util/signals.h"

#include <cerrno>

namespace caisson::test {
namespace {

std::atomic<int> handler_runs;
void count_run(int) { handler_runs.fetch_add(1); }

}  // namespace

Interrupted run_interrupted(int sa_flags, const std::function<long()>& call,
                            const std::function<void()>& release) {
  handler_runs = 0;
  HandlerGuard handler(SIGUSR1, count_run, sa_flags);
  const pid_t tid = gettid_now();
  Interrupted outcome = {};
  Stopwatch watch;
  {
    Later interrupter(20, [tid, &release] {
      tgkill_now(getpid(), tid, SIGUSR1);
      sleep_ms(30);
      release();
    });
    errno = 0;
    outcome.result = call();
    outcome.error = errno;
    outcome.elapsed_ms = watch.ms();
  }
  outcome.handler_runs = handler_runs;
  return outcome;
}

}  // namespace caisson::test
