// The tree that guests see: an in-memory layer over a host directory.
#include <linux/fs.h>
#include <linux/mount.h>

#include "fs/testing/sandbox_root.h"
#include "vfs/dentry_cache.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

using testing::error_of;
using Overlay = testing::SandboxRoot;
using Names = std::vector<std::string>;

TEST_F(Overlay, ReadsLowerFilesAndLinks) {
  EXPECT_EQ(content("/file"), "from the host");
  EXPECT_EQ(content("link"), "lower a");
  EXPECT_EQ(content("/absolute/b"), "lower b");
  EXPECT_EQ(error_of(resolve("/loop")), ELOOP);
  EXPECT_EQ(error_of(open("/link", O_RDONLY | O_NOFOLLOW)), ELOOP);
  EXPECT_EQ(error_of(resolve("/missing")), ENOENT);
  EXPECT_EQ(error_of(resolve("/file/x")), ENOTDIR);
  EXPECT_EQ(error_of(resolve("/file/")), ENOTDIR);
  EXPECT_EQ(error_of(resolve("")), ENOENT);
  EXPECT_EQ(error_of(resolve("/" + std::string(256, 'n'))), ENAMETOOLONG);
  EXPECT_EQ(resolve("/dir/../../../dir/a").value().inode().ino(), resolve("/link")->inode().ino());
}

TEST_F(Overlay, WritingCopiesUpAndLeavesTheHostAlone) {
  auto reader = MUST(open("/file", O_RDONLY));
  EXPECT_EQ(write_file("/file", "FROM", 0), Errno(0));
  EXPECT_EQ(content("/file"), "FROM the host");
  // An open file follows its inode to the copy.
  EXPECT_EQ(MUST(read_some(*reader, 100)), "FROM the host");
  std::string host;
  std::getline(std::ifstream(host_ + "/file"), host);
  EXPECT_EQ(host, "from the host");
  EXPECT_EQ(write_file("/file", "!", O_APPEND), Errno(0));
  EXPECT_EQ(content("/file"), "FROM the host!");
  EXPECT_EQ(write_file("/dir/a", "x", O_TRUNC), Errno(0));
  EXPECT_EQ(content("/dir/a"), "x");
}

TEST_F(Overlay, InodeNumberSurvivesCopyUp) {
  uint64_t before = MUST(resolve("/file")).inode().ino();
  EXPECT_EQ(write_file("/file", "x", 0), Errno(0));
  EXPECT_EQ(MUST(resolve("/file")).inode().ino(), before);
}

TEST_F(Overlay, ChangesOutliveTheDentryCache) {
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/dir/sub", 0755)), 0);
  EXPECT_EQ(write_file("/dir/sub/f", "kept", O_CREAT), Errno(0));
  EXPECT_EQ(write_file("/dir/a", "A", O_TRUNC), Errno(0));
  ASSERT_EQ(error_of(remove_file(caller(), root(), "/dir/b")), 0);
  ASSERT_EQ(error_of(change_mode(caller(), MUST(resolve("/file")), 0600)), 0);
  root_mount_->root()->forget_children();
  EXPECT_EQ(content("/dir/sub/f"), "kept");
  EXPECT_EQ(content("/dir/a"), "A");
  EXPECT_EQ(content("/dir/b"), "ENOENT");
  EXPECT_EQ(MUST(resolve("/file")).inode().mode() & 07777, 0600u);
}

