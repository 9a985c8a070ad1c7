#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

#include "base/archive_reader.h"
#include "base/files.h"
#include "base/text.h"
#include "builder/copy.h"
#include "layers/snapshot.h"

namespace lamina::builder {

namespace {

bool starts_with(std::string_view bytes, std::string_view magic) { return bytes.substr(0, magic.size()) == magic; }

bool is_compressed(std::string_view head) {
  using namespace std::string_view_literals;
  return starts_with(head, "\x1f\x8b"sv) || starts_with(head, "BZh"sv) || starts_with(head, "\xFD\x37zXZ\0"sv) || starts_with(head, "\x28\xB5\x2F\xFD"sv);
}

// A tar header's checksum: the sum of its bytes with the checksum field as blanks. POSIX ustar.
bool is_tar_header(std::string_view block) {
  if (block.size() < 512) return false;
  uint64_t sum = 0;
  for (size_t i = 0; i < 512; ++i) sum += i >= 148 && i < 156 ? ' ' : static_cast<unsigned char>(block[i]);
  uint64_t stored = 0;
  bool digits = false;
  for (char c : block.substr(148, 8)) {
    if (c >= '0' && c <= '7') {
      stored = stored * 8 + static_cast<uint64_t>(c - '0');
      digits = true;
    } else if (digits) {
      break;
    } else if (c != ' ') {
      return false;
    }
  }
  return digits && stored == sum;
}

layers::EntryType entry_type(ArchiveMember::Type type) {
  switch (type) {
    case ArchiveMember::Type::kFile: return EntryType::kFile;
    case ArchiveMember::Type::kDirectory: return EntryType::kDirectory;
    case ArchiveMember::Type::kSymlink: return EntryType::kSymlink;
    case ArchiveMember::Type::kHardlink: return EntryType::kHardlink;
    case ArchiveMember::Type::kCharDevice: return EntryType::kCharDevice;
    case ArchiveMember::Type::kBlockDevice: return EntryType::kBlockDevice;
    case ArchiveMember::Type::kFifo: return EntryType::kFifo;
  }
  return EntryType::kFile;
}

class MemberSource : public ByteSource {
 public:
  explicit MemberSource(ArchiveReader& reader) : reader_(reader) {}
  Result<size_t> read(std::span<std::byte> buffer) override { return reader_.read(buffer); }

 private:
  ArchiveReader& reader_;
};

Result<layers::Entry> entry_of(const ArchiveMember& member) {
  layers::Entry entry;
  // ".." stops at the root, as tar -P under chroot would; a leading "/" is dropped.
  entry.path = clean_path("/" + member.path).substr(1);
  for (const std::string& part : path_components(entry.path)) {
    if (part.compare(0, 4, ".wh.") == 0) {
      return Error(ErrorKind::kInvalidInput, fmt::format("the archive holds {}: in an image, names that begin with .wh. mean removed files", printable(member.path)));
    }
  }
  entry.type = entry_type(member.type);
  entry.mode = member.mode & 07777;
  entry.uid = member.uid;
  entry.gid = member.gid;
  entry.mtime = member.mtime;
  entry.size = entry.type == EntryType::kFile ? member.size : 0;
  entry.link_target = entry.type == EntryType::kHardlink ? clean_path("/" + member.link_target).substr(1) : member.link_target;
  entry.dev_major = member.dev_major;
  entry.dev_minor = member.dev_minor;
  for (const auto& [name, value] : member.xattrs) {
    if (name == "security.capability" || (name.compare(0, 5, "user.") == 0 && name.compare(0, 13, "user.overlay.") != 0 && name.compare(0, 12, "user.lamina.") != 0)) {
      entry.xattrs.emplace(name, value);
    }
  }
  return entry;
}

}  // namespace

Result<bool> is_archive(const SourceTree& tree, const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd fd, tree.opener()->open_file(path));
  std::string head(512, '\0');
  const ssize_t n = ::pread(fd.get(), head.data(), head.size(), 0);
  if (n < 0) return system_error(errno, "read", path);
  head.resize(static_cast<size_t>(n));
  if (is_tar_header(head)) return true;
  if (!is_compressed(head)) return false;
  // Compressed, but maybe no tar: a single .gz file is copied as it is.
  FdSource source(std::move(fd));
  auto reader = ArchiveReader::open(source);
  if (!reader) {
    if (reader.error().kind() == ErrorKind::kUnsupported) return std::move(reader).error();
    return false;
  }
  const auto first = (*reader)->next();
  return first && first->has_value();
}

bool starts_like_archive(std::string_view head) {
  const bool empty_tar = head.size() >= 512 && head.find_first_not_of('\0') == std::string_view::npos;
  return is_tar_header(head) || is_compressed(head) || empty_tar;
}

Result<UnpackedArchive> unpack_stream(ByteSource& source, const std::string& what, const std::string& directory, Unpacking purpose) {
  const std::string doing = "unpacking the archive " + what;
  auto opened = ArchiveReader::open(source);
  if (!opened) return std::move(opened).error().with_context(doing);
  const std::unique_ptr<ArchiveReader> reader = std::move(*opened);
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, directory));
  layers::SnapshotWriter writer(root.get(), nullptr);
  UnpackedArchive result;
  while (true) {
    ASSIGN_OR_RETURN_WITH(const std::optional<ArchiveMember> member, reader->next(), doing);
    if (!member) break;
    ASSIGN_OR_RETURN_WITH(layers::Entry entry, entry_of(*member), doing);
    if (entry.path.empty()) continue;  // the archive's own root does not change the destination
    if (entry.type == EntryType::kFile && (!result.newest || entry.mtime > *result.newest)) result.newest = entry.mtime;
    if (purpose == Unpacking::kContext) {
      // A context has no owners, and device nodes could not be made on every machine.
      entry.uid = entry.gid = 0;
      if (entry.type == EntryType::kCharDevice || entry.type == EntryType::kBlockDevice || entry.type == EntryType::kFifo) {
        result.left_out.push_back(entry.path);
        continue;
      }
    }
    MemberSource content(*reader);
    RETURN_IF_ERROR_WITH(writer.add(entry, &content), doing);
  }
  RETURN_IF_ERROR(writer.finish());
  return result;
}

Result<std::shared_ptr<const SourceTree>> unpack_archive(const SourceTree& tree, const std::string& path, const std::string& directory) {
  ASSIGN_OR_RETURN(UniqueFd fd, tree.opener()->open_file(path));
  FdSource source(std::move(fd));
  RETURN_IF_ERROR(unpack_stream(source, path, directory, Unpacking::kLayer));
  ASSIGN_OR_RETURN(std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open({directory}));
  return tree_of_view(std::move(view), "archive");
}

}  // namespace lamina::builder
