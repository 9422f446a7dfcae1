// User and group ids, supplementary groups, capabilities: setuid(2) and its kin, capset(2). Linux:
// kernel/sys.c, kernel/groups.c, kernel/capability.c.
#include <algorithm>
#include <utility>

#include "kernel/kernel.h"
#include "kernel/task.h"
#include "syscalls/sys_ids.h"

namespace caisson {
namespace {

void install(CurrentTask& task, CredentialsData data) {
  const CredentialsData& before = task.credentials().data();
  bool ids_changed = before.euid != data.euid || before.egid != data.egid ||
                     before.fsuid != data.fsuid || before.fsgid != data.fsgid ||
                     !data.permitted.is_subset_of(before.permitted);
  // Others must not read the memory of a process that had other rights before; and a parent's
  // death is not told across a change.
  if (ids_changed) {
    task.group().dumpable.store(false);
    task.task().parent_death_signal.store(0);
  }
  task.task().set_credentials(make_ref<Credentials>(std::move(data)));
}

Result<void> check_uid(uint32_t uid) {
  if (uid == kInvalidUserId) return Errno(EINVAL);
  return {};
}

}  // namespace

SyscallResult sys_getuid(CurrentTask& task) { return task.credentials().ruid; }
SyscallResult sys_geteuid(CurrentTask& task) { return task.credentials().euid; }
SyscallResult sys_getgid(CurrentTask& task) { return task.credentials().rgid; }
SyscallResult sys_getegid(CurrentTask& task) { return task.credentials().egid; }

SyscallResult sys_getresuid(CurrentTask& task, UserOut<uint32_t> ruid, UserOut<uint32_t> euid,
                            UserOut<uint32_t> suid) {
  TRY(task.copy_out(ruid, task.credentials().ruid));
  TRY(task.copy_out(euid, task.credentials().euid));
  return task.copy_out(suid, task.credentials().suid);
}

SyscallResult sys_getresgid(CurrentTask& task, UserOut<uint32_t> rgid, UserOut<uint32_t> egid,
                            UserOut<uint32_t> sgid) {
  TRY(task.copy_out(rgid, task.credentials().rgid));
  TRY(task.copy_out(egid, task.credentials().egid));
  return task.copy_out(sgid, task.credentials().sgid);
}

SyscallResult sys_setuid(CurrentTask& task, uint32_t uid) {
  TRY(check_uid(uid));
  const Credentials& before = task.credentials();
  CredentialsData data = before.edit();
  if (before.has(Capability::kSetuid)) {
    data.ruid = data.suid = uid;
  } else if (uid != before.ruid && uid != before.suid) {
    return Errno(EPERM);
  }
  data.euid = data.fsuid = uid;
  fix_capabilities_after_setuid(before.data(), data);
  install(task, std::move(data));
  return 0;
}

SyscallResult sys_setgid(CurrentTask& task, uint32_t gid) {
  TRY(check_uid(gid));
  const Credentials& before = task.credentials();
  CredentialsData data = before.edit();
  if (before.has(Capability::kSetgid)) {
    data.rgid = data.sgid = gid;
  } else if (gid != before.rgid && gid != before.sgid) {
    return Errno(EPERM);
  }
  data.egid = data.fsgid = gid;
  install(task, std::move(data));
  return 0;
}

SyscallResult sys_setreuid(CurrentTask& task, uint32_t ruid, uint32_t euid) {
  const Credentials& before = task.credentials();
  CredentialsData data = before.edit();
  bool may_all = before.has(Capability::kSetuid);
  if (ruid != kInvalidUserId) {
    if (ruid != before.ruid && ruid != before.euid && !may_all) return Errno(EPERM);
    data.ruid = ruid;
  }
  if (euid != kInvalidUserId) {
    if (euid != before.ruid && euid != before.euid && euid != before.suid && !may_all)
      return Errno(EPERM);
    data.euid = euid;
  }
  if (ruid != kInvalidUserId || (euid != kInvalidUserId && euid != before.ruid))
    data.suid = data.euid;
  data.fsuid = data.euid;
  fix_capabilities_after_setuid(before.data(), data);
  install(task, std::move(data));
  return 0;
}

SyscallResult sys_setregid(CurrentTask& task, uint32_t rgid, uint32_t egid) {
  const Credentials& before = task.credentials();
  CredentialsData data = before.edit();
  bool may_all = before.has(Capability::kSetgid);
  if (rgid != kInvalidGroupId) {
    if (rgid != before.rgid && rgid != before.egid && !may_all) return Errno(EPERM);
    data.rgid = rgid;
  }
  if (egid != kInvalidGroupId) {
    if (egid != before.rgid && egid != before.egid && egid != before.sgid && !may_all)
      return Errno(EPERM);
    data.egid = egid;
  }
  if (rgid != kInvalidGroupId || (egid != kInvalidGroupId && egid != before.rgid))
    data.sgid = data.egid;
  data.fsgid = data.egid;
  install(task, std::move(data));
  return 0;
}

SyscallResult sys_setresuid(CurrentTask& task, uint32_t ruid, uint32_t euid, uint32_t suid) {
  const Credentials& before = task.credentials();
  CredentialsData data = before.edit();
  bool may_all = before.has(Capability::kSetuid);
  auto allowed = [&](uint32_t id) {
    return id == kInvalidUserId || may_all || id == before.ruid || id == before.euid ||
           id == before.suid;
  };
  if (!allowed(ruid) || !allowed(euid) || !allowed(suid)) return Errno(EPERM);
  if (ruid != kInvalidUserId) data.ruid = ruid;
  if (euid != kInvalidUserId) data.euid = euid;
  if (suid != kInvalidUserId) data.suid = suid;
  data.fsuid = data.euid;
  fix_capabilities_after_setuid(before.data(), data);
  install(task, std::move(data));
  return 0;
}

SyscallResult sys_setresgid(CurrentTask& task, uint32_t rgid, uint32_t egid, uint32_t sgid) {
  const Credentials& before = task.credentials();
  CredentialsData data = before.edit();
  bool may_all = before.has(Capability::kSetgid);
  auto allowed = [&](uint32_t id) {
    return id == kInvalidGroupId || may_all || id == before.rgid || id == before.egid ||
           id == before.sgid;
  };
  if (!allowed(rgid) || !allowed(egid) || !allowed(sgid)) return Errno(EPERM);
  if (rgid != kInvalidGroupId) data.rgid = rgid;
  if (egid != kInvalidGroupId) data.egid = egid;
  if (sgid != kInvalidGroupId) data.sgid = sgid;
  data.fsgid = data.egid;
  install(task, std::move(data));
  return 0;
}

// Answers the former id whatever happens.
SyscallResult sys_setfsuid(CurrentTask& task, uint32_t uid) {
  const Credentials& before = task.credentials();
  uint32_t former = before.fsuid;
  if (uid == kInvalidUserId) return former;
  bool allowed = uid == before.ruid || uid == before.euid || uid == before.suid ||
                 uid == before.fsuid || before.has(Capability::kSetuid);
  if (!allowed || uid == former) return former;
  CredentialsData data = before.edit();
  data.fsuid = uid;
  fix_capabilities_after_setfsuid(before.data(), data);
  install(task, std::move(data));
  return former;
}

SyscallResult sys_setfsgid(CurrentTask& task, uint32_t gid) {
  const Credentials& before = task.credentials();
  uint32_t former = before.fsgid;
  if (gid == kInvalidGroupId) return former;
  bool allowed = gid == before.rgid || gid == before.egid || gid == before.sgid ||
                 gid == before.fsgid || before.has(Capability::kSetgid);
  if (!allowed || gid == former) return former;
  CredentialsData data = before.edit();
  data.fsgid = gid;
  install(task, std::move(data));
  return former;
}

SyscallResult sys_getgroups(CurrentTask& task, int count, UserOut<uint32_t> groups) {
  if (count < 0) return Errno(EINVAL);
  const std::vector<GroupId>& own = task.credentials().groups;
  if (count == 0) return own.size();
  if (static_cast<size_t>(count) < own.size()) return Errno(EINVAL);
  TRY(task.copy_out_array(groups, std::span<const uint32_t>(own)));
  return own.size();
}

SyscallResult sys_setgroups(CurrentTask& task, int count, UserIn<uint32_t> groups) {
  TRY(task.credentials().require(Capability::kSetgid));
  if (count < 0 || static_cast<size_t>(count) > kMaxGroups) return Errno(EINVAL);
  CredentialsData data = task.credentials().edit();
  data.groups = TRY(task.copy_in_array(groups, static_cast<size_t>(count)));
  if (std::find(data.groups.begin(), data.groups.end(), kInvalidGroupId) != data.groups.end())
    return Errno(EINVAL);
  install(task, std::move(data));
  return 0;
}

namespace {

constexpr uint32_t kVersion1 = 0x19980330, kVersion2 = 0x20071026, kVersion3 = 0x20080522;

// How many CapabilityData the caller's version uses; writes the known one back if it has another.
Result<int> data_count(CurrentTask& task, UserInOut<CapabilityHeader> user,
                       CapabilityHeader& header) {
  switch (header.version) {
    case kVersion1:
      return 1;
    case kVersion2:
    case kVersion3:
      return 2;
    default:
      header.version = kVersion3;
      TRY(task.copy_out(user, header));
      return Errno(EINVAL);
  }
}

}  // namespace

SyscallResult sys_capget(CurrentTask& task, UserInOut<CapabilityHeader> user_header,
                         UserOut<CapabilityData> data) {
  CapabilityHeader header = TRY(task.copy_in(user_header));
  Result<int> count = data_count(task, user_header, header);
  // Asking which version there is.
  if (!count.ok() && count.error() == Errno(EINVAL) && data.is_null()) return 0;
  if (!count.ok()) return count.error();
  if (header.pid < 0) return Errno(EINVAL);
  RefOrNull<Task> target(&task.task());
  if (header.pid != 0) target = task.kernel().tasks().find_task(header.pid);
  if (!target) return Errno(ESRCH);
  Ref<Credentials> of = target->credentials_ref();
  std::vector<CapabilityData> result(2);
  for (size_t word = 0; word < 2; ++word) {
    result[word].effective = static_cast<uint32_t>(of->effective.bits() >> (32 * word));
    result[word].permitted = static_cast<uint32_t>(of->permitted.bits() >> (32 * word));
    result[word].inheritable = static_cast<uint32_t>(of->inheritable.bits() >> (32 * word));
  }
  result.resize(static_cast<size_t>(count.value()));
  return task.copy_out_array(data, std::span<const CapabilityData>(result));
}

SyscallResult sys_capset(CurrentTask& task, UserInOut<CapabilityHeader> user_header,
                         UserIn<CapabilityData> user_data) {
  CapabilityHeader header = TRY(task.copy_in(user_header));
  int count = TRY(data_count(task, user_header, header));
  if (header.pid != 0 && header.pid != task.thread_id()) return Errno(EPERM);
  std::vector<CapabilityData> given =
      TRY(task.copy_in_array(user_data, static_cast<size_t>(count)));
  given.resize(2);
  auto join = [&](auto member) {
    return CapabilitySet(uint64_t{given[0].*member} | uint64_t{given[1].*member} << 32);
  };
  CapabilitySet effective = join(&CapabilityData::effective);
  CapabilitySet permitted = join(&CapabilityData::permitted);
  CapabilitySet inheritable = join(&CapabilityData::inheritable);
  const Credentials& before = task.credentials();
  if (!before.has(Capability::kSetpcap) &&
      !inheritable.is_subset_of(before.inheritable | before.permitted))
    return Errno(EPERM);
  if (!inheritable.is_subset_of(before.inheritable | before.bounding)) return Errno(EPERM);
  if (!permitted.is_subset_of(before.permitted)) return Errno(EPERM);
  if (!effective.is_subset_of(permitted)) return Errno(EPERM);
  CredentialsData data = before.edit();
  data.effective = effective;
  data.permitted = permitted;
  data.inheritable = inheritable;
  data.ambient = data.ambient & permitted & inheritable;
  install(task, std::move(data));
  return 0;
}

}  // namespace caisson
