// What if there is no memory? Every allocation of a start, and of the environment, fails once: the
// exception finds nothing leaked, no child left and no lock held. And on the smallest stacks that
// threads can have, a start works.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>
#include <shared_mutex>

#include "sys/test_support.h"

namespace {

constexpr int kNever = -1;
thread_local int allocations_left = kNever;  // before one fails, on this thread

[[maybe_unused]] void* allocate(size_t size) {
  if (allocations_left != kNever && allocations_left-- == 0) {
    allocations_left = kNever;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ALLOCATIONS_ARE_THE_SANITIZERS
#endif
#endif

#ifdef ALLOCATIONS_ARE_THE_SANITIZERS
#define SKIP_WITHOUT_FAILURES() GTEST_SKIP() << "ThreadSanitizer keeps operator new for itself"
#else
#define SKIP_WITHOUT_FAILURES() static_cast<void>(0)
void* operator new(size_t size) { return allocate(size); }
void* operator new[](size_t size) { return allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace caisson::sys {
namespace {

using test::in_user_namespace;
using test::no_children;
using test::open_descriptors;

// Runs `function` again and again, each time with a later allocation failing, until none is left;
// how many there were. `after` looks at what each failure left behind.
template <typename Function, typename After>
int fail_each_allocation(const Function& function, const After& after) {
  for (int i = 0;; ++i) {
    allocations_left = i;
    try {
      function();
      allocations_left = kNever;
      return i;
    } catch (const std::bad_alloc&) {
      allocations_left = kNever;
    }
    after(i);
  }
}

TEST(OutOfMemory, StartsLeaveNothingBehind) {
  SKIP_WITHOUT_USER_NAMESPACES();
  SKIP_WITHOUT_FAILURES();
  const int before = open_descriptors();
  const std::string path = "/bin/true";
  const std::vector<std::string> argv = {"true"};
  ProcAttr with_lists;
  with_lists.env = {"A=1", "B=2"};
  with_lists.files = {0, 2, 1};
  for (const ProcAttr& attr : {ProcAttr(), with_lists, in_user_namespace()}) {
    const int failures = fail_each_allocation(
        [&] {
          auto process = start_process(path, argv, attr);
          allocations_left = kNever;
          ASSERT_TRUE(process.ok()) << process.error().text();
          EXPECT_EQ(process->wait()->status.exit_status(), 0);
        },
        [&](int i) {
          EXPECT_EQ(open_descriptors(), before) << i;
          EXPECT_TRUE(no_children()) << i;
          const std::shared_lock creator(fork_lock(), std::try_to_lock);
          EXPECT_TRUE(creator.owns_lock()) << i;
        });
    EXPECT_GE(failures, 2);
  }
}

TEST(OutOfMemory, TheEnvironmentStaysWhole) {
  SKIP_WITHOUT_FAILURES();
  const std::string value(40, 'v');
  const auto old = environ();
  int key = 0;
  for (int round = 0; round < 200; ++round) {
    const std::string name = "CAISSON_OUT_OF_MEMORY_WITH_A_LONG_NAME_" + std::to_string(key++);
    fail_each_allocation([&] { setenv(name, value).ok(); },
                         [&](int) { EXPECT_EQ(getenv(name), std::nullopt); });
    EXPECT_EQ(getenv(name), value);
    EXPECT_EQ(environ().size(), old.size() + static_cast<size_t>(round) + 1);
  }
  while (key-- > 0) {
    const std::string name = "CAISSON_OUT_OF_MEMORY_WITH_A_LONG_NAME_" + std::to_string(key);
    fail_each_allocation([&] { unsetenv(name).ok(); }, [](int) {});
    EXPECT_EQ(getenv(name), std::nullopt);
    fail_each_allocation([] { environment_snapshot(); }, [](int) {});
  }
  EXPECT_EQ(environ(), old);
}

// In a process of its own, which has not looked at its environment yet.
TEST(OutOfMemory, TheFirstLookAtTheEnvironmentCanBeRepeated) {
  SKIP_WITHOUT_FAILURES();
  ProcAttr attr;
  attr.env = {"K=a value that does not fit into a short string", "PATH=/bin"};
  const auto output = test::run("/proc/self/exe", {"sys_test", "--first-environment"}, attr);
  EXPECT_EQ(output.text, "a value that does not fit into a short string\n");
  EXPECT_EQ(output.status.exit_status(), 0);
}

TEST(SmallStack, PthreadsLeastIsEnough) {
  SKIP_WITHOUT_USER_NAMESPACES();
#ifdef CAISSON_SANITIZED
  GTEST_SKIP() << "sanitizers need more than that for themselves";
#endif
  const std::vector<std::string> argv = {"true"};
  ProcAttr attrs[] = {{}, in_user_namespace()};
  attrs[0].files = {1, 2, 0};  // a cycle
  for (const ProcAttr& attr : attrs) {
    struct Task {
      const std::vector<std::string>& argv;
      const ProcAttr& attr;
      int exit_status = -1;
    } task{argv, attr};
    const auto start = [](void* argument) -> void* {
      auto& task = *static_cast<Task*>(argument);
      auto process = start_process("/bin/true", task.argv, task.attr);
      if (process.ok()) task.exit_status = process->wait()->status.exit_status();
      return nullptr;
    };
    pthread_attr_t small;
    ASSERT_EQ(pthread_attr_init(&small), 0);
    ASSERT_EQ(pthread_attr_setstacksize(&small, static_cast<size_t>(PTHREAD_STACK_MIN)), 0);
    pthread_t thread;
    ASSERT_EQ(pthread_create(&thread, &small, start, &task), 0);
    ASSERT_EQ(pthread_join(thread, nullptr), 0);
    pthread_attr_destroy(&small);
    EXPECT_EQ(task.exit_status, 0);
  }
}

}  // namespace

namespace test {

int first_environment() {
  std::string value;
  const int failures =
      fail_each_allocation([&] { value = getenv("K").value_or("not set"); }, [](int) {});
  std::puts(value.c_str());
  return failures > 3 ? 0 : 1;
}

}  // namespace test
}  // namespace caisson::sys
