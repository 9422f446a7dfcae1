// sendmsg(2) and recvmsg(2) of unix(7): descriptors and credentials that come along, cmsg(3).
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"

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

// A message with one buffer and room for control messages.
struct Message {
  explicit Message(void* data, size_t length) : part{data, length} {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
  }
  void add(int type, const void* data, size_t length) {
    const size_t at = header.msg_controllen;
    header.msg_control = control;
    header.msg_controllen += CMSG_SPACE(length);
    auto* message = reinterpret_cast<cmsghdr*>(control + at);
    message->cmsg_level = SOL_SOCKET;
    message->cmsg_type = type;
    message->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(message), data, length);
  }
  void make_room(size_t length = 4096) {
    header.msg_control = control;
    header.msg_controllen = length;
  }
  // The data of the control message of `type`; empty if there is none.
  template <typename T>
  std::vector<T> get(int type) {
    for (cmsghdr* m = CMSG_FIRSTHDR(&header); m != nullptr; m = CMSG_NXTHDR(&header, m)) {
      if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != type) continue;
      std::vector<T> values((m->cmsg_len - CMSG_LEN(0)) / sizeof(T));
      memcpy(values.data(), CMSG_DATA(m), values.size() * sizeof(T));
      return values;
    }
    return {};
  }
  iovec part;
  msghdr header{};
  alignas(cmsghdr) unsigned char control[4096] = {};
};

ssize_t send_fds(int to, const std::vector<int>& fds, const char* text = "x", int flags = 0) {
  Message message(const_cast<char*>(text), strlen(text));
  message.add(SCM_RIGHTS, fds.data(), fds.size() * sizeof(int));
  return sendmsg(to, &message.header, flags);
}

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

TEST(UnixRights, DescriptorsArrive) {
  for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    Pair pair = must_pair(type);
    Pipe pipe = must_pipe();
    ASSERT_THAT(send_fds(pair.a.get(), {pipe.write_end.get(), pipe.read_end.get()}),
                SucceedsWith(1));
    char byte = 0;
    Message got(&byte, 1);
    got.make_room();
    ASSERT_THAT(recvmsg(pair.b.get(), &got.header, MSG_CMSG_CLOEXEC), SucceedsWith(1));
    EXPECT_EQ(got.header.msg_flags, MSG_CMSG_CLOEXEC);
    auto fds = got.get<int>(SCM_RIGHTS);
    ASSERT_EQ(fds.size(), 2u);
    EXPECT_EQ(got.header.msg_controllen, CMSG_SPACE(8));
    UniqueFd write_end(fds[0]), read_end(fds[1]);
    EXPECT_EQ(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
    pipe.write_end.reset();
    EXPECT_THAT(write(write_end.get(), "p", 1), SucceedsWith(1));
    EXPECT_THAT(read(read_end.get(), &byte, 1), SucceedsWith(1));
    EXPECT_EQ(byte, 'p');
  }
}

TEST(UnixRights, KeepFilesOpenUnderWay) {
  Pair pair = must_pair(SOCK_STREAM);
  Pipe pipe = must_pipe();
  ASSERT_THAT(send_fds(pair.a.get(), {pipe.write_end.get()}), SucceedsWith(1));
  pipe.write_end.reset();
  fcntl(pipe.read_end.get(), F_SETFL, O_NONBLOCK);
  char byte;
  EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), FailsWith(EAGAIN));
  // Read without room for it, the descriptor is gone, and so is the file.
  EXPECT_THAT(read(pair.b.get(), &byte, 1), SucceedsWith(1));
  EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), SucceedsWith(0));

  Pipe second = must_pipe();
  ASSERT_THAT(send_fds(pair.a.get(), {second.write_end.get()}), SucceedsWith(1));
  second.write_end.reset();
  pair.b.reset();  // with the message in it
  EXPECT_THAT(read(second.read_end.get(), &byte, 1), SucceedsWith(0));
}

