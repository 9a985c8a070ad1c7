#include "builder/tree_walk.h"

#include <algorithm>

#include "builder/internal/paths.h"

namespace lamina::builder {

using internal::child_of;

namespace {

constexpr size_t kBatch = 512;           // members of a directory that are looked at together
constexpr size_t kBatchesAhead = 3;
constexpr size_t kSiblingsAhead = 16;    // directories
constexpr size_t kDirectoriesAhead = 64; // in all
// In a smaller tree nothing is read ahead: waking a thread takes longer than looking at so many files.
constexpr size_t kWorthAThread = 64;

}  // namespace

Result<void> TreeWalk::run(const std::string& top, const parser::IgnoreList::WalkState& state) { return walk(top, "", look(top, false), state); }

TreeWalk::Look TreeWalk::look(const std::string& path, bool ahead) const {
  return Look(ahead ? pool_ : nullptr, [this, path]() -> Result<Opened> {
    ASSIGN_OR_RETURN(std::shared_ptr<const DirectoryScan> scan, tree_.scan(path));
    const size_t size = scan->size();
    ASSIGN_OR_RETURN(Members first, scan->members(0, std::min(kBatch, size)));
    if (size <= kBatch) scan.reset();
    return Opened{std::move(first), size, std::move(scan)};
  });
}

Result<void> TreeWalk::walk(const std::string& path, const std::string& relative, Look look, const parser::IgnoreList::WalkState& state) {
  ASSIGN_OR_RETURN(Opened directory, look.take());
  const size_t size = directory.size;
  std::deque<Ahead<Result<Members>>> batches;
  for (size_t begun = std::min(kBatch, size);;) {
    for (; begun < size && batches.size() < kBatchesAhead; begun = std::min(begun + kBatch, size)) {
      batches.emplace_back(pool_, [scan = directory.scan, begun, size] { return scan->members(begun, std::min(begun + kBatch, size)); });
    }
    RETURN_IF_ERROR(take(path, relative, directory.first, state));
    if (batches.empty()) return {};
    ASSIGN_OR_RETURN(directory.first, batches.front().take());
    batches.pop_front();
  }
}

// Members that stand one after the other in a directory.
Result<void> TreeWalk::take(const std::string& path, const std::string& relative, Members& members, const parser::IgnoreList::WalkState& state) {
  const std::vector<Subdirectory> subdirectories = choose(relative, members, state);
  std::deque<Look> looks;
  size_t looked = 0, next = 0;  // in subdirectories
  for (size_t i = 0; i < members.size(); ++i) {
    TreeEntry& member = members[i];
    const std::string below = child_of(relative, member.name);
    if (next == subdirectories.size() || subdirectories[next].member != i) {
      RETURN_IF_ERROR(emit(below, member));
      continue;
    }
    const bool worth_it = pool_ != nullptr && visited_ + members.size() > kWorthAThread;
    for (; worth_it && looked < subdirectories.size() && looks.size() < kSiblingsAhead && ahead_ < kDirectoriesAhead; ++looked, ++ahead_) {
      looks.push_back(look(child_of(path, members[subdirectories[looked].member].name), true));
    }
    const Subdirectory& sub = subdirectories[next];
    const std::string child = child_of(path, member.name);
    const size_t hidden = hidden_.size();
    if (sub.excluded) {
      hidden_.emplace_back(below, std::move(member));
    } else {
      RETURN_IF_ERROR(emit(below, member));
    }
    if (looks.empty()) {
      RETURN_IF_ERROR(walk(child, below, look(child, false), sub.state));
      looked = std::max(looked, next + 1);
    } else {
      Look first = std::move(looks.front());
      looks.pop_front();
      --ahead_;
      RETURN_IF_ERROR(walk(child, below, std::move(first), sub.state));
    }
    if (hidden_.size() > hidden) hidden_.pop_back();
    ++next;
  }
  return {};
}

// Drops what is excluded and names the directories among the others.
std::vector<TreeWalk::Subdirectory> TreeWalk::choose(const std::string& relative, Members& members, const parser::IgnoreList::WalkState& state) const {
  std::vector<Subdirectory> subdirectories;
  size_t kept = 0;
  for (TreeEntry& member : members) {
    parser::IgnoreList::WalkState own;
    bool excluded = false;
    const bool directory = member.info.type == EntryType::kDirectory;
    if (!excludes_.empty()) {
      const std::string counted = child_of(prefix_, child_of(relative, member.name));
      const parser::IgnoreRule* rule = excludes_.decide_in_walk(counted, state, own);
      excluded = rule != nullptr && !rule->negated;
      if (excluded && (!directory || !excludes_.may_reinclude_below(counted))) continue;
    }
    if (directory) subdirectories.push_back({kept, std::move(own), excluded});
    if (&members[kept] != &member) members[kept] = std::move(member);
    ++kept;
  }
  members.resize(kept);
  return subdirectories;
}

Result<void> TreeWalk::emit(const std::string& relative, TreeEntry& file) {
  // An excluded directory is there only for what was re-included below it.
  for (; !hidden_.empty(); hidden_.pop_front()) {
    ++visited_;
    RETURN_IF_ERROR(visit_(hidden_.front().first, hidden_.front().second));
  }
  ++visited_;
  return visit_(relative, file);
}

}  // namespace lamina::builder
