// process_vm_readv, process_vm_writev: pieces, partial transfers, errors.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <climits>
#include <csignal>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"

namespace caisson::test {
namespace {

long vm_read(pid_t pid, iovec local, iovec remote, unsigned long flags = 0) {
  return syscall(SYS_process_vm_readv, pid, &local, 1, &remote, 1, flags);
}
long vm_write(pid_t pid, iovec local, iovec remote) {
  return syscall(SYS_process_vm_writev, pid, &local, 1, &remote, 1, 0);
}

// A child that waits, with memory that the parent has mapped at the same place.
class ProcessVm : public testing::Test {
 protected:
  ProcessVm()
      : child_(Child::run([this] {
          std::memset(memory_.page(0), 'c', 2 * kPageSize);
          REQUIRE(munmap(memory_.page(2), kPageSize) == 0);
          REQUIRE(mprotect(memory_.page(1), kPageSize, PROT_READ) == 0);
          REQUIRE(write(ready_.write_end.get(), "", 1) == 1);
          char byte;
          REQUIRE(read(go_.read_end.get(), &byte, 1) == 1);
          return memory_.page(0)[5];
        })) {
    char byte;
    must(read(ready_.read_end.get(), &byte, 1), "read");
  }
  Mapping memory_ = Mapping::anonymous(3 * kPageSize);
  Pipe ready_ = must_pipe(), go_ = must_pipe();
  Child child_;
};

TEST_F(ProcessVm, ReadsAndWritesPieces) {
  char first[3], second[kPageSize];
  iovec local[] = {{first, sizeof first}, {second, sizeof second}};
  iovec remote[] = {{memory_.page(0) + 10, 0}, {memory_.page(0) + 1, 2}, {memory_.page(1), 90}};
  EXPECT_EQ(syscall(SYS_process_vm_readv, child_.pid(), local, 2, remote, 3, 0), 92);
  EXPECT_EQ(std::string_view(first, 3), "ccc");
  EXPECT_EQ(second[88], 'c');
  char seven = 7;
  EXPECT_EQ(vm_write(child_.pid(), {&seven, 1}, {memory_.page(0) + 5, 1}), 1);
  EXPECT_EQ(memory_.page(0)[5], 0);  // the parent's own
  must(write(go_.write_end.get(), "", 1), "write");
  EXPECT_EQ(child_.wait(), 7 << 8);
}

TEST_F(ProcessVm, StopsWhereTheOtherHasNothing) {
  char bytes[2 * kPageSize];
  EXPECT_EQ(vm_read(child_.pid(), {bytes, sizeof bytes}, {memory_.page(1), sizeof bytes}),
            static_cast<long>(kPageSize));
  EXPECT_THAT(vm_read(child_.pid(), {bytes, 1}, {memory_.page(2), 1}), FailsWith(EFAULT));
  // Its protection counts.
  EXPECT_THAT(vm_write(child_.pid(), {bytes, 1}, {memory_.page(1), 1}), FailsWith(EFAULT));
}

TEST(ProcessVmSelf, ReadsWhatIsMappedForReading) {
  Mapping memory = Mapping::anonymous(2 * kPageSize);
  for (int protection : {PROT_WRITE, PROT_NONE}) {
    must(mprotect(memory.page(1), kPageSize, protection), "mprotect");
    char bytes[8];
    EXPECT_THAT(vm_read(getpid(), {bytes, 8}, {memory.page(1), 8}), FailsWith(EFAULT));
    EXPECT_THAT(vm_read(getpid(), {bytes, 8}, {memory.page(1) - 3, 8}), SucceedsWith(3));
  }
  must(mprotect(memory.page(1), kPageSize, PROT_WRITE), "mprotect");
  char seven = 7;
  EXPECT_THAT(vm_write(getpid(), {&seven, 1}, {memory.page(1), 1}), SucceedsWith(1));
}

TEST_F(ProcessVm, Errors) {
  char byte;
  iovec fine{&byte, 1};
  EXPECT_THAT(vm_read(child_.pid(), fine, {memory_.address(), 1}, 1), FailsWith(EINVAL));
  EXPECT_THAT(vm_read(child_.pid(), {bad_pointer(), 1}, {memory_.address(), 1}), FailsWith(EFAULT));
  EXPECT_THAT(vm_read(child_.pid(), fine, {bad_pointer(), 1}), FailsWith(EFAULT));
  EXPECT_THAT(vm_read(child_.pid(), fine, {&byte, SIZE_MAX}), FailsWith(EINVAL));
  EXPECT_THAT(vm_read(INT_MAX, fine, fine), FailsWith(ESRCH));
  EXPECT_THAT(vm_read(INT_MAX, fine, {&byte, 0}), SucceedsWith(0));
  EXPECT_THAT(vm_read(INT_MAX, {&byte, 0}, fine), SucceedsWith(0));
  auto raw = [&](const void* local, long locals, const void* remote, long remotes) {
    return syscall(SYS_process_vm_readv, child_.pid(), local, locals, remote, remotes, 0);
  };
  EXPECT_THAT(raw(&fine, IOV_MAX + 1, &fine, 1), FailsWith(EINVAL));
  EXPECT_THAT(raw(&fine, 1, &fine, IOV_MAX + 1), FailsWith(EINVAL));
  EXPECT_THAT(raw(bad_pointer(), 1, &fine, 1), FailsWith(EFAULT));
  EXPECT_THAT(raw(&fine, 1, bad_pointer(), 1), FailsWith(EFAULT));
}

TEST_F(ProcessVm, EndedProcessHasNoMemory) {
  child_.kill(SIGKILL);
  siginfo_t info;
  must(waitid(P_PID, static_cast<id_t>(child_.pid()), &info, WEXITED | WNOWAIT), "waitid");
  char byte;
  EXPECT_THAT(vm_read(child_.pid(), {&byte, 1}, {memory_.address(), 1}), FailsWith(ESRCH));
}

}  // namespace
}  // namespace caisson::test
