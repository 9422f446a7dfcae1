#include "kernel/run_queue.h"

namespace caisson {

RunQueue::~RunQueue() {
  while (pop()) {
  }
}

void RunQueue::push(Task& task) {
  task.ref();
  {
    MutexLock lock(mu_);
    tasks_.push_back(task);
    count_.fetch_add(1, std::memory_order_acq_rel);
  }
  platform_.ring();
}

RefOrNull<Task> RunQueue::pop() {
  if (count_.load(std::memory_order_acquire) == 0) return nullptr;
  MutexLock lock(mu_);
  Task* task = tasks_.pop_front();
  if (task == nullptr) return nullptr;
  count_.fetch_sub(1, std::memory_order_acq_rel);
  return RefOrNull<Task>::adopt(task);
}

void RunQueue::close() {
  closed_.store(true, std::memory_order_release);
  platform_.ring();
}

}  // namespace caisson
