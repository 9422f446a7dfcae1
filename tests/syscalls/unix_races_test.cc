// unix(7) under threads that make, connect, send through, shut and close the same sockets at
// random: no call hangs, and what is left afterwards works.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "tests/util/clock.h"
#include "tests/util/must.h"
#include "tests/util/result_matchers.h"

namespace caisson::test {
namespace {

constexpr int kSockets = 48, kThreads = 4, kNames = 4;
constexpr int64_t kRunMs = 700;
constexpr int kQuiet = MSG_DONTWAIT | MSG_NOSIGNAL;

struct Table {
  std::array<std::atomic<int>, kSockets> fds;
  Table() {
    for (auto& fd : fds) fd = -1;
  }
  ~Table() {
    for (auto& fd : fds) close(fd);
  }
  // Descriptors are closed under the others' calls on purpose.
  void put(size_t at, int fd) {
    if (fd >= 0) close(fds[at].exchange(fd));
  }
};

sockaddr_un name_of(unsigned number) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "races.%d.%u", getpid(), number);
  return name;
}

void send_with_file(int to, int file) {
  char byte = 'x';
  iovec part{&byte, 1};
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(sizeof file)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof file);
  memcpy(CMSG_DATA(header), &file, sizeof file);
  sendmsg(to, &message, kQuiet);
}

void receive_with_files(int from) {
  char bytes[100];
  iovec part{bytes, sizeof bytes};
  alignas(cmsghdr) unsigned char control[256];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (recvmsg(from, &message, MSG_DONTWAIT) < 0) return;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_type != SCM_RIGHTS) continue;
    int fd;
    memcpy(&fd, CMSG_DATA(h), sizeof fd);
    close(fd);
  }
}

void act(Table& table, std::mt19937& random) {
  constexpr int kTypes[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
  const size_t at = random() % kSockets, other = random() % kSockets;
  const int fd = table.fds[at];
  const int type = kTypes[random() % 3] | SOCK_NONBLOCK;
  const sockaddr_un name = name_of(random() % kNames);
  auto* address = reinterpret_cast<const sockaddr*>(&name);
  const socklen_t length = sizeof(sa_family_t) + 1 + strlen(name.sun_path + 1);
  char buffer[2048] = {};
  switch (random() % 13) {
    case 0: {
      int pair[2];
      if (socketpair(AF_UNIX, type, 0, pair) != 0) break;
      table.put(at, pair[0]);
      table.put(other, pair[1]);
      break;
    }
    case 1:
      table.put(at, socket(AF_UNIX, type, 0));
      break;
    case 2:
      bind(fd, address, length);
      break;
    case 3:
      listen(fd, random() % 4);
      break;
    case 4:
      connect(fd, address, length);
      break;
    case 5:
      table.put(other, accept4(fd, nullptr, nullptr, SOCK_NONBLOCK));
      break;
    case 6:
      send(fd, buffer, random() % sizeof buffer, kQuiet);
      break;
    case 7:
      recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
      break;
    case 8:
      shutdown(fd, random() % 3);
      break;
    case 9:
      sendto(fd, buffer, 100, kQuiet, address, length);
      break;
    case 10:
      send_with_file(fd, table.fds[other]);
      break;
    case 11:
      receive_with_files(fd);
      break;
    default: {
      const sockaddr none{};
      connect(fd, &none, sizeof none);
    }
  }
}

TEST(UnixRaces, CallsOnTheSameSockets) {
  {
    Table table;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&table, i] {
        std::mt19937 random(static_cast<unsigned>(i) + 1);
        const int64_t end = now_ms() + kRunMs;
        while (now_ms() < end) act(table, random);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  int pair[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
  UniqueFd a(pair[0]), b(pair[1]);
  char byte = 0;
  EXPECT_THAT(write(a.get(), "k", 1), SucceedsWith(1));
  EXPECT_THAT(read(b.get(), &byte, 1), SucceedsWith(1));
}

}  // namespace
}  // namespace caisson::test
