#include "sys/id_maps.h"

#include <fcntl.h>
#include <poll.h>

#include <charconv>
#include <cstring>
#include <iterator>

#include "base/unique_fd.h"
#include "host/raw_syscall.h"

namespace caisson::sys::internal {
namespace {

using host::raw_arg;
using host::raw_syscall;

// The directory of the process in /proc.
Result<UniqueFd> open_proc_directory(int pid, int pidfd) {
  char path[32] = "/proc/";
  *std::to_chars(path + std::strlen(path), std::end(path) - 1, pid).ptr = '\0';
  UniqueFd directory(static_cast<int>(
      TRY(raw_syscall(SYS_openat, AT_FDCWD, raw_arg(path), O_PATH | O_DIRECTORY | O_CLOEXEC)
              .result())));
  // If it still runs, the number was its own when the directory was opened.
  pollfd ended{pidfd, POLLIN, 0};
  if (pidfd >= 0 && raw_syscall(SYS_poll, raw_arg(&ended), 1, 0).value() > 0) return Errno(ESRCH);
  return directory;
}

// One write(2), as the kernel wants it.
Result<void> write_file(const UniqueFd& directory, const char* name, const std::string& text) {
  const UniqueFd file(static_cast<int>(
      TRY(raw_syscall(SYS_openat, directory.get(), raw_arg(name), O_WRONLY | O_CLOEXEC).result())));
  const long size = static_cast<long>(text.size());
  if (TRY(raw_syscall(SYS_write, file.get(), raw_arg(text.data()), size).result()) != size)
    return Errno(EIO);
  return {};
}

std::string map_text(const std::vector<SysProcIDMap>& map) {
  std::string text;
  for (const SysProcIDMap& line : map)
    text += std::to_string(line.container_id) + " " + std::to_string(line.host_id) + " " +
            std::to_string(line.size) + "\n";
  return text;
}

// A /proc of another pid namespace would show a stranger under the child's number.
Result<void> proc_is_ours() {
  char link[16];
  const long size =
      TRY(raw_syscall(SYS_readlinkat, AT_FDCWD, raw_arg("/proc/self"), raw_arg(link), sizeof(link))
              .result());
  int pid = 0;
  std::from_chars(link, link + size, pid);
  if (pid != raw_syscall(SYS_getpid).value()) return Errno(ESRCH);
  return {};
}

}  // namespace

IdMapTexts make_id_map_texts(const SysProcAttr& attr) {
  IdMapTexts texts;
  texts.uid_map = map_text(attr.uid_mappings);
  texts.gid_map = map_text(attr.gid_mappings);
  if (!texts.gid_map.empty())
    texts.setgroups = attr.gid_mappings_enable_setgroups ? "allow" : "deny";
  return texts;
}

std::optional<StartError> write_id_maps(int pid, int pidfd, const IdMapTexts& texts) {
  if (const auto ours = proc_is_ours(); !ours.ok())
    return StartError{Step::kUidMap, ours.error(), -1};
  const auto directory = open_proc_directory(pid, pidfd);
  if (!directory.ok()) return StartError{Step::kUidMap, directory.error(), -1};
  if (!texts.uid_map.empty()) {
    const auto written = write_file(*directory, "uid_map", texts.uid_map);
    if (!written.ok()) return StartError{Step::kUidMap, written.error(), -1};
  }
  if (!texts.gid_map.empty()) {
    const auto switched = write_file(*directory, "setgroups", texts.setgroups);
    // ENOENT: the host is older than the switch, and every map may be written.
    if (!switched.ok() && switched.error() != Errno(ENOENT))
      return StartError{Step::kSetgroupsMap, switched.error(), -1};
    const auto written = write_file(*directory, "gid_map", texts.gid_map);
    if (!written.ok()) return StartError{Step::kGidMap, written.error(), -1};
  }
  return std::nullopt;
}

}  // namespace caisson::sys::internal
