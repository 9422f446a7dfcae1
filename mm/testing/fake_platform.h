// FakePlatform: a platform without guests, for unit tests of mm and the loader.
//
// FakeAddressSpace carries every order out on a model of a stub's mappings, so that a test can read
// and write as the guest would. Orders that the real platform could not carry out fail the test.
#pragma once

#include <gtest/gtest.h>
#include <linux/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <map>
#include <memory>

#include "host/memory.h"
#include "mm/memory_file.h"
#include "platform/platform.h"

namespace caisson::testing {

class FakeMappableFile final : public platform::MappableFile {
 public:
  explicit FakeMappableFile(int fd) : fd(::dup(fd)) {}
  UniqueFd fd;
};

class FakeAddressSpace final : public platform::AddressSpace {
 public:
  struct Mapping {
    GuestAddr end;
    int prot;
    platform::Backing backing;
    RefOrNull<platform::MappableFile> file;
    uint64_t offset;
  };

  explicit FakeAddressSpace(GuestAddr max) : max_(max) {}
  ~FakeAddressSpace() override { run_deferred(); }

  void map(const platform::MapOrder& order) override {
    ++orders, ++mapper_orders;
    check_range(order.addr, order.length);
    EXPECT_TRUE(is_page_aligned(order.offset));
    EXPECT_EQ(order.file != nullptr, order.backing == platform::Backing::kFile);
    if (order.backing != platform::Backing::kMemory) {
      EXPECT_EQ(order.prot & PROT_WRITE, 0);
    }
    cut(order.addr, order.addr + order.length);
    mappings[order.addr] = {order.addr + order.length, order.prot, order.backing,
                            RefOrNull<platform::MappableFile>(order.file), order.offset};
  }
  void await_orders() override {}
  void unmap(GuestAddr addr, uint64_t length) override {
    ++orders, ++mapper_orders;
    check_range(addr, length);
    cut(addr, addr + length);
  }
  void protect(GuestAddr addr, uint64_t length, int prot) override {
    ++orders;
    check_range(addr, length);
    split(addr);
    split(addr + length);
    if (tampered_) {
      // The host would refuse or not, as the guest left it; what is there changes.
      for (auto it = mappings.lower_bound(addr); it != mappings.lower_bound(addr + length); ++it)
        it->second.prot = prot;
      return;
    }
    GuestAddr at = addr;
    for (auto it = mappings.lower_bound(addr); at < addr + length; ++it) {
      ASSERT_TRUE(it != mappings.end() && it->first == at) << "protect of unmapped memory";
      if (it->second.backing != platform::Backing::kMemory) {
        EXPECT_EQ(prot & PROT_WRITE, 0);
      }
      it->second.prot = prot;
      at = it->second.end;
    }
  }
  void defer(std::unique_ptr<platform::Deferred> work) override {
    deferred_.push_back(std::move(work));
    if (!hold_deferred) run_deferred();
  }
  void count_private_waiters(int) override {}
  size_t recall_private_waiters() override { return 0; }
  size_t mapping_count() const override {
    return forced_count != 0 ? forced_count : mappings.size();
  }

  void run_deferred() {
    while (!deferred_.empty()) {
      auto work = std::move(deferred_.front());
      deferred_.pop_front();
      work->run();
    }
  }
  size_t deferred_count() const { return deferred_.size(); }

