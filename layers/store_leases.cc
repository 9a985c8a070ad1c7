// Leases: which layers and blobs living processes use. Each process writes the names into its lock file in tmp/, whose
// flock tells the living from the dead. Taking a lease and removing exclude each other through <store>/leases.lock: a
// holder has it shared while it writes a name, whoever makes room has it exclusively while he looks at the names and
// takes things out of sight. So a name that was held before is seen; what is held after is gone, and the holder finds
// that out when it looks.
#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

#include "base/scope_exit.h"
#include "base/text.h"
#include "layers/internal/store_impl.h"

namespace lamina::layers {

namespace {

constexpr uint64_t kMaxLeases = 256 << 20;

std::string gate_path(const std::string& tmp) { return tmp + "/../leases.lock"; }

}  // namespace

Result<void> Scratch::hold(const std::string& name) {
  const std::lock_guard guard(mutex_);
  if (held_.contains(name)) return {};
  RETURN_IF_ERROR(make_lock());
  if (!gate_) {
    ASSIGN_OR_RETURN(gate_, open_at(AT_FDCWD, gate_path(tmp_), O_RDWR | O_CREAT | O_NOCTTY, 0600));
  }
  while (::flock(gate_.get(), LOCK_SH) != 0) {
    if (errno != EINTR) return system_error(errno, "flock", gate_path(tmp_));
  }
  const ScopeExit open([&] { ::flock(gate_.get(), LOCK_UN); });
  RETURN_IF_ERROR(write_all(lock_.get(), name + "\n"));
  held_.insert(name);
  return {};
}

Result<FileLock> Scratch::keep_others_from_removing() const { return FileLock::acquire(AT_FDCWD, gate_path(tmp_), FileLock::Mode::kShared); }
Result<FileLock> Scratch::keep_others_from_holding() const { return FileLock::acquire(AT_FDCWD, gate_path(tmp_), FileLock::Mode::kExclusive); }

Result<std::set<std::string>> Scratch::held() const {
  std::set<std::string> all;
  ASSIGN_OR_RETURN(const UniqueFd tmp, open_directory(AT_FDCWD, tmp_));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(tmp.get()));
  for (const std::string& name : names) {
    if (!name.ends_with(".lock")) continue;
    // What is left of a dead process is removed by the next that opens the store.
    const auto opened = open_at(tmp.get(), name, O_RDONLY | O_NOCTTY);
    if (!opened && opened.error().kind() == ErrorKind::kNotFound) continue;  // it has just ended
    if (!opened) return Error(opened.error());
    const UniqueFd& file = *opened;
    if (::flock(file.get(), LOCK_SH | LOCK_NB) == 0) continue;
    ASSIGN_OR_RETURN(const std::string text, read_fd(file.get(), kMaxLeases));
    for (std::string& line : split(text, '\n')) all.insert(std::move(line));
  }
  return all;
}

}  // namespace lamina::layers
