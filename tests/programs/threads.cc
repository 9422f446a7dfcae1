// C++ threads as programs use them: a pool over a queue, futures, timed waits, exceptions,
// thread_local, call_once, barriers; prints the same every time.
#include <atomic>
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

namespace {

class Pool {
 public:
  explicit Pool(int count) {
    for (int i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  template <typename Function>
  auto submit(Function function) {
    auto task = std::make_shared<std::packaged_task<decltype(function())()>>(std::move(function));
    {
      std::lock_guard lock(mutex_);
      queue_.push_back([task] { (*task)(); });
    }
    changed_.notify_one();
    return task->get_future();
  }

 private:
  void work() {
    while (true) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      auto job = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      job();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

long fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
thread_local int calls = 0;

}  // namespace

int main() {
  {
    Pool pool(6);
    std::vector<std::future<long>> results;
    for (int n = 1; n <= 24; ++n) results.push_back(pool.submit([n] { return fibonacci(n); }));
    for (auto& result : results) std::printf("%ld ", result.get());
    auto failing = pool.submit([]() -> int { throw std::runtime_error("thrown in a thread"); });
    try {
      failing.get();
    } catch (const std::exception& error) {
      std::printf("\n%s\n", error.what());
    }
  }
  std::barrier barrier(4);
  std::atomic<int> phase_errors = 0, phase = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        if (t == 0) phase = i;
        barrier.arrive_and_wait();
        if (phase != i) ++phase_errors;
        barrier.arrive_and_wait();
        ++calls;
      }
      if (calls != 100) ++phase_errors;
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("barrier errors %d, main's calls %d\n", phase_errors.load(), calls);

  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock lock(mutex);
  const auto start = std::chrono::steady_clock::now();
  const bool timed_out = never.wait_for(lock, 30ms) == std::cv_status::timeout;
  std::printf("timed out %d, not early %d\n", timed_out,
              std::chrono::steady_clock::now() - start >= 30ms);
  std::shared_mutex readers;
  std::atomic<long> sum = 0;
  long guarded = 0;
  threads.clear();
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 1000; ++i) {
        if (t == 0) {
          std::unique_lock writer(readers);
          ++guarded;
        } else {
          std::shared_lock reader(readers);
          sum += guarded >= 0;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("%ld %ld\n", guarded, sum.load());
  return 4;
}
