// prctl(2), arch_prctl(2). Linux: kernel/sys.c, arch/x86/kernel/process_64.c. Options that are not
// here are EINVAL, as on a kernel that was built without them.
#include "syscalls/sys_prctl.h"

#include <asm/prctl.h>
#include <linux/prctl.h>

#include <algorithm>
#include <cstring>

#include "abi/time.h"
#include "kernel/kernel.h"
#include "kernel/task.h"

namespace caisson {
namespace {

void install(CurrentTask& task, CredentialsData data) {
  task.task().set_credentials(make_ref<Credentials>(std::move(data)));
}

SyscallResult set_name(CurrentTask& task, GuestAddr from) {
  constexpr size_t kLength = 16;
  char name[kLength] = {};
  Result<std::string> text = task.copy_in_string(UserCString(from), kLength);
  if (text.ok()) {
    task.task().set_name(std::move(text).value());
    return 0;
  }
  if (!(text.error() == Errno(ENAMETOOLONG))) return text.error();
  TRY(task.copy_in_bytes(name, from, kLength - 1));
  task.task().set_name(std::string(name, strnlen(name, kLength - 1)));
  return 0;
}

SyscallResult get_name(CurrentTask& task, GuestAddr to) {
  char name[16] = {};
  std::string text = task.task().name();
  std::memcpy(name, text.data(), std::min(text.size(), sizeof name - 1));
  return task.copy_out_bytes(to, name, sizeof name);
}

SyscallResult drop_bounding(CurrentTask& task, uint64_t number) {
  TRY(task.credentials().require(Capability::kSetpcap));
  if (number > kLastCapability) return Errno(EINVAL);
  CredentialsData data = task.credentials().edit();
  data.bounding.drop(static_cast<Capability>(number));
  install(task, std::move(data));
  return 0;
}

SyscallResult set_securebits(CurrentTask& task, uint64_t wanted) {
  const Credentials& before = task.credentials();
  uint32_t locked = (before.securebits & kSecureAllLocks) >> 1;
  bool breaks_lock = (locked & (before.securebits ^ wanted)) != 0 ||
                     (before.securebits & kSecureAllLocks & ~wanted) != 0;
  if (breaks_lock || (wanted & ~uint64_t{kSecureAllBits | kSecureAllLocks}) != 0 ||
      !before.has(Capability::kSetpcap))
    return Errno(EPERM);
  CredentialsData data = before.edit();
  data.securebits = static_cast<uint32_t>(wanted);
  install(task, std::move(data));
  return 0;
}

SyscallResult set_keep_caps(CurrentTask& task, uint64_t value) {
  constexpr uint32_t kKeepCapsLocked = kSecureKeepCaps << 1;
  if (value > 1) return Errno(EINVAL);
  CredentialsData data = task.credentials().edit();
  if ((data.securebits & kKeepCapsLocked) != 0) return Errno(EPERM);
  data.securebits = (data.securebits & ~kSecureKeepCaps) | (value != 0 ? kSecureKeepCaps : 0);
  install(task, std::move(data));
  return 0;
}

SyscallResult ambient(CurrentTask& task, uint64_t command, uint64_t number, uint64_t arg4,
                      uint64_t arg5) {
  CredentialsData data = task.credentials().edit();
  if (command == PR_CAP_AMBIENT_CLEAR_ALL) {
    if ((number | arg4 | arg5) != 0) return Errno(EINVAL);
    data.ambient = CapabilitySet();
    install(task, std::move(data));
    return 0;
  }
  if ((arg4 | arg5) != 0 || number > kLastCapability) return Errno(EINVAL);
  auto capability = static_cast<Capability>(number);
  switch (command) {
    case PR_CAP_AMBIENT_IS_SET:
      return data.ambient.has(capability) ? 1 : 0;
    case PR_CAP_AMBIENT_RAISE:
      if (!data.permitted.has(capability) || !data.inheritable.has(capability) ||
          (data.securebits & kSecureNoCapAmbientRaise) != 0)
        return Errno(EPERM);
      data.ambient.add(capability);
      break;
    case PR_CAP_AMBIENT_LOWER:
      data.ambient.drop(capability);
      break;
    default:
      return Errno(EINVAL);
  }
  install(task, std::move(data));
  return 0;
}

SyscallResult set_vma_name(CurrentTask& task, uint64_t what, uint64_t addr, uint64_t length,
                           uint64_t name_addr) {
  if (what != PR_SET_VMA_ANON_NAME) return Errno(EINVAL);
  std::string name;
  if (name_addr != 0) {
    Result<std::string> text = task.copy_in_string(UserCString(name_addr), 80);
    if (!text.ok()) return text.error() == Errno(ENAMETOOLONG) ? Errno(EINVAL) : text.error();
    name = std::move(text).value();
    for (char c : name)
      if (c < 0x20 || c > 0x7e || std::strchr("\\`$[]", c) != nullptr) return Errno(EINVAL);
  }
  return task.mm().set_anonymous_name(addr, length, std::move(name));
}

void set_subreaper(CurrentTask& task, bool value) {
  MutexLock tree(task_tree_mu);
  ThreadGroup& own = task.group();
  own.assert_tree_locked();
  own.is_child_subreaper = value;
  if (!value) return;
  // Every process below now has one above it.
  std::vector<ThreadGroup*> below{&own};
  while (!below.empty()) {
    ThreadGroup* group = below.back();
    below.pop_back();
    group->assert_tree_locked();
    for (ThreadGroup* child = group->children.front(); child != nullptr;
         child = group->children.next(*child)) {
      child->assert_tree_locked();
      child->has_child_subreaper = true;
      below.push_back(child);
    }
  }
}

}  // namespace

SyscallResult sys_prctl(CurrentTask& task, int option, uint64_t arg2, uint64_t arg3, uint64_t arg4,
                        uint64_t arg5) {
  Task& self = task.task();
  bool has_rest = (arg3 | arg4 | arg5) != 0;
  switch (option) {
    case PR_SET_PDEATHSIG:
      if (arg2 != 0 && (arg2 > kSignalCount)) return Errno(EINVAL);
      self.parent_death_signal.store(static_cast<int>(arg2));
      return 0;
    case PR_GET_PDEATHSIG:
      return task.copy_out(UserOut<int>(arg2), self.parent_death_signal.load());
    case PR_GET_DUMPABLE:
      return task.group().dumpable.load() ? 1 : 0;
    case PR_SET_DUMPABLE:
      if (arg2 > 1) return Errno(EINVAL);
      task.group().dumpable.store(arg2 == 1);
      return 0;
    case PR_SET_NAME:
      return set_name(task, arg2);
    case PR_GET_NAME:
      return get_name(task, arg2);
    case PR_GET_KEEPCAPS:
      return (task.credentials().securebits & kSecureKeepCaps) != 0 ? 1 : 0;
    case PR_SET_KEEPCAPS:
      return set_keep_caps(task, arg2);
    case PR_GET_SECUREBITS:
      return task.credentials().securebits;
    case PR_SET_SECUREBITS:
      return set_securebits(task, arg2);
    case PR_CAPBSET_READ:
      if (arg2 > kLastCapability) return Errno(EINVAL);
      return task.credentials().bounding.has(static_cast<Capability>(arg2)) ? 1 : 0;
    case PR_CAPBSET_DROP:
      return drop_bounding(task, arg2);
    case PR_CAP_AMBIENT:
      return ambient(task, arg2, arg3, arg4, arg5);
    case PR_SET_NO_NEW_PRIVS:
      if (arg2 != 1 || has_rest) return Errno(EINVAL);
      self.no_new_privileges.store(true);
      return 0;
    case PR_GET_NO_NEW_PRIVS:
      if (arg2 != 0 || has_rest) return Errno(EINVAL);
      return self.no_new_privileges.load() ? 1 : 0;
    case PR_GET_SECCOMP:
      return 0;
    case PR_SET_TIMERSLACK:
      self.timer_slack_ns = arg2 == 0 || arg2 > kForeverNs ? 50'000 : arg2;
      return 0;
    case PR_GET_TIMERSLACK:
      return self.timer_slack_ns;
    case PR_SET_CHILD_SUBREAPER:
      set_subreaper(task, arg2 != 0);
      return 0;
    case PR_GET_CHILD_SUBREAPER: {
      int value;
      {
        MutexLock tree(task_tree_mu);
        task.group().assert_tree_locked();
        value = task.group().is_child_subreaper ? 1 : 0;
      }
      return task.copy_out(UserOut<int>(arg2), value);
    }
    case PR_GET_TID_ADDRESS:
      return task.copy_out(UserOut<uint64_t>(arg2), self.clear_child_tid);
    case PR_GET_TIMING:
      return PR_TIMING_STATISTICAL;
    case PR_SET_TIMING:
      return arg2 == PR_TIMING_STATISTICAL ? SyscallResult(0) : Errno(EINVAL);
    case PR_GET_TSC:
      return task.copy_out(UserOut<int>(arg2), int{PR_TSC_ENABLE});
    case PR_SET_TSC:
      return arg2 == PR_TSC_ENABLE ? SyscallResult(0) : Errno(EINVAL);
    case PR_GET_THP_DISABLE:
      if (arg2 != 0 || has_rest) return Errno(EINVAL);
      return 0;
    case PR_SET_VMA:
      return set_vma_name(task, arg2, arg3, arg4, arg5);
    case PR_MCE_KILL_GET:
      if (arg2 != 0 || has_rest) return Errno(EINVAL);
      return PR_MCE_KILL_DEFAULT;
    default:
      return Errno(EINVAL);
  }
}

SyscallResult sys_arch_prctl(CurrentTask& task, int option, uint64_t argument) {
  uint64_t max = task.kernel().platform().max_user_address();
  switch (option) {
    case ARCH_SET_FS:
      if (argument >= max) return Errno(EPERM);
      task.regs().fs_base = argument;
      return 0;
    case ARCH_SET_GS:
      if (argument >= max) return Errno(EPERM);
      task.regs().gs_base = argument;
      return 0;
    case ARCH_GET_FS:
      return task.copy_out(UserOut<uint64_t>(argument), task.regs().fs_base);
    case ARCH_GET_GS:
      return task.copy_out(UserOut<uint64_t>(argument), task.regs().gs_base);
    case ARCH_GET_CPUID:
      return 1;
    case ARCH_SET_CPUID:
      return argument == 1 ? SyscallResult(0) : Errno(ENODEV);
    default:
      return Errno(EINVAL);
  }
}

}  // namespace caisson