TEST(UnixRights, StreamsStopAtDescriptors) {
  Pair pair = must_pair(SOCK_STREAM);
  ASSERT_THAT(write(pair.a.get(), "ab", 2), SucceedsWith(2));
  ASSERT_THAT(send_fds(pair.a.get(), {0}, "cd"), SucceedsWith(2));
  ASSERT_THAT(write(pair.a.get(), "ef", 2), SucceedsWith(2));
  char text[16] = {};
  Message got(text, sizeof text);
  got.make_room();
  ASSERT_THAT(recvmsg(pair.b.get(), &got.header, 0), SucceedsWith(4));
  EXPECT_STREQ(text, "abcd");
  auto fds = got.get<int>(SCM_RIGHTS);
  ASSERT_EQ(fds.size(), 1u);
  close(fds[0]);
  EXPECT_THAT(read(pair.b.get(), text, sizeof text), SucceedsWith(2));
}

TEST(UnixRights, PeekGivesDescriptorsTwice) {
  Pair pair = must_pair(SOCK_DGRAM);
  ASSERT_THAT(send_fds(pair.a.get(), {1}), SucceedsWith(1));
  for (int flags : {int{MSG_PEEK}, 0}) {
    char byte;
    Message got(&byte, 1);
    got.make_room();
    ASSERT_THAT(recvmsg(pair.b.get(), &got.header, flags), SucceedsWith(1));
    auto fds = got.get<int>(SCM_RIGHTS);
    ASSERT_EQ(fds.size(), 1u);
    EXPECT_TRUE(is_open(fds[0]));
    close(fds[0]);
  }
}

TEST(UnixRights, TooLittleRoomIsSaid) {
  Pair pair = must_pair(SOCK_STREAM);
  UniqueFd next(dup(0));
  const int lowest = next.get();
  next.reset();
  ASSERT_THAT(send_fds(pair.a.get(), {0, 0, 0}), SucceedsWith(1));
  char byte;
  Message got(&byte, 1);
  got.make_room(CMSG_LEN(8));
  ASSERT_THAT(recvmsg(pair.b.get(), &got.header, 0), SucceedsWith(1));
  EXPECT_EQ(got.header.msg_flags, MSG_CTRUNC);
  auto fds = got.get<int>(SCM_RIGHTS);
  EXPECT_EQ(fds, (std::vector<int>{lowest, lowest + 1}));
  EXPECT_FALSE(is_open(lowest + 2));
  for (int fd : fds) close(fd);

  ASSERT_THAT(send_fds(pair.a.get(), {0}), SucceedsWith(1));
  Message none(&byte, 1);
  ASSERT_THAT(recvmsg(pair.b.get(), &none.header, 0), SucceedsWith(1));
  EXPECT_EQ(none.header.msg_flags, MSG_CTRUNC);
  EXPECT_FALSE(is_open(lowest));
}

