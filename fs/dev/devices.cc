#include "fs/dev/devices.h"

#include <linux/mount.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>

#include "fs/pipe/pipe.h"
#include "fs/tmpfs/tmpfs.h"
#include "host/raw_syscall.h"
#include "mm/mappable.h"
#include "mm/user_buffer.h"
#include "vfs/special_files.h"

namespace caisson {
namespace {

enum class DeviceKind : uint8_t { kNull, kZero, kFull, kRandom };

class ZeroMappable final : public Mappable {
 public:
  Kind kind() const override { return Kind::kZero; }
  uint64_t size() const override { return UINT64_MAX; }
  Result<size_t> read_at(uint64_t, std::span<std::byte> out) override {
    std::fill(out.begin(), out.end(), std::byte{0});
    return out.size();
  }
  MappedFileInfo info() const override {
    MappedFileInfo info;
    info.path = "/dev/zero";
    return info;
  }
};

class MemoryDevice final : public FileDescription {
 public:
  MemoryDevice(Path path, uint32_t flags, DeviceKind kind)
      : FileDescription(std::move(path), flags), kind_(kind) {}

  Result<size_t> read(UserBuffer& to, IoFlags) override {
    switch (kind_) {
      case DeviceKind::kNull:
        return 0;
      case DeviceKind::kZero:
      case DeviceKind::kFull:
        return to.write_zeros(to.remaining());
      case DeviceKind::kRandom:
        return read_random(to);
    }
    return Errno(EINVAL);
  }
  Result<size_t> write(UserBuffer& from, IoFlags) override {
    if (kind_ == DeviceKind::kFull) return Errno(ENOSPC);
    size_t length = from.remaining();
    from.skip(length);
    return length;
  }
  Result<size_t> pread(UserBuffer& to, uint64_t, IoFlags flags) override { return read(to, flags); }
  Result<size_t> pwrite(UserBuffer& from, uint64_t, IoFlags flags) override {
    return write(from, flags);
  }
  Result<uint64_t> lseek(int64_t offset, int whence) override {
    if (kind_ != DeviceKind::kRandom) return uint64_t{0};  // null_lseek()
    if (whence == SEEK_SET && offset >= 0) return static_cast<uint64_t>(offset);
    return whence == SEEK_CUR || whence == SEEK_END ? Result<uint64_t>(uint64_t{0})
                                                    : Result<uint64_t>(Errno(EINVAL));
  }
  bool can_poll() const override { return kind_ == DeviceKind::kRandom; }
  RefOrNull<Mappable> mappable() override {
    if (kind_ != DeviceKind::kZero) return nullptr;
    return make_ref<ZeroMappable>().or_null();
  }

 private:
  static Result<size_t> read_random(UserBuffer& to) {
    std::byte piece[1024];
    size_t done = 0;
    while (to.remaining() != 0) {
      size_t wanted = std::min<uint64_t>(sizeof piece, to.remaining());
      long got =
          TRY(host::raw_syscall(SYS_getrandom, host::raw_arg(piece), static_cast<long>(wanted), 0)
                  .result());
      Result<size_t> moved = to.write(piece, static_cast<size_t>(got));
      if (!moved.ok()) {
        if (done != 0) break;
        return moved.error();
      }
      done += moved.value();
      if (moved.value() != static_cast<size_t>(got)) break;
    }
    return done;
  }
  const DeviceKind kind_;
};

template <DeviceKind kKind>
Result<Ref<FileDescription>> open_memory_device(const Path& path, uint32_t flags, const Caller&) {
  return Ref<FileDescription>(make_ref<MemoryDevice>(path, flags, kKind));
}

RefOrNull<FileDescription>& terminal() {
  static auto* const file = new RefOrNull<FileDescription>();  // set before start
  return *file;
}

Result<Ref<FileDescription>> open_terminal(const Path&, uint32_t, const Caller&) {
  if (!terminal()) return Errno(ENXIO);
  return Ref<FileDescription>::from(terminal());
}

}  // namespace

void register_standard_devices() {
  register_character_device(1, 3, open_memory_device<DeviceKind::kNull>);
  register_character_device(1, 5, open_memory_device<DeviceKind::kZero>);
  register_character_device(1, 7, open_memory_device<DeviceKind::kFull>);
  register_character_device(1, 8, open_memory_device<DeviceKind::kRandom>);
  register_character_device(1, 9, open_memory_device<DeviceKind::kRandom>);
  register_character_device(5, 0, open_terminal);
  register_fifos(PipeEnd::open);
}

void set_terminal(RefOrNull<FileDescription> file) { terminal() = std::move(file); }

Result<Ref<Mount>> make_dev_mount(MemoryFile& memory) {
  TmpfsOptions options;
  options.root_mode = 0755;
  options.name = "devtmpfs";
  Ref<Mount> mount = TRY(Tmpfs::mount(memory, options, MS_NOSUID, "dev"));
  Inode& root = mount->root()->inode();
  struct Node {
    const char* name;
    uint32_t mode;
    uint64_t device;
    const char* target;
  };
  constexpr Node kNodes[] = {
      {"null", S_IFCHR | 0666, make_device(1, 3), ""},
      {"zero", S_IFCHR | 0666, make_device(1, 5), ""},
      {"full", S_IFCHR | 0666, make_device(1, 7), ""},
      {"random", S_IFCHR | 0666, make_device(1, 8), ""},
      {"urandom", S_IFCHR | 0666, make_device(1, 9), ""},
      {"tty", S_IFCHR | 0666, make_device(5, 0), ""},
      {"fd", S_IFLNK | 0777, 0, "/proc/self/fd"},
      {"stdin", S_IFLNK | 0777, 0, "/proc/self/fd/0"},
      {"stdout", S_IFLNK | 0777, 0, "/proc/self/fd/1"},
      {"stderr", S_IFLNK | 0777, 0, "/proc/self/fd/2"},
      {"shm", S_IFDIR | 01777, 0, ""},
      {"pts", S_IFDIR | 0755, 0, ""},
      {"mqueue", S_IFDIR | 01777, 0, ""},
  };
  for (const Node& node : kNodes) {
    NewFile file;
    file.mode = node.mode;
    file.special_device = node.device;
    file.link_target = node.target;
    TRY(root.create(node.name, file));
  }
  return mount;
}

}  // namespace caisson
