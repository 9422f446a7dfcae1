// unix(7): pairs, names, connections, datagrams, sequenced packets, ends, options, readiness.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

struct Pair {
  UniqueFd a, b;
};
Pair must_pair(int type) {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, type, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

struct Address {
  sockaddr_un value{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&value); }
};
Address path_address(const std::string& path) {
  Address address;
  address.value.sun_family = AF_UNIX;
  memcpy(address.value.sun_path, path.data(), path.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return address;
}
// A name that nobody else has.
Address abstract_address(const std::string& name) {
  Address address;
  address.value.sun_family = AF_UNIX;
  std::string text = name + "." + std::to_string(getpid());
  memcpy(address.value.sun_path + 1, text.data(), text.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  return address;
}

void alarm_after_ms(int ms) {
  itimerval once{{0, 0}, {0, ms * 1000}};
  must(setitimer(ITIMER_REAL, &once, nullptr), "setitimer");
}

UniqueFd must_socket(int type) {
  UniqueFd fd(socket(AF_UNIX, type, 0));
  EXPECT_GE(fd.get(), 0);
  return fd;
}
UniqueFd must_listener(const Address& address, int type = SOCK_STREAM, int backlog = 8) {
  UniqueFd fd = must_socket(type);
  EXPECT_THAT(bind(fd.get(), address.get(), address.length), SucceedsWith(0));
  EXPECT_THAT(listen(fd.get(), backlog), SucceedsWith(0));
  return fd;
}

short poll_now(int fd, short events) {
  pollfd entry{fd, events, 0};
  EXPECT_GE(poll(&entry, 1, 0), 0);
  return entry.revents;
}

int int_option(int fd, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, name, &value, &length), SucceedsWith(0));
  return value;
}

// ---- Making.

TEST(UnixSocket, FamiliesTypesAndProtocols) {
  EXPECT_THAT(socket(AF_UNIX, 0, 0), FailsWith(ESOCKTNOSUPPORT));
  EXPECT_THAT(socket(AF_UNIX, SOCK_STREAM, 7), FailsWith(EPROTONOSUPPORT));
  EXPECT_THAT(socket(AF_UNIX, 15, 0), FailsWith(EINVAL));
  EXPECT_THAT(socket(AF_UNIX, SOCK_STREAM | 0x10000, 0), FailsWith(EINVAL));
  EXPECT_THAT(socket(77, SOCK_STREAM, 0), FailsWith(EAFNOSUPPORT));
  EXPECT_THAT(socket(-1, SOCK_STREAM, 0), FailsWith(EAFNOSUPPORT));
  UniqueFd one(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, PF_UNIX));
  EXPECT_EQ(fcntl(one.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(one.get(), F_GETFL), O_RDWR | O_NONBLOCK);
  EXPECT_EQ(int_option(one.get(), SO_TYPE), SOCK_STREAM);
  EXPECT_EQ(int_option(one.get(), SO_DOMAIN), AF_UNIX);
  struct stat status {};
  ASSERT_THAT(fstat(one.get(), &status), SucceedsWith(0));
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  char link[64] = {};
  ASSERT_GT(readlink(("/proc/self/fd/" + std::to_string(one.get())).c_str(), link, 63), 0);
  EXPECT_EQ(std::string(link), "socket:[" + std::to_string(status.st_ino) + "]");
  EXPECT_THAT(lseek(one.get(), 0, SEEK_CUR), FailsWith(ESPIPE));
  char byte;
  EXPECT_THAT(pread(one.get(), &byte, 1, 0), FailsWith(ESPIPE));
}

TEST(UnixSocket, CallsOnWhatIsNoSocket) {
  UniqueFd file(open("/dev/null", O_RDWR));
  sockaddr_un address{};
  socklen_t length = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  EXPECT_THAT(getsockname(file.get(), name, &length), FailsWith(ENOTSOCK));
  EXPECT_THAT(listen(file.get(), 1), FailsWith(ENOTSOCK));
  EXPECT_THAT(shutdown(file.get(), SHUT_RD), FailsWith(ENOTSOCK));
  EXPECT_THAT(send(file.get(), "x", 1, 0), FailsWith(ENOTSOCK));
  EXPECT_THAT(recv(file.get(), &address, 1, 0), FailsWith(ENOTSOCK));
  EXPECT_THAT(accept(file.get(), nullptr, nullptr), FailsWith(ENOTSOCK));
  EXPECT_THAT(connect(file.get(), name, sizeof address), FailsWith(ENOTSOCK));
  EXPECT_THAT(listen(99999, 1), FailsWith(EBADF));
}

