// Text in columns.
#pragma once

#include <string>
#include <vector>

namespace lamina::cli {

// Columns as wide as their widest cell, three blanks between them; no blanks at the ends of lines.
std::string table(const std::vector<std::vector<std::string>>& rows);

}  // namespace lamina::cli
