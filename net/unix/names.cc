#include "net/unix/names.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <unordered_map>

namespace caisson {
namespace {

struct Names {
  Mutex<LockRank::kInode> mu;
  std::unordered_map<std::string, UnixEndpoint*> abstract GUARDED_BY(mu);  // type and name
  std::unordered_map<const Inode*, UnixEndpoint*> inodes GUARDED_BY(mu);
  uint32_t next_number GUARDED_BY(mu) = 1;
};
Names& names() {
  static auto* const table = new Names();
  return *table;
}

bool is_abstract(const SocketAddress& name) { return name.length > 2 && name.bytes[2] == 0; }

std::string key_of(const SocketAddress& name, int type) {
  std::string key(1, static_cast<char>(type));
  key.append(reinterpret_cast<const char*>(name.bytes.data()) + 2, name.length - 2);
  return key;
}

}  // namespace

Result<void> UnixNames::bind_abstract(UnixEndpoint& endpoint, const SocketAddress& name) {
  Names& table = names();
  MutexLock lock(table.mu);
  auto [place, is_new] = table.abstract.emplace(key_of(name, endpoint.type), &endpoint);
  if (!is_new) return Errno(EADDRINUSE);
  Result<void> named = endpoint.set_name(name, std::nullopt);
  if (!named.ok()) table.abstract.erase(place);
  return named;
}

Result<void> UnixNames::bind_any(UnixEndpoint& endpoint) {
  constexpr uint32_t kNumbers = 1u << 20;
  for (uint32_t tries = 0; tries < kNumbers; ++tries) {
    uint32_t number;
    {
      Names& table = names();
      MutexLock lock(table.mu);
      number = table.next_number++ % kNumbers;
    }
    SocketAddress name;
    char digits[8];
    snprintf(digits, sizeof digits, "%05x", number);
    name.bytes[0] = AF_UNIX;
    std::memcpy(&name.bytes[3], digits, 5);
    name.length = 8;
    Result<void> bound = bind_abstract(endpoint, name);
    if (bound.ok() || !(bound.error() == Errno(EADDRINUSE))) return bound;
  }
  return Errno(ENOSPC);
}

Result<void> UnixNames::bind_path(UnixEndpoint& endpoint, const SocketAddress& name, Path place) {
  Names& table = names();
  MutexLock lock(table.mu);
  const Inode* inode = &place.inode();
  TRY(endpoint.set_name(name, std::move(place)));
  table.inodes.insert_or_assign(inode, &endpoint);
  return {};
}

Result<Ref<UnixEndpoint>> UnixNames::find_abstract(const SocketAddress& name, int type) {
  Names& table = names();
  MutexLock lock(table.mu);
  auto it = table.abstract.find(key_of(name, type));
  if (it == table.abstract.end() || !it->second->try_ref()) return Errno(ECONNREFUSED);
  return adopt_ref(it->second);
}

Result<Ref<UnixEndpoint>> UnixNames::find_inode(const Inode& inode, int type) {
  Names& table = names();
  MutexLock lock(table.mu);
  auto it = table.inodes.find(&inode);
  if (it == table.inodes.end()) return Errno(ECONNREFUSED);
  if (it->second->type != type) return Errno(EPROTOTYPE);
  if (!it->second->try_ref()) return Errno(ECONNREFUSED);
  return adopt_ref(it->second);
}

void UnixNames::remove(UnixEndpoint& endpoint) {
  SocketAddress name = endpoint.name();
  const Inode* inode = endpoint.bound_inode();
  if (name.length <= 2) return;
  Names& table = names();
  MutexLock lock(table.mu);
  if (is_abstract(name)) {
    auto it = table.abstract.find(key_of(name, endpoint.type));
    if (it != table.abstract.end() && it->second == &endpoint) table.abstract.erase(it);
    return;
  }
  auto it = table.inodes.find(inode);
  if (it != table.inodes.end() && it->second == &endpoint) table.inodes.erase(it);
}

}  // namespace caisson
