// The build context: a directory of the user, read in place, filtered by the ignore file.
#pragma once

#include <memory>
#include <string>

#include "builder/digest_index.h"
#include "builder/source_tree.h"
#include "parser/patterns.h"

namespace lamina::builder {

// Opens a context directory. Every file shows as owned by 0:0 (the context's owner never reaches an image).
// `ignore` may be empty. kNotFound or kInvalidInput when `directory` is missing or no directory.
Result<std::shared_ptr<const SourceTree>> open_context(const std::string& directory,
                                                       std::string name, parser::IgnoreList ignore,
                                                       std::shared_ptr<DigestIndex> index);

}  // namespace lamina::builder
