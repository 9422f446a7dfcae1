#include "platform/systrap/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstring>

#include "platform/systrap/filters.h"
#include "platform/systrap/stub_image.h"

namespace caisson::systrap {

Result<FilePair> make_memory_file_pair(const char* name, uint64_t size) {
  FilePair pair;
  pair.read_write.reset(memfd_create(name, MFD_CLOEXEC));
  if (!pair.read_write) return Errno(errno);
  if (ftruncate(pair.read_write.get(), static_cast<off_t>(size)) < 0) return Errno(errno);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", pair.read_write.get());
  pair.read_only.reset(open(path, O_RDONLY | O_CLOEXEC));
  if (!pair.read_only) return Errno(errno);
  return pair;
}

Result<std::unique_ptr<SharedMemory>> SharedMemory::create(uint64_t stub_base, bool stub_calls) {
  std::unique_ptr<SharedMemory> memory(new SharedMemory(stub_base));
  FilePair control = TRY(make_memory_file_pair("caisson-control", kControlFileSize));
  memory->control_rw_ = std::move(control.read_write);
  memory->control_ro_ = std::move(control.read_only);
  void* mapped = mmap(nullptr, kControlFileSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                      memory->control_rw_.get(), 0);
  if (mapped == MAP_FAILED) return Errno(errno);
  memory->base_ = static_cast<std::byte*>(mapped);

  auto image = stub_image();
  FilePair text = TRY(make_memory_file_pair("caisson-stub", (image.size() + 4095) / 4096 * 4096));
  if (pwrite(text.read_write.get(), image.data(), image.size(), 0) !=
      static_cast<ssize_t>(image.size()))
    return Errno(EIO);
  memory->text_ro_ = std::move(text.read_only);

  ControlPage& page = memory->control();
  auto filter = guest_thread_filter(stub_base, stub_calls);
  if (filter.size() * sizeof(sock_filter) > STUB_CONTROL_SIZE - CONTROL_FILTER) return Errno(E2BIG);
  memcpy(memory->base_ + CONTROL_FILTER, filter.data(), filter.size() * sizeof(sock_filter));
  page.filter_length = static_cast<uint16_t>(filter.size());
  page.filter_address = stub_base + STUB_CONTROL + CONTROL_FILTER;
  return memory;
}

SharedMemory::~SharedMemory() {
  if (base_ != nullptr) munmap(base_, kControlFileSize);
}

void SharedMemory::discard_slot(uint32_t id) {
  madvise(base_ + slot_offset(id), SLOT_SIZE, MADV_REMOVE);
}

}  // namespace caisson::systrap
