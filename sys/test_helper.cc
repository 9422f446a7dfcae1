// What the tests start: a small static program without sanitizers, so that a thousand starts are
// cheap and nothing but the start decides what it sees.
//
//   files                the open descriptors: "N:DEVICE:INODE" a line
//   stray COUNT          exit status 0 if only descriptors below COUNT are open
//   env PREFIX           exit status 0 if the variables of that prefix, numbers that a writer
//                        counts up one after the other, are as they were at one moment
//   arguments            the number of arguments and of their bytes
#include <dirent.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

template <typename F>
void for_each_file(F function) {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) std::exit(99);
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    const int fd = std::atoi(entry->d_name);
    if (fd != dirfd(dir)) function(fd);
  }
  closedir(dir);
}

int print_files() {
  for_each_file([](int fd) {
    struct stat file;
    if (fstat(fd, &file) == 0)
      std::printf("%d:%lx:%lx\n", fd, static_cast<unsigned long>(file.st_dev),
                  static_cast<unsigned long>(file.st_ino));
  });
  return 0;
}

int find_stray(int count) {
  int stray = 0;
  for_each_file([&](int fd) {
    if (fd >= count) ++stray;
  });
  return stray;
}

int check_environment(const char* prefix, char** env) {
  long first = -1;
  long before = -1;
  for (; *env != nullptr; ++env) {
    if (std::strncmp(*env, prefix, std::strlen(prefix)) != 0) continue;
    const long value = std::atol(std::strchr(*env, '=') + 1);
    if (first < 0) first = before = value;
    // Up to some variable the newest value, from there on the one before.
    if (value > before || value < first - 1) return 1;
    before = value;
  }
  return first < 0 ? 2 : 0;
}

int count_arguments(int argc, char** argv) {
  size_t bytes = 0;
  for (int i = 0; i < argc; ++i) bytes += std::strlen(argv[i]) + 1;
  std::printf("%d %zu\n", argc, bytes);
  return 0;
}

}  // namespace

int main(int argc, char** argv, char** env) {
  if (argc < 2) return 98;
  if (std::strcmp(argv[1], "files") == 0) return print_files();
  if (std::strcmp(argv[1], "stray") == 0 && argc == 3) return find_stray(std::atoi(argv[2]));
  if (std::strcmp(argv[1], "env") == 0 && argc == 3) return check_environment(argv[2], env);
  if (std::strcmp(argv[1], "arguments") == 0) return count_arguments(argc - 2, argv + 2);
  return 98;
}