TEST_F(Overlay, WhiteoutsAndMergedListings) {
  EXPECT_EQ(names("/dir"), (Names{"a", "b"}));
  EXPECT_EQ(error_of(remove_directory(caller(), root(), "/dir")), ENOTEMPTY);
  EXPECT_EQ(error_of(remove_file(caller(), root(), "/dir/a")), 0);
  EXPECT_EQ(write_file("/dir/c", "new", O_CREAT | O_EXCL), Errno(0));
  EXPECT_EQ(names("/dir"), (Names{"b", "c"}));
  EXPECT_EQ(content("/link"), "ENOENT");
  EXPECT_EQ(write_file("/link", "again", O_CREAT), Errno(0));  // through the dangling link
  EXPECT_EQ(content("/dir/a"), "again");
  for (const char* name : {"/dir/a", "/dir/b", "/dir/c"})
    EXPECT_EQ(error_of(remove_file(caller(), root(), name)), 0);
  EXPECT_EQ(error_of(remove_directory(caller(), root(), "/dir")), 0);
  EXPECT_EQ(error_of(resolve("/dir")), ENOENT);
  // A new directory of that name does not show the lower one.
  EXPECT_EQ(error_of(make_directory(caller(), root(), "/dir", 0755)), 0);
  EXPECT_EQ(names("/dir"), Names{});
}

TEST_F(Overlay, RenamesLowerFilesAndDirectories) {
  EXPECT_EQ(error_of(rename_path(caller(), root(), "/dir", root(), "/moved", 0)), 0);
  EXPECT_EQ(content("/moved/a"), "lower a");
  EXPECT_EQ(content("/dir/a"), "ENOENT");
  EXPECT_EQ(error_of(rename_path(caller(), root(), "/moved/a", root(), "/file", 0)), 0);
  EXPECT_EQ(content("/file"), "lower a");
  EXPECT_EQ(names("/moved"), Names{"b"});
  EXPECT_EQ(error_of(rename_path(caller(), root(), "/file", root(), "/moved/b", RENAME_EXCHANGE)),
            0);
  EXPECT_EQ(content("/file"), "lower b");
  EXPECT_EQ(content("/moved/b"), "lower a");
}

