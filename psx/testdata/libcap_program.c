/*
 * libcap_program UID: three threads, then libcap's own calls; prints what differs between threads.
 * Ends with 0 if every thread has what was asked for, 1 if some has not, 2 on another failure.
 */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <unistd.h>

static void* other(void* nothing) {
  for (;;) pause();
  return nothing;
}

/* Whether the field is the same in all of /proc/self/task/N/status, and this if `wanted` is given.
 */
static int same(const char* field, const char* wanted) {
  char first[256] = "", path[300], line[256];
  struct dirent* entry;
  int count = 0, good = 1;
  DIR* tasks = opendir("/proc/self/task");
  while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
    FILE* status;
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
    status = fopen(path, "r");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
      if (strncmp(line, field, strlen(field)) != 0) continue;
      if (count++ == 0) strcpy(first, line);
      if (strcmp(line, first) != 0 || (wanted != NULL && strstr(line, wanted) == NULL)) good = 0;
    }
    if (status != NULL) fclose(status);
  }
  if (tasks != NULL) closedir(tasks);
  if (count != 4) exit(2);
  if (!good) printf("threads differ: %s", first);
  return good;
}

int main(int argc, char** argv) {
  pthread_t thread;
  cap_value_t raw = CAP_NET_RAW;
  cap_t caps;
  int i, good;
  if (argc != 2) return 2;
  for (i = 0; i < 3; i++) pthread_create(&thread, NULL, other, NULL);

  caps = cap_get_proc();
  if (cap_set_flag(caps, CAP_EFFECTIVE, 1, &raw, CAP_CLEAR) != 0) return 2;
  if (cap_set_proc(caps) != 0) return perror("cap_set_proc"), 2;
  good = same("CapEff:", NULL);
  if (cap_setuid((uid_t)atoi(argv[1])) != 0) return perror("cap_setuid"), 2;
  good &= same("Uid:", argv[1]);
  /* No privilege, and none to be had: bounding set, ambient set and securebits. */
  if (cap_set_mode(CAP_MODE_NOPRIV) != 0) return perror("cap_set_mode"), 2;
  good &= same("CapBnd:", "0000000000000000");
  good &= same("CapEff:", "0000000000000000");
  return good ? 0 : 1;
}