TEST(UnixSocket, PairsTakeTwoDescriptorsOrNone) {
  EXPECT_THAT(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, bad_pointer()), FailsWith(EFAULT));
  UniqueFd next(dup(0));
  const int lowest = next.get();
  next.reset();
  Pair pair = must_pair(SOCK_STREAM);
  EXPECT_EQ(pair.a.get(), lowest);
  EXPECT_GT(pair.b.get(), pair.a.get());
}

// ---- Streams.

TEST(UnixStream, CarriesBytesBothWays) {
  Pair pair = must_pair(SOCK_STREAM);
  EXPECT_THAT(write(pair.a.get(), "hello ", 6), SucceedsWith(6));
  EXPECT_THAT(send(pair.a.get(), "world", 5, 0), SucceedsWith(5));
  EXPECT_THAT(write(pair.b.get(), "back", 4), SucceedsWith(4));
  char buffer[32] = {};
  int count = 0;
  EXPECT_THAT(ioctl(pair.b.get(), FIONREAD, &count), SucceedsWith(0));
  EXPECT_EQ(count, 11);
  EXPECT_THAT(read(pair.b.get(), buffer, 3), SucceedsWith(3));
  EXPECT_STREQ(buffer, "hel");
  EXPECT_THAT(recv(pair.b.get(), buffer, sizeof buffer, 0), SucceedsWith(8));
  EXPECT_EQ(std::string(buffer, 8), "lo world");
  iovec parts[2] = {{buffer, 1}, {buffer + 10, 10}};
  EXPECT_THAT(readv(pair.a.get(), parts, 2), SucceedsWith(4));
  EXPECT_EQ(buffer[0], 'b');
  EXPECT_EQ(std::string(buffer + 10, 3), "ack");
}

TEST(UnixStream, PeekAndWaitall) {
  Pair pair = must_pair(SOCK_STREAM);
  EXPECT_THAT(write(pair.a.get(), "abc", 3), SucceedsWith(3));
  EXPECT_THAT(write(pair.a.get(), "def", 3), SucceedsWith(3));
  char buffer[16] = {};
  EXPECT_THAT(recv(pair.b.get(), buffer, 5, MSG_PEEK), SucceedsWith(5));
  EXPECT_STREQ(buffer, "abcde");
  std::thread later([&] {
    sleep_ms(30);
    EXPECT_THAT(write(pair.a.get(), "ghij", 4), SucceedsWith(4));
  });
  EXPECT_THAT(recv(pair.b.get(), buffer, 10, MSG_WAITALL), SucceedsWith(10));
  EXPECT_STREQ(buffer, "abcdefghij");
  later.join();
  EXPECT_THAT(recv(pair.b.get(), buffer, 1, MSG_DONTWAIT), FailsWith(EAGAIN));
  EXPECT_THAT(recv(pair.b.get(), buffer, 1, MSG_PEEK | MSG_DONTWAIT), FailsWith(EAGAIN));
}

TEST(UnixStream, EndsOfEitherSide) {
  HandlerGuard ignored(SIGPIPE, SIG_IGN);
  Pair pair = must_pair(SOCK_STREAM);
  char buffer[8];
  EXPECT_THAT(write(pair.a.get(), "x", 1), SucceedsWith(1));
  pair.a.reset();
  EXPECT_EQ(poll_now(pair.b.get(), POLLIN | POLLOUT | POLLRDHUP),
            POLLIN | POLLOUT | POLLHUP | POLLRDHUP);
  EXPECT_THAT(read(pair.b.get(), buffer, 8), SucceedsWith(1));
  EXPECT_THAT(read(pair.b.get(), buffer, 8), SucceedsWith(0));
  EXPECT_THAT(write(pair.b.get(), "y", 1), FailsWith(EPIPE));

  // What was not read is lost, and said.
  Pair lost = must_pair(SOCK_STREAM);
  EXPECT_THAT(write(lost.a.get(), "x", 1), SucceedsWith(1));
  lost.b.reset();
  EXPECT_NE(poll_now(lost.a.get(), POLLIN) & POLLERR, 0);
  EXPECT_THAT(read(lost.a.get(), buffer, 8), FailsWith(ECONNRESET));
  EXPECT_THAT(read(lost.a.get(), buffer, 8), SucceedsWith(0));
}

