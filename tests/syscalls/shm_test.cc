// System V shared memory: shmget(2), shmop(2), shmctl(2), /proc/sysvipc/shm.
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <sstream>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"

namespace caisson::test {
namespace {

using ::testing::HasSubstr;

// A segment that goes with the test.
class Segment {
 public:
  explicit Segment(size_t bytes, int mode = 0600, key_t key = IPC_PRIVATE)
      : id_(static_cast<int>(must(shmget(key, bytes, mode | IPC_CREAT | IPC_EXCL), "shmget"))) {}
  ~Segment() { shmctl(id_, IPC_RMID, nullptr); }
  int id() const { return id_; }
  shmid_ds stat() const {
    shmid_ds result{};
    must(shmctl(id_, IPC_STAT, &result), "shmctl");
    return result;
  }
  size_t attached() const { return stat().shm_nattch; }

 private:
  int id_;
};

char* attach(int id, void* where = nullptr, int flags = 0) {
  void* at = shmat(id, where, flags);
  if (at == reinterpret_cast<void*>(-1)) must(-1, "shmat");
  return static_cast<char*>(at);
}
long try_attach(int id, const void* where, int flags) {
  return reinterpret_cast<long>(shmat(id, where, flags));
}
bool exists(int id) {
  shmid_ds status;
  return shmctl(id, IPC_STAT, &status) == 0;
}
// Not in use by anybody else, most likely.
key_t own_key(int n) { return static_cast<key_t>(0x51000000 + (getpid() & 0xffff) * 16 + n); }
std::string maps_line(const void* address) {
  char start[32];
  snprintf(start, sizeof start, "%lx-", reinterpret_cast<long>(address));
  std::istringstream lines(read_file("/proc/self/maps"));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(start)) return line;
  return "";
}

TEST(ShmGet, NewSegmentIsZeroAndDescribed) {
  Segment segment(5000, 0640);
  shmid_ds status = segment.stat();
  EXPECT_EQ(status.shm_segsz, 5000u);
  EXPECT_EQ(status.shm_perm.mode, 0640);
  EXPECT_EQ(status.shm_perm.__key, IPC_PRIVATE);
  EXPECT_EQ(status.shm_perm.uid, geteuid());
  EXPECT_EQ(status.shm_perm.cgid, getegid());
  EXPECT_EQ(status.shm_cpid, getpid());
  EXPECT_EQ(status.shm_lpid, 0);
  EXPECT_EQ(status.shm_nattch, 0u);
  EXPECT_EQ(status.shm_atime, 0);
  EXPECT_EQ(status.shm_dtime, 0);
  EXPECT_NEAR(status.shm_ctime, time(nullptr), 3);
  char* at = attach(segment.id());
  for (int i = 0; i < 8192; ++i) ASSERT_EQ(at[i], 0);
  status = segment.stat();
  EXPECT_EQ(status.shm_nattch, 1u);
  EXPECT_EQ(status.shm_lpid, getpid());
  EXPECT_NEAR(status.shm_atime, time(nullptr), 3);
  EXPECT_THAT(shmdt(at), SucceedsWith(0));
  status = segment.stat();
  EXPECT_EQ(status.shm_nattch, 0u);
  EXPECT_NEAR(status.shm_dtime, time(nullptr), 3);
}

TEST(ShmGet, KeysAreFoundAndExclusive) {
  const key_t key = own_key(1);
  EXPECT_THAT(shmget(key, 100, 0600), FailsWith(ENOENT));
  Segment segment(100, 0600, key);
  EXPECT_THAT(shmget(key, 100, 0600), SucceedsWith(segment.id()));
  EXPECT_THAT(shmget(key, 0, 0), SucceedsWith(segment.id()));
  EXPECT_THAT(shmget(key, 50, IPC_CREAT | 0600), SucceedsWith(segment.id()));
  EXPECT_THAT(shmget(key, 101, 0600), FailsWith(EINVAL));
  EXPECT_THAT(shmget(key, 100, IPC_CREAT | IPC_EXCL | 0600), FailsWith(EEXIST));
  EXPECT_THAT(shmget(key, 101, IPC_CREAT | IPC_EXCL | 0600), FailsWith(EEXIST));
  EXPECT_THAT(shmctl(segment.id(), IPC_RMID, nullptr), SucceedsWith(0));
  EXPECT_THAT(shmget(key, 100, 0600), FailsWith(ENOENT));
  Segment again(100, 0600, key);
  EXPECT_NE(again.id(), segment.id());
}

TEST(ShmGet, SizesAndLimits) {
  EXPECT_THAT(shmget(IPC_PRIVATE, 0, 0600), FailsWith(EINVAL));
  EXPECT_THAT(shmget(own_key(2), 0, IPC_CREAT | 0600), FailsWith(EINVAL));
  EXPECT_THAT(shmget(IPC_PRIVATE, ULONG_MAX, 0600), FailsWith(EINVAL));
  EXPECT_THAT(shmget(IPC_PRIVATE, 1ul << 60, 0600), FailsWith(ENOMEM));
  struct shminfo limits;
  EXPECT_THAT(shmctl(0, IPC_INFO, reinterpret_cast<shmid_ds*>(&limits)), Succeeds());
  EXPECT_EQ(limits.shmmin, 1u);
  EXPECT_EQ(limits.shmseg, limits.shmmni);
  EXPECT_EQ(std::to_string(limits.shmmax) + "\n", read_file("/proc/sys/kernel/shmmax"));
  EXPECT_EQ(std::to_string(limits.shmmni) + "\n", read_file("/proc/sys/kernel/shmmni"));
  EXPECT_EQ(std::to_string(limits.shmall) + "\n", read_file("/proc/sys/kernel/shmall"));
}

TEST(ShmAt, TwoAttachesShowTheSameBytes) {
  Segment segment(3 * kPageSize);
  char* one = attach(segment.id());
  char* two = attach(segment.id());
  EXPECT_NE(one, two);
  one[kPageSize] = 'x';
  EXPECT_EQ(two[kPageSize], 'x');
  EXPECT_EQ(segment.attached(), 2u);
  shmdt(one);
  EXPECT_EQ(two[kPageSize], 'x');
  shmdt(two);
  two = attach(segment.id());
  EXPECT_EQ(two[kPageSize], 'x');  // the content outlives its attaches
  shmdt(two);
}

TEST(ShmAt, BadArguments) {
  Segment segment(2 * kPageSize);
  EXPECT_THAT(try_attach(-1, nullptr, 0), FailsWith(EINVAL));
  EXPECT_THAT(try_attach(segment.id() + 32768 * 7, nullptr, 0), FailsWith(EINVAL));
  EXPECT_THAT(try_attach(segment.id(), nullptr, SHM_REMAP), FailsWith(EINVAL));
  EXPECT_THAT(try_attach(segment.id(), reinterpret_cast<void*>(1), SHM_RND | SHM_REMAP),
              FailsWith(EINVAL));
  Mapping room = Mapping::anonymous(4 * kPageSize);
  EXPECT_THAT(try_attach(segment.id(), room.page(0) + 1, 0), FailsWith(EINVAL));
  EXPECT_THAT(try_attach(segment.id(), room.page(0), 0), FailsWith(EINVAL));  // something is there
  EXPECT_THAT(try_attach(segment.id(), reinterpret_cast<void*>(~0ul & ~(kPageSize - 1)), 0),
              FailsWith(EINVAL));
  EXPECT_EQ(segment.attached(), 0u);
}

TEST(ShmAt, ChosenAddresses) {
  Segment segment(2 * kPageSize);
  Mapping room = Mapping::anonymous(4 * kPageSize);
  room.page(0)[0] = 'k';
  must(munmap(room.page(1), 2 * kPageSize), "munmap");
  char* at = attach(segment.id(), room.page(1));
  EXPECT_EQ(at, room.page(1));
  at[0] = 'a';
  EXPECT_THAT(shmdt(at), SucceedsWith(0));
  EXPECT_EQ(attach(segment.id(), room.page(1) + 5, SHM_RND), at);
  EXPECT_EQ(at[0], 'a');
  // Over itself and over other memory.
  EXPECT_EQ(attach(segment.id(), room.page(2), SHM_REMAP), room.page(2));
  EXPECT_EQ(room.page(2)[0], 'a');
  EXPECT_EQ(room.page(0)[0], 'k');
  EXPECT_THAT(shmdt(room.page(2)), SucceedsWith(0));
  EXPECT_THAT(shmdt(room.page(1)), SucceedsWith(0));
  EXPECT_EQ(segment.attached(), 0u);
}

TEST(ShmAt, ReadOnlyStaysReadOnly) {
  Segment segment(kPageSize);
  char* at = attach(segment.id(), nullptr, SHM_RDONLY);
  EXPECT_THAT(maps_line(at), HasSubstr(" r--s "));
  EXPECT_THAT(mprotect(at, kPageSize, PROT_READ | PROT_WRITE), FailsWith(EACCES));
  Child child = Child::run([&] {
    *static_cast<volatile char*>(at) = 1;
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
  EXPECT_THAT(shmdt(at), SucceedsWith(0));
}

TEST(ShmAt, Executable) {
  Segment segment(kPageSize, 0700);
  char* at = attach(segment.id(), nullptr, SHM_EXEC);
  EXPECT_THAT(maps_line(at), HasSubstr(" rwxs "));
  at[0] = '\xc3';  // ret
  reinterpret_cast<void (*)()>(at)();
  EXPECT_THAT(shmdt(at), SucceedsWith(0));
}

TEST(ShmAt, MapsShowTheKey) {
  const key_t key = own_key(3);
  Segment segment(kPageSize, 0600, key);
  char* at = attach(segment.id());
  char name[64];
  snprintf(name, sizeof name, "/SYSV%08x (deleted)", key);
  EXPECT_THAT(maps_line(at), HasSubstr(name));
  EXPECT_THAT(maps_line(at), HasSubstr(" " + std::to_string(segment.id()) + " "));
  EXPECT_THAT(maps_line(at), HasSubstr(" rw-s "));
  shmdt(at);
}

TEST(ShmDt, NeedsTheBeginning) {
  Segment segment(3 * kPageSize);
  char* at = attach(segment.id());
  EXPECT_THAT(shmdt(at + 1), FailsWith(EINVAL));
  EXPECT_THAT(shmdt(at + kPageSize), FailsWith(EINVAL));
  Mapping other = Mapping::shared(kPageSize);
  EXPECT_THAT(shmdt(other.address()), FailsWith(EINVAL));
  EXPECT_THAT(shmdt(at), SucceedsWith(0));
  EXPECT_THAT(shmdt(at), FailsWith(EINVAL));
  EXPECT_EQ(segment.attached(), 0u);
}

TEST(ShmDt, TakesAllPartsOfASplitMapping) {
  Segment segment(4 * kPageSize);
  char* at = attach(segment.id());
  must(mprotect(at + kPageSize, kPageSize, PROT_READ), "mprotect");
  EXPECT_EQ(segment.attached(), 3u);
  must(munmap(at, kPageSize), "munmap");
  EXPECT_EQ(segment.attached(), 2u);
  EXPECT_THAT(shmdt(at), SucceedsWith(0));
  EXPECT_EQ(segment.attached(), 0u);
  unsigned char resident;
  EXPECT_THAT(mincore(at + 3 * kPageSize, kPageSize, &resident), FailsWith(ENOMEM));
}

TEST(ShmRmid, TheLastDetachDestroys) {
  Segment segment(kPageSize, 0600, own_key(4));
  char* at = attach(segment.id());
  at[0] = 'x';
  EXPECT_THAT(shmctl(segment.id(), IPC_RMID, nullptr), SucceedsWith(0));
  shmid_ds status = segment.stat();
  EXPECT_EQ(status.shm_perm.mode, 0600 | SHM_DEST);
  EXPECT_EQ(status.shm_perm.__key, 0);
  char* two = attach(segment.id());  // Linux allows it
  EXPECT_EQ(two[0], 'x');
  shmdt(at);
  EXPECT_TRUE(exists(segment.id()));
  shmdt(two);
  EXPECT_FALSE(exists(segment.id()));
  EXPECT_THAT(shmctl(segment.id(), IPC_RMID, nullptr), FailsWith(EINVAL));
}

TEST(ShmFork, ChildrenAreAttachedUntilTheyEnd) {
  Segment segment(kPageSize);
  char* at = attach(segment.id());
  Pipe go = must_pipe();
  Child child = Child::run([&] {
    go.write_end.reset();
    at[1] = 'c';
    read_all(go.read_end.get());
    return 0;
  });
  while (__atomic_load_n(&at[1], __ATOMIC_ACQUIRE) != 'c') usleep(1000);
  EXPECT_EQ(segment.attached(), 2u);
  go.write_end.reset();
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(segment.attached(), 1u);
  shmdt(at);
}

int count_attached(int argc, char** argv) {
  shmid_ds status;
  if (shmctl(atoi(argv[argc - 1]), IPC_STAT, &status) != 0) return 99;
  return static_cast<int>(status.shm_nattch);
}
RegisterProbe count_attached_probe("attached", count_attached);

TEST(ShmFork, ExecDetaches) {
  Segment segment(kPageSize);
  char* at = attach(segment.id());
  auto command = probe_command("attached", {std::to_string(segment.id())});
  Child child = Child::run([&] {
    execv(program_path().c_str(), exec_vector(command).data());
    return 90;
  });
  EXPECT_THAT(child.wait(), ExitedWith(1));
  shmdt(at);
}

TEST(ShmFork, MemoryIsSharedAcrossUnrelatedProcesses) {
  Segment segment(2 * 1024 * 1024 + kPageSize);
  Child child = Child::run([&] {
    char* at = attach(segment.id());
    for (size_t i = 0; i < 2 * 1024 * 1024 + kPageSize; i += kPageSize) at[i] = 'p';
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  char* at = attach(segment.id());
  for (size_t i = 0; i < 2 * 1024 * 1024 + kPageSize; i += kPageSize) ASSERT_EQ(at[i], 'p');
  shmdt(at);
}

TEST(ShmCtl, BadArguments) {
  Segment segment(kPageSize);
  shmid_ds status{};
  EXPECT_THAT(shmctl(-1, IPC_STAT, &status), FailsWith(EINVAL));
  EXPECT_THAT(shmctl(segment.id(), -1, &status), FailsWith(EINVAL));
  EXPECT_THAT(shmctl(segment.id(), 99, &status), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_shmctl, segment.id(), IPC_STAT, bad_pointer()), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_shmctl, segment.id(), IPC_SET, bad_pointer()), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_shmctl, 0, IPC_INFO, bad_pointer()), FailsWith(EFAULT));
}

TEST(ShmCtl, SetChangesOwnerAndMode) {
  Segment segment(kPageSize);
  shmid_ds status = segment.stat();
  status.shm_perm.mode = 07644;
  status.shm_perm.gid = 12345;
  EXPECT_THAT(shmctl(segment.id(), IPC_SET, &status), SucceedsWith(0));
  status = segment.stat();
  EXPECT_EQ(status.shm_perm.mode, 0644);
  EXPECT_EQ(status.shm_perm.gid, 12345u);
  EXPECT_EQ(status.shm_perm.cgid, getegid());
  status.shm_perm.uid = -1;
  EXPECT_THAT(shmctl(segment.id(), IPC_SET, &status), FailsWith(EINVAL));
}

TEST(ShmCtl, StatByIndexAndInfo) {
  Segment segment(3 * kPageSize);
  char* at = attach(segment.id());
  at[0] = at[kPageSize] = 1;
  struct shm_info info;
  const int highest =
      static_cast<int>(must(shmctl(0, SHM_INFO, reinterpret_cast<shmid_ds*>(&info)), "SHM_INFO"));
  EXPECT_GE(info.used_ids, 1);
  EXPECT_GE(info.shm_tot, 3u);
  EXPECT_GE(info.shm_rss, 2u);
  bool found = false;
  for (int index = 0; index <= highest; ++index) {
    shmid_ds status;
    const int id = shmctl(index, SHM_STAT, &status);
    if (id != segment.id()) continue;
    found = true;
    EXPECT_EQ(status.shm_segsz, 3 * kPageSize);
    EXPECT_EQ(shmctl(index, SHM_STAT_ANY, &status), id);
  }
  EXPECT_TRUE(found);
  shmid_ds status;
  EXPECT_THAT(shmctl(highest + 1, SHM_STAT, &status), FailsWith(EINVAL));
  shmdt(at);
}

TEST(ShmCtl, LockShowsInTheMode) {
  Segment segment(kPageSize);
  EXPECT_THAT(shmctl(segment.id(), SHM_LOCK, nullptr), SucceedsWith(0));
  EXPECT_EQ(segment.stat().shm_perm.mode, 0600 | SHM_LOCKED);
  EXPECT_THAT(shmctl(segment.id(), SHM_UNLOCK, nullptr), SucceedsWith(0));
  EXPECT_EQ(segment.stat().shm_perm.mode, 0600);
}

// What an ordinary user may do with root's segments.
TEST(ShmPermissions, Others) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const key_t key = own_key(5);
  Segment closed(kPageSize, 0600, key), readable(kPageSize, 0604), open(kPageSize, 0606);
  Child child = Child::run([&] {
    REQUIRE(setgroups(0, nullptr) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
    shmid_ds status;
    REQUIRE(shmget(key, 1, 0) == closed.id());  // asks for nothing
    REQUIRE(shmget(key, 1, 0400) == -1 && errno == EACCES);
    REQUIRE(shmget(key, 1, 0004) == -1 && errno == EACCES);
    REQUIRE(try_attach(closed.id(), nullptr, SHM_RDONLY) == -1 && errno == EACCES);
    REQUIRE(shmctl(closed.id(), IPC_STAT, &status) == -1 && errno == EACCES);
    REQUIRE(shmctl(closed.id(), IPC_RMID, nullptr) == -1 && errno == EPERM);
    REQUIRE(shmctl(closed.id(), SHM_LOCK, nullptr) == -1 && errno == EPERM);
    REQUIRE(try_attach(readable.id(), nullptr, 0) == -1 && errno == EACCES);
    REQUIRE(try_attach(readable.id(), nullptr, SHM_RDONLY | SHM_EXEC) == -1 && errno == EACCES);
    REQUIRE(try_attach(readable.id(), nullptr, SHM_RDONLY) != -1);
    REQUIRE(shmctl(readable.id(), IPC_STAT, &status) == 0);
    REQUIRE(shmctl(readable.id(), IPC_SET, &status) == -1 && errno == EPERM);
    REQUIRE(try_attach(open.id(), nullptr, 0) != -1);
    const rlimit none{0, 0};
    REQUIRE(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    int own = shmget(IPC_PRIVATE, 1, 0600);
    REQUIRE(own >= 0);
    REQUIRE(shmctl(own, SHM_LOCK, nullptr) == -1 && errno == EPERM);
    REQUIRE(shmctl(own, IPC_RMID, nullptr) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(ShmProc, ListsSegments) {
  const key_t key = own_key(6);
  Segment segment(5 * kPageSize, 0640, key);
  char* at = attach(segment.id());
  at[0] = 1;
  std::istringstream lines(read_file("/proc/sysvipc/shm"));
  std::string line;
  std::getline(lines, line);
  EXPECT_THAT(line, HasSubstr("key      shmid perms"));
  bool found = false;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    long its_key, id, mode, size, creator, last, attached;
    fields >> its_key >> id >> std::oct >> mode >> std::dec >> size >> creator >> last >> attached;
    if (id != segment.id()) continue;
    found = true;
    EXPECT_EQ(its_key, key);
    EXPECT_EQ(mode, 0640);
    EXPECT_EQ(size, 5 * static_cast<long>(kPageSize));
    EXPECT_EQ(creator, getpid());
    EXPECT_EQ(attached, 1);
  }
  EXPECT_TRUE(found);
  shmdt(at);
}

TEST(PosixShm, LivesOnATmpfsOfItsOwn) {
  struct statfs status;
  ASSERT_THAT(statfs("/dev/shm", &status), SucceedsWith(0));
  EXPECT_EQ(status.f_type, 0x01021994);  // TMPFS_MAGIC
  struct stat directory;
  ASSERT_THAT(stat("/dev/shm", &directory), SucceedsWith(0));
  EXPECT_EQ(directory.st_mode, static_cast<mode_t>(S_IFDIR | 01777));
  EXPECT_THAT(read_file("/proc/self/mounts"), HasSubstr(" /dev/shm tmpfs "));
}

TEST(PosixShm, IsSharedByNameAndSurvivesUnlink) {
  const std::string name = "/caisson-shm-" + std::to_string(getpid());
  UniqueFd fd(shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600));
  ASSERT_TRUE(fd);
  must(ftruncate(fd.get(), 3 * kPageSize), "ftruncate");
  Mapping mapping = Mapping::map(3 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  Child child = Child::run([&] {
    UniqueFd again(shm_open(name.c_str(), O_RDWR, 0));
    REQUIRE(again);
    Mapping other =
        Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, again.get(), 2 * kPageSize);
    other.address()[1] = 'y';
    REQUIRE(shm_unlink(name.c_str()) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(mapping.page(2)[1], 'y');
  EXPECT_THAT(shm_open(name.c_str(), O_RDWR, 0), FailsWith(ENOENT));
}

// Removal, attaching and forking at once: no attach is lost, none is counted twice.
TEST(ShmRace, AttachAndDetachInThreads) {
  Segment segment(2 * kPageSize);
  std::vector<std::thread> threads;
  for (int n = 0; n < 4; ++n) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        void* at = shmat(segment.id(), nullptr, 0);
        ASSERT_NE(at, reinterpret_cast<void*>(-1));
        __atomic_fetch_add(static_cast<int*>(at), 1, __ATOMIC_RELAXED);
        ASSERT_EQ(shmdt(at), 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(segment.attached(), 0u);
  char* at = attach(segment.id());
  EXPECT_EQ(*reinterpret_cast<int*>(at), 800);
  shmdt(at);
}

}  // namespace
}  // namespace caisson::test
