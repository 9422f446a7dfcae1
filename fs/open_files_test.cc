// Pipes, eventfd, devices, host stdio, descriptors, locks and epoll, without a kernel around them.
#include <linux/mount.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>

#include <thread>

#include "fs/dev/devices.h"
#include "fs/eventfd/event_file.h"
#include "fs/pipe/pipe.h"
#include "fs/stdio/host_stdio.h"
#include "fs/testing/sandbox_root.h"
#include "vfs/epoll.h"
#include "vfs/fd_table.h"
#include "vfs/file_locks.h"

namespace caisson {
namespace {

using testing::error_of;

class Files : public testing::SandboxRoot {};

struct CountingWaiter : Waiter {
  void notified(EventMask events) override {
    seen |= events;
    ++count;
  }
  std::atomic<EventMask> seen{0};
  std::atomic<int> count{0};
};

TEST_F(Files, PipeMovesBytesInOrder) {
  auto [reader, writer] = PipeEnd::create_pair(0);
  EXPECT_EQ(error_of(read_some(*reader, 10)), EAGAIN);
  EXPECT_EQ(reader->readiness(~0u), 0u);
  EXPECT_EQ(MUST(write_text(*writer, "hello")), 5u);
  EXPECT_EQ(MUST(read_some(*reader, 2)), "he");
  EXPECT_EQ(MUST(reader->bytes_readable()), 3u);
  EXPECT_EQ(MUST(read_some(*reader, 100)), "llo");
  EXPECT_EQ(error_of(writer->lseek(0, SEEK_SET)), ESPIPE);
}

TEST_F(Files, PipeFillsToItsCapacityAndKeepsSmallWritesWhole) {
  auto [reader, writer] = PipeEnd::create_pair(0);
  EXPECT_EQ(MUST(write_text(*writer, std::string(100'000, 'x'))), 65536u);
  EXPECT_EQ(error_of(write_text(*writer, "y")), EAGAIN);
  EXPECT_EQ(writer->readiness(kEventOut), 0u);
  EXPECT_EQ(MUST(read_some(*reader, 1000)).size(), 1000u);
  EXPECT_EQ(error_of(write_text(*writer, std::string(1001, 'y'))), EAGAIN);  // <= PIPE_BUF
  EXPECT_EQ(MUST(write_text(*writer, std::string(5000, 'y'))), 1000u);
  EXPECT_EQ(MUST(read_some(*reader, 70'000)).size(), 65536u);
  EXPECT_EQ(MUST(reader->pipe().set_capacity(100'000)), 131072u);
  EXPECT_EQ(MUST(write_text(*writer, std::string(140'000, 'z'))), 131072u);
  EXPECT_EQ(error_of(reader->pipe().set_capacity(4096)), EBUSY);
}

TEST_F(Files, PipeEndsTellOfEachOther) {
  auto pair = PipeEnd::create_pair(0);
  RefOrNull<PipeEnd> reader = pair.reader.or_null(), writer = pair.writer.or_null();
  pair = PipeEnd::create_pair(0);
  writer = nullptr;
  EXPECT_EQ(MUST(read_some(*reader, 1)), "");
  EXPECT_EQ(reader->readiness(kEventIn), kEventHup);
  reader = nullptr;
  writer = pair.writer.or_null();
  pair.reader = PipeEnd::create_pair(0).reader;
  EXPECT_EQ(error_of(write_text(*writer, "x")), EPIPE);
  EXPECT_NE(writer->readiness(kEventOut) & kEventErr, 0u);
}

TEST_F(Files, FifoWaitsForItsOtherEnd) {
  register_standard_devices();
  ASSERT_EQ(error_of(make_node(caller(), root(), "/fifo", S_IFIFO | 0644, 0)), 0);
  EXPECT_EQ(error_of(open("/fifo", O_WRONLY | O_NONBLOCK)), ENXIO);
  auto reader = MUST(open("/fifo", O_RDONLY));
  EXPECT_FALSE(reader->is_open_complete());
  {
    auto writer = MUST(open("/fifo", O_WRONLY));
    EXPECT_TRUE(writer->is_open_complete());
    EXPECT_EQ(MUST(write_text(*writer, "x")), 1u);
  }
  EXPECT_TRUE(reader->is_open_complete());  // a writer came, if only for a moment
  EXPECT_EQ(MUST(read_some(*reader, 9)), "x");
  EXPECT_EQ(MUST(read_some(*reader, 9)), "");
}

TEST_F(Files, EventfdCountsAndSaturates) {
  auto file = EventFile::create(3, 0, false);
  uint64_t value = 0;
  auto read = [&] {
    UserBuffer to = UserBuffer::of_kernel(std::as_writable_bytes(std::span(&value, 1)));
    return file->read(to, {});
  };
  auto write = [&](uint64_t amount) {
    UserBuffer from = UserBuffer::of_kernel(std::as_bytes(std::span<const uint64_t>(&amount, 1)));
    return error_of(file->write(from, {}));
  };
  EXPECT_EQ(MUST(read()), 8u);
  EXPECT_EQ(value, 3u);
  EXPECT_EQ(error_of(read()), EAGAIN);
  EXPECT_EQ(write(UINT64_MAX), EINVAL);
  EXPECT_EQ(write(UINT64_MAX - 1), 0);
  EXPECT_EQ(write(1), EAGAIN);
  EXPECT_EQ(file->readiness(kEventIn | kEventOut), kEventIn);
  file = EventFile::create(2, 0, true);
  EXPECT_EQ(MUST(read()), 8u);
  EXPECT_EQ(value, 1u);
}

TEST_F(Files, DevicesBehave) {
  register_standard_devices();
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/dev", 0755)), 0);
  ASSERT_EQ(error_of(namespace_->attach(MUST(make_dev_mount(*memory_)), MUST(resolve("/dev")))), 0);
  auto null = MUST(open("/dev/null", O_RDWR));
  EXPECT_EQ(MUST(write_text(*null, "gone")), 4u);
  EXPECT_EQ(MUST(read_some(*null, 10)), "");
  auto zero = MUST(open("/dev/zero", O_RDONLY));
  EXPECT_EQ(MUST(read_some(*zero, 3)), std::string(3, '\0'));
  EXPECT_EQ(MUST(zero->lseek(5, SEEK_SET)), 0u);
  ASSERT_TRUE(zero->mappable());
  EXPECT_EQ(write_file("/dev/full", "x", 0), Errno(ENOSPC));
  auto random = MUST(open("/dev/urandom", O_RDONLY));
  EXPECT_NE(MUST(read_some(*random, 3000)), MUST(read_some(*random, 3000)));
  EXPECT_EQ(error_of(open("/dev/tty", O_RDWR)), ENXIO);
  ASSERT_EQ(error_of(make_node(caller(), root(), "/none", S_IFCHR | 0666, make_device(200, 1))), 0);
  EXPECT_EQ(error_of(open("/none", O_RDWR)), ENXIO);
  root_mount_->set_flags(MS_NODEV);
  EXPECT_EQ(error_of(open("/none", O_RDWR)), EACCES);
}

TEST_F(Files, DescriptorNumbersAreTheLowest) {
  Ref<FdTable> table = FdTable::create();
  auto file = MUST(open("/file", O_RDONLY));
  EXPECT_EQ(MUST(table->install(file)), 0);
  EXPECT_EQ(MUST(table->install(file)), 1);
  EXPECT_EQ(MUST(table->install(file, {false, 10, 1024})), 10);
  EXPECT_EQ(error_of(table->remove(0)), 0);
  EXPECT_EQ(error_of(table->remove(0)), EBADF);
  EXPECT_EQ(MUST(table->install(file, {true, 0, 1024})), 0);
  EXPECT_EQ(error_of(table->install(file, {false, 0, 2})), EMFILE);
  EXPECT_EQ(MUST(table->install(file)), 2);
  EXPECT_EQ(error_of(table->install_at(-1, file, {})), EBADF);
  EXPECT_EQ(error_of(table->install_at(1024, file, {false, 0, 1024})), EBADF);
  EXPECT_EQ(error_of(table->get(-1)), EBADF);
  EXPECT_EQ(error_of(table->get(INT32_MAX)), EBADF);
  Ref<FdTable> copy = table->copy();
  copy->remove_close_on_exec();
  EXPECT_EQ(error_of(copy->get(0)), EBADF);
  EXPECT_EQ(error_of(table->get(0)), 0);
  copy->remove_range(1, ~0u, false);
  EXPECT_TRUE(copy->numbers().empty());
  EXPECT_EQ(table->numbers(), (std::vector<int>{0, 1, 2, 10}));
  auto path_only = MUST(open("/file", O_PATH));
  int fd = MUST(table->install(path_only));
  EXPECT_EQ(error_of(table->get(fd)), EBADF);
  EXPECT_EQ(error_of(table->get_any(fd)), 0);
}

TEST_F(Files, RecordLocksSplitJoinAndConflict) {
  FileLocks locks;
  int a = 0, b = 0;
  auto range = [](const void* owner, uint64_t first, uint64_t last, bool exclusive) {
    return RangeLock{exclusive, first, last, owner, false, 1};
  };
  EXPECT_EQ(error_of(locks.set(range(&a, 0, 99, true))), 0);
  EXPECT_EQ(error_of(locks.set(range(&b, 50, 60, false))), EAGAIN);
  locks.unlock(range(&a, 40, 59, false));
  EXPECT_EQ(error_of(locks.set(range(&b, 40, 59, true))), 0);
  EXPECT_EQ(error_of(locks.set(range(&b, 60, 60, false))), EAGAIN);
  EXPECT_EQ(locks.find_conflict(range(&b, 0, INT64_MAX, false))->first, 0u);
  EXPECT_EQ(error_of(locks.set(range(&a, 0, 39, false))), 0);  // downgraded
  EXPECT_EQ(error_of(locks.set(range(&b, 0, 39, false))), 0);
  locks.remove_posix(static_cast<const FdTable*>(static_cast<const void*>(&a)));
  EXPECT_EQ(error_of(locks.set(range(&b, 0, INT64_MAX, true))), 0);
  EXPECT_EQ(error_of(FileLocks::note_blocked(&a, &b)), 0);
  EXPECT_EQ(error_of(FileLocks::note_blocked(&b, &a)), EDEADLK);
  FileLocks::unblock(&a);
  EXPECT_EQ(error_of(FileLocks::note_blocked(&b, &a)), 0);
  FileLocks::unblock(&b);
}

TEST_F(Files, FlockBelongsToTheOpenFile) {
  auto one = MUST(open("/file", O_RDONLY));
  RefOrNull<FileDescription> two = MUST(open("/file", O_RDONLY)).or_null();
  FileLocks& locks = one->inode().locks();
  EXPECT_EQ(error_of(locks.flock(*one, LOCK_SH)), 0);
  EXPECT_EQ(error_of(locks.flock(*two, LOCK_SH)), 0);
  EXPECT_EQ(error_of(locks.flock(*one, LOCK_EX)), EAGAIN);
  two = nullptr;  // its lock goes with it
  EXPECT_EQ(error_of(locks.flock(*one, LOCK_EX)), 0);
}

TEST_F(Files, EpollLevelEdgeAndOneshot) {
  auto epoll = EpollFile::create();
  auto [reader, writer] = PipeEnd::create_pair(0);
  ASSERT_EQ(error_of(epoll->add(reader, 3, {EPOLLIN, 33})), 0);
  EXPECT_EQ(error_of(epoll->add(reader, 3, {EPOLLIN, 33})), EEXIST);
  ASSERT_EQ(error_of(epoll->add(reader, 4, {EPOLLIN | EPOLLET, 44})), 0);
  ASSERT_EQ(error_of(epoll->add(reader, 5, {EPOLLIN | EPOLLONESHOT, 55})), 0);
  EXPECT_TRUE(epoll->collect(10).empty());
  CountingWaiter waiter;
  WaitEntry entry(&waiter, kEventIn);
  epoll->add_waiter(entry);
  EXPECT_EQ(MUST(write_text(*writer, "x")), 1u);
  EXPECT_GE(waiter.count, 1);
  epoll->remove_waiter(entry);
  EXPECT_EQ(epoll->readiness(kEventIn), kEventIn);
  EXPECT_EQ(epoll->collect(10).size(), 3u);
  auto again = epoll->collect(10);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(uint64_t{again[0].data}, 33u);
  EXPECT_EQ(MUST(write_text(*writer, "y")), 1u);
  EXPECT_EQ(epoll->collect(10).size(), 2u);  // level and edge
  ASSERT_EQ(error_of(epoll->modify(*reader, 5, {EPOLLIN | EPOLLONESHOT, 55})), 0);
  EXPECT_EQ(epoll->collect(1).size(), 1u);
  EXPECT_EQ(epoll->collect(10).size(), 2u);
  EXPECT_EQ(MUST(read_some(*reader, 10)), "xy");
  EXPECT_TRUE(epoll->collect(10).empty());
  EXPECT_EQ(epoll->readiness(kEventIn), 0u);
  EXPECT_EQ(error_of(epoll->remove(*reader, 3)), 0);
  EXPECT_EQ(error_of(epoll->remove(*reader, 3)), ENOENT);
}

TEST_F(Files, EpollForgetsFilesThatGo) {
  auto epoll = EpollFile::create();
  {
    auto [reader, writer] = PipeEnd::create_pair(0);
    ASSERT_EQ(error_of(epoll->add(reader, 3, {EPOLLIN, 1})), 0);
    ASSERT_EQ(error_of(epoll->add(writer, 4, {EPOLLOUT, 2})), 0);
    EXPECT_EQ(epoll->items().size(), 2u);
  }
  EXPECT_TRUE(epoll->items().empty());
  EXPECT_TRUE(epoll->collect(10).empty());
  EXPECT_EQ(error_of(epoll->add(MUST(open("/file", O_RDONLY)), 5, {EPOLLIN, 0})), EPERM);
}

TEST_F(Files, EpollsNestWithoutCircles) {
  auto inner = EpollFile::create();
  auto outer = EpollFile::create();
  auto [reader, writer] = PipeEnd::create_pair(0);
  ASSERT_EQ(error_of(outer->add(inner, 3, {EPOLLIN, 1})), 0);
  EXPECT_EQ(error_of(inner->add(outer, 4, {EPOLLIN, 2})), ELOOP);
  EXPECT_EQ(error_of(inner->add(inner, 4, {EPOLLIN, 2})), EINVAL);
  ASSERT_EQ(error_of(inner->add(reader, 5, {EPOLLIN, 3})), 0);
  EXPECT_TRUE(outer->collect(10).empty());
  EXPECT_EQ(MUST(write_text(*writer, "x")), 1u);
  EXPECT_EQ(outer->collect(10).size(), 1u);
  EXPECT_EQ(inner->collect(10).size(), 1u);
}

TEST_F(Files, EpollSurvivesWritersAndClosersAtOnce) {
  auto epoll = EpollFile::create();
  std::atomic<bool> stop{false};
  std::thread collector([&] {
    while (!stop) (void)epoll->collect(16);
  });
  for (int i = 0; i < 2000; ++i) {
    auto [reader, writer] = PipeEnd::create_pair(0);
    ASSERT_EQ(error_of(epoll->add(reader, i, {EPOLLIN, 1})), 0);
    EXPECT_EQ(MUST(write_text(*writer, "x")), 1u);
  }
  stop = true;
  collector.join();
  EXPECT_TRUE(epoll->items().empty());
}

TEST_F(Files, HostPipeNeverBlocksAndWakes) {
  auto events = MUST(host::EventLoop::create());
  ASSERT_TRUE(events->start().ok());
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd feed(ends[1]);
  {
    auto input = MUST(HostStdio::create(*events, UniqueFd(ends[0])));
    EXPECT_EQ(error_of(read_some(*input, 10)), EAGAIN);
    CountingWaiter waiter;
    WaitEntry entry(&waiter, kEventIn | kEventAlways);
    input->add_waiter(entry);
    ASSERT_EQ(::write(feed.get(), "in", 2), 2);
    for (int i = 0; i < 1000 && (waiter.seen & kEventIn) == 0; ++i) ::usleep(1000);
    EXPECT_NE(waiter.seen & kEventIn, 0u);
    EXPECT_EQ(MUST(read_some(*input, 10)), "in");
    feed.reset();
    for (int i = 0; i < 1000 && (waiter.seen & kEventHup) == 0; ++i) ::usleep(1000);
    EXPECT_EQ(MUST(read_some(*input, 10)), "");
    input->remove_waiter(entry);
  }
  events->stop();
}

TEST_F(Files, HostSocketAndFile) {
  auto events = MUST(host::EventLoop::create());
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd peer(ends[1]);
  auto socket = MUST(HostStdio::create(*events, UniqueFd(ends[0])));
  EXPECT_EQ(error_of(read_some(*socket, 10)), EAGAIN);
  EXPECT_EQ(::fcntl(peer.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(MUST(write_text(*socket, "out")), 3u);
  char text[4] = {};
  EXPECT_EQ(::read(peer.get(), text, 3), 3);
  peer.reset();
  EXPECT_EQ(error_of(write_text(*socket, "x")), EPIPE);

  UniqueFd file(::open((host_ + "/log").c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  auto log = MUST(HostStdio::create(*events, std::move(file)));
  EXPECT_EQ(MUST(write_text(*log, "line\n")), 5u);
  EXPECT_EQ(MUST(log->lseek(0, SEEK_SET)), 0u);
  EXPECT_EQ(MUST(read_some(*log, 10)), "line\n");
  EXPECT_FALSE(log->can_poll());
}

}  // namespace
}  // namespace caisson
