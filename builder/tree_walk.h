// The files below a directory of a tree, in the order of a layer.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "base/ahead.h"
#include "builder/source_tree.h"
#include "parser/patterns.h"

namespace lamina::builder {

// Reads ahead on a pool, directory by directory and in large ones some hundred members at a time, so that what it holds
// depends on neither the number of files nor of directories (of the directory it is in: its names). One thread.
class TreeWalk {
 public:
  // Gets each file with its path below the top; parents before what is in them, layers::path_less.
  using Visit = std::function<Result<void>(const std::string& relative, TreeEntry& file)>;

  // Borrows tree and excludes, whose patterns count from what `prefix` is below; `pool` may be null.
  TreeWalk(const SourceTree& tree, const parser::IgnoreList& excludes, std::string prefix, ThreadPool* pool, Visit visit)
      : tree_(tree), excludes_(excludes), prefix_(std::move(prefix)), pool_(pool), visit_(std::move(visit)) {}

  // Everything below the directory `top`; `state`: the excludes' verdicts on it.
  Result<void> run(const std::string& top, const parser::IgnoreList::WalkState& state);

 private:
  using Members = std::vector<TreeEntry>;
  struct Opened {
    Members first;
    size_t size = 0;                            // names in the directory
    std::shared_ptr<const DirectoryScan> scan;  // null when `first` are all: a deep tree must not need many descriptors
  };
  using Look = Ahead<Result<Opened>>;
  struct Subdirectory {
    size_t member = 0;
    parser::IgnoreList::WalkState state;
    bool excluded = false;  // shown only for what was re-included below it
  };

  Look look(const std::string& path, bool ahead) const;
  Result<void> walk(const std::string& path, const std::string& relative, Look look, const parser::IgnoreList::WalkState& state);
  Result<void> take(const std::string& path, const std::string& relative, Members& members, const parser::IgnoreList::WalkState& state);
  std::vector<Subdirectory> choose(const std::string& relative, Members& members, const parser::IgnoreList::WalkState& state) const;
  Result<void> emit(const std::string& relative, TreeEntry& file);

  const SourceTree& tree_;
  const parser::IgnoreList& excludes_;
  const std::string prefix_;
  ThreadPool* const pool_;
  const Visit visit_;
  size_t visited_ = 0;
  size_t ahead_ = 0;                                        // directories that are looked at before they are needed
  std::deque<std::pair<std::string, TreeEntry>> hidden_;  // excluded directories on the way, nothing below them seen yet
};

}  // namespace lamina::builder
