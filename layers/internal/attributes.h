// Owner, mode, times and xattrs of files in snapshots.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

#include "base/result.h"
#include "layers/entry.h"

namespace lamina::layers {

// Gives an open file or directory what the entry says, in the order that the kernel's side effects ask for:
// chown(2) clears setuid bits and capabilities.
Result<void> apply_attributes(int fd, const Entry& entry);
// The same for what cannot be opened: symlinks, devices, pipes. `name` is in the directory `dir_fd`.
Result<void> apply_attributes_at(int dir_fd, const std::string& name, const Entry& entry);

// overlay's whiteout: a character device 0:0.
inline bool is_whiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }
// Nothing for sockets, which no layer can hold.
std::optional<EntryType> type_of(const struct stat& st);
// Type, mode, owner, time, size and device number.
void set_metadata(Entry& entry, EntryType type, const struct stat& st);

}  // namespace lamina::layers
