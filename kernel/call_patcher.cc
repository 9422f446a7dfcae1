#include "kernel/call_patcher.h"

#include <cstring>
#include <memory>

#include "base/log.h"
#include "host/event_loop.h"
#include "loader/call_sites.h"

namespace caisson {

namespace {
constexpr size_t kMaxFiles = 256;
constexpr uint64_t kDone = ~uint64_t{0};  // patched, or found not to be patchable
}  // namespace

void CallPatcher::trapped(MemoryManager& mm, GuestAddr rip) {
  auto text = mm.host_text_at(rip);
  if (!text) return;
  Ref<Mappable> file = text->file;
  if (is_due(file)) {
    uint64_t start = host::monotonic_ns();
    Result<size_t> patched = patch(*file, text->offset);
    if (patched.ok())
      LOG_INFO("%s: %zu calls patched in %llu us", file->info().path.c_str(), patched.value(),
               static_cast<unsigned long long>((host::monotonic_ns() - start) / 1000));
    else
      LOG_INFO("%s: calls not patched: %s", file->info().path.c_str(),
               std::string(patched.error().name()).c_str());
  }
  if (!text->is_patched && file->patched_text() != nullptr) mm.map_text_again(*file, rip);
}

bool CallPatcher::is_due(const Ref<Mappable>& file) {
  MutexLock lock(mu_);
  auto it = files_.find(file.get());
  if (it == files_.end()) {
    if (files_.size() == kMaxFiles) return false;
    it = files_.emplace(file.get(), std::pair{file, uint64_t{0}}).first;
  }
  uint64_t& count = it->second.second;
  if (count == kDone) return false;
  count += traps_per_report();
  if (count < after_) return false;
  count = kDone;
  return true;
}

Result<size_t> CallPatcher::patch(Mappable& file, uint64_t offset) {
  TextCalls calls = TRY(find_call_sites(file, offset));
  if (calls.sites.empty()) return Errno(ENOENT);
  auto text = std::make_unique<PatchedText>();
  text->offset = calls.offset;
  text->image = TRY(platform_.new_patched_image(page_up(calls.text.size())));
  for (const CallSite& site : calls.sites) {
    auto patch = platform_.new_patched_call(text->image, site.shape, site.value, site.offset);
    if (!patch.ok()) continue;
    memcpy(calls.text.data() + (site.offset - calls.offset), patch.value().data(),
           patch.value().size());
    text->calls.push_back({site.offset, site.shape, static_cast<int32_t>(site.value)});
  }
  if (text->calls.empty()) return Errno(ENOSPC);
  memcpy(text->image.bytes.data(), calls.text.data(), calls.text.size());
  size_t count = text->calls.size();
  file.set_patched_text(std::move(text));
  return count;
}

}  // namespace caisson
