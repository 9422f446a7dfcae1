#include "sys/id_maps.h"

#include <fcntl.h>

#include <charconv>
#include <cstring>
#include <iterator>

#include "base/unique_fd.h"
#include "host/raw_syscall.h"

namespace caisson::sys::internal {
namespace {

using host::raw_arg;
using host::raw_syscall;

// One write(2), as the kernel wants it.
Result<void> write_proc_file(int pid, const char* name, const std::string& text) {
  char path[32] = "/proc/";
  char* at = std::to_chars(path + std::strlen(path), std::end(path), pid).ptr;
  *at++ = '/';
  std::strcpy(at, name);  // "setgroups" at most; snprintf(3) takes 3 KiB of stack
  const UniqueFd file(static_cast<int>(
      TRY(raw_syscall(SYS_openat, AT_FDCWD, raw_arg(path), O_WRONLY | O_CLOEXEC).result())));
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

std::optional<StartError> write_id_maps(int pid, const IdMapTexts& texts) {
  if (const auto ours = proc_is_ours(); !ours.ok())
    return StartError{Step::kUidMap, ours.error(), -1};
  if (!texts.uid_map.empty()) {
    const auto written = write_proc_file(pid, "uid_map", texts.uid_map);
    if (!written.ok()) return StartError{Step::kUidMap, written.error(), -1};
  }
  if (!texts.gid_map.empty()) {
    const auto switched = write_proc_file(pid, "setgroups", texts.setgroups);
    // ENOENT: the host is older than the switch, and every map may be written.
    if (!switched.ok() && switched.error() != Errno(ENOENT))
      return StartError{Step::kSetgroupsMap, switched.error(), -1};
    const auto written = write_proc_file(pid, "gid_map", texts.gid_map);
    if (!written.ok()) return StartError{Step::kGidMap, written.error(), -1};
  }
  return std::nullopt;
}

}  // namespace caisson::sys::internal
