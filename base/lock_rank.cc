#include "base/lock_rank.h"

namespace caisson {

const char* lock_rank_name(LockRank rank) {
  switch (rank) {
    case LockRank::kContainerTable:
      return "kContainerTable";
    case LockRank::kMemoryKiller:
      return "kMemoryKiller";
    case LockRank::kRename:
      return "kRename";
    case LockRank::kMountTree:
      return "kMountTree";
    case LockRank::kFsContext:
      return "kFsContext";
    case LockRank::kDentry:
      return "kDentry";
    case LockRank::kInode:
      return "kInode";
    case LockRank::kFileDescription:
      return "kFileDescription";
    case LockRank::kFdTable:
      return "kFdTable";
    case LockRank::kTaskSet:
      return "kTaskSet";
    case LockRank::kThreadGroup:
      return "kThreadGroup";
    case LockRank::kSignalHandlers:
      return "kSignalHandlers";
    case LockRank::kTask:
      return "kTask";
    case LockRank::kFutexBucket:
      return "kFutexBucket";
    case LockRank::kPipe:
      return "kPipe";
    case LockRank::kMmMappings:
      return "kMmMappings";
    case LockRank::kPageIndex:
      return "kPageIndex";
    case LockRank::kMemoryFile:
      return "kMemoryFile";
    case LockRank::kEpoll:
      return "kEpoll";
    case LockRank::kWaitQueue:
      return "kWaitQueue";
    case LockRank::kTimers:
      return "kTimers";
    case LockRank::kRunQueue:
      return "kRunQueue";
    case LockRank::kAddressSpace:
      return "kAddressSpace";
    case LockRank::kPlatform:
      return "kPlatform";
    case LockRank::kEventLoop:
      return "kEventLoop";
    case LockRank::kLog:
      return "kLog";
    case LockRank::kLeaf:
      return "kLeaf";
  }
  return "?";
}

}  // namespace caisson
