#include "tests/util/temp_dir.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "tests/util/must.h"

namespace caisson::test {
namespace {

int remove_entry(const char* path, const struct stat*, int type, FTW*) {
  if (type == FTW_DNR || type == FTW_DP) chmod(path, 0700);
  return ::remove(path);
}

}  // namespace

TempDir::TempDir() {
  if (mkdir("/tmp", 01777) == -1 && errno != EEXIST) must(-1, "mkdir /tmp");
  char name[] = "/tmp/caisson_test.XXXXXX";
  if (mkdtemp(name) == nullptr) must(-1, "mkdtemp");
  path_ = name;
}

TempDir::~TempDir() { nftw(path_.c_str(), remove_entry, 16, FTW_DEPTH | FTW_PHYS); }

}  // namespace caisson::test