TEST_F(Overlay, RenameErrors) {
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/d", 0755)), 0);
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/d/e", 0755)), 0);
  auto rename = [&](const char* from, const char* to, uint32_t flags = 0) {
    return error_of(rename_path(caller(), root(), from, root(), to, flags));
  };
  EXPECT_EQ(rename("/d", "/d/e/f"), EINVAL);
  EXPECT_EQ(rename("/d/e", "/d"), ENOTEMPTY);
  EXPECT_EQ(rename("/d", "/file"), ENOTDIR);
  EXPECT_EQ(rename("/file", "/d"), EISDIR);
  EXPECT_EQ(rename("/missing", "/x"), ENOENT);
  EXPECT_EQ(rename("/file", "/x/"), ENOTDIR);
  EXPECT_EQ(rename("/d/.", "/x"), EBUSY);
  EXPECT_EQ(rename("/file", "/dir/a", RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(rename("/file", "/file"), 0);
  EXPECT_EQ(rename("/d/e", "/dir"), ENOTEMPTY);
}

TEST_F(Overlay, NameCallErrors) {
  EXPECT_EQ(error_of(make_directory(caller(), root(), "/dir", 0755)), EEXIST);
  EXPECT_EQ(error_of(make_directory(caller(), root(), "/", 0755)), EEXIST);
  EXPECT_EQ(error_of(make_directory(caller(), root(), "/new/", 0755)), 0);
  EXPECT_EQ(error_of(remove_file(caller(), root(), "/dir")), EISDIR);
  EXPECT_EQ(error_of(remove_file(caller(), root(), "/file/")), ENOTDIR);
  EXPECT_EQ(error_of(remove_directory(caller(), root(), "/file")), ENOTDIR);
  EXPECT_EQ(error_of(remove_directory(caller(), root(), "/new/.")), EINVAL);
  EXPECT_EQ(error_of(remove_directory(caller(), root(), "/new/..")), ENOTEMPTY);
  EXPECT_EQ(error_of(remove_directory(caller(), root(), "/")), EBUSY);
  EXPECT_EQ(error_of(open("/dir", O_WRONLY)), EISDIR);
  EXPECT_EQ(error_of(open("/dir", O_RDONLY | O_CREAT)), EISDIR);
  EXPECT_EQ(error_of(open("/file", O_RDONLY | O_DIRECTORY)), ENOTDIR);
  EXPECT_EQ(error_of(open("/file", O_RDONLY | O_CREAT | O_EXCL)), EEXIST);
  EXPECT_EQ(error_of(open("/link", O_WRONLY | O_CREAT | O_EXCL)), EEXIST);
  EXPECT_EQ(error_of(open("/no/such", O_WRONLY | O_CREAT)), ENOENT);
}

TEST_F(Overlay, HardLinksShareOneFile) {
  ASSERT_EQ(error_of(make_link(caller(), MUST(resolve("/file")), root(), "/second")), 0);
  EXPECT_EQ(write_file("/second", "both", O_TRUNC), Errno(0));
  EXPECT_EQ(content("/file"), "both");
  EXPECT_EQ(MUST(MUST(resolve("/file")).inode().stat()).link_count, 2u);
  ASSERT_EQ(error_of(remove_file(caller(), root(), "/file")), 0);
  EXPECT_EQ(content("/second"), "both");
  EXPECT_EQ(error_of(make_link(caller(), MUST(resolve("/dir")), root(), "/d2")), EPERM);
}

TEST_F(Overlay, RemovedFileStaysReadable) {
  auto file = MUST(open("/file", O_RDONLY));
  ASSERT_EQ(error_of(remove_file(caller(), root(), "/file")), 0);
  EXPECT_EQ(MUST(read_some(*file, 4)), "from");
  EXPECT_EQ(describe_path(*namespace_, root(), file->path()).text, "/file (deleted)");
}

TEST_F(Overlay, NothingIsMadeInARemovedDirectory) {
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/d", 0755)), 0);
  Path directory = MUST(resolve("/d"));
  ASSERT_EQ(error_of(remove_directory(caller(), root(), "/d")), 0);
  EXPECT_EQ(error_of(open_file(caller(), directory, "f", {O_WRONLY | O_CREAT, 0644, 0})), ENOENT);
  EXPECT_EQ(error_of(make_directory(caller(), directory, "f", 0755)), ENOENT);
}

TEST_F(Overlay, PermissionsFollowModeOwnerAndGroup) {
  Ref<Credentials> user = Credentials::for_user(1000, 1000, {7});
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/d", 0755)), 0);
  EXPECT_EQ(error_of(make_directory(caller(*user), root(), "/d/x", 0755)), EACCES);
  Path d = MUST(resolve("/d"));
  ASSERT_EQ(error_of(change_owner(caller(), d, 0, 7)), 0);
  ASSERT_EQ(error_of(change_mode(caller(), d, 03770)), 0);
  EXPECT_EQ(error_of(make_directory(caller(*user), root(), "/d/x", 0755)), 0);
  EXPECT_EQ(MUST(resolve("/d/x")).inode().gid(), 7u);  // set-group-id directory
  EXPECT_NE(MUST(resolve("/d/x")).inode().mode() & S_ISGID, 0u);
  EXPECT_EQ(write_file("/d/roots", "x", O_CREAT), Errno(0));
  EXPECT_EQ(error_of(remove_file(caller(*user), root(), "/d/roots")), EPERM);  // sticky
  Ref<Credentials> other = Credentials::for_user(1001, 1001, {});
  EXPECT_EQ(error_of(resolve_path(caller(*other), root(), "/d/x")), EACCES);
  EXPECT_EQ(error_of(change_mode(caller(*other), MUST(resolve("/file")), 0777)), EPERM);
  EXPECT_EQ(error_of(change_owner(caller(*user), MUST(resolve("/d/x")), 0, ~0u)), EPERM);
}

TEST_F(Overlay, OpenBeneathRefusesToLeave) {
  auto open_in_dir = [&](const char* path, uint64_t resolve_flags) {
    return error_of(open_file(caller(), MUST(resolve("/dir")), path, {O_RDONLY, 0, resolve_flags}));
  };
  EXPECT_EQ(open_in_dir("a", abi::kResolveBeneath), 0);
  EXPECT_EQ(open_in_dir("../file", abi::kResolveBeneath), EXDEV);
  EXPECT_EQ(open_in_dir("/dir/a", abi::kResolveBeneath), EXDEV);
  EXPECT_EQ(open_in_dir("../../a", abi::kResolveInRoot), 0);
  EXPECT_EQ(open_in_dir("/b", abi::kResolveInRoot), 0);
  EXPECT_EQ(error_of(open_file(caller(), root(), "link", {O_RDONLY, 0, abi::kResolveNoSymlinks})),
            ELOOP);
}

TEST_F(Overlay, MountsAreCrossedAndDetached) {
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/mnt", 0755)), 0);
  Path where = MUST(resolve("/mnt"));
  ASSERT_EQ(error_of(namespace_->attach(MUST(Tmpfs::mount(*memory_, {}, 0, "tmpfs")), where)), 0);
  EXPECT_EQ(write_file("/mnt/inner", "t", O_CREAT), Errno(0));
  EXPECT_EQ(content("/mnt/../file"), "from the host");
  EXPECT_EQ(describe_path(*namespace_, root(), MUST(resolve("/mnt/inner"))).text, "/mnt/inner");
  EXPECT_EQ(error_of(rename_path(caller(), root(), "/mnt/inner", root(), "/out", 0)), EXDEV);
  EXPECT_EQ(error_of(remove_directory(caller(), root(), "/mnt")), EBUSY);
  {
    auto busy = MUST(open("/mnt/inner", O_RDONLY));
    EXPECT_EQ(error_of(namespace_->detach(MUST(resolve("/mnt")), false)), EBUSY);
  }
  EXPECT_EQ(error_of(namespace_->detach(MUST(resolve("/mnt")), true)), 0);
  EXPECT_EQ(content("/mnt/inner"), "ENOENT");
  EXPECT_EQ(error_of(namespace_->detach(root(), true)), EINVAL);
}

TEST_F(Overlay, ReadOnlyMountRefusesChanges) {
  root_mount_->set_flags(MS_RDONLY);
  EXPECT_EQ(write_file("/file", "x", 0), Errno(EROFS));
  EXPECT_EQ(write_file("/new", "x", O_CREAT), Errno(EROFS));
  EXPECT_EQ(error_of(make_directory(caller(), root(), "/d", 0755)), EROFS);
  EXPECT_EQ(error_of(remove_file(caller(), root(), "/file")), EROFS);
  EXPECT_EQ(error_of(change_mode(caller(), MUST(resolve("/file")), 0)), EROFS);
  EXPECT_EQ(content("/file"), "from the host");
}

TEST_F(Overlay, SpecialHostFilesAreNeverOpened) {
  ASSERT_EQ(::mkfifo((host_ + "/fifo").c_str(), 0644), 0);
  auto inode = MUST(MUST(lower_->make_root())->lookup("fifo"));
  ASSERT_TRUE(inode);
  EXPECT_EQ(inode->type(), static_cast<uint32_t>(S_IFIFO));
  EXPECT_EQ(error_of(inode->open(root(), O_RDONLY, caller())), ENXIO);  // and does not block
  EXPECT_FALSE(inode->mappable());
}

TEST_F(Overlay, HostEscapesAreRefused) {
  // A component that turns into a link after it was seen as a directory.
  EXPECT_EQ(content("/dir/a"), "lower a");
  std::filesystem::rename(host_ + "/dir", host_ + "/kept");
  std::filesystem::create_directory_symlink("/etc", host_ + "/dir");
  root_mount_->root()->forget_children();
  auto directory = MUST(lower_->make_root());
  auto dir = MUST(directory->lookup("dir"));
  EXPECT_TRUE(dir->is_symlink());
  EXPECT_EQ(content("/dir/passwd"), "ENOENT");  // resolved inside, where there is no /etc
}

TEST_F(Overlay, SeenNamesNeedNoHost) {
  for (const char* path : {"/file", "/dir", "/dir/a", "/link"}) MUST(resolve(path, false));
  EXPECT_EQ(names("/"), names("/"));
  EXPECT_EQ(error_of(resolve("/gone")), ENOENT);
  std::filesystem::remove_all(host_ + "/dir");
  std::filesystem::remove(host_ + "/file");
  host_file("gone", "appeared");
  EXPECT_EQ(error_of(resolve("/dir/a")), 0);
  EXPECT_EQ(MUST(MUST(resolve("/file")).inode().stat()).size, 13u);
  EXPECT_EQ(error_of(resolve("/gone")), ENOENT);
}

TEST_F(Overlay, DentryCacheStaysBounded) {
  DentryCache& cache = DentryCache::instance();
  cache.set_limit(100);
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(error_of(resolve("/no" + std::to_string(i))), ENOENT);
  EXPECT_LE(cache.count(), 110u);
  auto held = MUST(open("/dir/a", O_RDONLY));
  for (int i = 0; i < 500; ++i) EXPECT_EQ(error_of(resolve("/no" + std::to_string(i))), ENOENT);
  EXPECT_TRUE(MUST(resolve("/dir/a")).dentry == held->path().dentry);
  cache.set_limit(32768);
}

TEST_F(Overlay, DeepTreesAreReleasedWithoutRecursion) {
  Path at = root();
  for (int i = 0; i < 20000; ++i) {
    ASSERT_EQ(error_of(make_directory(caller(), at, "d", 0755)), 0);
    at = MUST(resolve_path(caller(), at, "d"));
  }
}

// A filesystem whose names come and go, as proc's: one file, "there".
struct FleetingFilesystem final : Filesystem {
  const char* name() const override { return "fleeting"; }
  Result<FilesystemStat> stat() override { return FilesystemStat(); }
  bool caches_dentries() const override { return false; }
};
struct FleetingInode final : Inode {
  FleetingInode(Ref<Filesystem> filesystem, uint32_t mode)
      : Inode(std::move(filesystem), 1, mode, 0, 0) {}
  Result<FileStat> stat() override { return FileStat(); }
  Result<RefOrNull<Inode>> lookup(std::string_view name) override {
    if (name != "there") return RefOrNull<Inode>();
    Ref<Inode> file = make_ref<FleetingInode>(Ref<Filesystem>(filesystem()), S_IFREG | 0644);
    return file.or_null();
  }
};

TEST_F(Overlay, NamesThatAreNotCachedCannotBeChanged) {
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/p", 0755)), 0);
  Ref<FleetingFilesystem> filesystem = make_ref<FleetingFilesystem>();
  Ref<Inode> top = make_ref<FleetingInode>(filesystem, S_IFDIR | 0755);
  ASSERT_EQ(
      error_of(namespace_->attach(Mount::create(filesystem, Dentry::create_root(top), 0, "none"),
                                  MUST(resolve("/p")))),
      0);
  EXPECT_EQ(error_of(resolve("/p/there")), 0);
  EXPECT_EQ(error_of(open("/p/new", O_WRONLY | O_CREAT)), ENOENT);
  EXPECT_EQ(error_of(make_directory(caller(), root(), "/p/new", 0755)), ENOENT);
  EXPECT_EQ(error_of(make_directory(caller(), root(), "/p/there", 0755)), EEXIST);
  EXPECT_EQ(error_of(remove_file(caller(), root(), "/p/there")), EPERM);
  EXPECT_EQ(error_of(rename_path(caller(), root(), "/p/there", root(), "/p/new", 0)), EPERM);
  EXPECT_EQ(error_of(make_link(caller(), MUST(resolve("/p/there")), root(), "/p/new")), ENOENT);
}

TEST_F(Overlay, TruncateSeekAndHoles) {
  auto file = MUST(open("/sparse", O_RDWR | O_CREAT));
  ASSERT_EQ(error_of(file->truncate(1 << 20)), 0);
  EXPECT_EQ(error_of(file->lseek(0, SEEK_DATA)), ENXIO);
  ASSERT_EQ(MUST(file->lseek(300'000, SEEK_SET)), 300'000u);
  ASSERT_EQ(MUST(write_text(*file, "data")), 4u);
  uint64_t data = MUST(file->lseek(0, SEEK_DATA));
  EXPECT_LE(data, 300'000u);
  EXPECT_GT(data, 0u);
  EXPECT_GT(MUST(file->lseek(static_cast<int64_t>(data), SEEK_HOLE)), 300'000u);
  ASSERT_EQ(error_of(file->truncate(300'002)), 0);
  ASSERT_EQ(error_of(file->truncate(300'010)), 0);
  ASSERT_EQ(MUST(file->lseek(300'000, SEEK_SET)), 300'000u);
  EXPECT_EQ(MUST(read_some(*file, 100)), std::string("da\0\0\0\0\0\0\0\0", 10));
  EXPECT_EQ(error_of(file->lseek(-1, SEEK_SET)), EINVAL);
  EXPECT_EQ(error_of(file->lseek(1 << 20, SEEK_DATA)), ENXIO);
}

TEST_F(Overlay, ExecutedFileCannotBeWritten) {
  Inode& inode = MUST(resolve("/file")).inode();
  ASSERT_TRUE(inode.deny_write().ok());
  EXPECT_EQ(write_file("/file", "x", 0), Errno(ETXTBSY));
  EXPECT_EQ(error_of(truncate_path(caller(), MUST(resolve("/file")), 0)), ETXTBSY);
  inode.allow_write();
  auto writer = MUST(open("/file", O_WRONLY));
  EXPECT_EQ(error_of(inode.deny_write()), ETXTBSY);
}

TEST_F(Overlay, GetdentsFormsRecords) {
  auto directory = MUST(open("/dir", O_RDONLY | O_DIRECTORY));
  std::array<std::byte, 512> space;
  UserBuffer buffer = UserBuffer::of_kernel(std::span<std::byte>(space));
  Result<size_t> got = directory->getdents(buffer);
  ASSERT_EQ(error_of(got), 0);
  size_t length = got.value();
  std::vector<std::string> seen;
  for (size_t at = 0; at < length;) {
    abi::DirentHeader header;
    std::memcpy(&header, &space[at], sizeof header);
    EXPECT_EQ(header.record_length % 8, 0);
    seen.emplace_back(reinterpret_cast<char*>(&space[at + sizeof header]));
    at += header.record_length;
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, (Names{".", "..", "a", "b"}));
  UserBuffer again = UserBuffer::of_kernel(std::span<std::byte>(space));
  EXPECT_EQ(MUST(directory->getdents(again)), 0u);
  EXPECT_EQ(MUST(directory->lseek(0, SEEK_SET)), 0u);
  UserBuffer tiny = UserBuffer::of_kernel(std::span<std::byte>(space).first(8));
  EXPECT_EQ(error_of(directory->getdents(tiny)), EINVAL);
}

TEST_F(Overlay, SizeLimitIsENOSPC) {
  TmpfsOptions options;
  options.max_bytes = 256 * 1024;
  ASSERT_EQ(error_of(make_directory(caller(), root(), "/small", 0755)), 0);
  ASSERT_EQ(error_of(namespace_->attach(MUST(Tmpfs::mount(*memory_, options, 0, "tmpfs")),
                                        MUST(resolve("/small")))),
            0);
  auto file = MUST(open("/small/f", O_WRONLY | O_CREAT));
  std::string block(64 * 1024, 'x');
  int blocks = 0;
  Result<size_t> last = 0;
  while ((last = write_text(*file, block)).ok() && blocks < 100) ++blocks;
  EXPECT_EQ(blocks, 4);
  EXPECT_EQ(last.error(), Errno(ENOSPC));
  ASSERT_EQ(error_of(file->truncate(0)), 0);
  EXPECT_EQ(write_file("/small/g", block, O_CREAT), Errno(0));
}

}  // namespace
}  // namespace caisson
