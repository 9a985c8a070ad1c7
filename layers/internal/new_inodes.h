// Where the inodes of new files come from.
#pragma once

#include <cerrno>
#include <chrono>
#include <optional>
#include <string>

#include "base/files.h"
#include "base/unique_fd.h"

namespace lamina::layers {

// chattr(1), "T": the subdirectories are unrelated, and ext4 (find_group_orlov) lets each begin in a block group of its
// own. Other file systems refuse or ignore it.
void spread_subdirectories(const std::string& path);

// Makes files and directories in a place that is quick at it. ext4 without a journal looks past every inode that was
// freed in the last minutes whenever it makes one in the same block group (fs/ext4/ialloc.c, recently_deleted), and makes
// one where its directory is. After something large was removed there, unpacking ten thousand files takes 5 s instead of
// 0.5. The kernel does not tell; it shows in how long making a file takes. What is made then is made in a
// directory elsewhere and renamed to its place. One thread.
class NewInodes {
 public:
  // `room`: a directory of the same file system in which directories may be made; "" for none.
  explicit NewInodes(std::string room) : room_(std::move(room)) {}

  // make(directory, name) is a system call that makes `name` and says whether it did; errno is kept. False with EEXIST
  // when `name` was there.
  template <typename Make>
  bool make(int dir_fd, const std::string& name, Make make) {
    const auto began = std::chrono::steady_clock::now();
    if (fd_ && !(make(fd_.get(), kFresh) && move(dir_fd, name))) {
      if (errno == EEXIST) return false;
      // A file system (nfs, 9p) that has no such rename, or another mount: nothing is made elsewhere any more.
      fd_.reset();
      room_.clear();
      if (!make(dir_fd, name.c_str())) return false;
    } else if (!fd_ && !make(dir_fd, name.c_str())) {
      return false;
    }
    took(std::chrono::steady_clock::now() - began);
    return true;
  }

 private:
  static constexpr const char* kFresh = "fresh";
  bool move(int dir_fd, const std::string& name);
  void took(std::chrono::steady_clock::duration time);
  Result<void> go_elsewhere();

  std::string room_;
  size_t slow_ = 0;   // by how much the slow ones of late outnumber the quick
  size_t made_ = 0;   // since the last change of place
  size_t moves_ = 0;  // changes that were of no use
  std::optional<TempDir> spread_, directory_;  // the second in the first
  UniqueFd fd_;                                // of directory_
};

}  // namespace lamina::layers