  const Mapping* find(GuestAddr addr, GuestAddr* start) const {
    auto it = mappings.upper_bound(addr);
    if (it == mappings.begin()) return nullptr;
    --it;
    if (it->second.end <= addr) return nullptr;
    *start = it->first;
    return &it->second;
  }
  // What a guest load or store of one byte does; -1: it would fault.
  int load(MemoryFile& memory, GuestAddr addr) const {
    GuestAddr start;
    const Mapping* mapping = find(addr, &start);
    if (mapping == nullptr || mapping->prot == PROT_NONE) return -1;
    uint64_t offset = mapping->offset + (addr - start);
    if (mapping->backing != platform::Backing::kFile) return static_cast<int>(*memory.at(offset));
    uint8_t byte = 0;
    int fd = static_cast<FakeMappableFile*>(mapping->file.get())->fd.get();
    if (::pread(fd, &byte, 1, static_cast<off_t>(offset)) != 1) return -1;
    return byte;
  }
  bool store(MemoryFile& memory, GuestAddr addr, uint8_t value) const {
    GuestAddr start;
    const Mapping* mapping = find(addr, &start);
    if (mapping == nullptr || (mapping->prot & PROT_WRITE) == 0) return false;
    *memory.at(mapping->offset + (addr - start)) = std::byte{value};
    return true;
  }
  // What a guest can do behind the kernel's back.
  void tamper_unmap(GuestAddr addr, uint64_t length) {
    tampered_ = true;
    cut(addr, addr + length);
  }

  std::map<GuestAddr, Mapping> mappings;
  size_t orders = 0;
  size_t mapper_orders = 0;  // those that a guest's own thread can't carry out
  size_t forced_count = 0;
  bool hold_deferred = false;

 private:
  void check_range(GuestAddr addr, uint64_t length) {
    EXPECT_TRUE(is_page_aligned(addr) && is_page_aligned(length) && length != 0);
    EXPECT_LE(addr + length, max_);
  }
  void split(GuestAddr addr) {
    auto it = mappings.upper_bound(addr);
    if (it == mappings.begin()) return;
    --it;
    if (it->first == addr || it->second.end <= addr) return;
    Mapping upper = it->second;
    upper.offset += addr - it->first;
    it->second.end = addr;
    mappings[addr] = upper;
  }
  void cut(GuestAddr start, GuestAddr end) {
    split(start);
    split(end);
    mappings.erase(mappings.lower_bound(start), mappings.lower_bound(end));
  }

  const GuestAddr max_;
  bool tampered_ = false;
  std::deque<std::unique_ptr<platform::Deferred>> deferred_;
};

class FakePlatform : public platform::Platform {
 public:
  static constexpr GuestAddr kMin = 0x10000;
  static constexpr GuestAddr kMax = 0x7fff'0000'0000;

  uint64_t map_unit() const override { return 0; }
  GuestAddr min_user_address() const override { return kMin; }
  GuestAddr max_user_address() const override { return kMax; }
  bool cooperatively_schedules_address_space() const override { return false; }
  bool supports_address_space_io() const override { return false; }
  bool detects_cpu_preemption() const override { return false; }
  bool has_host_global_memory_barrier() const override { return false; }
  bool owns_page_tables() const override { return false; }
  Result<Ref<platform::AddressSpace>> new_address_space(uint64_t) override {
    Ref<FakeAddressSpace> space = make_ref_space();
    return Ref<platform::AddressSpace>(space);
  }
  Result<std::unique_ptr<platform::Context>> new_context() override { return Errno(ENOSYS); }
  Result<Ref<platform::MappableFile>> new_mappable_file(int fd) override {
    return Ref<platform::MappableFile>(adopt_ref(new FakeMappableFile(fd)));
  }
  size_t vector_state_size() const override { return 2688; }
  GuestAddr vdso_address() const override { return 0x7fff'ff00'0000; }
  int worker_count() const override { return 1; }
  void bind_worker(int) override {}
  platform::Context* next_event(int, const platform::WorkSource&) override { return nullptr; }
  void ring() override {}

 private:
  static Ref<FakeAddressSpace> make_ref_space() { return adopt_ref(new FakeAddressSpace(kMax)); }
};

inline std::unique_ptr<MemoryFile> make_memory_file(uint64_t size = uint64_t{1} << 40) {
  return MemoryFile::create(host::make_memory_fd("guest-memory").value(), size).value();
}

// A host file with `content`, open for reading and writing.
inline UniqueFd make_host_file(const std::string& content) {
  UniqueFd fd = host::make_memory_fd("host-file").value();
  size_t done = 0;
  while (done < content.size()) {
    ssize_t n = ::write(fd.get(), content.data() + done, content.size() - done);
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  EXPECT_EQ(done, content.size());
  return fd;
}

}  // namespace caisson::testing