TEST(UnixRights, AtTheDescriptorLimit) {
  Child child = Child::run([] {
    Pair pair = must_pair(SOCK_STREAM);
    REQUIRE(send_fds(pair.a.get(), {0, 0}) == 1);
    UniqueFd next(dup(0));
    const int lowest = next.get();
    next.reset();
    rlimit limit{static_cast<rlim_t>(lowest) + 1, static_cast<rlim_t>(lowest) + 1};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    char byte;
    Message got(&byte, 1);
    got.make_room();
    REQUIRE(recvmsg(pair.b.get(), &got.header, 0) == 1);
    REQUIRE((got.header.msg_flags & MSG_CTRUNC) != 0);
    REQUIRE(got.get<int>(SCM_RIGHTS) == std::vector<int>{lowest});
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(UnixRights, BadControlMessages) {
  Pair pair = must_pair(SOCK_STREAM);
  const int to = pair.a.get();
  EXPECT_THAT(send_fds(to, {99999}), FailsWith(EBADF));
  EXPECT_THAT(send_fds(to, {-1}), FailsWith(EBADF));
  EXPECT_THAT(send_fds(to, std::vector<int>(254, 0)), FailsWith(EINVAL));
  char byte = 'x';
  Message message(&byte, 1);
  message.add(SCM_RIGHTS, &to, sizeof to);
  auto* header = reinterpret_cast<cmsghdr*>(message.control);
  header->cmsg_len = 3;
  EXPECT_THAT(sendmsg(to, &message.header, 0), FailsWith(EINVAL));
  header->cmsg_len = 1000;
  EXPECT_THAT(sendmsg(to, &message.header, 0), FailsWith(EINVAL));
  header->cmsg_len = CMSG_LEN(4);
  header->cmsg_type = 77;
  EXPECT_THAT(sendmsg(to, &message.header, 0), FailsWith(EINVAL));
  header->cmsg_level = 77;  // somebody else's: passed over
  EXPECT_THAT(sendmsg(to, &message.header, 0), SucceedsWith(1));
  message.header.msg_control = bad_pointer();
  EXPECT_THAT(sendmsg(to, &message.header, 0), FailsWith(EFAULT));
  message.header.msg_controllen = 1u << 30;
  EXPECT_THAT(sendmsg(to, &message.header, 0), FailsWith(ENOBUFS));
  EXPECT_THAT(read(pair.b.get(), &byte, 1), SucceedsWith(1));
}

// Sockets inside sockets inside sockets: their end is not a deep recursion.
TEST(UnixRights, ChainsOfSocketsEnd) {
  Pair outer = must_pair(SOCK_STREAM);
  for (int i = 0; i < 3000; ++i) {
    Pair next = must_pair(SOCK_STREAM);
    // Linux refuses chains at some depth, or not.
    if (send_fds(next.a.get(), {outer.b.get()}) != 1) break;
    outer = std::move(next);
  }
  outer = {};
  EXPECT_TRUE(is_open(must_pair(SOCK_STREAM).a.get()));
}

// Two sockets that lie in each other's queues, with `more` beside them.
void make_cycle(int more) {
  Pair pair = must_pair(SOCK_STREAM);
  EXPECT_THAT(send_fds(pair.a.get(), {pair.a.get(), more}), SucceedsWith(1));
  EXPECT_THAT(send_fds(pair.b.get(), {pair.b.get()}), SucceedsWith(1));
}

// Nobody can ever read them again: what they hold is let go, sooner or later.
TEST(UnixRights, CyclesAreCollected) {
  Pipe pipe = must_pipe();
  fcntl(pipe.read_end.get(), F_SETFL, O_NONBLOCK);
  make_cycle(pipe.write_end.get());
  pipe.write_end.reset();
  char byte;
  ssize_t got = -1;
  for (int i = 0; i < 2000 && got != 0; ++i) {
    make_cycle(0);
    must_pair(SOCK_STREAM);  // Linux looks when a socket closes
    got = read(pipe.read_end.get(), &byte, 1);
  }
  EXPECT_EQ(got, 0);
}

// What somebody still has, or lies where somebody can read it, stays.
TEST(UnixRights, CyclesThatAreInUseStay) {
  Pair outer = must_pair(SOCK_DGRAM);
  Pair inner = must_pair(SOCK_STREAM);
  ASSERT_THAT(write(inner.a.get(), "kept", 4), SucceedsWith(4));
  // `inner.b` lies in the queue of `inner.a`, which lies where `outer.b` can read it.
  ASSERT_THAT(send_fds(inner.b.get(), {inner.b.get()}), SucceedsWith(1));
  ASSERT_THAT(send_fds(outer.a.get(), {inner.a.get()}), SucceedsWith(1));
  inner = {};
  for (int i = 0; i < 300; ++i) {
    make_cycle(0);
    must_pair(SOCK_STREAM);
  }
  auto receive = [](int from) {
    char byte;
    Message message(&byte, 1);
    message.make_room();
    EXPECT_THAT(recvmsg(from, &message.header, 0), SucceedsWith(1));
    auto fds = message.get<int>(SCM_RIGHTS);
    EXPECT_EQ(fds.size(), 1u);
    return UniqueFd(fds.empty() ? -1 : fds[0]);
  };
  UniqueFd a = receive(outer.b.get());
  UniqueFd b = receive(a.get());
  char text[8] = {};
  EXPECT_THAT(read(b.get(), text, 8), SucceedsWith(4));
  EXPECT_STREQ(text, "kept");
}

// ---- Credentials.

TEST(UnixCredentials, ComeWhenAskedFor) {
  Pair pair = must_pair(SOCK_STREAM);
  char byte = 'x';
  const int on = 1;
  ASSERT_THAT(setsockopt(pair.b.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), SucceedsWith(0));
  Child child = Child::run([&] {
    REQUIRE(write(pair.a.get(), "c", 1) == 1);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  ASSERT_THAT(write(pair.a.get(), "pp", 2), SucceedsWith(2));
  // Bytes of two writers are not mixed.
  for (pid_t writer : {child.pid(), getpid()}) {
    char text[8];
    Message got(text, sizeof text);
    got.make_room();
    ASSERT_THAT(recvmsg(pair.b.get(), &got.header, 0), SucceedsWith(writer == getpid() ? 2 : 1));
    auto sent = got.get<ucred>(SCM_CREDENTIALS);
    ASSERT_EQ(sent.size(), 1u);
    EXPECT_EQ(sent[0].pid, writer);
    EXPECT_EQ(sent[0].uid, getuid());
    EXPECT_EQ(sent[0].gid, getgid());
  }
  // With a descriptor, credentials come first.
  ASSERT_THAT(send_fds(pair.a.get(), {0}), SucceedsWith(1));
  Message both(&byte, 1);
  both.make_room();
  ASSERT_THAT(recvmsg(pair.b.get(), &both.header, 0), SucceedsWith(1));
  EXPECT_EQ(CMSG_FIRSTHDR(&both.header)->cmsg_type, SCM_CREDENTIALS);
  auto fds = both.get<int>(SCM_RIGHTS);
  ASSERT_EQ(fds.size(), 1u);
  close(fds[0]);
}

TEST(UnixCredentials, ThoseThatAreGiven) {
  Pair pair = must_pair(SOCK_DGRAM);
  const int on = 1;
  ASSERT_THAT(setsockopt(pair.b.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), SucceedsWith(0));
  char byte = 'x';
  ucred own{getpid(), getuid(), getgid()};
  Message message(&byte, 1);
  message.add(SCM_CREDENTIALS, &own, sizeof own);
  ASSERT_THAT(sendmsg(pair.a.get(), &message.header, 0), SucceedsWith(1));
  Message got(&byte, 1);
  got.make_room();
  ASSERT_THAT(recvmsg(pair.b.get(), &got.header, 0), SucceedsWith(1));
  auto sent = got.get<ucred>(SCM_CREDENTIALS);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].pid, own.pid);
  // Not those of others, without the right to.
  Child child = Child::run([&] {
    REQUIRE(setresgid(12345, 12345, 12345) == 0);
    REQUIRE(setresuid(12345, 12345, 12345) == 0);
    for (ucred lie :
         {ucred{1, 12345, 12345}, ucred{getpid(), 0, 12345}, ucred{getpid(), 12345, 0}}) {
      Message forged(&byte, 1);
      forged.add(SCM_CREDENTIALS, &lie, sizeof lie);
      REQUIRE(sendmsg(pair.a.get(), &forged.header, 0) == -1 && errno == EPERM);
    }
    return 0;
  });
  if (geteuid() == 0) {
    EXPECT_THAT(child.wait(), ExitedWith(0));
  }
  // Too short a control message.
  Message cut(&byte, 1);
  cut.add(SCM_CREDENTIALS, &own, 8);
  EXPECT_THAT(sendmsg(pair.a.get(), &cut.header, 0), FailsWith(EINVAL));
}

TEST(UnixCredentials, OfBeforeAreNobodys) {
  Pair pair = must_pair(SOCK_DGRAM);
  ASSERT_THAT(write(pair.a.get(), "x", 1), SucceedsWith(1));
  const int on = 1;
  ASSERT_THAT(setsockopt(pair.b.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), SucceedsWith(0));
  char byte;
  Message got(&byte, 1);
  got.make_room();
  ASSERT_THAT(recvmsg(pair.b.get(), &got.header, 0), SucceedsWith(1));
  auto sent = got.get<ucred>(SCM_CREDENTIALS);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].pid, 0);
}

TEST(UnixMessage, NamesAndFlagsAreTold) {
  Pair pair = must_pair(SOCK_DGRAM);
  ASSERT_THAT(write(pair.a.get(), "longer", 6), SucceedsWith(6));
  char text[3];
  Message got(text, sizeof text);
  sockaddr_un name;
  got.header.msg_name = &name;
  got.header.msg_namelen = sizeof name;
  got.make_room();
  ASSERT_THAT(recvmsg(pair.b.get(), &got.header, 0), SucceedsWith(3));
  EXPECT_EQ(got.header.msg_flags, MSG_TRUNC);
  EXPECT_EQ(got.header.msg_namelen, 0u);
  EXPECT_EQ(got.header.msg_controllen, 0u);
}

}  // namespace
}  // namespace caisson::test
