#include "kernel/auth/credentials.h"

#include <algorithm>
#include <utility>

namespace caisson {
namespace {

// The capabilities that follow the file-system user id. Linux: CAP_FS_SET.
constexpr CapabilitySet file_system_capabilities() {
  CapabilitySet set;
  set.add(Capability::kChown);
  set.add(Capability::kMknod);
  set.add(Capability::kDacOverride);
  set.add(Capability::kDacReadSearch);
  set.add(Capability::kFowner);
  set.add(Capability::kFsetid);
  set.add(Capability::kLinuxImmutable);
  set.add(Capability::kMacOverride);
  return set;
}

CapabilitySet without(CapabilitySet set, CapabilitySet removed) {
  return CapabilitySet(set.bits() & ~removed.bits());
}

}  // namespace

Credentials::Credentials(CredentialsData data) : CredentialsData(std::move(data)) {
  std::sort(groups.begin(), groups.end());
}

Ref<Credentials> Credentials::root() { return for_user(0, 0, {}); }

Ref<Credentials> Credentials::for_user(UserId uid, GroupId gid, std::vector<GroupId> groups) {
  CredentialsData data;
  data.set_all_user_ids(uid);
  data.set_all_group_ids(gid);
  data.groups = std::move(groups);
  data.bounding = CapabilitySet::all();
  if (uid == 0) data.permitted = data.effective = CapabilitySet::all();
  return make_ref<Credentials>(std::move(data));
}

bool Credentials::in_group(GroupId gid) const {
  return gid == fsgid || std::binary_search(groups.begin(), groups.end(), gid);
}

bool Credentials::in_effective_group(GroupId gid) const {
  return gid == egid || std::binary_search(groups.begin(), groups.end(), gid);
}

Result<void> Credentials::require(Capability capability) const {
  if (!has(capability)) return Errno(EPERM);
  return {};
}

void fix_capabilities_after_setuid(const CredentialsData& before, CredentialsData& data) {
  if ((data.securebits & kSecureNoSetuidFixup) != 0) return;
  bool had_root = before.ruid == 0 || before.euid == 0 || before.suid == 0;
  bool has_root = data.ruid == 0 || data.euid == 0 || data.suid == 0;
  if (had_root && !has_root) {
    if ((data.securebits & kSecureKeepCaps) == 0) data.permitted = data.effective = CapabilitySet();
    data.ambient = CapabilitySet();
  }
  if (before.euid == 0 && data.euid != 0) data.effective = CapabilitySet();
  if (before.euid != 0 && data.euid == 0) data.effective = data.permitted;
}

void fix_capabilities_after_setfsuid(const CredentialsData& before, CredentialsData& data) {
  if ((data.securebits & kSecureNoSetuidFixup) != 0) return;
  CapabilitySet files = file_system_capabilities();
  if (before.fsuid == 0 && data.fsuid != 0) data.effective = without(data.effective, files);
  if (before.fsuid != 0 && data.fsuid == 0)
    data.effective = data.effective | (data.permitted & files);
}

ExecCredentials credentials_for_exec(const CredentialsData& before, const ExecPrivileges& file) {
  ExecCredentials result{before, false, false};
  CredentialsData& data = result.data;
  if (file.setuid) data.euid = file.file_uid;
  if (file.setgid) data.egid = file.file_gid;
  bool ids_raised = data.euid != before.euid || data.egid != before.egid;

  // Files carry no capabilities of their own here; root is treated as a file with all of them.
  CapabilitySet file_permitted, file_inheritable;
  bool file_effective = false;
  if ((before.securebits & kSecureNoRoot) == 0) {
    if (data.euid == 0 || data.ruid == 0) {
      file_permitted = CapabilitySet::all();
      file_inheritable = CapabilitySet::all();
    }
    if (data.euid == 0) file_effective = true;
  }
  // A set-id program starts without ambient capabilities.
  if (ids_raised) data.ambient = CapabilitySet();
  data.permitted =
      (before.inheritable & file_inheritable) | (file_permitted & before.bounding) | data.ambient;
  data.effective = file_effective ? data.permitted : data.ambient;
  data.securebits &= ~kSecureKeepCaps;
  data.suid = data.fsuid = data.euid;
  data.sgid = data.fsgid = data.egid;
  result.ids_changed = ids_raised || !data.permitted.is_subset_of(before.permitted);
  result.secure =
      data.euid != data.ruid || data.egid != data.rgid ||
      (data.ruid != 0 && (file_effective || !data.permitted.is_subset_of(data.ambient)));
  return result;
}

}  // namespace caisson
