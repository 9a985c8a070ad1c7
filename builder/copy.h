// COPY and ADD of files: what is selected (decides the key), and where it goes (decides the layer).
// dockerfile-language reference 1.9 and 1.10.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/spool.h"
#include "base/stream.h"
#include "base/thread_pool.h"
#include "base/time.h"
#include "builder/file_list.h"
#include "builder/key.h"
#include "builder/plan.h"
#include "builder/source_tree.h"
#include "builder/user.h"
#include "layers/entry.h"

namespace lamina::builder {

// The parents of what --parents copies, outermost first.
struct ParentDirectory {
  std::string path;      // in the tree
  std::string relative;  // below the destination
  SelectedFile file;
};

class ReadWatch;

// One thing that a source pattern selected, or several files of one directory.
struct SelectedSource {
  std::string named;           // the source as written, for messages
  std::string base_name;       // name it gets in a destination directory
  bool directory = false;      // its contents are copied
  bool group = false;          // files of one directory that a pattern matched: each is copied under its name
  std::string parents_prefix;  // --parents: directories to make below the destination
  std::shared_ptr<FileList> files;  // parents before children; for a file: exactly one; for a group: some, by name; null for a heredoc
  std::vector<ParentDirectory> parent_directories;  // --parents: metadata of the directories in the prefix
  std::shared_ptr<const SourceTree> tree;
  std::shared_ptr<const ReadWatch> watch;             // of the reading of the files' bytes; may be null
  std::shared_ptr<const std::string> inline_content;  // a heredoc
  size_t order = 0;           // of the source in the instruction; heredocs come last
  bool remote = false;        // from ADD's network: unpacked only when asked for
  // ADD unpacked this archive: the tree is the extracted content, which must outlive the layer's making.
  bool archive = false;
};

struct Selection {
  std::vector<SelectedSource> sources;
  std::vector<std::string> warnings;
};

// Finds what the step copies, in parallel on `pool`; lists that are long go into files that `temporary_file` makes.
// Digests are set where they are known without reading. Errors are about the sources: kNotFound with the ignore rule or
// the nearest name, with a diagnostic at the source's place.
Result<Selection> select_sources(const CopyStep& copy, const Step& step, std::shared_ptr<const SourceTree> tree,
                                 ThreadPool& pool, const TemporaryFile& temporary_file);
// Digests the files of at least `from_bytes` that have no digest yet.
Result<void> digest_selection(const Selection& selection, ThreadPool& pool, uint64_t from_bytes = 0);

// The files of a source as the layer's writer opens them: missing digests are taken from the bytes that it reads, and it
// fails (kCorrupt) where a file is not, or not any more, what its digest says. Any thread.
class ReadWatch : public std::enable_shared_from_this<ReadWatch> {
 public:
  explicit ReadWatch(const SelectedSource& source);
  // For the list's file number `index`.
  std::shared_ptr<const layers::FileOpener> opener_of(const SelectedFile& file, size_t index) const;

 private:
  friend class WatchedFile;
  const std::shared_ptr<const SourceTree> tree_;
  const std::shared_ptr<const layers::FileOpener> opener_;
  const std::shared_ptr<const FileList> files_;
  const int64_t began_ns_;
};
// From now on the selection's files are opened so.
void watch_reading(Selection& selection);

// A source that is a path and no pattern, such as a mount's.
parser::Word literal_path(const std::string& path, SourceRange range);

// The inputs that identify the content: names, types, modes, owners, link targets, xattrs, bytes; no times.
Result<void> add_selection_inputs(const Selection& selection, KeyInputs& inputs);
// Attributes of the selected directories themselves, which COPY does not take over but a mount shows.
Result<void> add_root_inputs(const Selection& selection, const std::string& prefix, KeyInputs& inputs);

struct Placement {
  std::optional<Owner> owner;                  // --chown
  std::optional<parser::ModeChange> mode;      // --chmod
  Timestamp created_time;                      // for directories that nobody copied
};

// Where everything goes in a root file system that looks like `below`. Errors, here and on the way, are about the
// destination (kInvalidInput: a file where a directory must be). The result borrows all arguments.
Result<std::unique_ptr<layers::EntrySource>> place_sources(const Selection& selection, const CopyStep& copy, const Placement& placement,
                                                           const layers::RootfsView& below);

// WORKDIR: the directories that are missing on the way to `path`, for the owner in `placement`; empty when it exists.
Result<layers::EntryList> place_directory(const std::string& path, const Placement& placement, const layers::RootfsView& below);

// ADD: whether the file starts like an archive that is unpacked (gzip, bzip2, xz, zstd or plain tar).
Result<bool> is_archive(const SourceTree& tree, const std::string& path);
// Unpacks it into `directory` and gives the result as a tree. Hostile archives stay inside.
Result<std::shared_ptr<const SourceTree>> unpack_archive(const SourceTree& tree, const std::string& path,
                                                         const std::string& directory);
// Everything below the root of a tree, as one selected directory, less what `excludes` (--exclude) match.
Result<SelectedSource> select_whole_tree(std::shared_ptr<const SourceTree> tree, std::string named,
                                         const TemporaryFile& temporary_file, const std::vector<std::string>& excludes = {});

// Whether the first bytes (512 at least, or all) of a stream are those of a tar or of something compressed.
bool starts_like_archive(std::string_view head);
enum class Unpacking {
  kLayer,    // owners and device nodes as they stand in the archive
  kContext,  // everything root's; device nodes and fifos are left out
};
struct UnpackedArchive {
  std::optional<Timestamp> newest;    // time of the newest regular file
  std::vector<std::string> left_out;
};
// Unpacks a tar of any compression into an empty directory. `what` names it in messages. kCorrupt when it is none.
Result<UnpackedArchive> unpack_stream(ByteSource& source, const std::string& what, const std::string& directory, Unpacking purpose);

}  // namespace lamina::builder
