// Rules that look at the build context and at its ignore file.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "builder/source_tree.h"
#include "parser/checks.h"

namespace lamina::builder::internal {

// Whether a file of this path usually holds a secret, by its name.
bool is_secret_name(std::string_view path);

class ContextChecks {
 public:
  // `deep`: also what is found only by reading directories.
  ContextChecks(const parser::Dockerfile& dockerfile, const SourceTree& context, const parser::CheckFilter& filter, bool deep)
      : dockerfile_(dockerfile), context_(context), filter_(filter), deep_(deep) {}

  // What cannot be read is no finding: the build says so.
  void run(const std::vector<parser::ContextCopy>& copies);

  std::vector<Diagnostic> about_dockerfile;
  std::vector<Diagnostic> about_ignore_file;

 private:
  struct Rooted;

  void add(std::string_view rule, SourceRange range, std::string message, std::vector<std::string> notes, std::optional<Mend> mend = {});
  std::vector<std::string> matches(const SourceTree& tree, const std::string& path) const;
  void check_ignored(const parser::ContextCopy& copy, const parser::Word& source, const SourceTree& all);
  void check_secrets(const parser::ContextCopy& copy, const parser::Word& source);
  void check_add(const parser::ContextCopy& copy);
  bool is_plain(const std::string& path) const;
  void walk(const std::string& directory, std::vector<Rooted>& rules);
  void check_directories();

  const parser::Dockerfile& dockerfile_;
  const SourceTree& context_;
  const parser::CheckFilter& filter_;
  bool deep_;
  std::vector<std::string> secrets_;  // paths in the context, when directories are read
};

}  // namespace lamina::builder::internal