TEST(UnixStream, BrokenPipeRaisesSigpipeUnlessAskedNotTo) {
  Child child = Child::run([] {
    Pair pair = must_pair(SOCK_STREAM);
    pair.b.reset();
    REQUIRE(send(pair.a.get(), "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    send(pair.a.get(), "x", 1, 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGPIPE));
}

TEST(UnixStream, ShutdownOfHalves) {
  HandlerGuard ignored(SIGPIPE, SIG_IGN);
  Pair pair = must_pair(SOCK_STREAM);
  char buffer[8];
  EXPECT_THAT(shutdown(pair.a.get(), 3), FailsWith(EINVAL));
  EXPECT_THAT(write(pair.a.get(), "last", 4), SucceedsWith(4));
  EXPECT_THAT(shutdown(pair.a.get(), SHUT_WR), SucceedsWith(0));
  EXPECT_THAT(write(pair.a.get(), "x", 1), FailsWith(EPIPE));
  EXPECT_THAT(read(pair.b.get(), buffer, 8), SucceedsWith(4));
  EXPECT_THAT(read(pair.b.get(), buffer, 8), SucceedsWith(0));
  EXPECT_EQ(poll_now(pair.b.get(), POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
  EXPECT_THAT(write(pair.b.get(), "ok", 2), SucceedsWith(2));
  EXPECT_THAT(read(pair.a.get(), buffer, 8), SucceedsWith(2));
  EXPECT_THAT(shutdown(pair.b.get(), SHUT_RDWR), SucceedsWith(0));
  EXPECT_NE(poll_now(pair.a.get(), 0) & POLLHUP, 0);
}

TEST(UnixStream, FullBufferBlocksAndDrains) {
  Pair pair = must_pair(SOCK_STREAM);
  fcntl(pair.a.get(), F_SETFL, O_NONBLOCK);
  std::string data(4096, 'x');
  size_t sent = 0;
  for (;;) {
    ssize_t n = write(pair.a.get(), data.data(), data.size());
    if (n < 0) break;
    sent += static_cast<size_t>(n);
    ASSERT_LT(sent, 10u << 20);
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_GE(sent, 64u << 10);
  EXPECT_EQ(poll_now(pair.a.get(), POLLOUT), 0);
  fcntl(pair.a.get(), F_SETFL, 0);
  constexpr size_t kMore = 3 << 20;
  std::thread writer([&] {
    std::string big(kMore, 'y');
    EXPECT_THAT(write(pair.a.get(), big.data(), big.size()), SucceedsWith(long{kMore}));
    pair.a.reset();
  });
  std::string got;
  char buffer[30000];
  for (;;) {
    ssize_t n = read(pair.b.get(), buffer, sizeof buffer);
    if (n <= 0) break;
    got.append(buffer, static_cast<size_t>(n));
  }
  writer.join();
  EXPECT_EQ(got, std::string(sent, 'x') + std::string(kMore, 'y'));
}

TEST(UnixStream, BadBuffersAndAddresses) {
  Pair pair = must_pair(SOCK_STREAM);
  EXPECT_THAT(send(pair.a.get(), bad_pointer(), 4, 0), FailsWith(EFAULT));
  EXPECT_THAT(write(pair.a.get(), "abcd", 4), SucceedsWith(4));
  EXPECT_THAT(recv(pair.b.get(), bad_pointer(), 4, 0), FailsWith(EFAULT));
  char buffer[8];
  EXPECT_THAT(recv(pair.b.get(), buffer, 8, 0), SucceedsWith(4));
  Address somewhere = abstract_address("nowhere");
  EXPECT_THAT(sendto(pair.a.get(), "x", 1, 0, somewhere.get(), somewhere.length),
              FailsWith(EISCONN));
  UniqueFd alone = must_socket(SOCK_STREAM);
  EXPECT_THAT(send(alone.get(), "x", 1, MSG_NOSIGNAL), FailsWith(ENOTCONN));
  EXPECT_THAT(recv(alone.get(), buffer, 1, 0), FailsWith(EINVAL));
  EXPECT_NE(poll_now(alone.get(), POLLIN | POLLOUT) & POLLHUP, 0);
  EXPECT_THAT(sendmsg(pair.a.get(), nullptr, 0), FailsWith(EFAULT));
  msghdr message{};
  message.msg_iovlen = 1025;
  EXPECT_THAT(sendmsg(pair.a.get(), &message, 0), FailsWith(EMSGSIZE));
  EXPECT_THAT(recvmsg(pair.a.get(), &message, 0), FailsWith(EMSGSIZE));
}

TEST(UnixStream, InterruptedReadsRestartOrEnd) {
  Pair pair = must_pair(SOCK_STREAM);
  char byte;
  {
    HandlerGuard handler(
        SIGALRM, [](int) {}, SA_RESTART);
    Child child = Child::run([&] {
      sleep_ms(60);
      REQUIRE(write(pair.a.get(), "z", 1) == 1);
      return 0;
    });
    alarm_after_ms(20);
    EXPECT_THAT(read(pair.b.get(), &byte, 1), SucceedsWith(1));
    EXPECT_THAT(child.wait(), ExitedWith(0));
  }
  {
    HandlerGuard handler(SIGALRM, [](int) {});
    alarm_after_ms(20);
    EXPECT_THAT(read(pair.b.get(), &byte, 1), FailsWith(EINTR));
  }
  {
    // A time limit of the socket's own: never restarted.
    timeval limit{5, 0};
    ASSERT_THAT(setsockopt(pair.b.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit),
                SucceedsWith(0));
    HandlerGuard handler(
        SIGALRM, [](int) {}, SA_RESTART);
    alarm_after_ms(20);
    EXPECT_THAT(read(pair.b.get(), &byte, 1), FailsWith(EINTR));
  }
}

TEST(UnixStream, TimeLimits) {
  Pair pair = must_pair(SOCK_STREAM);
  timeval limit{0, 40'000};
  ASSERT_THAT(setsockopt(pair.b.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit),
              SucceedsWith(0));
  timeval told{};
  socklen_t length = sizeof told;
  ASSERT_THAT(getsockopt(pair.b.get(), SOL_SOCKET, SO_RCVTIMEO, &told, &length), SucceedsWith(0));
  EXPECT_EQ(told.tv_usec, 40'000);
  const int64_t begin = now_ns();
  char byte;
  EXPECT_THAT(read(pair.b.get(), &byte, 1), FailsWith(EAGAIN));
  EXPECT_GE(now_ns() - begin, 39'000'000);
  limit.tv_usec = 1'000'000;
  EXPECT_THAT(setsockopt(pair.b.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit),
              FailsWith(EDOM));
}

// ---- Names and connections.

TEST(UnixNames, PathsAreNodes) {
  TempDir dir;
  Address address = path_address(dir.path() + "/socket");
  UniqueFd listener = must_listener(address);
  struct stat status {};
  ASSERT_THAT(stat(address.value.sun_path, &status), SucceedsWith(0));
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  EXPECT_THAT(open(address.value.sun_path, O_RDWR), FailsWith(ENXIO));
  UniqueFd second = must_socket(SOCK_STREAM);
  EXPECT_THAT(bind(second.get(), address.get(), address.length), FailsWith(EADDRINUSE));
  EXPECT_THAT(bind(listener.get(), address.get(), address.length), Fails());

  UniqueFd client = must_socket(SOCK_STREAM);
  EXPECT_THAT(connect(client.get(), address.get(), address.length), SucceedsWith(0));
  EXPECT_THAT(connect(client.get(), address.get(), address.length), FailsWith(EISCONN));
  sockaddr_un from;
  socklen_t length = sizeof from;
  UniqueFd server(accept(listener.get(), reinterpret_cast<sockaddr*>(&from), &length));
  ASSERT_GE(server.get(), 0);
  EXPECT_EQ(length, 2u);  // the client has no name
  EXPECT_EQ(from.sun_family, AF_UNIX);
  length = sizeof from;
  EXPECT_THAT(getsockname(server.get(), reinterpret_cast<sockaddr*>(&from), &length),
              SucceedsWith(0));
  EXPECT_EQ(length, address.length);
  EXPECT_STREQ(from.sun_path, address.value.sun_path);
  length = 4;
  EXPECT_THAT(getpeername(client.get(), reinterpret_cast<sockaddr*>(&from), &length),
              SucceedsWith(0));
  EXPECT_EQ(length, address.length);

  UniqueFd datagram = must_socket(SOCK_DGRAM);
  EXPECT_THAT(connect(datagram.get(), address.get(), address.length), FailsWith(EPROTOTYPE));
  // Moved, it is still found; closed, it is not.
  Address moved = path_address(dir.path() + "/moved");
  ASSERT_THAT(rename(address.value.sun_path, moved.value.sun_path), SucceedsWith(0));
  EXPECT_THAT(connect(second.get(), address.get(), address.length), FailsWith(ENOENT));
  EXPECT_THAT(connect(second.get(), moved.get(), moved.length), SucceedsWith(0));
  listener.reset();
  UniqueFd late = must_socket(SOCK_STREAM);
  EXPECT_THAT(connect(late.get(), moved.get(), moved.length), FailsWith(ECONNREFUSED));
  char byte;
  EXPECT_THAT(read(second.get(), &byte, 1), FailsWith(ECONNRESET));  // nobody accepted it
}

TEST(UnixNames, AbstractNamesGoWithTheirSocket) {
  Address address = abstract_address("abstract");
  UniqueFd listener = must_listener(address);
  UniqueFd other = must_socket(SOCK_STREAM);
  EXPECT_THAT(bind(other.get(), address.get(), address.length), FailsWith(EADDRINUSE));
  sockaddr_un name;
  socklen_t length = sizeof name;
  EXPECT_THAT(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&name), &length),
              SucceedsWith(0));
  EXPECT_EQ(length, address.length);
  EXPECT_EQ(memcmp(&name, &address.value, length), 0);
  listener.reset();
  EXPECT_THAT(connect(other.get(), address.get(), address.length), FailsWith(ECONNREFUSED));
  EXPECT_THAT(bind(other.get(), address.get(), address.length), SucceedsWith(0));
}

TEST(UnixNames, ANameOfItsOwnChoosing) {
  UniqueFd fd = must_socket(SOCK_DGRAM);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  ASSERT_THAT(bind(fd.get(), reinterpret_cast<sockaddr*>(&name), 2), SucceedsWith(0));
  socklen_t length = sizeof name;
  ASSERT_THAT(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&name), &length), SucceedsWith(0));
  EXPECT_EQ(length, 8u);
  EXPECT_EQ(name.sun_path[0], 0);
}

TEST(UnixNames, BadAddresses) {
  UniqueFd fd = must_socket(SOCK_STREAM);
  sockaddr_storage storage{};
  auto* name = reinterpret_cast<sockaddr*>(&storage);
  EXPECT_THAT(bind(fd.get(), name, 0), FailsWith(EINVAL));
  EXPECT_THAT(bind(fd.get(), name, 110), FailsWith(EINVAL));
  storage.ss_family = AF_UNIX;
  EXPECT_THAT(bind(fd.get(), name, 111), FailsWith(EINVAL));
  EXPECT_THAT(bind(fd.get(), name, 129), FailsWith(EINVAL));
  EXPECT_THAT(connect(fd.get(), name, 2), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_bind, fd.get(), bad_pointer(), 20), FailsWith(EFAULT));
  Address missing = path_address("/nonexistent/socket");
  EXPECT_THAT(connect(fd.get(), missing.get(), missing.length), FailsWith(ENOENT));
  EXPECT_THAT(bind(fd.get(), missing.get(), missing.length), FailsWith(ENOENT));
  Address file = path_address("/etc/passwd");
  EXPECT_THAT(connect(fd.get(), file.get(), file.length), FailsWith(ECONNREFUSED));
  EXPECT_THAT(listen(fd.get(), 1), FailsWith(EINVAL));  // no name
  EXPECT_THAT(accept(fd.get(), nullptr, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(getpeername(fd.get(), name, nullptr), Fails());
  EXPECT_THAT(accept4(fd.get(), nullptr, nullptr, 1), FailsWith(EINVAL));
  UniqueFd datagram = must_socket(SOCK_DGRAM);
  EXPECT_THAT(listen(datagram.get(), 1), FailsWith(EOPNOTSUPP));
  EXPECT_THAT(accept(datagram.get(), nullptr, nullptr), FailsWith(EOPNOTSUPP));
}

TEST(UnixConnect, BacklogAndAccept) {
  Address address = abstract_address("backlog");
  UniqueFd listener = must_listener(address, SOCK_STREAM, 1);
  fcntl(listener.get(), F_SETFL, O_NONBLOCK);
  EXPECT_THAT(accept(listener.get(), nullptr, nullptr), FailsWith(EAGAIN));
  EXPECT_EQ(int_option(listener.get(), SO_ACCEPTCONN), 1);
  EXPECT_EQ(poll_now(listener.get(), POLLIN | POLLOUT), 0);
  UniqueFd clients[3];
  for (UniqueFd& client : clients) client.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
  EXPECT_THAT(connect(clients[0].get(), address.get(), address.length), SucceedsWith(0));
  EXPECT_THAT(connect(clients[1].get(), address.get(), address.length), SucceedsWith(0));
  EXPECT_THAT(connect(clients[2].get(), address.get(), address.length), FailsWith(EAGAIN));
  EXPECT_EQ(poll_now(listener.get(), POLLIN), POLLIN);
  // Before anybody accepts, a client may write.
  EXPECT_THAT(write(clients[0].get(), "early", 5), SucceedsWith(5));
  // A blocking one waits for room.
  std::thread blocked([&] {
    fcntl(clients[2].get(), F_SETFL, 0);
    EXPECT_THAT(connect(clients[2].get(), address.get(), address.length), SucceedsWith(0));
  });
  sleep_ms(30);
  UniqueFd first(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  ASSERT_GE(first.get(), 0);
  blocked.join();
  EXPECT_EQ(fcntl(first.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_NE(fcntl(first.get(), F_GETFL) & O_NONBLOCK, 0);
  char buffer[8] = {};
  EXPECT_THAT(read(first.get(), buffer, 8), SucceedsWith(5));
  EXPECT_STREQ(buffer, "early");
}

TEST(UnixConnect, AcceptWaitsAndPeersAreKnown) {
  Address address = abstract_address("peers");
  UniqueFd listener = must_listener(address);
  Child child = Child::run([&] {
    sleep_ms(30);
    UniqueFd client = must_socket(SOCK_STREAM);
    REQUIRE(connect(client.get(), address.get(), address.length) == 0);
    ucred peer{};
    socklen_t length = sizeof peer;
    REQUIRE(getsockopt(client.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0);
    REQUIRE(peer.pid == getppid() && peer.uid == geteuid());
    char byte;
    REQUIRE(read(client.get(), &byte, 1) == 1);
    return 0;
  });
  UniqueFd server(accept(listener.get(), nullptr, nullptr));
  ASSERT_GE(server.get(), 0);
  ucred peer{};
  socklen_t length = sizeof peer;
  ASSERT_THAT(getsockopt(server.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length), SucceedsWith(0));
  EXPECT_EQ(peer.pid, child.pid());
  EXPECT_EQ(peer.uid, geteuid());
  EXPECT_EQ(peer.gid, getegid());
  EXPECT_THAT(write(server.get(), "x", 1), SucceedsWith(1));
  EXPECT_THAT(child.wait(), ExitedWith(0));
  UniqueFd alone = must_socket(SOCK_STREAM);
  length = sizeof peer;
  ASSERT_THAT(getsockopt(alone.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length), SucceedsWith(0));
  EXPECT_EQ(peer.pid, 0);
  EXPECT_EQ(peer.uid, ~0u);
}

// ---- Datagrams and packets.

TEST(UnixDatagram, KeepsBoundariesAndNames) {
  Address to = abstract_address("to");
  Address from = abstract_address("from");
  UniqueFd receiver = must_socket(SOCK_DGRAM);
  UniqueFd sender = must_socket(SOCK_DGRAM);
  ASSERT_THAT(bind(receiver.get(), to.get(), to.length), SucceedsWith(0));
  EXPECT_THAT(send(sender.get(), "x", 1, 0), FailsWith(ENOTCONN));
  EXPECT_THAT(sendto(sender.get(), "one", 3, 0, to.get(), to.length), SucceedsWith(3));
  ASSERT_THAT(bind(sender.get(), from.get(), from.length), SucceedsWith(0));
  EXPECT_THAT(sendto(sender.get(), "", 0, 0, to.get(), to.length), SucceedsWith(0));
  EXPECT_THAT(sendto(sender.get(), "three", 5, 0, to.get(), to.length), SucceedsWith(5));
  char buffer[16] = {};
  sockaddr_un name;
  socklen_t length = sizeof name;
  EXPECT_THAT(recv(receiver.get(), buffer, 16, MSG_PEEK), SucceedsWith(3));
  EXPECT_THAT(recv(receiver.get(), buffer, 16, 0), SucceedsWith(3));
  EXPECT_THAT(recv(receiver.get(), buffer, 16, 0), SucceedsWith(0));
  EXPECT_THAT(
      recvfrom(receiver.get(), buffer, 2, MSG_TRUNC, reinterpret_cast<sockaddr*>(&name), &length),
      SucceedsWith(5));
  EXPECT_EQ(std::string(buffer, 2), "th");
  EXPECT_EQ(length, from.length);
  EXPECT_EQ(memcmp(&name, &from.value, length), 0);
  EXPECT_THAT(recv(receiver.get(), buffer, 16, MSG_DONTWAIT), FailsWith(EAGAIN));
}

TEST(UnixDatagram, ConnectedOnes) {
  Address to = abstract_address("peer");
  UniqueFd receiver = must_socket(SOCK_DGRAM);
  ASSERT_THAT(bind(receiver.get(), to.get(), to.length), SucceedsWith(0));
  UniqueFd sender = must_socket(SOCK_DGRAM);
  ASSERT_THAT(connect(sender.get(), to.get(), to.length), SucceedsWith(0));
  EXPECT_THAT(send(sender.get(), "x", 1, 0), SucceedsWith(1));
  // The queue is short; it is full for one who does not wait, and for poll.
  fcntl(sender.get(), F_SETFL, O_NONBLOCK);
  int sent = 1;
  while (send(sender.get(), "x", 1, 0) == 1) ASSERT_LT(++sent, 10'000);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(poll_now(sender.get(), POLLOUT), 0);
  fcntl(sender.get(), F_SETFL, 0);
  std::thread drain([&] {
    sleep_ms(30);
    char byte;
    for (int i = 0; i < sent; ++i) EXPECT_THAT(recv(receiver.get(), &byte, 1, 0), SucceedsWith(1));
  });
  pollfd entry{sender.get(), POLLOUT, 0};
  EXPECT_EQ(poll(&entry, 1, 5000), 1);
  EXPECT_THAT(send(sender.get(), "y", 1, 0), SucceedsWith(1));
  drain.join();
  receiver.reset();
  EXPECT_THAT(send(sender.get(), "x", 1, 0), FailsWith(ECONNREFUSED));
  EXPECT_THAT(send(sender.get(), "x", 1, 0), FailsWith(ENOTCONN));
  EXPECT_THAT(sendto(sender.get(), "x", 1, 0, to.get(), to.length), FailsWith(ECONNREFUSED));
}

TEST(UnixDatagram, TooLongAndDisconnected) {
  Pair pair = must_pair(SOCK_DGRAM);
  std::string big(1 << 20, 'x');
  EXPECT_THAT(send(pair.a.get(), big.data(), big.size(), 0), FailsWith(EMSGSIZE));
  EXPECT_THAT(send(pair.a.get(), big.data(), 100'000, 0), SucceedsWith(100'000));
  EXPECT_THAT(recv(pair.b.get(), big.data(), big.size(), 0), SucceedsWith(100'000));
  sockaddr none{};
  none.sa_family = AF_UNSPEC;
  EXPECT_THAT(connect(pair.a.get(), &none, sizeof none), SucceedsWith(0));
  EXPECT_THAT(send(pair.a.get(), "x", 1, 0), FailsWith(ENOTCONN));
}

TEST(UnixSeqpacket, KeepsBoundariesAndEnds) {
  Pair pair = must_pair(SOCK_SEQPACKET);
  char buffer[8] = {};
  EXPECT_THAT(write(pair.a.get(), "one", 3), SucceedsWith(3));
  EXPECT_THAT(write(pair.a.get(), "second", 6), SucceedsWith(6));
  EXPECT_THAT(read(pair.b.get(), buffer, 8), SucceedsWith(3));
  EXPECT_THAT(read(pair.b.get(), buffer, 2), SucceedsWith(2));
  pair.a.reset();
  EXPECT_THAT(read(pair.b.get(), buffer, 8), SucceedsWith(0));
  EXPECT_THAT(send(pair.b.get(), "x", 1, MSG_NOSIGNAL), FailsWith(EPIPE));
  UniqueFd alone = must_socket(SOCK_SEQPACKET);
  EXPECT_THAT(send(alone.get(), "x", 1, MSG_NOSIGNAL), FailsWith(ENOTCONN));
  EXPECT_THAT(recv(alone.get(), buffer, 1, 0), FailsWith(ENOTCONN));
}

// ---- Options.

TEST(UnixOptions, SizesAndSwitches) {
  Pair pair = must_pair(SOCK_STREAM);
  const int fd = pair.a.get();
  int value = 10'000;
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, sizeof value), SucceedsWith(0));
  EXPECT_EQ(int_option(fd, SO_SNDBUF), 20'000);
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, sizeof value), SucceedsWith(0));
  EXPECT_EQ(int_option(fd, SO_RCVBUF), 20'000);
  value = 1;
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, sizeof value), SucceedsWith(0));
  EXPECT_GT(int_option(fd, SO_SNDBUF), 2);
  for (int name : {SO_REUSEADDR, SO_KEEPALIVE, SO_PASSCRED}) {
    EXPECT_EQ(int_option(fd, name), 0);
    EXPECT_THAT(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value), SucceedsWith(0));
    EXPECT_EQ(int_option(fd, name), 1);
  }
  EXPECT_EQ(int_option(fd, SO_ERROR), 0);
  EXPECT_EQ(int_option(fd, SO_ACCEPTCONN), 0);
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, SO_TYPE, &value, sizeof value), FailsWith(ENOPROTOOPT));
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, 9999, &value, sizeof value), FailsWith(ENOPROTOOPT));
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, 2), FailsWith(EINVAL));
  EXPECT_THAT(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, bad_pointer(), 4), FailsWith(EFAULT));
  EXPECT_THAT(setsockopt(fd, 6 /* TCP */, 1, &value, sizeof value), FailsWith(EOPNOTSUPP));
  socklen_t length = 1;
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length), SucceedsWith(0));
  EXPECT_EQ(length, 1u);
  length = sizeof value;
  EXPECT_THAT(getsockopt(fd, SOL_SOCKET, 9999, &value, &length), FailsWith(ENOPROTOOPT));
  int count = -1;
  EXPECT_THAT(write(fd, "abc", 3), SucceedsWith(3));
  EXPECT_THAT(ioctl(fd, TIOCOUTQ, &count), SucceedsWith(0));
  EXPECT_GT(count, 0);
}

