// Waiting and waking: pipes, polling, and two threads that take turns. A ping-pong is one round
// trip.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "bench/micro/bench.h"

namespace {

using bench::timed;

void write_byte(int fd) {
  const char byte = 'x';
  REQUIRE(write(fd, &byte, 1) == 1);
}

void read_byte(int fd) {
  char byte;
  REQUIRE(read(fd, &byte, 1) == 1);
}

BENCH(pipe_write_read) {
  static int ends[2] = {-1, -1};
  if (ends[0] < 0) REQUIRE(pipe(ends) == 0);
  return timed(count, [] {
    write_byte(ends[1]);
    read_byte(ends[0]);
  });
}

BENCH(epoll_wait_ready) {
  static const int epoll = [] {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    write_byte(ends[1]);
    const int made = epoll_create1(0);
    REQUIRE(made >= 0);
    epoll_event event = {};
    event.events = EPOLLIN;
    REQUIRE(epoll_ctl(made, EPOLL_CTL_ADD, ends[0], &event) == 0);
    return made;
  }();
  return timed(count, [] {
    epoll_event event;
    REQUIRE(epoll_wait(epoll, &event, 1, -1) == 1);
  });
}

// One thread answers each byte on `theirs` with one on `theirs_out`.
uint64_t ping_pong(uint64_t count, int mine_out, int theirs_in, int theirs_out, int mine_in) {
  std::thread other([&] {
    for (uint64_t i = 0; i < count; ++i) {
      read_byte(theirs_in);
      write_byte(theirs_out);
    }
  });
  const uint64_t took = timed(count, [&] {
    write_byte(mine_out);
    read_byte(mine_in);
  });
  other.join();
  return took;
}

BENCH(ping_pong_pipe) {
  static int there[2] = {-1, -1}, back[2];
  if (there[0] < 0) REQUIRE(pipe(there) == 0 && pipe(back) == 0);
  return ping_pong(count, there[1], there[0], back[1], back[0]);
}

BENCH(ping_pong_unix) {
  static int ends[2] = {-1, -1};
  if (ends[0] < 0) REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  return ping_pong(count, ends[0], ends[1], ends[1], ends[0]);
}

BENCH(ping_pong_tcp) {
  static int client = -1, server = -1;
  if (client < 0) {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(listener >= 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(bind(listener, generic, size) == 0 && listen(listener, 1) == 0);
    REQUIRE(getsockname(listener, generic, &size) == 0);
    client = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(connect(client, generic, size) == 0);
    server = accept(listener, nullptr, nullptr);
    REQUIRE(server >= 0);
    const int on = 1;
    REQUIRE(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    REQUIRE(setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    close(listener);
  }
  return ping_pong(count, client, server, server, client);
}

BENCH(ping_pong_condvar) {
  std::mutex mutex;
  std::condition_variable changed;
  bool their_turn = false;
  std::thread other([&] {
    for (uint64_t i = 0; i < count; ++i) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return their_turn; });
      their_turn = false;
      changed.notify_one();
    }
  });
  const uint64_t took = timed(count, [&] {
    std::unique_lock lock(mutex);
    their_turn = true;
    changed.notify_one();
    changed.wait(lock, [&] { return !their_turn; });
  });
  other.join();
  return took;
}

BENCH(thread_create_join) {
  return timed(count, [] {
    pthread_t thread;
    REQUIRE(pthread_create(
                &thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr) == 0);
    REQUIRE(pthread_join(thread, nullptr) == 0);
  });
}

}  // namespace
