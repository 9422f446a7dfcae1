// UnixGarbage: sockets that lie in each other's queues, and that nobody else has, are never closed
// by themselves. Linux: net/unix/garbage.c.
//
// collect() finds them and empties their queues. It runs with no lock held, when the number of
// sockets under way has doubled since the last time, so that its cost is spread. Any number of
// threads may send and receive meanwhile: a set of garbage can't be touched by anybody, and what
// can is taken for alive when in doubt.
#pragma once

namespace caisson {

class UnixGarbage {
 public:
  // After a socket was sent.
  static void collect_if_due();
  static void collect();
};

}  // namespace caisson