// ---- Readiness.

TEST(UnixReadiness, EpollSeesEdges) {
  Pair pair = must_pair(SOCK_STREAM);
  UniqueFd epoll(epoll_create1(0));
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET | EPOLLRDHUP;
  ASSERT_THAT(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, pair.b.get(), &event), SucceedsWith(0));
  epoll_event got;
  EXPECT_THAT(epoll_wait(epoll.get(), &got, 1, 0), SucceedsWith(0));
  EXPECT_THAT(write(pair.a.get(), "x", 1), SucceedsWith(1));
  EXPECT_THAT(epoll_wait(epoll.get(), &got, 1, 1000), SucceedsWith(1));
  EXPECT_EQ(got.events, uint32_t{EPOLLIN});
  EXPECT_THAT(epoll_wait(epoll.get(), &got, 1, 0), SucceedsWith(0));
  pair.a.reset();
  EXPECT_THAT(epoll_wait(epoll.get(), &got, 1, 1000), SucceedsWith(1));
  EXPECT_EQ(got.events, uint32_t{EPOLLIN | EPOLLHUP | EPOLLRDHUP});
}

TEST(UnixReadiness, ClosedByAnotherThreadWhileReading) {
  Pair pair = must_pair(SOCK_STREAM);
  std::thread closer([&] {
    sleep_ms(30);
    pair.a.reset();
  });
  char byte;
  EXPECT_THAT(read(pair.b.get(), &byte, 1), SucceedsWith(0));
  closer.join();
}

}  // namespace
}  // namespace caisson::test
