// Credentials: user and group ids, supplementary groups and capabilities, credentials(7) and
// capabilities(7). Linux: struct cred, include/linux/cred.h.
//
// Immutable once published and shared by reference: a task that changes its ids makes a copy
// (edit()) and installs that. One user namespace for now: ids are the guest's own numbers. The
// functions at the end hold Linux's rules for what a change does to capabilities.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ref.h"
#include "base/result.h"

namespace caisson {

using UserId = uint32_t;   // uid_t of the guest
using GroupId = uint32_t;  // gid_t of the guest
inline constexpr UserId kInvalidUserId = ~0u;
inline constexpr GroupId kInvalidGroupId = ~0u;
inline constexpr UserId kOverflowUserId = 65534;

// Numbers of linux/capability.h.
enum class Capability : uint8_t {
  kChown = 0,
  kDacOverride = 1,
  kDacReadSearch = 2,
  kFowner = 3,
  kFsetid = 4,
  kKill = 5,
  kSetgid = 6,
  kSetuid = 7,
  kSetpcap = 8,
  kLinuxImmutable = 9,
  kNetBindService = 10,
  kNetBroadcast = 11,
  kNetAdmin = 12,
  kNetRaw = 13,
  kIpcLock = 14,
  kIpcOwner = 15,
  kSysModule = 16,
  kSysRawio = 17,
  kSysChroot = 18,
  kSysPtrace = 19,
  kSysPacct = 20,
  kSysAdmin = 21,
  kSysBoot = 22,
  kSysNice = 23,
  kSysResource = 24,
  kSysTime = 25,
  kSysTtyConfig = 26,
  kMknod = 27,
  kLease = 28,
  kAuditWrite = 29,
  kAuditControl = 30,
  kSetfcap = 31,
  kMacOverride = 32,
  kMacAdmin = 33,
  kSyslog = 34,
  kWakeAlarm = 35,
  kBlockSuspend = 36,
  kAuditRead = 37,
  kPerfmon = 38,
  kBpf = 39,
  kCheckpointRestore = 40,
};
inline constexpr int kLastCapability = 40;

class CapabilitySet {
 public:
  constexpr CapabilitySet() = default;
  constexpr explicit CapabilitySet(uint64_t bits) : bits_(bits & kAllBits) {}
  static constexpr CapabilitySet all() { return CapabilitySet(kAllBits); }
  constexpr bool has(Capability capability) const {
    return (bits_ >> static_cast<int>(capability) & 1) != 0;
  }
  constexpr void add(Capability capability) { bits_ |= 1ull << static_cast<int>(capability); }
  constexpr void drop(Capability capability) { bits_ &= ~(1ull << static_cast<int>(capability)); }
  constexpr bool is_subset_of(CapabilitySet other) const { return (bits_ & ~other.bits_) == 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr uint64_t bits() const { return bits_; }
  friend constexpr CapabilitySet operator&(CapabilitySet a, CapabilitySet b) {
    return CapabilitySet(a.bits_ & b.bits_);
  }
  friend constexpr CapabilitySet operator|(CapabilitySet a, CapabilitySet b) {
    return CapabilitySet(a.bits_ | b.bits_);
  }
  friend constexpr bool operator==(CapabilitySet, CapabilitySet) = default;

 private:
  static constexpr uint64_t kAllBits = (1ull << (kLastCapability + 1)) - 1;
  uint64_t bits_ = 0;
};

// Bits of prctl(PR_SET_SECUREBITS), linux/securebits.h.
inline constexpr uint32_t kSecureNoRoot = 1u << 0;
inline constexpr uint32_t kSecureNoSetuidFixup = 1u << 2;
inline constexpr uint32_t kSecureKeepCaps = 1u << 4;
inline constexpr uint32_t kSecureNoCapAmbientRaise = 1u << 6;
inline constexpr uint32_t kSecureAllBits = 0x55;
inline constexpr uint32_t kSecureAllLocks = 0xaa;

// setgroups(2)'s limit, NGROUPS_MAX.
inline constexpr size_t kMaxGroups = 65536;

struct CredentialsData {
  UserId ruid = 0, euid = 0, suid = 0, fsuid = 0;
  GroupId rgid = 0, egid = 0, sgid = 0, fsgid = 0;
  std::vector<GroupId> groups;  // sorted
  CapabilitySet permitted, effective, inheritable, bounding, ambient;
  uint32_t securebits = 0;

  void set_all_user_ids(UserId id) { ruid = euid = suid = fsuid = id; }
  void set_all_group_ids(GroupId id) { rgid = egid = sgid = fsgid = id; }
};

class Credentials final : public RefCounted<Credentials>, private CredentialsData {
 public:
  explicit Credentials(CredentialsData data);
  // uid 0 with every capability, no supplementary groups.
  static Ref<Credentials> root();
  // The ids given, capabilities as after root's setuid(2) to them: all for uid 0, else none.
  static Ref<Credentials> for_user(UserId uid, GroupId gid, std::vector<GroupId> groups);

  const CredentialsData& data() const { return *this; }
  // A copy to change and publish: make_ref<Credentials>(std::move(copy)).
  CredentialsData edit() const { return *this; }

  using CredentialsData::ambient;
  using CredentialsData::bounding;
  using CredentialsData::effective;
  using CredentialsData::egid;
  using CredentialsData::euid;
  using CredentialsData::fsgid;
  using CredentialsData::fsuid;
  using CredentialsData::groups;
  using CredentialsData::inheritable;
  using CredentialsData::permitted;
  using CredentialsData::rgid;
  using CredentialsData::ruid;
  using CredentialsData::securebits;
  using CredentialsData::sgid;
  using CredentialsData::suid;

  bool has(Capability capability) const { return effective.has(capability); }
  // The file-system group or a supplementary one: what a file's group is compared with.
  bool in_group(GroupId gid) const;
  // The effective group or a supplementary one.
  bool in_effective_group(GroupId gid) const;
  // EPERM unless the capability is in the effective set.
  Result<void> require(Capability capability) const;
};

// What changing user ids from `before` does to capabilities; called on the new data once its ids
// are set. Linux: cap_task_fix_setuid() for setuid, setreuid and setresuid.
void fix_capabilities_after_setuid(const CredentialsData& before, CredentialsData& data);
// The same for setfsuid(2).
void fix_capabilities_after_setfsuid(const CredentialsData& before, CredentialsData& data);

struct ExecPrivileges {
  UserId file_uid = 0;
  GroupId file_gid = 0;
  bool setuid = false;  // the file has the bit and the mount and no_new_privs allow it
  bool setgid = false;
};
struct ExecCredentials {
  CredentialsData data;
  bool secure = false;       // AT_SECURE
  bool ids_changed = false;  // not dumpable, parent-death signal dropped
};
// capabilities(7), "Transformation of capabilities during execve()".
ExecCredentials credentials_for_exec(const CredentialsData& before, const ExecPrivileges& file);

}  // namespace caisson
