// FilesInFlight: open files that are under way in a message (SCM_RIGHTS).
//
// A registry counts the sockets among them, since sockets that lie in each other's queues keep each
// other alive: net/unix/garbage.cc finds those that nobody else has. Released without recursion:
// sockets may be sent through sockets that are sent through sockets. Linux: struct scm_fp_list.
#pragma once

#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "vfs/file_description.h"

namespace caisson {

class FilesInFlight {
 public:
  FilesInFlight() = default;
  explicit FilesInFlight(std::vector<Ref<FileDescription>> files);
  FilesInFlight(FilesInFlight&& other) noexcept = default;
  FilesInFlight& operator=(FilesInFlight&& other) noexcept;
  ~FilesInFlight();

  bool empty() const { return files_.empty(); }
  const std::vector<Ref<FileDescription>>& files() const { return files_; }
  // They are under way no more: the caller has them.
  std::vector<Ref<FileDescription>> take();

  // Of the whole sandbox.
  static uint64_t count();
  // How often each socket is under way.
  using Sockets = std::unordered_map<const FileDescription*, uint32_t>;
  static Sockets sockets();
  static size_t socket_count();
  // Null: it is under way no more.
  static RefOrNull<FileDescription> hold_if_in_flight(const FileDescription* file);

 private:
  void forget();
  std::vector<Ref<FileDescription>> files_;
};

}  // namespace caisson
