#include <climits>
#include <cstdlib>
#include <fmt/format.h>

#include "base/files.h"
#include "base/text.h"
#include "builder/executor.h"

namespace lamina::builder {

Result<std::shared_ptr<const SourceTree>> Contexts::get(const std::string& name) {
  auto opened = opened_.lock();
  if (const auto it = opened->find(name); it != opened->end()) return it->second.tree;
  ASSIGN_OR_RETURN(Opened fresh, open(name));
  return opened->emplace(name, std::move(fresh)).first->second.tree;
}

Result<Contexts::Opened> Contexts::open(const std::string& name) {
  const std::string directory = name.empty() ? request_.context : request_.build_contexts.at(name);
  // The ignore file of the main context: --ignorefile, else <Dockerfile>.dockerignore, else .dockerignore.
  std::vector<std::string> candidates;
  if (name.empty() && !request_.ignore_file.empty()) {
    candidates = {request_.ignore_file};
  } else {
    if (name.empty() && !dockerfile_path_.empty()) candidates.push_back(dockerfile_path_ + ".dockerignore");
    candidates.push_back(directory + "/.dockerignore");
  }
  parser::IgnoreList ignore;
  for (const std::string& path : candidates) {
    ASSIGN_OR_RETURN_WITH(const std::optional<std::string> text, read_file_if_exists(AT_FDCWD, path, 16 << 20), "reading the ignore file " + path);
    if (!text) {
      if (path == request_.ignore_file) return Error(ErrorKind::kNotFound, "the ignore file " + path + " does not exist");
      continue;
    }
    const size_t slash = path.rfind('/');
    ASSIGN_OR_RETURN(ignore, parser::IgnoreList::parse(slash == std::string::npos ? path : path.substr(slash + 1), *text));
    break;
  }
  std::unique_ptr<char, decltype(&std::free)> real(::realpath(directory.c_str(), nullptr), &std::free);
  Opened opened;
  opened.index = DigestIndex::load(store_, "context-" + sha256_hex(real ? real.get() : directory));
  const std::string shown = name.empty() ? "build context" : "named context " + name;
  ASSIGN_OR_RETURN(opened.tree, open_context(directory, shown, std::move(ignore), opened.index));
  return opened;
}

Result<void> Contexts::save_indexes() {
  auto opened = opened_.lock();
  for (auto& [name, context] : *opened) RETURN_IF_ERROR(context.index->save(store_));
  return {};
}

}  // namespace lamina::builder
