// UnixNames: which endpoint a name leads to. Abstract names are the sandbox' own table; names in
// the file system lead from a socket's inode to the endpoint that was bound there.
//
// Entries hold no reference: an endpoint takes its own out when it closes. Lock: rank kInode.
#pragma once

#include "net/unix/endpoint.h"

namespace caisson {

class UnixNames {
 public:
  // EADDRINUSE; EINVAL if it has a name.
  static Result<void> bind_abstract(UnixEndpoint& endpoint, const SocketAddress& name);
  // Chooses a name of five digits.
  static Result<void> bind_any(UnixEndpoint& endpoint);
  static Result<void> bind_path(UnixEndpoint& endpoint, const SocketAddress& name, Path place);
  // ECONNREFUSED if nobody is there; EPROTOTYPE if it is of another type.
  static Result<Ref<UnixEndpoint>> find_abstract(const SocketAddress& name, int type);
  static Result<Ref<UnixEndpoint>> find_inode(const Inode& inode, int type);
  static void remove(UnixEndpoint& endpoint);
};

}  // namespace caisson
